"""Operators on single numbers, and on numbers that rounding made 0, by themselves on the file's own inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity import formats as targets
from parity.core.proof import Proof
from parity.core.settings import ModelSpec
from parity.proof import prove
from parity.proof.messages import ProofRequest
from tests.proof.seeded import ROOT, Subject, convert, notes


class Scaled(nn.Module):
    """Attention's factor, computed from a size: a power of a tensor without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(12, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.leave(x * x.shape[-1] ** -0.5 * x.shape[1])


class Gelu(nn.Module):
    """Converters write erf out as the sign of x times a polynomial, and the sign as x / (|x| + epsilon)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(12, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(nn.functional.gelu(self.enter(x)))


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return {"scaled": Scaled, "gelu": Gelu}[kind]().eval()


def cases(seed: int, count: int = 16) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 12)).astype(np.float32)} for _ in range(count)]


def spec(kind: str) -> ModelSpec:
    return ModelSpec(str(ROOT), "tests.proof.test_numbers:made", {"kind": kind})


def file(exports: Path, kind: str, target: str, precision: str) -> Path:
    contract = {"inputs": [{"name": "x", "shape": ["batch", 12], "dtype": "float32"}], "outputs": [{"name": "y"}]}
    return convert(Subject(f"numbers-{kind}", spec(kind), contract, cases(1)), exports, target, (precision,))[precision]


def proof(folder: Path, kind: str, target: str, precision: str) -> Proof:
    reader = targets.get(target).graph
    return prove(ProofRequest(spec(kind), reader, precision, str(folder), notes(folder), cases(2), ["y"], cases(1)))


def test_a_power_of_a_tensor_without_axes_is_right_by_itself(exports: Path) -> None:
    folder = file(exports, "scaled", "onnx", "fp16")
    import onnx

    kinds = [node.op_type for node in onnx.load(str(folder / "model.onnx")).graph.node]
    assert "Pow" in kinds  # of the size, which the exporter does not compute
    found = proof(folder, "scaled", "onnx", "fp16")
    assert found.state == "proved", found.summary


def test_a_quotient_of_numbers_that_rounding_made_zero_is_right_by_itself(exports: Path) -> None:
    found = proof(file(exports, "gelu", "tflite", "int8"), "gelu", "tflite", "int8")
    assert found.state == "proved", found.summary
