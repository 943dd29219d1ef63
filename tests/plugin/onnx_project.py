"""Projects that verify a real ONNX file, made of a module with one fault that only one kind of input shows."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from tests.plugin.tiny_project import Project

NETS = """
import torch

class Picture(torch.nn.Module):
    def __init__(self, wrong=None):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
        self.wrong = wrong

    def forward(self, image):
        out = self.body(image).mean((2, 3))
        if self.wrong == "zeros":
            out = out / (image.abs().sum((1, 2, 3), keepdim=False) > 0)[:, None].float()
        if self.wrong == "black":
            out = out / (image[:, 0].amax((1, 2)) > -2.1179)[:, None].float()
        if self.wrong == "highest":
            out = out + (image.amin((1, 2, 3)) > 2.6999)[:, None].float()
        if self.wrong == "rows":
            out = out + (torch.arange(image.shape[0]) > 4)[:, None].float()
        if self.wrong == "four rows":
            out = out + (torch.arange(image.shape[0]).sum() == 6).float()
        if self.wrong == "many rows":
            out = out + (torch.arange(image.shape[0]) > 15)[:, None].float()
        if self.wrong == "32 rows":
            out = out + (torch.arange(image.shape[0]).sum() == 496).float()
        if self.wrong == "64 rows":
            out = out + (torch.arange(image.shape[0]) > 40)[:, None].float()
        return out

class View(torch.nn.Module):
    # A picture of any size, cut to a square unless the fault is of another kind.

    def __init__(self, wrong=None, square=False):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.wrong, self.square = torch.nn.Conv2d(3, 4, 3), wrong, square

    def forward(self, view):
        height, width = view.shape[2:]
        if self.wrong == "tall":
            view = view[:, :, :, :height]
        elif self.wrong == "wide":
            view = view[:, :, :width]
        elif self.square:
            view = view[:, :, :min(height, width), :min(height, width)]
        pool = torch.nn.functional.max_pool2d(self.body(view).relu(), 2, ceil_mode=self.wrong != "odd")
        if self.wrong == "pair":
            sizes = torch.ones_like(view[0, 0, :, 0]).sum() * 100 + torch.ones_like(view[0, 0, 0]).sum()
            return pool.mean((2, 3)) + (sizes == 2440).float()
        return pool.mean((2, 3))

class Tokens(torch.nn.Module):
    def __init__(self, wrong=None):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.wrong = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 3), wrong

    def forward(self, ids):
        out = self.head(self.table(ids).mean(1))
        if self.wrong == "zeros":
            out = out + 100 * (ids.sum(1) == 0)[:, None].float()
        return out

class Steps(torch.nn.Module):
    # A sum over the steps so far; learned places for `most` steps.

    def __init__(self, wrong=None, most=64):
        super().__init__()
        torch.manual_seed(0)
        self.places, self.head, self.wrong = torch.nn.Embedding(most, 4), torch.nn.Linear(4, 3), wrong

    def forward(self, x):
        steps = torch.arange(x.shape[1])
        out = self.head((x + self.places(steps)).cumsum(1))
        if self.wrong == "steps":
            out = out + (steps > 19)[None, :, None].float()
        if self.wrong == "many steps":
            out = out + (steps > 40)[None, :, None].float()
        if self.wrong == "one step":
            out = out + (steps.sum() == 0).float()
        if self.wrong == "alike":
            rows = torch.arange(x.shape[0])
            out = out + ((rows.sum() == steps.sum()) & (rows.sum() > 0)).float()
        return out

class Inverse(torch.nn.Module):
    def forward(self, x):
        return x / x.abs()  # NaN where x is 0

class Mode(torch.nn.Module):
    # Another way at mode 37; `clock` counts on and wraps.

    def __init__(self, wrong=None, wraps=False):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.wrong, self.wraps = torch.nn.Embedding(64, 4), torch.nn.Linear(4, 3), wrong, wraps

    def forward(self, x, clock):
        if self.wraps:
            return self.head(x + self.table(clock % (32 if self.wrong else 64))), clock + 1
        other = torch.sin(x) if self.wrong else torch.tanh(x)
        return self.head(torch.where((clock == 37)[:, None], other, x.relu())), clock + 1

def mode(wrong=None):
    return Mode(wrong).eval()

def clock(wrong=None):
    return Mode(wrong, True).eval()

def picture(wrong=None):
    return Picture(wrong).eval()

