"""Small networks of the kinds that people ship, with random but well-scaled weights, and how to convert them."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Convolution, batch normalisation, activation."""
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), act())


class Residual(nn.Module):
    """The block of a ResNet."""

    def __init__(self, i: int, o: int, s: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(i, o, 3, s), nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o))
        self.skip = nn.Identity() if i == o and s == 1 else conv_bn(i, o, 1, s, act=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class Head(nn.Module):
    """Global average pooling and a linear layer."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.fc = nn.Linear(i, o)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


class InvertedResidual(nn.Module):
    """The block of MobileNetV3 and EfficientNet, with squeeze and excitation."""

    def __init__(self, i: int, o: int, k: int = 3, s: int = 1, act: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.expand = conv_bn(i, 4 * i, 1, act=act)
        self.depth = conv_bn(4 * i, 4 * i, k, s, 4 * i, act=act)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(4 * i, i, 1), nn.ReLU(), nn.Conv2d(i, 4 * i, 1), nn.Hardsigmoid()
        )
        self.project = conv_bn(4 * i, o, 1, act=nn.Identity)
        self.same = i == o and s == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(self.expand(x))
        y = self.project(y * self.squeeze(y))
        return x + y if self.same else y


class Attention(nn.Module):
    """Multi-head self-attention, spelled out so that every route converts it."""

    def __init__(self, size: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-1, -2) / math.sqrt(c // self.heads)
        if self.causal:
            scores = scores + torch.triu(torch.full((t, t), -1e4), 1)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, c))


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, size: int, heads: int, causal: bool = False, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(size), Attention(size, heads, causal)
        self.norm2 = nn.LayerNorm(size)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), act(), nn.Linear(4 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A vision transformer."""

    def __init__(self, size: int = 32, depth: int = 2, patch: int = 8, image: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, size, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, size) * 0.1)
        self.position = nn.Parameter(torch.randn(1, (image // patch) ** 2 + 1, size) * 0.1)
        self.layers = nn.Sequential(*(Layer(size, heads) for _ in range(depth)), nn.LayerNorm(size))
        self.head = nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.layers(x)[:, 0])


class UNet(nn.Module):
    """Segmentation: down, up, skip connections, dense output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_bn(3, 8), conv_bn(8, 16, s=2)
        self.c, self.up = conv_bn(16, 32, s=2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.d, self.out = conv_bn(32, 16), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        d = self.d(torch.cat([self.up(self.c(b)), b], 1))
        d = F.interpolate(d, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.out(torch.cat([d, a], 1))


class Recurrent(nn.Module):
    """A recurrent layer and a projection of its last step."""

    def __init__(self, layer: nn.Module, size: int) -> None:
        super().__init__()
        self.rnn, self.fc = layer, nn.Linear(size, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0][:, -1])


class Decoder(nn.Module):
    """A causal language model: embedding, transformer layers, logits for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(50, 32), nn.Parameter(torch.randn(1, 12, 32) * 0.1)
        self.layers = nn.Sequential(Layer(32, 4, True), Layer(32, 4, True), nn.LayerNorm(32))
        self.head = nn.Linear(32, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(tokens) + self.position))


class RMSNorm(nn.Module):
    """Root mean square normalisation."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class GatedMLP(nn.Module):
    """The feed-forward part of today's language models."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gate = RMSNorm(32), nn.Linear(32, 64)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Detector(nn.Module):
    """A single-shot head: boxes and scores at two scales, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, s=2, act=nn.SiLU), conv_bn(8, 16, s=2, act=nn.SiLU))
        self.down = conv_bn(16, 16, s=2, act=nn.SiLU)
        self.box, self.score = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scales = [self.stem(x)]
        scales.append(self.down(scales[0]))
        boxes = torch.cat([self.box(s).flatten(2) for s in scales], 2).transpose(1, 2)
        scores = torch.cat([self.score(s).flatten(2) for s in scales], 2).transpose(1, 2)
        return boxes.exp().clamp(max=50.0), scores.sigmoid()


class StatefulAverage(nn.Module):
    """A state: the running sum of what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1, 4))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.total.add_(x)
        return self.fc(self.total)


