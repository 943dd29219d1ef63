"""Whole runs of right files that differ from the oracle by more than their twin does, and of wrong ones beside them."""

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
precisions = ["{precision}"]
timeout = 120

[tool.parity.models.tiny]
factory = "tinynet:tiny"
inputs = [{{ name = "x", shape = ["batch", {size}] }}]
outputs = [{outputs}]
golden = "drawn"
properties = {{ examples = {examples} }}
"""

# The best 12 of 60: their boxes and classes. Scores of an fp16 file tie where those of the oracle are near.
TOP_K = """
import torch
from torch import nn

class Top(nn.Module):
    def __init__(self, wrong):
        super().__init__()
        torch.manual_seed(7)
        self.wrong = wrong
        self.features = nn.Linear(20, 32)
        self.boxes, self.classes = nn.Linear(32, 4), nn.Linear(32, 7)

    def forward(self, x):
        tokens = self.features(x.reshape(-1, 60, 20)).relu()
        boxes, scores = self.boxes(tokens), self.classes(tokens).sigmoid()
        best, classes = scores.max(-1)
        top, at = best.topk(12, 1)
        if self.wrong:
            at = at.flip(1)
        return boxes.gather(1, at[..., None].expand(-1, -1, 4)), classes.gather(1, at)

def tiny(wrong=False):
    return Top(wrong).eval()
"""

# The products cancel, so that what is left depends on the order of the sum, in which PyTorch's kernels have their own.
CANCELS = """
import torch

def tiny():
    torch.manual_seed(1417)
    net = torch.nn.Linear(64, 1).eval()
    with torch.no_grad():
        w = torch.randn(32) * 100
        net.weight.copy_(torch.cat([w, -w + torch.randn(32) * .01])[None])
        net.bias.zero_()
    return net
"""

# BatchNorm undoes what its convolution adds, so that rounding both to fp16 apart costs more than rounding one product.
UNFOLDED = """
import torch

class Pictures(torch.nn.Sequential):
    def forward(self, x):
        return super().forward(x.reshape(-1, 1, 8, 8))

def tiny():
    torch.manual_seed(0)
    net = Pictures(torch.nn.Conv2d(1, 8, 3), torch.nn.BatchNorm2d(8)).eval()
    with torch.no_grad():
        net[0].bias.fill_(300.)
        net[1].running_mean.fill_(300.)
    return net
"""


def draw(project: Project, size: int, seed: int, count: int, halves: int = 1) -> None:
    """Golden cases of `size` numbers, the same in each of so many `halves`."""
    rng = np.random.default_rng(seed)
    (project.path / "drawn").mkdir()
    for number in range(count):
        part = rng.standard_normal((1, size // halves)).astype("float32")
        np.savez(project.path / "drawn" / f"{number}.npz", x=np.concatenate([part] * halves, 1))


def top_k(project: Project, *, wrong: bool) -> None:
    project.write("tinynet.py", TOP_K)
    outputs = '{ name = "boxes" }, { name = "classes" }'
    project.write("pyproject.toml", TABLE.format(precision="fp16", size=1200, outputs=outputs, examples=8))
    draw(project, 1200, 3, 8)
    if wrong:  # a file of another module: the same boxes in another order
        project.write(
            "make.py",
            "import torch, tinynet\n"
            "torch.jit.trace(tinynet.tiny(True).half().float(), torch.randn(1, 1200)).save('wrong.pt')\n",
        )
        subprocess.run([sys.executable, "make.py"], cwd=project.path, check=True, timeout=300)
        project.add("pyproject.toml", 'artifacts = { "torchscript-fp16" = "wrong.pt" }\n')


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_what_top_k_selects_at_fp16_is_judged_by_ties_alone(project: Project, wrong: bool) -> None:
    top_k(project, wrong=wrong)
    run = project.run()
    (cell,) = run.record.cells
    assert cell.state == ("fail" if wrong else "pass"), run.text
    shares = [c for c in cell.checks if c.metric == "differing_share" and c.kind == "golden"]
    assert len(shares) == 8
    if not wrong:
        assert any("ties at this precision" in check.detail for check in shares), "no case of these has a tie"


# A mask that hides everything: at fp16 each score is -inf, and eager PyTorch gives NaN as the file does.
HIDDEN = """
import torch

