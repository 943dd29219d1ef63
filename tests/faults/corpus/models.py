"""The modules: what the author meant, and what the converter made of it. Weights are drawn from a fixed seed.

A module that a faulty conversion computes is exported in place of the right one; where the exporter of this toolchain
has the fault itself, the right module is exported and that is all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def seeded(make: Callable[..., nn.Module], *args: Any) -> nn.Module:
    torch.manual_seed(11)
    return make(*args).eval()


class Net(nn.Module):
    """A module of one parameter-free or small function, so that a fault is one line."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def net(function: Callable[..., Any], **layers: Callable[[], nn.Module]) -> nn.Module:
    """A Net with layers made under the seed, in order."""
    torch.manual_seed(11)
    return Net(function, **{name: make() for name, make in layers.items()}).eval()


# Images.


def _picture(self: Any, x: Tensor) -> Tensor:
    return self.head(F.relu(self.conv(x)).mean((2, 3)))


def picture() -> nn.Module:
    return net(_picture, conv=lambda: nn.Conv2d(3, 8, 3, padding=1), head=lambda: nn.Linear(8, 5))


def picture_halved() -> nn.Module:
    """Weights through float16, stored as float32."""
    model = picture()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.half().float())
    return model


def picture_rotated() -> nn.Module:
    """The classes stand one place further."""
    model = picture()
    with torch.no_grad():
        model.head.weight.copy_(model.head.weight.roll(1, 0))  # type: ignore[union-attr, operator]
        model.head.bias.copy_(model.head.bias.roll(1, 0))  # type: ignore[union-attr, operator]
    return model


def picture_dropout() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.head(F.dropout(F.relu(self.conv(x)).mean((2, 3)), 0.5, True))

    return net(forward, conv=lambda: nn.Conv2d(3, 8, 3, padding=1), head=lambda: nn.Linear(8, 5))


def strided() -> nn.Module:
    return net(lambda self, x: self.conv(x), conv=lambda: nn.Conv2d(3, 6, 3, stride=2, padding=1))


def strided_same() -> nn.Module:
    """TensorFlow's SAME: at stride 2 and an even size all padding is on the right and at the bottom."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.conv.weight, self.conv.bias, stride=2)

    return net(forward, conv=lambda: nn.Conv2d(3, 6, 3, stride=2, padding=1))


def _six(cut: Callable[[Tensor], Tensor]) -> nn.Module:
    return net(lambda self, x: self.b(cut(self.a(x))), a=lambda: nn.Linear(8, 16), b=lambda: nn.Linear(16, 4))


def relu6() -> nn.Module:
    return _six(F.relu6)


def relu6_lost() -> nn.Module:
    return _six(F.relu)


def average_pool() -> nn.Module:
    return net(lambda self, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=True))


def corner_pixel() -> nn.Module:
    return net(lambda self, x: x[:, :, :1, :1])


def one_pixel() -> nn.Module:
    return net(lambda self, x: F.interpolate(x, size=(1, 1), mode="bilinear", align_corners=False))


# Sequences.


def _steps(self: Any, x: Tensor) -> Tensor:
    return self.head(torch.tanh(self.body(x)).cumsum(1))


def sequence() -> nn.Module:
    return net(_steps, body=lambda: nn.Linear(6, 8), head=lambda: nn.Linear(8, 4))


def sequence_first_row() -> nn.Module:
    """Every row of the batch gets the state of the first."""

    def forward(self: Any, x: Tensor) -> Tensor:
        state = torch.tanh(self.body(x)).cumsum(1)
        return self.head(state[:1] + torch.zeros_like(state))

    return net(forward, body=lambda: nn.Linear(6, 8), head=lambda: nn.Linear(8, 4))


def attention() -> nn.Module:
    """Full attention up to 8 steps, windows of 4 beyond."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if x.shape[1] <= 8:
            return self.head((x @ x.transpose(1, 2)).softmax(-1) @ x)
        mean = F.avg_pool1d(x.transpose(1, 2), 5, 1, 2, count_include_pad=False).transpose(1, 2)
        return self.head(x + mean)

    return net(forward, head=lambda: nn.Linear(6, 4))


