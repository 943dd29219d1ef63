"""Files that lack a bound or a choice of the module, where no golden and no drawn input goes beyond it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from parity.core.record import CellRecord
from tests.plugin.tiny_project import Project

pytest_plugins = ["pytester"]

NETS = """
import torch

class Net(torch.nn.Module):
    # Wide rows: a random input reaches a few units of `wide`, an aligned one some eighty.

    def __init__(self, rule):
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.head = torch.nn.Linear(512, 4), torch.nn.Linear(4, 3)
        self.wide.weight.data.uniform_(-0.4, 0.4)
        self.six, self.rule = torch.nn.ReLU6(), rule

    def forward(self, x):
        return self.head(getattr(self, self.rule)(self.wide(x)))

    def plain(self, y):
        return y.sin() + 0.01 * y

    def apart(self, y):
        return self.plain(y) + (y[:, :1] - y[:, 1:2]).clamp(max=110)

    def free(self, y):
        return self.plain(y) + (y[:, :1] - y[:, 1:2])

    def unreached(self, y):
        return self.plain(y).clamp(max=50)

    def twice(self, y):
        return self.six(self.plain(y)) + self.six(self.plain(y) - 1)

    def once(self, y):
        return self.six(self.plain(y)) + (self.plain(y) - 1).relu()

    def chosen(self, y):
        scores = y[:, :2] + 1e3 * torch.tensor([[1.0, 0.0]])
        return y * scores.argmax(1, keepdim=True).float() + self.plain(y)

def net(rule):
    return Net(rule).eval()
"""
MAKE = """
import sys, torch, nets
torch.onnx.export(nets.net(sys.argv[1]), torch.rand(1, 512), "file.onnx", input_names=["x"], output_names=["y"],
                  dynamo=False)
"""
PYPROJECT = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32"]

[tool.parity.models.net]
factory = "nets:net"
options = { rule = "RULE" }
inputs = [{ name = "x", shape = [1, 512], range = [-1, 1] }]
outputs = [{ name = "y" }]
golden = "golden"
artifacts = { "onnx-fp32" = "file.onnx" }
properties = { examples = 5 }
"""


def measured(project: Project, rule: str, exported: str) -> CellRecord:
    """The cell of a module with one rule and a file that was made with another."""
    project.write("nets.py", NETS)
    project.write("pyproject.toml", PYPROJECT.replace("RULE", rule))
    for path in (project.path / "golden").rglob("*.npz"):
        path.unlink()
    rng = np.random.default_rng(2)
    for number in range(4):
        np.savez(project.path / "golden" / f"{number}.npz", x=rng.uniform(-1, 1, (1, 512)).astype(np.float32))
    subprocess.run([sys.executable, "-c", MAKE, exported], cwd=project.path, check=True, capture_output=True)
    (cell,) = project.run("-k", "property or proof or golden").record.cells
    return cell


def one_way(cell: CellRecord) -> list[str]:
    return [f.text for f in cell.findings if "decided the same way in every case" in f.text]


NIGHTLY = pytest.mark.nightly


def test_a_bound_that_the_file_lacks_is_driven_to_and_the_file_refused(project: Project) -> None:
    cell = measured(project, "apart", "free")
    assert cell.state == "fail" and not one_way(cell), [f.text for f in cell.findings]
    assert any("clamp" in c.case and not c.passed for c in cell.checks), [c.case for c in cell.checks]


@pytest.mark.parametrize(
    ("rule", "exported", "told"),
    [("unreached", "plain", "aten.clamp above 50"), ("chosen", "plain", "aten.argmax"),
     pytest.param("twice", "once", "aten.hardtanh above 6", marks=NIGHTLY)],
)  # fmt: skip
def test_what_the_file_lacks_and_nothing_reaches_is_told(project: Project, rule: str, exported: str, told: str) -> None:
    cell = measured(project, rule, exported)
    (text,) = one_way(cell)
    assert cell.state == "pass" and f"module: {told} at nets.py:" in text, text
    assert any(c.metric == "one_way_decisions" and c.value >= 1 for c in cell.checks)


@pytest.mark.parametrize(
    "rule", ["apart", *(pytest.param(rule, marks=NIGHTLY) for rule in ("unreached", "twice", "chosen"))]
)
def test_a_right_file_needs_no_word(project: Project, rule: str) -> None:
    cell = measured(project, rule, rule)
    assert cell.state == "pass" and not one_way(cell), [f.text for f in cell.findings]
