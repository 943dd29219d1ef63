"""An int8 file that clips inputs of its declared range, because calibration data reach less far."""

from __future__ import annotations

import numpy as np
import pytest

from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

TABLE = """
[tool.parity]
targets = ["onnx"]
precisions = ["int8"]
timeout = 120

[tool.parity.models.tiny]
factory = "tinynet:tiny"
inputs = [{ name = "x", shape = ["batch", 8], range = [-6, 6] }]
outputs = [{ name = "y" }]
golden = "drawn"
calibration = "drawn"
properties = { examples = 30 }

[tool.parity.limits]
int8 = { drawn_cost = 0.5 }
"""
MODEL = """
import torch
from torch import nn

def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
"""


@pytest.mark.parametrize("reach", [1, 6])
def test_calibration_that_reaches_over_part_of_the_declared_range_is_told(project: Project, reach: int) -> None:
    project.write("tinynet.py", MODEL)
    project.write("pyproject.toml", TABLE)
    (project.path / "drawn").mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        x = rng.uniform(-reach, reach, (1, 8)).astype("float32")
        np.savez(project.path / "drawn" / f"{number}.npz", x=x)
    (cell,) = project.run("-k", "property").record.cells
    (cost,) = [check for check in cell.checks if check.metric == "drawn_cost"]
    assert cost.value is not None
    warnings = [f.text for f in cell.findings if "calibration data reach" in f.text and f.level == "warning"]
    if reach == 1:
        assert cost.value > 0.5 and not cost.passed
        assert len(warnings) == 1 and "x: calibration data reach from -" in warnings[0], warnings
        assert "declared range is -6 to 6" in warnings[0] and "y is off by" in warnings[0]
    else:
        assert cost.value < 0.2 and cost.passed and not warnings, (cost.value, warnings)
    assert all(check.passed for check in cell.checks if check is not cost)
