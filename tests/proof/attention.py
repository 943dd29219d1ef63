"""A small attention model: two batched products of activations, on which an int8 runtime can go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.core.settings import ModelSpec
from tests.proof.seeded import ROOT, Subject, convert

STEPS, WIDTH, HEADS = 12, 24, 3


class Attention(nn.Module):
    """One pre-norm attention block and a classifier. Input [batch, 12, 24], output logits [batch, 5].

    The values are shifted away from zero, so that their int8 zero points are far from 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.project = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = x.shape[0]
        y = self.norm(x)
        q, k, v = (
            part(y).reshape(batch, STEPS, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(2, 3)).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(batch, STEPS, WIDTH)
        x = x + self.project(y)
        return self.head(x.mean(1))


def attention() -> nn.Module:
    """The factory: the same weights every time."""
    torch.manual_seed(3)
    module = Attention()
    with torch.no_grad():
        module.value.bias += 1.5
        module.norm.weight += 0.3 * torch.randn(WIDTH)
        module.norm.bias += 0.3 * torch.randn(WIDTH)
    return module


SPEC = ModelSpec(str(ROOT), "tests.proof.attention:attention")


def cases(count: int = 24, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"tokens": rng.standard_normal((1, STEPS, WIDTH)).astype(np.float32)} for _ in range(count)]


def export(work: Path, target: str, precisions: tuple[str, ...]) -> dict[str, Path]:
    contract = {
        "inputs": [{"name": "tokens", "shape": [1, STEPS, WIDTH], "dtype": "float32"}],
        "outputs": [{"name": "logits"}],
    }
    return convert(Subject("attention", SPEC, contract, cases(64, seed=1)), work, target, precisions)