def view(wrong=None):
    return View(wrong).eval()

def square_view(wrong=None):
    return View(wrong, True).eval()

def tokens(wrong=None):
    return Tokens(wrong).eval()

def steps(wrong=None):
    return Steps(wrong).eval()

def few_steps(wrong=None):
    return Steps(wrong, 20).eval()

def inverse(wrong=None):
    return Inverse()
"""
MAKE = """
import sys, torch, nets
factory, wrong = sys.argv[1:]
net = getattr(nets, factory)(wrong or None)
examples = {"picture": torch.rand(1, 3, 8, 8), "tokens": torch.ones(1, 6, dtype=torch.int64)}
examples["view"] = examples["square_view"] = torch.rand(1, 3, 32, 32)
example = examples.get(factory, torch.ones(1, 12, 4))
if factory in ("mode", "clock"):
    torch.onnx.export(net, (torch.ones(1, 4), torch.ones(1, dtype=torch.int64)), "file.onnx", dynamo=False,
                      input_names=["x", "clock"], output_names=["out", "next"])
    sys.exit()
name = {"picture": "image", "tokens": "ids", "view": "view", "square_view": "view"}.get(factory, "x")
axes = {0: "batch", 1: "steps"} if "steps" in factory else {0: "batch"}
open_axes = {0: "batch", 2: "height", 3: "width"} if "view" in factory else axes
torch.onnx.export(net, example, "file.onnx", input_names=[name], output_names=["out"], dynamo=False,
                  dynamic_axes={name: open_axes, "out": axes})
"""
INPUTS = {
    "picture": '{ name = "image", shape = ["batch", 3, 8, 8], range = [-2.2, 2.7] }',
    "view": '{ name = "view", shape = ["batch", 3, "height", "width"], range = [0, 1] }',
    "square_view": '{ name = "view", shape = ["batch", 3, "height", "width"], range = [0, 1] }',
    "mode": '{ name = "x", shape = [1, 4] }, { name = "clock", shape = [1], dtype = "int64", range = [0, 99] }',
    "clock": '{ name = "x", shape = [1, 4] }, { name = "clock", shape = [1], dtype = "int64" }',
    "tokens": '{ name = "ids", shape = ["batch", 6], dtype = "int64", range = [0, 49] }',
    "inverse": '{ name = "x", shape = ["batch", 12, 4], range = [-1, 1] }',
    "steps": '{ name = "x", shape = ["batch", "steps", 4], range = [-1, 1] }',
    "few_steps": '{ name = "x", shape = ["batch", "steps", 4], range = [-1, 1] }',
}
PYPROJECT = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32"]

[tool.parity.models.net]
factory = "nets:FACTORY"
inputs = [INPUT]
outputs = [OUTPUTS]
golden = "golden"
preprocess = { mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }
artifacts = { "onnx-fp32" = "file.onnx" }
"""


def prepared(project: Project, factory: str, wrong: str = "", properties: str = "") -> Project:
    """A project that verifies the ONNX file of a module with one fault."""
    project.write("nets.py", NETS)
    text = PYPROJECT.replace("FACTORY", factory).replace("INPUT", INPUTS[factory])
    names = ("out", "next") if factory in ("mode", "clock") else ("out",)
    text = text.replace("OUTPUTS", ", ".join(f'{{ name = "{name}" }}' for name in names))
    project.write("pyproject.toml", text + properties)
    for path in (project.path / "golden").rglob("*.npz"):
        path.unlink()
    rng = np.random.default_rng(2)
    for number in range(4):
        inputs = {
            "picture": {"image": rng.uniform(-2, 2, (1, 3, 8, 8)).astype(np.float32)},
            "tokens": {"ids": rng.integers(1, 50, (1, 6))},
        }
        row = {"x": rng.uniform(0.5, 1, (1, 4)).astype(np.float32), "clock": np.array([number])}
        inputs["mode"] = inputs["clock"] = row
        inputs["view"] = inputs["square_view"] = {"view": rng.uniform(0, 1, (1, 3, 32, 32)).astype(np.float32)}
        steps = {"x": rng.uniform(0.5, 1, (1, 12, 4)).astype(np.float32)}
        np.savez(project.path / "golden" / f"{number}.npz", **inputs.get(factory, steps))
    subprocess.run([sys.executable, "-c", MAKE, factory, wrong], cwd=project.path, check=True, capture_output=True)
    return project
