"""Sizes of dynamic axes that nobody declared come from golden data, and are never such as the model refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parity.cases.sizes import from_golden
from parity.core.contract import Contract, InputSpec, OutputSpec, Preprocess
from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

IMAGE = InputSpec("image", ("batch", 3, "height", "width"))
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(*[torch.nn.Conv2d(3, 3, 3, stride=2) for _ in range(3)])

    def forward(self, image):
        if image.shape[2] < 12:
            raise ValueError("pictures of less than 12 rows are too small")
        return self.layers(image).mean((2, 3))

def net():
    return Net().eval()
"""
PYPROJECT = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32"]

[tool.parity.models.net]
factory = "nets:net"
inputs = [{ name = "image", shape = ["batch", 3, "height", "width"], range = [0, 1] }]
outputs = [{ name = "out" }]
golden = "golden"
"""


def stored(folder: Path, *sizes: tuple[int, int]) -> None:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        np.savez(folder / f"{number}.npz", image=rng.uniform(0, 1, (1, 3, *size)).astype(np.float32))


def test_sizes_come_from_golden_data_the_commonest_first(tmp_path: Path) -> None:
    stored(tmp_path, (40, 64), (48, 64), (48, 64))
    sizes = from_golden(Contract((IMAGE,), (OutputSpec("y"),)), tmp_path).sizes()
    assert sizes == {"batch": (1, 2, 3, 5), "height": (48, 40), "width": (64,)}
    declared = Contract((IMAGE,), (OutputSpec("y"),), None, {"height": (96, 97)})
    assert from_golden(declared, tmp_path).sizes()["height"] == (96, 97)
    assert from_golden(declared, None) == declared


def test_sizes_of_pictures_are_those_of_preprocessing(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (5, 5)).save(tmp_path / "a.png")
    contract = Contract((IMAGE,), (OutputSpec("y"),), Preprocess(size=(96, 128)))
    assert from_golden(contract, tmp_path).sizes() == {"batch": (1, 2, 3, 5), "height": (96,), "width": (128,)}


def prepared(project: Project, *sizes: tuple[int, int]) -> Project:
    project.write("nets.py", NET)
    project.write("pyproject.toml", PYPROJECT)
    for path in (project.path / "golden").rglob("*.npz"):
        path.unlink()
    stored(project.path / "golden", *sizes)
    return project


def test_a_file_beside_large_golden_cases_is_not_tried_at_sizes_of_our_own(project: Project) -> None:
    run = prepared(project, (64, 96), (64, 96)).run("-k", "batch or property or golden or contract")
    assert run.code == 0, run.text
    cases = {check.case for check in run.record.cells[0].checks}
    assert "batch=1,height=96,width=160" in cases and not [c for c in cases if "height=7," in c or "height=12," in c]


@pytest.mark.parametrize(
    ("ids", "learned"),
    [([[5, 30], [7, 99]], (0, 99)), ([[-100, 3]], (-100, 3)), ([[0, 1], [1, 1]], None), ([], None)],
    ids=["ids", "negative", "a mask", "no cases"],
)
def test_ranges_of_integers_come_from_golden_data(
    tmp_path: Path, ids: list[list[int]], learned: tuple[float, float] | None
) -> None:
    for number, row in enumerate(ids):
        np.savez(tmp_path / f"{number}.npz", ids=np.array([row]), image=np.zeros((1, 3), np.float32))
    undeclared = Contract((InputSpec("ids", (1, 2), "int64"), InputSpec("image", (1, 3))), (OutputSpec("y"),))
    found, image = from_golden(undeclared, tmp_path).inputs
    assert found.range == learned and image.range is None
    declared = Contract((InputSpec("ids", (1, 2), "int64", (0, 4)),), (OutputSpec("y"),))
    assert from_golden(declared, tmp_path).inputs[0].range == (0, 4)
