"""Small models that between them have a place for every fault, each with its contract and inputs that tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity.cases import golden
from parity.core.contract import Contract, InputSpec, OutputSpec, Preprocess
from parity.faults.bench import Bench

GOLDEN = Path(__file__).resolve().parents[2] / "fixtures" / "golden" / "skin"
HOW = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZE = 24


class Pictures(nn.Module):
    """Convolutions of all kinds, each activation, both poolings, resizing, a gate: [batch, 3, H, W] -> 5 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.Hardswish())
        self.widen = nn.Sequential(nn.Conv2d(8, 12, 1), nn.ReLU6(), nn.AvgPool2d(3, 2, 1), nn.Conv2d(12, 12, 1))
        self.mix = nn.Sequential(
            nn.LeakyReLU(0.01), nn.Conv2d(12, 12, 3, 1, 1), nn.GELU(), nn.Dropout(0.2), nn.MaxPool2d(2)
        )
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 12, 1), nn.Sigmoid())
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.widen(3 * self.depthwise(4 * self.stem(x)))
        x = F.relu(8 * self.mix(3 * x / x.abs().amax((1, 2, 3), keepdim=True)))
        x = F.interpolate(x * self.gate(x.tanh()), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(x.square().mean((2, 3)) + F.adaptive_avg_pool2d(x, 1).flatten(1))


class Attention(nn.Module):
    """[batch, time, 8] and a mask over time -> 6 probabilities; both ways to attend that torch has."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 6)

    def forward(self, x: Tensor, ignored: Tensor) -> Tensor:
        x = self.norm(x + self.one(x, x, x, key_padding_mask=ignored, need_weights=False)[0])
        q, k, v = (p.unflatten(-1, (2, 4)).transpose(1, 2) for p in (2 * self.qkv(x)).chunk(3, -1))
        x = x + F.scaled_dot_product_attention(q, k, v, attn_mask=~ignored[:, None, None]).transpose(1, 2).flatten(2)
        return self.head(x.mean(1)).softmax(-1)


class Recurrent(nn.Module):
    """[batch, time, 6] -> embedding [batch, 4], through a GRU and a bidirectional LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8, 2, batch_first=True)
        self.lstm = nn.LSTM(8, 5, bidirectional=True)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.gru(x)
        x, _ = self.lstm(x.transpose(0, 1))
        return self.head(x[-1])


class Detector(nn.Module):
    """Tokens [batch, time] -> boxes [batch, time, 4], two square maps [batch, 4, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.boxes, self.left, self.right = nn.Linear(16, 4), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.table(tokens)
        pooled = x.mean(1)
        return self.boxes(x), self.left(pooled).reshape(-1, 4, 4), self.right(pooled).reshape(-1, 4, 4)


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with weights and statistics drawn so that every part matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.is_floating_point():
            scale = value.ndim == 1 and name.endswith("weight")  # of a normalisation
            wide = torch.randn(value.shape, generator=generator) * (0.5 if value.ndim < 2 else value[0].numel() ** -0.5)
            value.data.copy_(wide.square() + 0.1 if "var" in name else wide + scale)
    return module.eval().requires_grad_(False)


def _values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def encoded(precision: str) -> Bench:
    """Pictures from files: turned ones and transparent ones among them."""
    contract = Contract(
        (InputSpec("image", ("batch", 3, SIZE, SIZE), range=(-2.2, 2.7)),), (OutputSpec("y", "logits"),), HOW
    )
    paths = sorted(GOLDEN.rglob("*"))
    files = [p for p in paths if p.suffix in (".png", ".jpg") and p.parent.name in ("blue_nevus", "hemangioma")]
    inputs = [{"image": golden.picture(p, HOW, (3, SIZE, SIZE))[None]} for p in files]
    return Bench(drawn(Pictures()), contract, inputs, precision, [str(p) for p in files])


def drawings(precision: str) -> Bench:
    """Pictures as arrays, whose pixels are no whole numbers."""
    contract = Contract(
        (InputSpec("image", ("batch", 3, SIZE, SIZE), range=(-3, 3)),), (OutputSpec("y", "logits"),), HOW
    )
    return Bench(drawn(Pictures()), contract, [{"image": _values((1, 3, SIZE, SIZE), i)} for i in range(5)], precision)


def attention(precision: str) -> Bench:
    contract = Contract(
        (InputSpec("x", ("batch", "time", 8)), InputSpec("ignored", ("batch", "time"), "bool")),
        (OutputSpec("y", "probs"),),
    )
    ignored = np.zeros((1, 7), bool)
    ignored[:, 5:] = True
    return Bench(drawn(Attention()), contract, [{"x": _values((1, 7, 8), i), "ignored": ignored} for i in range(4)],
                 precision)  # fmt: skip


def recurrent(precision: str) -> Bench:
    contract = Contract((InputSpec("x", ("batch", "time", 6)),), (OutputSpec("y", "embedding"),))
    return Bench(drawn(Recurrent()), contract, [{"x": _values((1, 9, 6), i)} for i in range(4)], precision)


def detector(precision: str) -> Bench:
    contract = Contract(
        (InputSpec("tokens", ("batch", "time"), "int64", (0, 19)),),
        (OutputSpec("boxes", "boxes"), OutputSpec("left"), OutputSpec("right")),
    )
    rng = np.random.default_rng(0)
    return Bench(drawn(Detector()), contract, [{"tokens": rng.integers(1, 20, (1, 6))} for _ in range(4)], precision)


BENCHES: dict[str, Callable[[str], Bench]] = {
    f.__name__: f for f in (encoded, drawings, attention, recurrent, detector)
}