IMAGE = (1, 3, 32, 32)

ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain_cnn": (lambda: nn.Sequential(conv_bn(3, 8), nn.MaxPool2d(2), conv_bn(8, 16), Head(16, 10)), IMAGE),
    "resnet": (
        lambda: nn.Sequential(conv_bn(3, 8), Residual(8, 8), Residual(8, 16, 2), Residual(16, 32, 2),
        Head(32, 10)), IMAGE,
    ),
    "mobilenet_v3": (
        lambda: nn.Sequential(
            conv_bn(3, 8, s=2, act=nn.Hardswish),
            InvertedResidual(8, 8, act=nn.Hardswish),
            InvertedResidual(8, 16, 5, 2, nn.Hardswish),
            Head(16, 10),
        ),
        IMAGE,
    ),
    "efficientnet": (
        lambda: nn.Sequential(
            conv_bn(3, 8, s=2, act=nn.SiLU), InvertedResidual(8, 8), InvertedResidual(8, 16, 5, 2), Head(16, 10)
        ),
        IMAGE,
    ),
    "vit": (ViT, IMAGE),
    "unet": (UNet, IMAGE),
    "detector": (Detector, IMAGE),
    "decoder": (Decoder, (1, 12)),
    "encoder": (lambda: nn.Sequential(Layer(32, 4), Layer(32, 4, act=nn.ReLU), nn.LayerNorm(32)), (1, 9, 32)),
    "gated_mlp": (lambda: nn.Sequential(GatedMLP(), GatedMLP()), (1, 9, 32)),
    "gru": (lambda: Recurrent(nn.GRU(6, 16, batch_first=True), 16), (1, 11, 6)),
    "lstm": (lambda: Recurrent(nn.LSTM(6, 16, num_layers=2, batch_first=True), 16), (1, 11, 6)),
    "bidirectional_lstm": (
        lambda: Recurrent(nn.LSTM(6, 16, bidirectional=True, batch_first=True), 32),
        (1, 11, 6),
    ),
    "audio_cnn": (
        lambda: nn.Sequential(
            nn.Conv1d(1, 8, 9, 4, 4), nn.GroupNorm(2, 8), nn.GELU(), nn.Conv1d(8, 16, 9, 4, 4), nn.ELU(0.7),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 6), nn.LogSoftmax(-1),
        ),
        (1, 1, 400),
    ),
}  # fmt: skip


def everything() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    """The zoo and the further architectures: constructor and input shape by name."""
    from tests.mil.architectures import ARCHITECTURES

    return {**ZOO, **ARCHITECTURES}


def model(name: str) -> nn.Module:
    """A network of the zoo, always with the same weights; batch statistics are not the trivial ones."""
    torch.manual_seed(7)
    network = everything()[name][0]().eval()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    return network


def example(name: str, seed: int = 0) -> Tensor:
    """An input for a network of the zoo."""
    generator = torch.Generator().manual_seed(seed)
    shape = everything()[name][1]
    if name == "decoder":
        return torch.randint(0, 50, shape, generator=generator, dtype=torch.int32)
    return torch.rand(shape, generator=generator) * 2 - 0.5


def convert(network: nn.Module, x: Tensor, path: Path, precision: str = "fp16", **options: Any) -> Path:
    """``network`` as an ML Program, by tracing and coremltools, saved at ``path``."""
    with quiet():
        import coremltools as ct

        torch.backends.mha.set_fastpath_enabled(False)
        options.setdefault("inputs", [ct.TensorType(name="x", shape=tuple(x.shape), dtype=dtype_of(x))])
        options.setdefault("minimum_deployment_target", ct.target.iOS16)
        options.setdefault("compute_precision", ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32)
        traced = torch.jit.trace(network, x, check_trace=False)
        ct.convert(traced, skip_model_load=True, **options).save(str(path))
    return path


def dtype_of(x: Tensor) -> type:
    """The numpy type that an input is declared with."""
    return np.int32 if not x.dtype.is_floating_point else np.float32


@contextlib.contextmanager
def quiet() -> Any:
    """Without the progress bars and version warnings of coremltools."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


def decibels(got: np.ndarray, want: np.ndarray) -> float:
    """Signal to noise ratio of ``got``, in dB; minus infinity if it is not finite."""
    want = np.asarray(want, np.float64)
    noise = np.linalg.norm(np.asarray(got, np.float64) - want)
    if not math.isfinite(noise):
        return float("-inf")
    return float("inf") if noise == 0 else 20 * math.log10(np.linalg.norm(want) / noise)
