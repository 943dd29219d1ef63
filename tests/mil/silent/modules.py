"""One small module for each known fault of coremltools 9.0 that converts without a word, and sound ones beside them.

The project of ``test_silent_gate.py`` takes them as its models: ``pytest -m parity`` has to flag each, with no limit
set by hand. Imports nothing of this repository, since it is copied into that project.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rotary(nn.Module):
    """Rotary positions whose frequencies are reciprocals: ``inverse`` adds 1e-4, and 1 becomes 0.9999 (#2773)."""

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        frequencies = torch.reciprocal(10000 ** (torch.arange(half, dtype=x.dtype) / half))
        angles = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * frequencies
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


class ScaledSkip(nn.Module):
    """``torch.add`` with ``alpha``, which the export route drops (#2680) and tracing refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.inner(x), alpha=0.5)


class DoubleMask(nn.Module):
    """Masks of ``finfo.min`` that meet twice: -inf, and NaN for a row of them, in fp16 (#2669)."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((4, 4), torch.finfo(torch.float32).min)
        return torch.softmax(x + mask + mask, -1) + x


class LogProbabilities(nn.Module):
    """``log_softmax`` as the logarithm of a softmax, which is zero in fp16 below 6e-8 (#2728)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(x * 12, -1)


class Direction(nn.Module):
    """``atan2`` on the axes, in a wrong quadrant (#2769)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.atan2(x[..., 0], x[..., 1])


class RunningTotal(nn.Module):
    """``logcumsumexp`` without the maximum taken out first, which overflows fp16 at 11 (#2729)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.logcumsumexp(x * 6 + 12, 1)


class RootMeanSquare(nn.Module):
    """RMS normalisation of activations of 400: their squares are beyond fp16."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * 400
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Corrected(nn.Module):
    """``var`` with another correction than 0 and 1, which tracing turns into 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.var(x, dim=-1, correction=2, keepdim=True)


class Spread(nn.Module):
    """``std`` over everything: unbiased in torch, biased in a file converted from a trace that was not saved first."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.std()


class ApproximateGelu(nn.Module):
    """``gelu`` by its tanh approximation: the export route converts the exact one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class Shrink(nn.Module):
    """An anti-aliased resize, converted without the anti-aliasing."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=(5, 6), mode="bilinear", antialias=True)


class OutputPadding(nn.Module):
    """A transposed convolution padded on its output only: the file's output is larger than torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, (3, 2), (2, 3), (1, 0), (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x)


class LateSoftplus(nn.Module):
    """``softplus``, which torch replaces by its argument beyond a threshold; the file does not."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x, 2.0, 5.0)


class NormLayer(nn.Module):
    """``nn.RMSNorm`` with its own epsilon, which is replaced by another."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(6, eps=1e-2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Sound(nn.Module):
    """What the faults stand in for, written so that it converts."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = x + 0.5 * self.inner(x)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-2)
        return torch.softmax(y, -1)


@dataclass(frozen=True)
class Model:
    """A model of the project: its class, the shape of its input, and the cell that must fail unless it is sound.

    `converted` names the front end of a file that the project brings; without it, the target exports.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    cell: str
    sound: bool = False
    converted: Literal["", "trace", "export"] = ""


MODELS: dict[str, Model] = {
    "rotary": Model(Rotary, (1, 5, 8), "coreml-fp32"),
    "scaled_skip": Model(ScaledSkip, (1, 5, 6), "coreml-fp32"),
    "double_mask": Model(DoubleMask, (1, 4, 4), "coreml-fp16"),
    "log_probabilities": Model(LogProbabilities, (1, 5, 6), "coreml-fp16"),
    "direction": Model(Direction, (1, 8, 2), "coreml-fp32"),
    "running_total": Model(RunningTotal, (1, 5, 6), "coreml-fp16"),
    "root_mean_square": Model(RootMeanSquare, (1, 5, 6), "coreml-fp16"),
    "corrected": Model(Corrected, (1, 5, 6), "coreml-fp32"),
    "spread": Model(Spread, (1, 5, 6), "coreml-fp32", converted="trace"),
    "approximate_gelu": Model(ApproximateGelu, (1, 5, 6), "coreml-fp32", converted="export"),
    "shrink": Model(Shrink, (1, 3, 9, 11), "coreml-fp32"),
    "output_padding": Model(OutputPadding, (1, 3, 5, 6), "coreml-fp32"),
    "late_softplus": Model(LateSoftplus, (1, 5, 6), "coreml-fp32"),
    "norm_layer": Model(NormLayer, (1, 5, 6), "coreml-fp32"),
    "sound": Model(Sound, (1, 5, 6), "coreml-fp32", True),
    "sound_half": Model(Sound, (1, 5, 6), "coreml-fp16", True),
    "sound_brought": Model(Sound, (1, 5, 6), "coreml-fp16", True, "trace"),
    "sound_program": Model(Sound, (1, 5, 6), "coreml-fp16", True, "export"),
}


def build(name: str) -> nn.Module:
    """The module of a model, always with the same weights."""
    torch.manual_seed(3)
    return MODELS[name].make()


def case(name: str, number: int) -> Tensor:
    """A golden input: normal values, and for directions points on the axes too."""
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(MODELS[name].shape, generator=generator) * 2
    if name == "direction":
        x = torch.tensor([[math.sin(k * math.pi / 4), math.cos(k * math.pi / 4)] for k in range(8)])[None].round()
    return x
