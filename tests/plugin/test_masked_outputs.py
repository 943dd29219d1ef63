"""Whole runs of int8 files whose logits stand beside the -1e9 of a mask: one 8-bit grid for both loses every logit."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

TABLE = """
[tool.parity]
targets = ["{target}"]
precisions = ["int8"]
timeout = 200

[tool.parity.models.tiny]
factory = "tinynet:tiny"
inputs = [{{ name = "x", shape = ["batch", 48], range = [-3.0, 3.0] }}]
outputs = [{{ name = "y" }}]
golden = "drawn"
calibration = "drawn"
properties = {{ examples = 12 }}
"""

MODEL = """
import torch
from torch import nn
from torch.nn import functional as F

class Masked(nn.Module):
    def __init__(self, wrong):
        super().__init__()
        torch.manual_seed(0)
        self.wrong, self.a, self.b = wrong, nn.Linear(48, 64), nn.Linear(64, 10)
        with torch.no_grad():
            self.a.weight.mul_(2.5)

    def forward(self, x):
        hidden = F.relu(self.a(x)) if self.wrong == "activation" else F.gelu(self.a(x))
        y = self.b(hidden)
        if self.wrong == "bias":
            y = y - self.b.bias
        return torch.where(x[:, :10] > 0.8, torch.full_like(y, -1e9), y)

def tiny(wrong=""):
    return Masked(wrong).eval()
"""
# The file of a wrong model, made as the suite makes that of the right one.
MAKE = """
import sys, pathlib, numpy, torch, tinynet
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

class Reader(CalibrationDataReader):
    def __init__(self):
        self.rows = iter([{"x": numpy.load(file)["x"]} for file in sorted(pathlib.Path("drawn").glob("*.npz"))])
    def get_next(self):
        return next(self.rows, None)

x = torch.randn(1, 48)
batch = {"x": {0: "batch"}, "y": {0: "batch"}}
names = dict(input_names=["x"], output_names=["y"], dynamic_axes=batch)
torch.onnx.export(tinynet.tiny(sys.argv[1]), (x,), "float.onnx", dynamo=False, opset_version=17, **names)
quantize_static("float.onnx", "wrong.onnx", Reader(), per_channel=True, weight_type=QuantType.QInt8)
"""


def masked(project: Project, target: str, wrong: str = "") -> Project:
    project.write("tinynet.py", MODEL)
    project.write("pyproject.toml", TABLE.format(target=target))
    (project.path / "drawn").mkdir()
    rng = np.random.default_rng(1)
    for number in range(12):
        np.savez(project.path / "drawn" / f"{number}.npz", x=rng.standard_normal((1, 48)).astype("float32").clip(-3, 3))
    if wrong:
        project.write("make.py", MAKE)
        subprocess.run([sys.executable, "make.py", wrong], cwd=project.path, check=True, timeout=300)
        project.add("pyproject.toml", 'artifacts = { "onnx-int8" = "wrong.onnx" }\nproof = false\n')
    return project


def test_a_right_file_that_applies_the_mask_in_float_passes(project: Project) -> None:
    run = masked(project, "onnx").run()
    (cell,) = run.record.cells
    assert cell.state == "pass", run.text
    assert "% of y's rms (the elements of at most" in cell.reason


@pytest.mark.parametrize("wrong", ["activation", "bias"])
def test_wrong_logits_beside_a_mask_fail_in_golden_cases_and_in_drawn_inputs(project: Project, wrong: str) -> None:
    run = masked(project, "onnx", wrong).run()
    (cell,) = run.record.cells
    assert cell.state == "fail" and "times as far off as its precision explains: noise_ratio" in cell.reason, run.text
    broken = [check for check in cell.checks if not check.passed]
    assert {"noise_ratio", "noise_ratio_drawn"} <= {check.metric for check in broken}, run.text
    assert any("beside far larger ones, are off by" in check.detail for check in broken)


def test_a_file_that_loses_every_logit_is_told_that_its_precision_costs_too_much(project: Project) -> None:
    run = masked(project, "tflite").run("-k", "golden or property")
    (cell,) = run.record.cells
    broken = [check for check in cell.checks if not check.passed]
    assert cell.state == "fail", run.text
    assert cell.reason.startswith("the precision costs too much: 100 % of y's rms (the elements of at most"), run.text
    assert {check.metric for check in broken} == {"precision_cost"}, run.text