def _positions(self: Any, x: Tensor, table: Tensor) -> Tensor:
    return self.head(torch.tanh(self.body(x) + table))


def _table(steps: Tensor) -> Tensor:
    angle = steps[:, None] / torch.tensor([1.0, 3.0, 9.0, 27.0])
    return torch.cat([angle.sin(), angle.cos()], -1)


def positions() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return _positions(self, x, _table(torch.ones_like(x[0, :, 0]).cumsum(0) - 1))

    return net(forward, body=lambda: nn.Linear(6, 8), head=lambda: nn.Linear(8, 4))


def positions_cached() -> nn.Module:
    """A table of as many positions as the example had; beyond it the last one stands for all."""

    def forward(self: Any, x: Tensor) -> Tensor:
        steps = torch.ones_like(x[0, :, 0]).cumsum(0) - 1
        return _positions(self, x, _table(steps.clamp(max=11)))

    return net(forward, body=lambda: nn.Linear(6, 8), head=lambda: nn.Linear(8, 4))


def positions_frozen() -> nn.Module:
    """The number of steps of the example stands in the graph as a constant."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return _positions(self, x, _table(torch.arange(int(x.shape[1]), dtype=torch.float32)))

    return net(forward, body=lambda: nn.Linear(6, 8), head=lambda: nn.Linear(8, 4))


def padded_output() -> nn.Module:
    """The output is cut or padded to the length of the example."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = _steps(self, x)
        return F.pad(y, (0, 0, 0, 12))[:, :12]

    return net(forward, body=lambda: nn.Linear(6, 8), head=lambda: nn.Linear(8, 4))


def recurrent() -> nn.Module:
    return net(lambda self, x: self.gru(x)[0], gru=lambda: nn.GRU(6, 5, batch_first=True))


def _begun(self: Any, x: Tensor, rows: Any) -> Tensor:
    return self.gru(x, self.first.weight[None].expand(1, rows, 5).contiguous())[0]


def begun() -> nn.Module:
    """A recurrent layer with a learned initial state."""
    return net(
        lambda self, x: _begun(self, x, x.shape[0]),
        gru=lambda: nn.GRU(6, 5, batch_first=True), first=lambda: nn.Embedding(1, 5),
    )  # fmt: skip


def begun_one_row() -> nn.Module:
    """The initial state of the example's batch is a constant of the graph."""
    return net(
        lambda self, x: _begun(self, x, int(x.shape[0])),
        gru=lambda: nn.GRU(6, 5, batch_first=True), first=lambda: nn.Embedding(1, 5),
    )  # fmt: skip


