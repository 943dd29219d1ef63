"""Faults in stored tensors: a layer from another checkpoint, a dead channel, a lost bias, numbers cut short.

They never touch the module: each gives the tensors that stand in for its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from parity.faults.base import Parameter, Subject, Value, fault

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
MOST_LAYERS = 24  # layers that a search over them tries, spread over the network


def kernels(subject: Subject) -> list[str]:
    """The names of the weights of contractions, in the order of the module's parameters."""
    return [n for n, p in subject.module.named_parameters() if p.is_floating_point() and p.ndim >= 2]


def _middle(names: list[str]) -> str:
    return names[len(names) // 2]


def every(subject: Subject, change: Callable[[Tensor], Tensor]) -> Subject:
    """The subject with `change` applied to every floating-point parameter."""
    names = [n for n, p in subject.module.named_parameters() if p.is_floating_point()]
    return subject.with_tensors({n: change(subject.tensor(n)) for n in names})


def one(subject: Subject, name: str, change: Callable[[Tensor], Tensor]) -> Subject:
    return subject.with_tensors({name: change(subject.tensor(name).clone())})


def spread(names: list[str], first: int) -> list[Value]:
    """At most MOST_LAYERS of the names, `first` first."""
    step = max(1, math.ceil(len(names) / MOST_LAYERS))
    chosen = [names[first]] + [n for i, n in enumerate(names) if i % step == 0 and i != first]
    return list(chosen[:MOST_LAYERS])


# From another training run.


@fault("stale_layer", "one layer comes from an older checkpoint (a tenth of it replaced by another draw)", "weights",
       "module")  # fmt: skip
def stale_layer(subject: Subject) -> Subject | None:
    names = kernels(subject)
    if not names:
        return None

    def older(weight: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(subject.seed)
        order = torch.randperm(weight.numel(), generator=generator)
        return 0.9 * weight + 0.1 * weight.reshape(-1)[order].reshape(weight.shape)

    return one(subject, _middle(names), older)


@fault("last_layer_stale", "the last layer comes from an older checkpoint (a tenth of it replaced by another draw)",
       "weights", "module")  # fmt: skip
def last_layer_stale(subject: Subject) -> Subject | None:
    names = kernels(subject)
    if not names:
        return None

    def older(weight: Tensor) -> Tensor:
        order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(subject.seed + 1))
        return 0.9 * weight + 0.1 * weight.reshape(-1)[order].reshape(weight.shape)

    return one(subject, names[-1], older)


@fault("statistics_reset", "a batch normalisation has lost its running statistics (mean 0, variance 1)", "weights",
       "module", parameter=Parameter("layer", choices=lambda s, e: _norms(s)))  # fmt: skip
def statistics_reset(subject: Subject, layer: str) -> Subject | None:
    mean, variance = f"{layer}.running_mean", f"{layer}.running_var"
    return subject.with_tensors(
        {mean: torch.zeros_like(subject.tensor(mean)), variance: torch.ones_like(subject.tensor(variance))}
    )


def _norms(subject: Subject) -> list[Value]:
    found = [n for n, m in subject.module.named_modules() if getattr(m, "running_mean", None) is not None]
    return spread(found, len(found) // 2) if found else []


# Single numbers.


@fault("dead_channel", "one output channel of a layer is dead", "weights", "module",
       parameter=Parameter("layer", choices=lambda s, e: _kernels_from_middle(s)))  # fmt: skip
def dead_channel(subject: Subject, layer: str) -> Subject | None:
    """The channel with the largest weights, so that what dies was alive."""

    def dead(weight: Tensor) -> Tensor:
        weight[int(weight.flatten(1).square().sum(1).argmax())] = 0
        return weight

    return one(subject, layer, dead)


def _kernels_from_middle(subject: Subject) -> list[Value]:
    names = kernels(subject)
    return spread(names, len(names) // 2) if names else []


def _largest(subject: Subject, layer: str, change: Callable[[Tensor], Tensor]) -> Subject:
    """The subject with the largest weight of a layer changed."""

    def changed(weight: Tensor) -> Tensor:
        flat = weight.view(-1)
        place = int(flat.abs().argmax())
        flat[place] = change(flat[place])
        return weight

    return one(subject, layer, changed)


@fault("sign_flipped", "the largest weight of a layer has the opposite sign", "weights", "module",
       parameter=Parameter("layer", choices=lambda s, e: _kernels_from_middle(s)))  # fmt: skip
def sign_flipped(subject: Subject, layer: str) -> Subject | None:
    return _largest(subject, layer, lambda w: -w)


@fault("bit_flipped", "one bit of the largest weight of a layer is flipped (it is halved or doubled)", "weights",
       "module", parameter=Parameter("layer", choices=lambda s, e: _kernels_from_middle(s)))  # fmt: skip
def bit_flipped(subject: Subject, layer: str) -> Subject | None:
    def flip(weight: Tensor) -> Tensor:
        bits = weight.float().reshape(1).view(torch.int32) ^ (1 << 23)
        return bits.view(torch.float32)[0].to(weight.dtype)

    return _largest(subject, layer, flip)


# A part lost or out of place.


def _biases(subject: Subject) -> list[Value]:
    found = [
        n for n, p in subject.module.named_parameters()
        if n.endswith("bias") and f"{n[:-4]}weight" in dict(subject.module.named_parameters())
        and isinstance(subject.module.get_submodule(n.rpartition(".")[0]), (*CONVOLUTIONS, nn.Linear)) and p.numel()
    ]  # fmt: skip
    return spread(found, len(found) - 1) if found else []


@fault("bias_dropped", "the bias of a layer is dropped", "weights", "module",
       parameter=Parameter("layer", choices=lambda s, e: _biases(s)))  # fmt: skip
def bias_dropped(subject: Subject, layer: str) -> Subject | None:
    return one(subject, layer, torch.zeros_like)


def _square(subject: Subject) -> list[Value]:
    """Weights whose last two sizes are equal: where an exchange keeps the shape and hides."""
    found = [n for n in kernels(subject) if (s := subject.tensor(n).shape)[-1] == s[-2] > 1]
    return spread(found, 0) if found else []


@fault("kernel_transposed", "the square kernel of a layer is transposed", "weights", "module",
       parameter=Parameter("layer", choices=lambda s, e: _square(s)))  # fmt: skip
def kernel_transposed(subject: Subject, layer: str) -> Subject | None:
    return one(subject, layer, lambda w: w.transpose(-1, -2))


@fault("kernels_transposed", "every square convolution kernel is transposed", "weights", "module")
def kernels_transposed(subject: Subject) -> Subject | None:
    names = [n for n in _square(subject) if isinstance(n, str) and subject.tensor(n).ndim == 4]
    return subject.with_tensors({n: subject.tensor(n).transpose(-1, -2) for n in names}) if names else None


@fault("channels_swapped", "two output channels of a layer are exchanged", "weights", "module",
       parameter=Parameter("layer", choices=lambda s, e: _kernels_from_middle(s)))  # fmt: skip
def channels_swapped(subject: Subject, layer: str) -> Subject | None:
    if subject.tensor(layer).shape[0] < 2:
        return None
    return one(subject, layer, lambda w: torch.cat([w[1:2], w[:1], w[2:]]))


@fault("depthwise_reversed", "the channels of a depthwise layer are in the opposite order", "weights", "module")
def depthwise_reversed(subject: Subject) -> Subject | None:
    names = depthwise(subject)
    return one(subject, _middle(names), lambda w: w.flip(0)) if names else None


def depthwise(subject: Subject) -> list[str]:
    """The weights of depthwise convolutions."""
    return [
        f"{n}.weight" for n, m in subject.module.named_modules()
        if isinstance(m, CONVOLUTIONS) and m.groups == m.in_channels > 1
    ]  # fmt: skip


# Numbers cut short.


@fault("weights_clipped", "weights are clipped at three standard deviations of their layer", "weights", "module")
def weights_clipped(subject: Subject) -> Subject | None:
    names = kernels(subject)

    def clipped(weight: Tensor) -> Tensor:
        bound = 3 * float(weight.std()) if weight.numel() > 1 else math.inf
        return weight.clamp(-bound, bound)

    return subject.with_tensors({n: clipped(subject.tensor(n)) for n in names}) if names else None


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Symmetric rounding to `bits` bits, one step for the whole tensor."""
    step = float(weight.abs().max()) / (2 ** (bits - 1) - 1)
    return torch.round(weight / step) * step if step else weight


@fault("weights_10_bits", "weights are rounded to 10 bits", "weights", "module", precisions=("fp32", "fp16"))
def weights_10_bits(subject: Subject) -> Subject | None:
    return every(subject, lambda w: rounded(w, 10))


@fault("weights_bfloat16", "weights are stored as bfloat16", "weights", "module", precisions=("fp32", "fp16"))
def weights_bfloat16(subject: Subject) -> Subject | None:
    return every(subject, lambda w: w.to(torch.bfloat16).to(w.dtype))


@fault("weights_fp16", "weights are stored as fp16 in a file that says fp32", "weights", "module", precisions=("fp32",))
def weights_fp16(subject: Subject) -> Subject | None:
    return every(subject, lambda w: w.to(torch.float16).to(w.dtype))


@fault("weights_int8", "weights are stored as int8 in a file that says float", "weights", "module",
       precisions=("fp32", "fp16"))  # fmt: skip
def weights_int8(subject: Subject) -> Subject | None:
    names = kernels(subject)
    return subject.with_tensors({n: rounded(subject.tensor(n), 8) for n in names}) if names else None


@fault("layer_6_bits", "the weights of one layer are stored in 6 bits", "weights", "module",
       parameter=Parameter("layer", choices=lambda s, e: _kernels_from_middle(s)))  # fmt: skip
def layer_6_bits(subject: Subject, layer: str) -> Subject | None:
    return one(subject, layer, lambda w: rounded(w, 6))


@fault("layer_scaled", "the weights of one layer are five per cent too large", "weights", "module",
       parameter=Parameter("layer", choices=lambda s, e: _kernels_from_middle(s)))  # fmt: skip
def layer_scaled(subject: Subject, layer: str) -> Subject | None:
    return one(subject, layer, lambda w: w * 1.05)
