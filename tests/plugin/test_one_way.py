"""Files of modules that branch by data, made by tracing, which takes the branch of the example for every input."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from parity.core.record import CellRecord
from tests.plugin.tiny_project import Project

pytest_plugins = ["pytester"]

NETS = """
import sys, torch

class Net(torch.nn.Module):
    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.way, self.head = way, torch.nn.Linear(4, 3)

    def forward(self, x, mode):
        if getattr(self, self.way)(x, mode):
            return self.head(x).sin() + mode
        return self.head(x).relu() + mode

    def bright(self, x, mode):
        return x.mean() > 0.9

    def contrasted(self, x, mode):
        return x.std() < 0.02

    def read(self, x, mode):
        return x.mean().item() / 2 > 0.45

    def both(self, x, mode):
        return bool(x.mean() > 0.8) and bool(mode == 7)

    def never(self, x, mode):
        return self.head(x).abs().sum() > 1e4

    def guarded(self, x, mode):
        if x.max() > 1e4 or x.mean() > 0.9:
            raise ValueError("too bright")
        return False

class Where(Net):
    def forward(self, x, mode):
        return torch.where(getattr(self, self.way)(x, mode), self.head(x).sin(), self.head(x).relu()) + mode

def net(way, where=False):
    return (Where if where else Net)(way).eval()

if __name__ == "__main__":
    way, where = sys.argv[1], len(sys.argv) > 2
    x, mode = torch.full((1, 4), 0.5) * torch.tensor([0.8, 1.1, 0.9, 1.0]), torch.tensor([1])
    torch.onnx.export(net(way, where), (x, mode), "file.onnx", dynamo=False, input_names=["x", "mode"],
                      output_names=["out"])
"""
PYPROJECT = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32"]

[tool.parity.models.net]
factory = "nets:net"
options = { way = "WAY", where = WHERE }
inputs = [{ name = "x", shape = [1, 4], range = [0, 1] },
          { name = "mode", shape = [1], dtype = "int64", range = [0, 9] }]
outputs = [{ name = "out" }]
golden = "golden"
properties = { examples = 0 }
artifacts = { "onnx-fp32" = "file.onnx" }
"""
ACCEPT = """
[[tool.parity.accept]]
cell = "net-onnx-fp32"
operator = "{operator}"
reason = "no picture is so bright"
expires = 2999-01-31
"""


def measured(project: Project, way: str, where: bool = False, more: str = "") -> CellRecord:
    """The cell of a file that a trace made at a mean of 0.475 and mode 1."""
    project.write("nets.py", NETS)
    text = PYPROJECT.replace("WAY", way).replace("WHERE", str(where).lower())
    project.write("pyproject.toml", text + more)
    golden = project.path / "golden"
    for path in golden.rglob("*.npz"):
        path.unlink()
    rng = np.random.default_rng(0)
    for number in range(4):
        x = rng.uniform(0.3, 0.6, (1, 4)).astype(np.float32)
        np.savez(golden / f"{number}.npz", x=x, mode=np.array([number % 3]))
    if not (project.path / "file.onnx").exists():
        command = [sys.executable, "nets.py", way, *(["where"] if where else [])]
        subprocess.run(command, cwd=project.path, check=True, capture_output=True)
    (cell,) = project.run("-k", "property or proof or golden").record.cells
    return cell


def one_way(cell: CellRecord) -> list[str]:
    return [f.text for f in cell.findings if "decided the same way in every case" in f.text]


NIGHTLY = pytest.mark.nightly


@pytest.mark.parametrize(
    "way", ["both", *(pytest.param(way, marks=NIGHTLY) for way in ("bright", "contrasted", "read"))]
)
def test_a_branch_that_no_golden_case_takes_is_reached_and_the_file_refused(project: Project, way: str) -> None:
    cell = measured(project, way)
    assert cell.state == "fail" and not one_way(cell), [f.text for f in cell.findings]
    assert any(not c.passed and c.kind == "property" for c in cell.checks)


def test_a_branch_that_nothing_reaches_is_told_until_it_is_accepted(project: Project) -> None:
    cell = measured(project, "never")
    (text,) = one_way(cell)
    operator = text.partition("compared: ")[2].partition(". Add")[0]
    line = next(n for n, line in enumerate(NETS.splitlines(), 1) if "1e4\n" in f"{line}\n" and "abs" in line)
    assert operator == f"module: aten.gt with 10000 at nets.py:{line}", text
    assert [c.value for c in cell.checks if c.metric == "one_way_decisions"] == [1.0]
    cell = measured(project, "never", more=ACCEPT.format(operator=operator))
    assert not one_way(cell) and any("accepted: module: " in f.text for f in cell.findings)
    assert [c.value for c in cell.checks if c.metric == "one_way_decisions"] == [0.0]


def test_a_decision_that_a_proved_file_holds_too_needs_no_word(project: Project) -> None:
    cell = measured(project, "never", where=True)
    assert cell.state == "pass" and not one_way(cell), [f.text for f in cell.findings]


@NIGHTLY
def test_an_input_that_the_module_refuses_is_no_other_way(project: Project) -> None:
    cell = measured(project, "guarded")
    assert not [text for text in one_way(cell) if "0.9" in text], one_way(cell)


@NIGHTLY
def test_a_file_that_holds_the_branch_passes(project: Project) -> None:
    cell = measured(project, "bright", where=True)
    assert cell.state == "pass" and not one_way(cell), cell.reason
