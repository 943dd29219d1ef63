"""Bounds of activations in int8 files: TFLite keeps them as constants on the scale of what they clamp, or takes the
range of what is left for what is clamped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from parity import formats as targets
from parity.core.proof import Proof
from parity.core.settings import ModelSpec
from parity.formats.tflite import graph as tflite
from parity.proof import prove
from parity.proof.messages import ProofRequest
from tests.proof.edits import Edit, edited
from tests.proof.seeded import ROOT, Subject, convert, notes


class Ending(nn.Module):
    """Pictures that end in a clamp, as those of super-resolution do."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high = low, high
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1), nn.Tanh(),
            nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + 0.5).clamp(self.low, self.high)


def made(low: float, high: float) -> nn.Module:
    torch.manual_seed(0)
    module = Ending(low, high).eval()
    with torch.no_grad():
        for conv in module.body[::2]:
            conv.weight *= 2.5
    return module


BOUNDS = [(0.0, 1.0), (-0.3, 0.4)]


def cases(seed: int, count: int = 12) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.random((1, 3, 8, 8), np.float32)} for _ in range(count)]


def spec(bounds: tuple[float, float]) -> ModelSpec:
    return ModelSpec(str(ROOT), "tests.proof.test_clamps:made", {"low": bounds[0], "high": bounds[1]})


def file(exports: Path, target: str, bounds: tuple[float, float]) -> Path:
    contract = {"inputs": [{"name": "x", "shape": [1, 3, 8, 8], "dtype": "float32"}], "outputs": [{"name": "y"}]}
    subject = Subject(f"ending-{bounds[0]}-{bounds[1]}", spec(bounds), contract, cases(1))
    return convert(subject, exports, target, ("int8",))["int8"]


def proof(folder: Path, target: str, bounds: tuple[float, float]) -> Proof:
    reader = targets.get(target).graph
    return prove(ProofRequest(spec(bounds), reader, "int8", str(folder), notes(folder), cases(2), ["y"], cases(1)))


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_a_right_file_that_ends_in_a_clamp_is_proved(exports: Path, target: str, bounds: tuple[float, float]) -> None:
    found = proof(file(exports, target, bounds), target, bounds)
    assert found.state == "proved", found.summary


def bound(model: Any) -> None:
    """The upper bound a twentieth lower."""
    graph = model.subgraphs[0]
    minimum = next(op for op in graph.operators if tflite.kind(model, op) == "MINIMUM")
    tensor = graph.tensors[int(minimum.inputs[1])]
    tflite.put(model, tensor, np.array(tflite.constant(model, tensor)) - np.int8(12))


def dropped(kind: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        op = next(op for op in graph.operators if tflite.kind(model, op) == kind)
        for other in graph.operators:
            other.inputs = np.array([op.inputs[0] if i == op.outputs[0] else i for i in other.inputs], np.int32)
        graph.operators.remove(op)

    return change


def widened(model: Any) -> None:
    """What the clamp reads on a scale that nothing asks for."""
    graph = model.subgraphs[0]
    minimum = next(op for op in graph.operators if tflite.kind(model, op) == "MINIMUM")
    given = graph.tensors[int(minimum.inputs[0])].quantization
    given.scale = np.array(given.scale, np.float32) * np.float32(1.1)


EDITS = [
    Edit("bound", bound, "lift|audit", ""),
    Edit("no upper bound", dropped("MINIMUM"), "lift", ""),
    Edit("wider", widened, "range", ""),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: e.name)
def test_a_bound_that_is_lost_or_moved_is_found(exports: Path, tmp_path: Path, edit: Edit) -> None:
    found = proof(edited(file(exports, "tflite", (0.0, 1.0)), tmp_path, edit), "tflite", (0.0, 1.0))
    assert found.state == "failed", found.summary


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_a_file_of_the_module_without_its_clamp_is_found(exports: Path, target: str) -> None:
    found = proof(file(exports, target, (-9.0, 9.0)), target, (0.0, 1.0))
    assert found.link("lift").state == "failed", found.summary
