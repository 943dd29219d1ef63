"""Small architectures with trained weights, on which natural noise ratios are measured.

Each stands for a family of operators that converters treat in their own way. Weights are trained for a few seconds on
drawn data, because an untrained network gives nearly the same output whatever its input, and its ratios mean nothing.
Every factory is a function without arguments; `ZOO` says what goes in and comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Array = np.ndarray[Any, np.dtype[Any]]
CLASSES, SIZE, STEPS, WORDS, VOCABULARY = 4, 32, 16, 12, 50


@dataclass(frozen=True)
class Entry:
    """What one architecture takes and gives. `inputs`: name -> kind of data; `outputs`: name -> kind."""

    factory: Callable[[], nn.Module]
    inputs: Mapping[str, Literal["picture", "sequence", "tokens", "vector", "volume"]]
    outputs: Mapping[str, Literal["logits", "probs", "dense", "embedding"]]
    families: str


ZOO: dict[str, Entry] = {}


def architecture(
    families: str, inputs: Mapping[str, Any] | None = None, outputs: Mapping[str, Any] | None = None
) -> Any:
    """Put a module class into the zoo under its lower-case name."""

    def register(cls: type[nn.Module]) -> type[nn.Module]:
        ZOO[cls.__name__.lower()] = Entry(cls, inputs or {"x": "picture"}, outputs or {"y": "logits"}, families)
        return cls

    return register


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """The factory of an architecture, as the configuration names it: `research.zoo:resnet`."""
    if name in ZOO:
        return ZOO[name].factory
    raise AttributeError(name)


def conv(
    a: int, b: int, k: int = 3, s: int = 1, g: int = 1, d: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    """Convolution without bias, batch normalisation, activation."""
    parts: list[nn.Module] = [nn.Conv2d(a, b, k, s, d * (k // 2), d, g, bias=False), nn.BatchNorm2d(b)]
    return nn.Sequential(*parts, *([act()] if act else []))


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


class Residual(nn.Module):
    def __init__(self, body: nn.Module, after: nn.Module | None = None):
        super().__init__()
        self.body, self.after = body, after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(x + self.body(x))
        return y


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@architecture("residual")
class ResNet(nn.Sequential):
    def __init__(self) -> None:
        blocks = [Residual(nn.Sequential(conv(24, 24), conv(24, 24, act=None)), nn.ReLU()) for _ in range(3)]
        super().__init__(conv(3, 24, s=2), *blocks, head(24))


@architecture("depthwise, ReLU6")
class MobileNet(nn.Sequential):
    def __init__(self) -> None:
        def block(a: int, b: int, s: int) -> nn.Sequential:
            return nn.Sequential(
                conv(a, 4 * a, 1, act=nn.ReLU6),
                conv(4 * a, 4 * a, 3, s, 4 * a, act=nn.ReLU6),
                conv(4 * a, b, 1, act=None),
            )

        super().__init__(conv(3, 12, s=2, act=nn.ReLU6), block(12, 16, 2), Residual(block(16, 16, 1)), head(16))


class Squeeze(nn.Module):
    def __init__(self, channels: int, act: nn.Module, gate: nn.Module):
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 8, 1), act, nn.Conv2d(8, channels, 1), gate
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


@architecture("squeeze-excite, SiLU")
class EfficientNet(nn.Sequential):
    def __init__(self) -> None:
        body = nn.Sequential(
            conv(16, 48, 1, act=nn.SiLU), conv(48, 48, 5, g=48, act=nn.SiLU), Squeeze(48, nn.SiLU(), nn.Sigmoid()),
            conv(48, 16, 1, act=None),
        )  # fmt: skip
        super().__init__(conv(3, 16, s=2, act=nn.SiLU), Residual(body), conv(16, 32, s=2, act=nn.SiLU), head(32))


@architecture("hard-swish, hard-sigmoid")
class MobileNet3(nn.Sequential):
    def __init__(self) -> None:
        body = nn.Sequential(
            conv(16, 48, 1, act=nn.Hardswish), conv(48, 48, 3, g=48, act=nn.Hardswish),
            Squeeze(48, nn.ReLU(), nn.Hardsigmoid()), conv(48, 16, 1, act=None),
        )  # fmt: skip
        super().__init__(conv(3, 16, s=2, act=nn.Hardswish), Residual(body), head(16))


@architecture("grouped")
class ResNeXt(nn.Sequential):
    def __init__(self) -> None:
        body = [
            Residual(nn.Sequential(conv(24, 32, 1), conv(32, 32, g=4), conv(32, 24, 1, act=None)), nn.ReLU())
            for _ in range(2)
        ]
        super().__init__(conv(3, 24, s=2), *body, head(24))


@architecture("dilated", outputs={"y": "dense"})
class Dilated(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(conv(3, 16), conv(16, 16, d=2), conv(16, 16, d=4), conv(16, 16), nn.Conv2d(16, 2, 1))


@architecture("U-Net, transposed, concatenation", outputs={"y": "dense"})
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 12), conv(12, 24, s=2), conv(24, 32, s=2)
        self.up1, self.up2 = nn.ConvTranspose2d(32, 24, 2, 2), nn.ConvTranspose2d(24, 12, 2, 2)
        self.d1, self.d2, self.out = conv(48, 24), conv(24, 12), nn.Conv2d(12, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        y = self.d1(torch.cat([self.up1(self.c(b)), b], 1))
        return self.out(self.d2(torch.cat([self.up2(y), a], 1)))


@architecture("transposed, bottleneck", outputs={"y": "dense"})
class Autoencoder(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            conv(3, 16, s=2), conv(16, 32, s=2), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 3, 2, 1, 1), nn.Tanh(),
        )  # fmt: skip


class Dense(nn.Module):
    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, growth, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


@architecture("concatenation, normalisation before convolution")
class DenseNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            conv(3, 16, s=2), Dense(16, 8), Dense(24, 8), nn.Conv2d(32, 16, 1), nn.AvgPool2d(2), Dense(16, 8), head(24)
        )


@architecture("plain, biases, max pooling")
class VGG(nn.Sequential):
    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for a, b in ((3, 16), (16, 24), (24, 32)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, CLASSES))


@architecture("branches, average pooling")
class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = conv(3, 16, s=2), head(32)
        self.branches = nn.ModuleList(
            [conv(16, 8, 1), conv(16, 8, 3), conv(16, 8, 5), nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(16, 8, 1))]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.out(torch.cat([branch(x) for branch in self.branches], 1))


class ChannelsLast(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@architecture("layer normalisation, GELU, wide depthwise")
class ConvNeXt(nn.Sequential):
    def __init__(self) -> None:
        def block() -> Residual:
            return Residual(
                nn.Sequential(nn.Conv2d(16, 16, 7, padding=3, groups=16), ChannelsLast(16), nn.Conv2d(16, 48, 1),
                              nn.GELU(),
                              nn.Conv2d(48, 16, 1))
            )  # fmt: skip

        super().__init__(nn.Conv2d(3, 16, 4, 4), ChannelsLast(16), block(), block(), head(16))


@architecture("group normalisation")
class GroupNet(nn.Sequential):
    def __init__(self) -> None:
        def block(a: int, b: int, s: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3, s, 1), nn.GroupNorm(4, b), nn.ReLU())

        super().__init__(block(3, 16, 2), block(16, 24, 2), head(24))


@architecture("instance normalisation, nearest upsampling", outputs={"y": "dense"})
class Style(nn.Sequential):
    def __init__(self) -> None:
        def block(a: int, b: int, s: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3, s, 1), nn.InstanceNorm2d(b, affine=True), nn.ReLU())

        super().__init__(
            block(3, 12, 1), block(12, 24, 2), Residual(block(24, 24, 1)), nn.Upsample(scale_factor=2),
            block(24, 12, 1),
            nn.Conv2d(12, 3, 3, padding=1),
        )  # fmt: skip


@architecture("channel shuffle, split")
class ShuffleNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = conv(3, 24, s=2), head(24)
        self.body = nn.ModuleList(
            nn.Sequential(conv(12, 12, 1), conv(12, 12, g=12, act=None), conv(12, 12, 1)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.body:
            left, right = x.chunk(2, 1)
            x = torch.cat([left, block(right)], 1)
            x = x.reshape(-1, 2, 12, 16, 16).transpose(1, 2).reshape(-1, 24, 16, 16)
        return self.out(x)


@architecture("pixel shuffle, PReLU", outputs={"y": "dense"})
class SuperResolution(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 24, 5, padding=2), nn.PReLU(24),
            Residual(nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.PReLU(24))),
            nn.Conv2d(24, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip


@architecture(
    "feature pyramid, bilinear upsampling, several outputs", outputs={"y": "logits", "fine": "dense", "coarse": "dense"}
)
class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 16, s=2), conv(16, 24, s=2)
        self.side, self.fine, self.coarse, self.out = (
            nn.Conv2d(24, 16, 1),
            nn.Conv2d(16, 2, 3, padding=1),
            nn.Conv2d(24, 2, 1),
            head(24),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = self.a(x)
        b = self.b(a)
        up = F.interpolate(self.side(b), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.out(b), self.fine(a + up), self.coarse(b)


@architecture("several outputs, normalised embedding", outputs={"y": "logits", "feature": "embedding"})
class Embedder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 16, s=2), conv(16, 24, s=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.feature, self.out = nn.Linear(24, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.feature(self.body(x))
        feature = feature / torch.sqrt((feature * feature).sum(1, keepdim=True) + 1e-6)
        return self.out(feature) * 4, feature


@architecture("two inputs", inputs={"x": "picture", "extra": "vector"})
class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 16, s=2), conv(16, 24, s=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.extra, self.out = nn.Linear(6, 8), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        return self.out(torch.cat([self.body(x), torch.tanh(self.extra(extra))], 1))


@architecture("softmax output", outputs={"y": "probs"})
class Probabilities(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(conv(3, 16, s=2), conv(16, 24, s=2), head(24), nn.Softmax(1))


@architecture("3-D convolution", inputs={"x": "volume"})
class Volume(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(1, 8, 3, 2, 1), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 16, 3, 2, 1), nn.ReLU(),
            nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, CLASSES),
        )  # fmt: skip


@architecture("dense layers", inputs={"x": "vector"})
class MLP(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 64), nn.LeakyReLU(0.1), nn.Linear(64, CLASSES))


@architecture("mixer: dense layers over both axes, GELU", inputs={"x": "sequence"})
class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(8, 32), nn.Linear(32, CLASSES)
        self.time = nn.Sequential(nn.Linear(STEPS, 32), nn.GELU(), nn.Linear(32, STEPS))
        self.channel = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        x = x + self.time(x.transpose(1, 2)).transpose(1, 2)
        return self.out((x + self.channel(x)).mean(1))


@architecture("causal dilated 1-D convolution", inputs={"x": "sequence"})
class TCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv1d(8, 24, 3), nn.Conv1d(24, 24, 3, dilation=2), nn.Conv1d(24, 24, 3, dilation=4)]
        )
        self.out = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for i, layer in enumerate(self.layers):
            x = torch.relu(layer(F.pad(x, (2 * 2**i, 0))))
        return self.out(x.mean(2))


@architecture("nn.TransformerEncoder, patches")
class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.place = nn.Conv2d(3, 32, 8, 8), nn.Parameter(torch.randn(1, 16, 32) * 0.1)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body, self.out = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(self.patch(x).flatten(2).transpose(1, 2) + self.place).mean(1))


@architecture("nn.MultiheadAttention, token ids", inputs={"ids": "tokens"})
class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.place = nn.Embedding(VOCABULARY, 32), nn.Parameter(torch.randn(1, WORDS, 32) * 0.1)
        self.attention, self.norm = nn.MultiheadAttention(32, 4, batch_first=True), nn.LayerNorm(32)
        self.out = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, CLASSES))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.place
        return self.out(self.norm(x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


@architecture("scaled_dot_product_attention, causal, RMS norm", inputs={"ids": "tokens"})
class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.place = nn.Embedding(VOCABULARY, 32), nn.Parameter(torch.randn(1, WORDS, 32) * 0.1)
        self.qkv, self.project, self.gain = (
            nn.Linear(32, 96, bias=False),
            nn.Linear(32, 32),
            nn.Parameter(torch.ones(32)),
        )
        self.gate, self.up, self.down, self.out = (
            nn.Linear(32, 64),
            nn.Linear(32, 64),
            nn.Linear(64, 32),
            nn.Linear(32, CLASSES),
        )

    def norm(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * self.gain

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.place
        q, k, v = (t.reshape(-1, WORDS, 4, 8).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + self.project(
            F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(-1, WORDS, 32)
        )
        y = self.norm(x)
        return self.out((x + self.down(F.silu(self.gate(y)) * self.up(y))).mean(1))


@architecture("GRU", inputs={"x": "sequence"})
class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.GRU(8, 24, batch_first=True), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x)[0].mean(1))


@architecture("LSTM, both directions", inputs={"x": "sequence"})
class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.LSTM(8, 20, batch_first=True, bidirectional=True), nn.Linear(40, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x)[0].mean(1))


# Data and training.


def draw(entry: Entry, count: int, seed: int) -> tuple[dict[str, Array], Array]:
    """`count` inputs by name, and the class of each. A class is a grating's direction, a pace, a set of words."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, count)
    made: dict[str, Array] = {}
    for name, kind in entry.inputs.items():
        if kind == "picture":
            made[name] = _gratings(rng, label, (SIZE, SIZE), 3)
        elif kind == "volume":
            flat = _gratings(rng, label, (12, 12), 1)
            made[name] = np.repeat(flat[:, :, None], 12, 2) * rng.uniform(0.5, 1.5, (count, 1, 12, 1, 1)).astype(
                np.float32
            )
        elif kind == "sequence":
            t = np.arange(STEPS)[None, :, None] * (0.3 + 0.35 * label[:, None, None]) + rng.uniform(0, 6, (count, 1, 8))
            made[name] = (
                np.sin(t) * rng.uniform(0.5, 1.5, (count, 1, 8)) + rng.normal(0, 0.3, (count, STEPS, 8))
            ).astype(np.float32)
        elif kind == "vector":
            made[name] = (rng.normal(0, 0.6, (count, 6)) + 1.2 * np.eye(CLASSES, 6)[label]).astype(np.float32)
        else:
            own = rng.integers(0, VOCABULARY // CLASSES, (count, WORDS)) + (VOCABULARY // CLASSES) * label[:, None]
            noise = rng.integers(0, VOCABULARY, (count, WORDS))
            made[name] = np.where(rng.random((count, WORDS)) < 0.4, own, noise).astype(np.int64)
    return made, label


def _gratings(rng: np.random.Generator, label: Array, size: tuple[int, int], channels: int) -> Array:
    count = len(label)
    y, x = np.mgrid[: size[0], : size[1]]
    angle = (label * np.pi / CLASSES + rng.normal(0, 0.1, count))[:, None, None]
    phase, pace = rng.uniform(0, 6, (count, 1, 1)), rng.uniform(0.5, 0.9, (count, 1, 1))
    wave = np.sin(pace * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    tint = rng.uniform(0.3, 1.2, (count, channels, 1, 1))
    shade = rng.normal(0, 0.3, (count, channels, 1, 1))
    return (wave[:, None] * tint + shade + rng.normal(0, 0.3, (count, channels, *size))).astype(np.float32)


def train(name: str, steps: int = 120, batch: int = 24, seed: int = 7) -> nn.Module:
    """The architecture with weights after some steps of Adam: classes by cross entropy, maps by mean squares."""
    entry = ZOO[name]
    torch.manual_seed(seed)
    model = entry.factory().train()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        made, label = draw(entry, batch, 1000 + step)
        inputs = [torch.from_numpy(v) for v in made.values()]
        result = model(*inputs)
        loss = torch.zeros(())
        for kind, value in zip(entry.outputs.values(), result if isinstance(result, tuple) else (result,), strict=True):
            loss = loss + _loss(kind, value, inputs[0], torch.from_numpy(label))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


def _loss(kind: str, value: Tensor, x: Tensor, label: Tensor) -> Tensor:
    if kind == "logits":
        return F.cross_entropy(value, label)
    if kind == "probs":
        return F.nll_loss(torch.log(value + 1e-6), label)
    if kind == "embedding":
        return value.mean() * 0
    smooth = F.avg_pool2d(x, 3, 1, 1)
    size = [value.shape[2], value.shape[3]]
    return F.mse_loss(value, F.interpolate(smooth, size, mode="bilinear")[:, : value.shape[1]].tanh())
