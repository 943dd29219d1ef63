"""`--parity-set`: one key of the configuration for one run, told by name wherever it decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity import config as configuration
from parity import formats
from parity.core.errors import ConfigError
from parity.core.plan import Cell
from parity.core.settings import Config
from parity.judging.limits import resolve

TEXT = """
[tool.parity]
seed = 7

[tool.parity.models.skin]
factory = "m:skin"
inputs = [{ name = "image", shape = [1, 3, 8, 8] }]
outputs = [{ name = "logits" }]
cells = ["onnx-fp32"]

[tool.parity.limits]
fp32 = { cosine = 0.9 }
"""


def parsed(*settings: str) -> Config:
    return configuration.parse(TEXT, Path("pyproject.toml").resolve(), formats.facts(), settings)


def test_without_settings_the_file_decides() -> None:
    assert parsed().seed == 7


def test_a_setting_replaces_a_value_and_leaves_its_neighbours() -> None:
    config = parsed("seed = 8", 'models.skin.cells = ["tflite-int8", "onnx-fp32"]')
    assert config.seed == 8 and config.models["skin"].factory == "m:skin"
    assert [c.id for c in config.cells] == ["skin-tflite-int8", "skin-onnx-fp32"]


def test_a_limit_names_the_option_that_set_it() -> None:
    limits = resolve(parsed("limits.fp32 = { max_abs = 0.5 }").rules, Cell("skin", "onnx", "fp32"), "logits")
    assert limits["max_abs"].value == 0.5 and "--parity-set 'limits.fp32" in limits["max_abs"].source
    assert limits["cosine"].value == 0.9 and limits["cosine"].source.startswith("pyproject.toml:")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("limits.fp32", "--parity-set 'limits.fp32': not TOML"),
        ("", "sets nothing"),
        ("sede = 8", "--parity-set 'sede = 8': unknown key 'sede' .did you mean 'seed'"),
        ("models.skin.opset = 3", "--parity-set 'models.skin.opset = 3': 3 is not an ONNX opset"),
        ("models = 3", "expected a table"),
    ],
)
def test_a_bad_setting_is_one_line(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(setting)
