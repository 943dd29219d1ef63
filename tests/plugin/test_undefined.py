"""Inputs on which the module gives NaN in one output, or in one element: all others are judged there."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

TABLE = """
[tool.parity]
targets = ["torchscript"]
precisions = ["fp32"]
timeout = 120

[tool.parity.models.tiny]
factory = "tinynet:tiny"
inputs = [{{ name = "x", shape = ["batch", 8], range = [-1, 1] }}]
outputs = [{outputs}]
golden = "drawn"
artifacts = {{ "torchscript-fp32" = "file.pt" }}
properties = {{ examples = 12 }}
"""

# log() is NaN on an eighth of the range, which no golden case reaches. The wrong file lets it leak into the rest.
LOGARITHM = """
import sys
import torch
from torch import nn

class Logarithm(nn.Module):
    def __init__(self, leak):
        super().__init__()
        torch.manual_seed(0)
        self.leak = leak
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x):
        y = self.b(torch.tanh(self.a(x)))
        l = torch.log(x[:, :1] + 0.75)
        both = torch.cat([y, l], 1)
        best = both.argmax(1)
        if self.leak == "integer":
            best = torch.where(l.isnan()[:, 0], 0 * best, best)
        if self.leak == "nan":
            y = y + 0 * l
        if self.leak == "number":
            y = torch.where(l.isnan(), y + 1, y)
        return RETURNED

def tiny(leak=""):
    return Logarithm(leak).eval()

if __name__ == "__main__":
    torch.jit.trace(tiny(sys.argv[1]), torch.rand(2, 8)).save("file.pt")
"""
RETURNED = {
    "outputs": ('{ name = "y" }, { name = "l" }, { name = "best" }', "y, l, best"),
    "elements": ('{ name = "y" }', "torch.cat([y, l], 1)"),
}


@pytest.mark.parametrize("where", RETURNED)
@pytest.mark.parametrize("leak", ["", "nan", "number"], ids=["right", "nan", "number"])
def test_where_the_module_gives_nan_its_other_numbers_are_judged(project: Project, where: str, leak: str) -> None:
    outputs, returned = RETURNED[where]
    project.write("tinynet.py", LOGARITHM.replace("RETURNED", returned))
    project.write("pyproject.toml", TABLE.format(outputs=outputs))
    (project.path / "drawn").mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        x = rng.uniform(-0.7, 1, (1, 8)).astype("float32")
        np.savez(project.path / "drawn" / f"{number}.npz", x=x)
    command = [sys.executable, "tinynet.py", leak]
    subprocess.run(command, cwd=project.path, check=True, timeout=120)
    run = project.run("-k", "property")
    (cell,) = run.record.cells
    assert cell.state == ("fail" if leak else "pass"), run.text
    (note,) = [f.text for f in cell.findings if "undefined at fp32" in f.text]
    part = "l: the model itself gives NaN" if where == "outputs" else "y: the model itself gives NaN in some elements"
    assert part in note, note
    assert where == "elements" or "best: the model itself gives NaN in another output (on" in note, note


@pytest.mark.parametrize("leak", ["", "integer"], ids=["right", "wrong"])
def test_other_integers_where_the_module_gives_nan_are_a_warning(project: Project, leak: str) -> None:
    outputs, returned = RETURNED["outputs"]
    project.write("tinynet.py", LOGARITHM.replace("RETURNED", returned))
    project.write("pyproject.toml", TABLE.format(outputs=outputs))
    (project.path / "drawn").mkdir()
    for number in range(4):
        x = np.random.default_rng(number).uniform(-0.7, 1, (1, 8)).astype("float32")
        np.savez(project.path / "drawn" / f"{number}.npz", x=x)
    subprocess.run([sys.executable, "tinynet.py", leak], cwd=project.path, check=True, timeout=120)
    (cell,) = project.run("-k", "property").record.cells
    warned = [f.text for f in cell.findings if f.level == "warning" and "best: other integers" in f.text]
    assert len(warned) == bool(leak)
