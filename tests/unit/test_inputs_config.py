"""The tables that say how inputs are drawn, carried and played: what is wrong is one line with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity import formats
from parity.config import parse
from parity.core.errors import ConfigError
from parity.core.settings import Config, Decode, Playing, Properties

BASE = """
[tool.parity.models.m]
factory = "pkg:make"
inputs = [{ name = "token", shape = [1, 1], dtype = "int32" }, { name = "h", shape = [1, 4] }]
outputs = [{ name = "scores" }, { name = "h_next" }]
"""


def read(tmp_path: Path, lines: str) -> Config:
    (tmp_path / "clips").mkdir(exist_ok=True)
    return parse(BASE + lines, tmp_path / "pyproject.toml", formats.facts())


def test_everything_is_read(tmp_path: Path) -> None:
    model = read(
        tmp_path,
        """
properties = { examples = 7, strategy = "pkg.own:drawn" }
states = { h = "h_next" }
decode = { token = "token", scores = "scores", steps = 40, prompt = 4 }
video = { path = "clips", stride = 3, maximum = 9, rotate = -90, crop = "top" }
references = "refs/m"
cases = "pkg.own:cases"
""",
    ).models["m"]
    assert model.properties == Properties(7, "pkg.own:drawn")
    assert model.decode == Decode("token", "scores", None, 40, 4)
    assert model.playing == Playing(3, 9, -90, "top") and model.video == (tmp_path / "clips").resolve()
    assert model.references == tmp_path / "refs/m" and model.cases == "pkg.own:cases"
    plain = read(tmp_path, 'video = "clips"').models["m"]
    assert (plain.properties, plain.decode, plain.playing, plain.references) == (Properties(), None, Playing(), None)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("properties = { examples = -1 }", "from 0 (none) to 100000"),
        ('properties = { strategy = "no function" }', "not of the form"),
        ('cases = "no function"', "not of the form"),
        ("properties = { exampels = 3 }", "did you mean 'examples'"),
        ('decode = { token = "token", scores = "scores" }', "needs states"),
        ('states = { h = "h_next" }\ndecode = { token = "tokn", scores = "scores" }', "did you mean 'token'"),
        ('states = { h = "h_next" }\ndecode = { token = "token" }', "needs scores"),
        ('states = { h = "h_next" }\ndecode = { token = "token", scores = "scores", steps = 4 }', "more steps"),
        ('states = { h = "h_next" }\ndecode = { token = "token", scores = "scores", prefill = "n" }', "no model 'n'"),
        ("video = { stride = 2 }", "needs path"),
        ('video = { path = "clips", stride = 0 }', "at least 1"),
        ('video = { path = "clips", rotate = 45 }', "found 45"),
        ('video = { path = "clips", crop = "left" }', "center, top or bottom"),
        ('video = { path = "absent" }', "no such"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, lines: str, why: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, lines)
    assert why in str(raised.value) and "pyproject.toml:" in str(raised.value) and "\n" not in str(raised.value)


RANGES = {
    "float64, range = [-1.7e308, 1.7e308]": "is too wide: a float64 is drawn within 2.2e+307 of 0",
    "float16, range = [0, 60000]": "is too wide: a float16",
    "int8, range = [0, 300]": "does not fit int8, which holds -128 to 127",
    "uint8, range = [-1, 255]": "does not fit uint8, which holds 0 to 255",
    "int64, range = [0, 9223372036854775807]": "does not fit int64",
    "int32, range = [0.5, 2]": "is of int32 and needs whole numbers",
    "bool, range = [0, 2]": "does not fit bool",
}
FIT = ("float16, range = [-8000, 8000]", "uint8, range = [0, 255]", "int8, range = [-128, 127]", "bool, range = [0, 1]")


@pytest.mark.parametrize("given", [*RANGES, *FIT])
def test_a_range_fits_the_elements_that_are_drawn_from_it(tmp_path: Path, given: str) -> None:
    dtype, _, limits = given.partition(", ")
    text = BASE.replace('{ name = "h", shape = [1, 4] }', f'{{ name = "h", shape = [1], dtype = "{dtype}", {limits} }}')
    if given in FIT:
        assert (
            parse(text, tmp_path / "pyproject.toml", formats.facts()).models["m"].contract.inputs[1].range is not None
        )
        return
    with pytest.raises(ConfigError) as raised:
        parse(text, tmp_path / "pyproject.toml", formats.facts())
    assert RANGES[given] in str(raised.value) and "\n" not in str(raised.value)
