"""Whole runs of int8 files that put on grids what the recipe of their target leaves in float."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.plugin.tiny_project import Project

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import numpy_helper  # noqa: E402

pytest_plugins = "pytester"

# ONNX Runtime's quantiser rounds both factors of the product, which are large and small; the recipe only the product.
FACTORS = """
import torch

class Factors(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out = torch.nn.Linear(12, 48), torch.nn.Linear(24, 5)

    def forward(self, x):
        h, k = self.into(x).chunk(2, -1)
        return self.out((2 * h).exp() * (k - 2 * h).exp())

def tiny():
    return Factors().eval()
"""

TABLE = """
[tool.parity]
targets = ["onnx"]
precisions = ["int8"]
timeout = 120

[tool.parity.models.tiny]
factory = "tinynet:tiny"
inputs = [{{ name = "x", shape = ["batch", 12] }}]
outputs = [{{ name = "y" }}]
golden = "golden"
calibration = "calibration"
properties = {{ examples = 0 }}
{more}
"""


def draw(folder: Path, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(16):
        np.savez(folder / f"{number:02}.npz", x=rng.standard_normal((1, 12)).astype(np.float32))


def coarser(path: Path) -> Any:
    """The file with every activation on a grid of three times the step, which clips nothing."""
    model = onnx.load(str(path))
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for held in model.graph.initializer:
        if held.name in scales:
            held.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held) * np.float32(3), held.name))
    return model


def test_the_floor_follows_what_a_proved_file_quantises_and_not_its_scales(fresh: Project) -> None:
    fresh.write("tinynet.py", FACTORS)
    fresh.write("pyproject.toml", TABLE.format(more=""))
    shutil.rmtree(fresh.path / "golden", ignore_errors=True)
    draw(fresh.path / "golden", 1)
    draw(fresh.path / "calibration", 2)
    run = fresh.run("-k", "golden or proof")
    (cell,) = run.record.cells
    assert cell.state == "pass", run.text
    assert any("the file's own placement of grids" in finding.text for finding in cell.findings), run.text

    wrong = coarser(next(path for path in fresh.cache.rglob("*.onnx") if b"QuantizeLinear" in path.read_bytes()))
    onnx.save(wrong, str(fresh.path / "wrong.onnx"))
    fresh.write("pyproject.toml", TABLE.format(more='artifacts = { "onnx-int8" = "wrong.onnx" }'))
    (cell,) = fresh.run("-k", "golden or proof").record.cells
    broken = {check.metric for check in cell.checks if check.kind == "golden" and check.passed is False}
    assert cell.state == "fail" and "noise_ratio" in broken, broken
