"""Sixteen further architectures in small, beyond those of ``zoo.py``: the operators and shapes of each family."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.mil.zoo import IMAGE, Attention, Head, Layer, RMSNorm, conv_bn


class DenseNet(nn.Module):
    """Every layer reads all before it (Huang et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.layers = nn.ModuleList(conv_bn(8 + 6 * i, 6) for i in range(3))
        self.down, self.head = nn.Sequential(conv_bn(26, 12, 1), nn.AvgPool2d(2)), Head(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(self.down(x))


class ShuffleNet(nn.Module):
    """Split, depthwise, concatenate, shuffle channels (ShuffleNetV2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, s=2)
        self.branch = nn.Sequential(conv_bn(8, 8, 1), conv_bn(8, 8, 3, 1, 8, nn.Identity), conv_bn(8, 8, 1))
        self.head = Head(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).chunk(2, 1)
        y = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = y.shape
        return self.head(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


class SqueezeNet(nn.Module):
    """Fire modules: squeeze, then two sizes of kernel side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True))
        self.squeeze, self.one, self.three = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 12, 1), nn.Conv2d(4, 12, 3, 1, 1)
        self.out = nn.Conv2d(24, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(self.stem(x)))
        return F.relu(self.out(torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1))).mean((2, 3))


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7, layer norm over channels last, inverted bottleneck, layer scale."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.depth, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c, eps=1e-6)
        self.up, self.down = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.scale = nn.Parameter(torch.rand(c) * 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class Swin(nn.Module):
    """Attention in windows, shifted by a roll (Liu et al. 2021)."""

    def __init__(self, window: int = 4, size: int = 32) -> None:
        super().__init__()
        self.patch, self.window = nn.Conv2d(3, size, 4, 4), window
        self.norm, self.attention = nn.LayerNorm(size), Attention(size, 4)
        self.mlp, self.head = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, 64), nn.GELU()), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        k = self.window
        y = torch.roll(x, (-k // 2, -k // 2), (1, 2))
        y = y.view(n, h // k, k, w // k, k, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, k * k, c)
        y = self.attention(self.norm(y))
        y = y.view(n, h // k, w // k, k, k, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + torch.roll(y, (k // 2, k // 2), (1, 2))
        return self.head(self.mlp(x).mean((1, 2)))


class Mixer(nn.Module):
    """MLPs over tokens and over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 8, 8)
        self.norm1, self.norm2 = nn.LayerNorm(24), nn.LayerNorm(24)
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(self.norm2(x))).mean(1))


class Inception(nn.Module):
    """Asymmetric kernels and pooling side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = conv_bn(3, 12, s=2), conv_bn(12, 8, 1)
        self.b = nn.Sequential(nn.Conv2d(12, 8, (1, 5), padding=(0, 2)), nn.Conv2d(8, 8, (5, 1), padding=(2, 0)))
        self.c, self.head = conv_bn(12, 8, 1), Head(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.head(torch.cat([self.a(x), F.relu(self.b(x)), self.c(pooled)], 1))


class DeepLab(nn.Module):
    """Dilated convolutions side by side, pooled context, upsampled to the input (ASPP)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 12, s=2), conv_bn(12, 16, s=2))
        self.rates = nn.ModuleList(nn.Conv2d(16, 8, 3, padding=r, dilation=r) for r in (1, 2, 3))
        self.context, self.out = nn.Conv2d(16, 8, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        context = F.interpolate(self.context(F.adaptive_avg_pool2d(y, 1)), size=y.shape[2:], mode="nearest")
        y = self.out(F.relu(torch.cat([*(rate(y) for rate in self.rates), context], 1)))
        return F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)


class TemporalConvolution(nn.Module):
    """Causal dilated convolutions over time (TCN)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(6 if d == 1 else 16, 16, 3, dilation=d) for d in (1, 2, 4))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for layer in self.layers:
            y = F.silu(layer(F.pad(x, (2 * layer.dilation[0], 0))))
            x = x + y if x.shape == y.shape else y
        return self.head(x[:, :, -1])


class Conformer(nn.Module):
    """Half a feed-forward, attention, gated depthwise convolution, half a feed-forward."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()

        def mlp() -> nn.Module:
            return nn.Sequential(nn.LayerNorm(size), nn.Linear(size, 64), nn.SiLU(), nn.Linear(64, size))

        self.first, self.last, self.attention, self.norm = mlp(), mlp(), Attention(size, 4), nn.LayerNorm(size)
        self.point, self.depth = nn.Conv1d(size, 2 * size, 1), nn.Conv1d(size, size, 5, padding=2, groups=size)
        self.batch, self.out = nn.BatchNorm1d(size), nn.LayerNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.first(x)
        x = x + self.attention(self.norm(x))
        y = F.glu(self.point(x.transpose(1, 2)), 1)
        x = x + F.silu(self.batch(self.depth(y))).transpose(1, 2)
        return self.out(x + 0.5 * self.last(x))


class CrossAttention(nn.Module):
    """An encoder and a decoder that looks at it: speech to text in small."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.audio = nn.Conv1d(8, size, 3, 2, 1)
        self.encoder, self.queries = Layer(size, 4), nn.Parameter(torch.randn(1, 5, size))
        self.q, self.kv, self.out = nn.Linear(size, size), nn.Linear(size, 2 * size), nn.Linear(size, 20)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.encoder(F.gelu(self.audio(x)).transpose(1, 2))
        k, v = self.kv(memory).chunk(2, -1)
        scores = self.q(self.queries) @ k.transpose(1, 2) / math.sqrt(k.shape[-1])
        return self.out(self.queries + scores.softmax(-1) @ v)


class Llama(nn.Module):
    """Rotary positions, grouped queries, RMS norm, gated feed-forward."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(size), RMSNorm(size)
        self.q, self.kv, self.o = (nn.Linear(size, s, bias=False) for s in (size, size, size))
        self.gate, self.up, self.down = nn.Linear(size, 64), nn.Linear(size, 64), nn.Linear(64, size)
        angles = torch.arange(9)[:, None] / (10000 ** (torch.arange(4) / 4))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def turn(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        y = self.norm1(x)
        q = self.turn(self.q(y).view(n, t, 4, 8).transpose(1, 2))
        k, v = self.kv(y).view(n, t, 4, 8).transpose(1, 2).split(2, 1)
        k, v = (m.repeat_interleave(2, 1) for m in (self.turn(k), v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(8) + torch.triu(torch.full((t, t), -1e4), 1)
        x = x + self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, c))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class SuperResolution(nn.Module):
    """Sub-pixel upsampling beside a bicubic-free skip (ESPCN)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 5, 1, 2), nn.Tanh(), nn.Conv2d(16, 12, 3, 1, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + F.interpolate(x, scale_factor=2.0, mode="nearest")


class StyleTransfer(nn.Module):
    """Reflection padding, instance norm, transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.ReflectionPad2d(2), nn.Conv2d(3, 8, 5, 2), nn.InstanceNorm2d(8, affine=True))
        self.up = nn.ConvTranspose2d(8, 3, 3, 2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.up(F.leaky_relu(self.down(x), 0.2)))


class TextRecognition(nn.Module):
    """Convolutions whose columns a bidirectional LSTM reads (CRNN)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(3, 8, s=2), nn.MaxPool2d((2, 1)), conv_bn(8, 12))
        self.rnn, self.head = nn.LSTM(96, 16, bidirectional=True, batch_first=True), nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x).permute(0, 3, 1, 2).flatten(2)
        return self.head(self.rnn(y)[0])


class PointNet(nn.Module):
    """The same network for every point, and the largest of each feature."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1))
        self.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.points(x.transpose(1, 2)).amax(2))


SEQUENCE = (1, 9, 32)

ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "densenet": (DenseNet, IMAGE),
    "shufflenet_v2": (ShuffleNet, IMAGE),
    "squeezenet": (SqueezeNet, IMAGE),
    "convnext": (lambda: nn.Sequential(nn.Conv2d(3, 16, 4, 4), ConvNeXtBlock(16), Head(16, 10)), IMAGE),
    "swin": (Swin, IMAGE),
    "mlp_mixer": (Mixer, IMAGE),
    "inception": (Inception, IMAGE),
    "deeplab": (DeepLab, IMAGE),
    "tcn": (TemporalConvolution, (1, 20, 6)),
    "conformer": (Conformer, SEQUENCE),
    "cross_attention": (CrossAttention, (1, 8, 18)),
    "llama": (Llama, SEQUENCE),
    "super_resolution": (SuperResolution, IMAGE),
    "style_transfer": (StyleTransfer, IMAGE),
    "crnn": (TextRecognition, IMAGE),
    "pointnet": (PointNet, (1, 40, 3)),
}
