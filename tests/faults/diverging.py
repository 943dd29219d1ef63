"""A small model whose parts converters fold, fuse and take apart, for the tests of first divergence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.faults.small import drawn


class Net(nn.Module):
    """[batch, 3, 20, 28] -> 6 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU())
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6())
        self.mix = nn.Conv2d(12, 12, 1)
        self.norm = nn.LayerNorm(12)
        self.wide = nn.Linear(12, 24)
        self.act = nn.GELU()
        self.head = nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(4 * self.stem(x))
        x = x + self.mix(x)
        return self.head(self.act(self.wide(self.norm(x.mean((2, 3))))))


def net() -> nn.Module:
    return drawn(Net())


class Masked(nn.Module):
    """[1, 6, 8] -> [1, 6, 3]: attention over the first four words, the others hidden by a large number added."""

    def __init__(self) -> None:
        super().__init__()
        self.match = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.match(x)
        hidden = torch.tensor([0.0, 0, 0, 0, -1e6, -1e6], dtype=x.dtype)
        weights = torch.softmax(x @ x.transpose(1, 2) / 3 + hidden, -1)
        return self.head(weights @ x)


def masked() -> nn.Module:
    return drawn(Masked())
