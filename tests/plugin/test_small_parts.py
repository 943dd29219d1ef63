"""Whole runs of files that are wrong in a small part of an output, whose noise is that of a part far larger."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from parity.core.record import CellRecord, Check
from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

TABLE = """
[tool.parity]
targets = ["torchscript"]
precisions = ["fp16"]
timeout = 120

[tool.parity.models.tiny]
factory = "tinynet:tiny"
inputs = [{ name = "x", shape = ["batch", 48], range = [-3.0, 3.0] }]
outputs = [{ name = "y" }]
golden = "drawn"
properties = { examples = 12 }
"""

# Three angles, three lengths thirty times as large, three scores; wrong scores are piecewise linear.
POSE = """
import torch
from torch import nn
from torch.nn import functional as F

class Pose(nn.Module):
    def __init__(self, wrong):
        super().__init__()
        torch.manual_seed(0)
        self.wrong = wrong
        self.a, self.b, self.lengths = nn.Linear(48, 64), nn.Linear(64, 64), nn.Linear(64, 3)
        self.one, self.two = nn.Linear(64, 32), nn.Linear(32, 6)
        with torch.no_grad():
            for layer in (self.a, self.b, self.lengths, self.one, self.two):
                layer.weight.mul_(2.5)

    def forward(self, x):
        h = F.relu(self.b(F.relu(self.a(x))))
        small = self.two(F.gelu(self.one(h)))
        scores = F.hardsigmoid(small[:, :3]) if self.wrong else torch.sigmoid(small[:, :3])
        return torch.cat([torch.tanh(small[:, 3:]) * 3.14, 30 * self.lengths(h), scores], 1)

def tiny(wrong=False):
    return Pose(wrong).eval()
"""
MAKE = """
import torch, tinynet
torch.jit.trace(tinynet.tiny(True).half().float(), torch.randn(1, 48)).save('wrong.pt')
"""


def posed(project: Project, wrong: bool, cases: int, model: str = POSE) -> Project:
    project.write("tinynet.py", model)
    project.write("pyproject.toml", TABLE)
    (project.path / "drawn").mkdir()
    rng = np.random.default_rng(1)
    for number in range(cases):
        np.savez(project.path / "drawn" / f"{number}.npz", x=rng.standard_normal((1, 48)).astype("float32").clip(-3, 3))
    if wrong:
        project.write("make.py", MAKE)
        subprocess.run([sys.executable, "make.py"], cwd=project.path, check=True, timeout=300)
        project.add("pyproject.toml", 'artifacts = { "torchscript-fp16" = "wrong.pt" }\nproof = false\n')
    return project


# The scores of a wrong file lost a bias, nine times what the precision costs them.
SLIGHT = POSE.replace("F.hardsigmoid(small[:, :3])", "torch.sigmoid(small[:, :3] + 0.02)")


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_two_golden_cases_are_too_few_for_a_column_and_the_drawn_inputs_show_it(project: Project, wrong: bool) -> None:
    run = posed(project, wrong, 2, SLIGHT).run()
    (cell,) = run.record.cells
    (together,) = [check for check in cell.checks if check.case == "all drawn inputs"]
    assert cell.state == ("fail" if wrong else "pass"), run.text
    assert [check for check in cell.checks if not check.passed] == ([together] if wrong else [])
    assert together.value is not None and (together.value > 8 or not wrong)


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_scores_beside_lengths_are_judged_by_what_the_precision_costs_scores(project: Project, wrong: bool) -> None:
    run = posed(project, wrong, 12).run()
    (cell,) = run.record.cells
    assert cell.state == ("fail" if wrong else "pass"), run.text
    (golden,) = checks(cell, "golden", "noise_ratio_channel")
    drawn = checks(cell, "property", "noise_ratio_drawn")
    assert drawn
    if wrong:
        assert golden.value is not None and golden.value > 20, golden
        assert "channel " in golden.detail
        assert not all(check.passed for check in drawn)
        assert any("along axis 1" in check.detail for check in drawn)
    else:
        assert golden.value is not None and golden.value < 2, golden
        assert all(check.passed for check in drawn)


def checks(cell: CellRecord, kind: str, metric: str) -> list[Check]:
    return [check for check in cell.checks if check.kind == kind and check.metric == metric]
