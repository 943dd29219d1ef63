"""Constants that int8 files join to activations, as ViT's class token: TFLite has one grid for all that is joined."""

from __future__ import annotations

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


class Tokens(nn.Module):
    """Patches behind two tokens, as those of a distilled ViT, each row normalised by itself."""

    def __init__(self, size: float):
        super().__init__()
        self.patches = nn.Linear(24, 64)
        self.first = nn.Parameter(torch.randn(1, 1, 64) * size)
        self.second = nn.Parameter(torch.randn(1, 1, 64) * size)
        self.place = nn.Parameter(torch.randn(1, 18, 64) * 0.02)
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.patches(x)
        tokens = [token.expand(len(x), -1, -1) for token in (self.first, self.second)]
        return self.head(self.norm(torch.cat([*tokens, rows], 1) + self.place))


def made(size: float) -> nn.Module:
    torch.manual_seed(0)
    return Tokens(size).eval()


def cases(seed: int, count: int = 12) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.random((1, 16, 24), np.float32)} for _ in range(count)]


def spec(size: float) -> ModelSpec:
    return ModelSpec(str(ROOT), "tests.proof.test_joined:made", {"size": size})


def file(exports: Path, target: str, size: float) -> Path:
    contract = {"inputs": [{"name": "x", "shape": [1, 16, 24], "dtype": "float32"}], "outputs": [{"name": "y"}]}
    subject = Subject(f"joined-{size}", spec(size), contract, cases(1))
    return convert(subject, exports, target, ("int8",))["int8"]


def proof(folder: Path, target: str, size: float) -> Proof:
    reader = targets.get(target).graph
    return prove(ProofRequest(spec(size), reader, "int8", str(folder), notes(folder), cases(2), ["y"], cases(1)))


@pytest.mark.parametrize("size", [1e-6, 3e-4, 0.3])
def test_tokens_joined_to_patches_are_proved_whatever_the_grid_leaves_of_them(exports: Path, size: float) -> None:
    found = proof(file(exports, "tflite", size), "tflite", size)
    assert found.state == "proved" and found.link("lift").figures["relative_rms"] < 1e-6, found.summary


def test_a_file_without_the_tokens_is_found(exports: Path, tmp_path: Path) -> None:
    def zeroed(model: Any) -> None:
        graph = model.subgraphs[0]
        joined = next(op for op in graph.operators if tflite.kind(model, op) == "CONCATENATION")
        tensor = graph.tensors[int(joined.inputs[1])]
        values = np.array(tflite.constant(model, tensor))
        tflite.put(model, tensor, np.full_like(values, tensor.quantization.zeroPoint[0]))

    broken = edited(file(exports, "tflite", 0.3), tmp_path, Edit("no token", zeroed, "lift", ""))
    assert proof(broken, "tflite", 0.3).link("lift").state == "failed"


def test_a_file_of_a_module_with_other_tokens_is_found(exports: Path) -> None:
    assert proof(file(exports, "tflite", 1e-6), "tflite", 0.3).state == "failed"
