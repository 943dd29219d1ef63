"""Real ONNX files that are wrong only where no draw reaches: beyond a bound, at large sums, for a class that is rarely
chosen."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

NETS = """
import torch

class Net(torch.nn.Module):
    # Wide rows: a random input reaches a few units of `wide`, an aligned one twenty.

    def __init__(self, kind, wrong=""):
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.head = torch.nn.Linear(512, 16), torch.nn.Linear(16, 4)
        self.wide.weight.data.uniform_(-0.4, 0.4)
        self.experts = torch.nn.Parameter(torch.randn(3, 4, 4))
        self.gate = torch.nn.Linear(512, 3)
        self.gate.weight.data.normal_(0, 0.1)
        self.gate.weight.data[2] = 0.05 * torch.randn(512).sign()
        self.gate.bias.data = torch.tensor([0.0, 0.0, -20.0])
        self.kind, self.wrong = kind, wrong

    def forward(self, x):
        if self.kind == "plain":
            with torch.no_grad():
                return self.head(self.wide(x).relu())
        wide = self.wide(x)
        if self.kind == "clip":
            return self.head(wide.clamp(0, 60) if self.wrong else wide.relu())
        if self.kind == "softplus":
            naive = torch.log(1 + torch.exp(wide))
            return self.head(naive if self.wrong else torch.nn.functional.softplus(wide))
        if self.kind == "exponent":  # 15 on random inputs, 100 on an aligned one: float32 ends at 88
            return torch.exp(self.head(wide.relu()) * 4)
        choice = self.gate(x).argmax(1)
        if self.wrong:
            choice = choice.clamp(max=1)
        return torch.bmm(self.experts[choice], self.head(wide.relu()).unsqueeze(2)).squeeze(2)

def clip(wrong=""):
    return Net("clip", wrong).eval()

def softplus(wrong=""):
    return Net("softplus", wrong).eval()

def expert(wrong=""):
    return Net("expert", wrong).eval()

def exponent(wrong=""):
    return Net("exponent", wrong).eval()

def plain(wrong=""):
    return Net("plain", wrong).eval()
"""
MAKE = """
import sys, torch, nets
net = getattr(nets, sys.argv[1])(sys.argv[2])
torch.onnx.export(net, torch.rand(1, 512), "file.onnx", input_names=["x"], output_names=["y"], dynamo=False,
                  dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}})
"""
PYPROJECT = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32"]

[tool.parity.models.net]
factory = "nets:FACTORY"
inputs = [{ name = "x", shape = ["batch", 512], RANGE }]
outputs = [{ name = "y" }]
golden = "golden"
artifacts = { "onnx-fp32" = "file.onnx" }
properties = { examples = 20 }
"""


def prepared(project: Project, factory: str, wrong: str = "", range_: str = "range = [-1, 1]") -> Project:
    project.write("nets.py", NETS)
    project.write("pyproject.toml", PYPROJECT.replace("FACTORY", factory).replace(", RANGE", range_ and f", {range_}"))
    for path in (project.path / "golden").rglob("*.npz"):
        path.unlink()
    rng = np.random.default_rng(2)
    for number in range(4):
        np.savez(project.path / "golden" / f"{number}.npz", x=rng.uniform(-1, 1, (1, 512)).astype(np.float32))
    subprocess.run([sys.executable, "-c", MAKE, factory, wrong], cwd=project.path, check=True, capture_output=True)
    return project


@pytest.mark.parametrize(
    ("factory", "where"),
    [("clip", "highest linear"), ("softplus", "highest linear"), ("expert", "choice 2 of argmax")],
)
def test_a_file_that_is_wrong_where_no_draw_reaches_fails_on_driven_inputs_alone(
    project: Project, factory: str, where: str
) -> None:
    run = prepared(project, factory, "wrong").run("-k", "property")
    (cell,) = run.record.cells
    bad = {check.case for check in cell.checks if not check.passed}
    assert run.code == 1 and bad and all(case.startswith("driven to the") for case in bad), run.text
    assert any(case.startswith(f"driven to the {where} at nets.py:") for case in bad), run.text
    (kept,) = (project.path / ".parity" / "recipes" / "net").glob("driven_*.npz")
    value = np.load(kept)["x"]
    assert value.shape == (1, 512) and np.abs(value).max() <= 1 and kept.name in run.text


@pytest.mark.parametrize("factory", ["clip", "softplus", "expert", "exponent"])
def test_a_right_file_passes_on_driven_inputs(project: Project, factory: str) -> None:
    run = prepared(project, factory).run("-k", "property")
    driven = {check.case for check in run.record.cells[0].checks if check.case.startswith("driven")}
    assert run.code == 0 and len(driven) >= 4, run.text


def test_a_model_without_gradients_has_no_driven_inputs_and_says_so_once(project: Project) -> None:
    run = prepared(project, "plain").run("-k", "property")
    (cell,) = run.record.cells
    assert run.code == 0 and not any(check.case.startswith("driven") for check in cell.checks), run.text
    assert [f.text for f in cell.findings if "was driven" in f.text] == [
        "no input was driven to the ends of what the model computes: it has no gradients"
    ]


def test_an_input_without_a_range_is_told_with_the_one_it_is_drawn_from(project: Project) -> None:
    run = prepared(project, "clip", range_="").run("-k", "property")
    texts = [f.text for f in run.record.cells[0].findings if "no range is declared" in f.text]
    assert run.code == 0 and texts == ["x: no range is declared: drawn from -1 to 1"], run.text
    run = prepared(project, "clip").run("-k", "property")
    assert not any("no range is declared" in f.text for f in run.record.cells[0].findings), run.text
