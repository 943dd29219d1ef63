"""Masks of the least number of a type: in fp16 any score vanishes beside -65504, in a lift to float32 none does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parity import formats as targets
from parity.core.proof import Proof
from parity.core.settings import ModelSpec
from parity.formats.torch import convert as to_torch
from parity.proof import prove
from parity.proof.messages import ProofRequest
from tests.proof.seeded import ROOT, Subject, convert, notes

pytest.importorskip("onnxruntime")

TARGETS = ("onnx", "torchscript", "exported")
LENGTH = 6
SHAPES = {"x": [1, LENGTH, 8], "mask": [1, LENGTH]}
CONTRACT = {
    "inputs": [{"name": name, "shape": shape, "dtype": "float32", "range": None} for name, shape in SHAPES.items()],
    "outputs": [{"name": "y"}],
}


class Windowed(nn.Module):
    """Attention within a window: a place whose neighbours are all masked out attends to all places alike.

    `low` hides what is not to be seen, the least number of the type where it is 0; `reach` is half a window.
    """

    def __init__(self, low: float, reach: int) -> None:
        super().__init__()
        self.low, self.reach = low, reach
        self.query, self.out = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        low = self.low or torch.finfo(x.dtype).min
        scores = self.query(x) @ x.transpose(1, 2)
        hidden = torch.zeros(scores.shape, dtype=x.dtype).masked_fill(mask[:, None, :] < 0.5, low)
        place = torch.arange(LENGTH)
        hidden = hidden.masked_fill((place[:, None] - place[None]).abs() > self.reach, low)
        return self.out((scores + hidden).softmax(-1) @ x)


def windowed(low: float, reach: int) -> nn.Module:
    torch.manual_seed(0)
    return Windowed(low, reach).eval()


def cases() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(8):
        mask = np.ones((1, LENGTH), np.float32)
        mask[0, rng.integers(1, 4) :] = 0
        made.append({"x": rng.standard_normal((1, LENGTH, 8)).astype(np.float32), "mask": mask})
    return made


def proof(folder: Path, target: str, precision: str, low: float = 0.0, reach: int = 1) -> Proof:
    """The proof of a file that was made with another mask, against the module with the least number."""
    model, made_of = (
        ModelSpec(str(ROOT), "tests.proof.test_masks:windowed", {"low": value, "reach": width})
        for value, width in ((0.0, 1), (low, reach))
    )
    if target == "onnx":
        folder = convert(Subject("windowed", made_of, CONTRACT, cases()), folder, target, (precision,))[precision]
        of_file = notes(folder)
    else:
        make = to_torch.trace if target == "torchscript" else to_torch.export_program
        options = {"half": precision == "fp16", "dynamic": False}
        of_file = make(str(folder), options, made_of, {**CONTRACT, "sizes": {}}, cases()[0])
    reader = targets.get(target).graph
    return prove(ProofRequest(model, reader, precision, str(folder), of_file, cases(), ["y"]))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("target", TARGETS)
def test_rows_that_are_masked_out_altogether_are_those_of_the_module(
    tmp_path: Path, target: str, precision: str
) -> None:
    found = proof(tmp_path, target, precision)
    assert found.link("lift").state == "proved", found.summary
    assert found.link("range").state != "failed", found.summary


@pytest.mark.parametrize(
    ("precision", "low", "reach"),
    [("fp16", -5.0, 1), ("fp16", 0.0, 2), ("fp32", -65504.0, 1), ("fp16", -1000.0, 1)],
    ids=["weak", "wide", "of another type", "rounded scores"],
)
@pytest.mark.parametrize("target", TARGETS)
def test_another_mask_is_found(tmp_path: Path, target: str, precision: str, low: float, reach: int) -> None:
    found = proof(tmp_path, target, precision, low, reach)
    assert found.state == "failed", found.summary
