"""Models whose files hold expressions of parameters, not parameters. `research/links.py` counts faults in them too."""

from __future__ import annotations

import torch
from torch import nn


class Product(nn.Module):
    """`x @ w` and `addmm` before BatchNorm, a sum over a constant, and the gate of a hard-swish."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(20, 16) * 0.3)
        self.v, self.b = nn.Parameter(torch.randn(16, 12) * 0.3), nn.Parameter(torch.randn(12))
        self.first, self.second = nn.BatchNorm1d(16), nn.BatchNorm1d(12)
        for norm in (self.first, self.second):
            norm.running_mean, norm.running_var = torch.randn_like(norm.bias) * 0.3, torch.rand_like(norm.bias) + 0.5
        self.mid, self.out = nn.Linear(12, 24), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(torch.addmm(self.b, self.first(x @ self.w).relu(), self.v)).relu()
        return self.out(nn.functional.hardswish(self.mid(y / 12)))


class Standardised(nn.Module):
    """Weights that are expressions: standardised, normalised, and scaled at run time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Conv2d(16, 8, 3, padding=1)
        self.b = nn.utils.parametrizations.weight_norm(self.b)
        self.c, self.scale = nn.Parameter(torch.randn(4, 8, 3, 3)), nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5)
        for p in self.b.parameters():
            p.data = p.data * 1.3 + 0.02

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.a.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.var((1, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
        y = self.norm(nn.functional.conv2d(x, w, self.a.bias, padding=1)).relu()
        return nn.functional.conv2d(self.b(y) * self.scale, self.c * 72**-0.5, padding=1)


class Roots(nn.Module):
    """Blocks behind an RMSNorm of rows of different sizes: what is rounded between x and x / sqrt(mean(x ** 2))
    tells."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(12, 32), nn.Linear(32, 6)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        self.gains = nn.ParameterList(nn.Parameter(torch.rand(32) + 0.5) for _ in self.layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.into(x) * (0.6 * x[..., :1]).exp()
        for gain, layer in zip(self.gains, self.layers, strict=True):
            root = torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
            y = y + torch.nn.functional.silu(layer(y * root * gain))
        return self.out(y)


MODELS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "product": (Product, (20,)),
    "roots": (Roots, (4, 12)),
    "standardised": (Standardised, (3, 12, 14)),
}


def module(name: str) -> nn.Module:
    torch.manual_seed(7)
    return MODELS[name][0]().eval()
