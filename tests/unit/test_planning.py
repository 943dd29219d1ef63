"""What a plan asks for: which cells block where they cannot be measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity import targets
from parity.config import Config, parse
from parity.planning import make_plan

TABLE = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32", "int8"]
[tool.parity.models.tiny]
factory = "m:tiny"
inputs = [{ name = "x", shape = ["batch", 3] }]
outputs = [{ name = "y" }]
"""


ENUMERATED = 'dims = { batch = [1, 4] }\nenumerated = ["batch"]\n'


def config(folder: Path, more: str = "") -> Config:
    (folder / "calibration").mkdir()
    return parse(TABLE + more, folder / "pyproject.toml")


def test_int8_without_calibration_blocks(tmp_path: Path) -> None:
    planned = make_plan(config(tmp_path), {})
    assert "set calibration" in (planned["tiny-onnx-int8"].unavailable or "")
    assert (planned["tiny-onnx-int8"].required, planned["tiny-onnx-fp32"].required) == (True, False)


def test_int8_with_calibration_is_measured(tmp_path: Path) -> None:
    planned = make_plan(config(tmp_path, 'calibration = "calibration"\n'), {})["tiny-onnx-int8"]
    assert (planned.unavailable, planned.required) == (None, False)


def test_what_a_machine_lacks_does_not_block_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.targets.base.installed", lambda module: False)
    planned = make_plan(config(tmp_path, 'calibration = "calibration"\n'), {})["tiny-onnx-int8"]
    assert "not installed" in (planned.unavailable or "") and not planned.required


@pytest.mark.parametrize(
    ("target", "more", "tried"),
    [("onnx", "", True), ("ncnn", "", False), ("tflite", "", False), ("tflite", ENUMERATED, True)],
)
def test_other_sizes_are_tried_where_a_file_takes_them(tmp_path: Path, target: str, more: str, tried: bool) -> None:
    model = config(tmp_path, more).models["tiny"]
    assert targets.get(target).several_sizes(model) == tried