class Hidden(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = torch.nn.Linear(64, 64)
        self.head.bias.data -= 100

    def forward(self, x):
        scores = self.head(x)
        return torch.softmax(scores + (x < -0.99).to(scores.dtype) * torch.finfo(scores.dtype).min, -1)

def tiny():
    return Hidden().eval()
"""


@pytest.mark.parametrize(("precision", "model"), [("fp32", CANCELS), ("fp16", UNFOLDED), ("fp16", HIDDEN)])
def test_a_file_that_is_eager_pytorch_exactly_passes(project: Project, precision: str, model: str) -> None:
    project.write("tinynet.py", model)
    project.write("pyproject.toml", TABLE.format(precision=precision, size=64, outputs='{ name = "y" }', examples=8))
    table = (project.path / "pyproject.toml").read_text()
    if model == HIDDEN:
        project.write("pyproject.toml", table.replace('"batch", 64]', '"batch", 64], range = [-1, 1]'))
    draw(project, 64, 1417, 3, halves=2)
    run = project.run()
    assert run.states() == {f"tiny-torchscript-{precision}": "pass"}, run.text


# A class is masked where an input is below its threshold: the first half of the outputs, -inf, or NaN.
MASKED = """
import torch

class Masked(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.head(x).masked_fill(x < -0.5, float("{fill}"))

def tiny():
    return Masked().eval()
"""

CLASSES = """
import torch

class Classes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x):
        return self.head(x).argmax(-1)

def tiny():
    return Classes().eval()
"""


@pytest.mark.parametrize("model", [MASKED.replace("{fill}", "-inf"), CLASSES], ids=["infinities", "integers"])
def test_right_files_of_infinities_or_of_integers_alone_pass_and_are_proved(project: Project, model: str) -> None:
    project.write("tinynet.py", model)
    project.write("pyproject.toml", TABLE.format(precision="fp32", size=8, outputs='{ name = "y" }', examples=8))
    draw(project, 8, 1, 4)
    run = project.run()
    (cell,) = run.record.cells
    assert cell.state == "pass" and cell.proof is not None and cell.proof.state == "proved", run.text
    assert "mixes the rows" not in run.text and "nan%" not in run.text


def test_nan_of_the_model_itself_is_said_to_be_its_own(project: Project) -> None:
    project.write("tinynet.py", MASKED.replace("{fill}", "nan"))
    project.write("pyproject.toml", TABLE.format(precision="fp32", size=8, outputs='{ name = "y" }', examples=0))
    draw(project, 8, 1, 4)
    run = project.run("-k", "golden or batch")
    (cell,) = run.record.cells
    assert cell.state != "pass" and "let post make numbers of its NaN" in run.text, run.text
    assert "the oracle itself gives NaN in" in run.text and "narrow the range" not in run.text
    assert "mixes the rows" not in run.text and "costs inf" not in run.text


# torch itself crashes in some traces: this module ends whatever process exports it, in float64 or in any type.
UNTRACEABLE = """
import os
import torch

class Crashes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x):
        if torch.compiler.is_compiling() and x.dtype in {types}:
            os.kill(os.getpid(), 11)
        return self.head(x)

def tiny():
    return Crashes().eval()
"""


@pytest.mark.parametrize(
    ("types", "state"),
    [("(torch.float64,)", "proved"), ("(torch.float64, torch.float32)", "not possible")],
    ids=["in float64", "in every type"],
)
def test_a_crash_of_torch_in_its_trace_is_no_crash_of_the_file(project: Project, types: str, state: str) -> None:
    project.write("tinynet.py", UNTRACEABLE.replace("{types}", types))
    project.write("pyproject.toml", TABLE.format(precision="fp32", size=8, outputs='{ name = "y" }', examples=0))
    draw(project, 8, 1, 4)
    run = project.run("-k", "golden or proof")
    (cell,) = run.record.cells
    assert cell.proof is not None and cell.proof.state == state, run.text
    assert "crash:" not in run.text and not any(c.passed is False for c in cell.checks), run.text
    assert state == "proved" or "torch crashes when it traces the module" in cell.proof.summary


# ONNX Runtime ends with a segmentation fault on this model at fp16 when it is given without the types that it lists.
ENCODER = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patch = torch.nn.Conv2d(3, 16, 4, 4)
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        self.encoder = torch.nn.TransformerEncoder(layer, 2)
        self.head = torch.nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.encoder(self.patch(x.reshape(-1, 3, 16, 16)).flatten(2).transpose(1, 2)).mean(1))

def tiny():
    return Net().eval()
"""


def test_a_file_is_proved_whole_as_an_app_opens_it(project: Project) -> None:
    pytest.importorskip("onnxruntime")
    project.write("tinynet.py", ENCODER)
    table = TABLE.format(precision="fp16", size=768, outputs='{ name = "y" }', examples=0)
    project.write("pyproject.toml", table.replace("torchscript", "onnx"))
    draw(project, 768, 1, 4)
    run = project.run("-k", "golden or proof")
    (cell,) = run.record.cells
    assert run.code == 0 and cell.state == "pass", run.text