class Leaky(nn.Module):
    """The same recurrent layer, which begins each call where the last one ended."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 5, batch_first=True)
        self.register_buffer("state", torch.zeros(1, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        state = self.state
        if state.shape[1] != x.shape[0]:
            state = torch.zeros(1, x.shape[0], 5)
        y, last = self.gru(x, state)
        self.state = last
        return y


def recurrent_leaky() -> nn.Module:
    return seeded(Leaky)


def masked() -> nn.Module:
    def forward(self: Any, x: Tensor, mask: Tensor) -> Tensor:
        kept = mask.to(x.dtype)[:, :, None]
        return self.head((self.body(x) * kept).sum(1) / kept.sum(1).clamp(min=1))

    return net(forward, body=lambda: nn.Linear(6, 8), head=lambda: nn.Linear(8, 4))


def mask_ignored() -> nn.Module:
    def forward(self: Any, x: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.body(x).mean(1)) + 0 * mask.to(x.dtype).sum(1, keepdim=True)

    return net(forward, body=lambda: nn.Linear(6, 8), head=lambda: nn.Linear(8, 4))


def scaled() -> nn.Module:
    """A second input that tracing turns into a number."""

    def forward(self: Any, x: Tensor, scale: Tensor) -> Tensor:
        return self.head(x * float(scale))

    return net(forward, head=lambda: nn.Linear(6, 4))


# Arithmetic.


def remainder() -> nn.Module:
    return net(lambda self, x: torch.remainder(x, 3.0))


def remainder_truncated() -> nn.Module:
    return net(lambda self, x: torch.fmod(x, 3.0))


def floor_division() -> nn.Module:
    return net(lambda self, x: torch.div(x, 3, rounding_mode="floor").float())


def truncated_division() -> nn.Module:
    return net(lambda self, x: torch.div(x, 3, rounding_mode="trunc").float())


def first_maximum() -> nn.Module:
    return net(lambda self, x: F.relu(self.body(x)).argmax(-1).float(), body=lambda: nn.Linear(6, 8))


def last_maximum() -> nn.Module:
    """Of equal values the last, which PyTorch itself did until 1.7."""
    return net(lambda self, x: 7 - F.relu(self.body(x)).flip(-1).argmax(-1).float(), body=lambda: nn.Linear(6, 8))


def angle() -> nn.Module:
    return net(lambda self, y, x: torch.atan2(y, x))


def reciprocal() -> nn.Module:
    return net(lambda self, x: torch.reciprocal(1 + x * x))


def two_outputs() -> nn.Module:
    return net(lambda self, x: (self.a(x), self.b(x)), a=lambda: nn.Linear(6, 4), b=lambda: nn.Linear(6, 4))


def two_outputs_swapped() -> nn.Module:
    return net(lambda self, x: (self.b(x), self.a(x)), a=lambda: nn.Linear(6, 4), b=lambda: nn.Linear(6, 4))


# Normalisation.


def rms_norm() -> nn.Module:
    return net(lambda self, x: x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt())


def rms_norm_inflated() -> nn.Module:
    """Scaled by the largest element against overflow, and epsilon is not."""

    def forward(self: Any, x: Tensor) -> Tensor:
        most = x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        return x / (((x / most).pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * most)

    return net(forward)


def _layer_norm(x: Tensor, eps: float) -> Tensor:
    u = x.mean(-1, keepdim=True)
    return (x - u) / ((x - u).pow(2).mean(-1, keepdim=True) + eps).sqrt()


def layer_norm() -> nn.Module:
    return net(lambda self, x: self.head(_layer_norm(x, 1e-5)), head=lambda: nn.Linear(16, 4))


def layer_norm_half() -> nn.Module:
    """The variance in float16: squares beyond 65504 are infinite."""
    return net(lambda self, x: self.head(_layer_norm(x.half(), 1e-5).float()), head=lambda: nn.Linear(16, 4))


def tiny_epsilon() -> nn.Module:
    return net(lambda self, x: self.head(_layer_norm(x, 1e-12)), head=lambda: nn.Linear(16, 4))


def tiny_epsilon_half() -> nn.Module:
    """1e-12 in float16 is 0, and a flat input gives 0 / 0."""
    return net(lambda self, x: self.head(_layer_norm(x.half(), 1e-12).float()), head=lambda: nn.Linear(16, 4))


def _unit(x: Tensor) -> Tensor:
    return x / x.pow(2).sum(-1, keepdim=True).sqrt().clamp(min=1e-12)


def unit() -> nn.Module:
    return net(lambda self, x: _unit(self.head(F.relu(x))), head=lambda: nn.Linear(16, 4, bias=False))


def unit_half() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return _unit(self.head(F.relu(x)).half()).float()

    return net(forward, head=lambda: nn.Linear(16, 4, bias=False))


def detector() -> nn.Module:
    """Boxes in pixels beside scores."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.head(x)
        return torch.cat([y[..., :4].sigmoid() * 640, y[..., 4:].sigmoid()], -1)

    return net(forward, head=lambda: nn.Linear(16, 10))


def classifier() -> nn.Module:
    return net(
        lambda self, x: self.b(F.relu(self.a(x))), a=lambda: nn.Linear(16, 32), b=lambda: nn.Linear(32, 6)
    )  # fmt: skip
