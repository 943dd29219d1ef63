"""Products of activations with parameters, and what converters fold into their weights and biases.

A layer is any operator that multiplies an activation by an expression of parameters: `linear`, a
convolution, `x @ w`, `w @ x`, `addmm`, `einsum`. What stands before and behind it and is a factor or
a summand for each channel can become part of it:

    x -> (x - mean) / std -> product -> * gamma -> BatchNorm

    weight * out[o] * in[i],  (bias + weight . shift[i]) * out[o] + shift[o]

Imports torch: child only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import fx

from parity.proof.expressions import Expressions, kind

Kind = Literal["conv", "transposed", "linear", "matmul"]
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "convolution"}
TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
_THROUGH = {"dropout", "contiguous", "clone", "alias", "detach", "detach_"}
_SUMMANDS = {"add": 1, "add_": 1, "sub": -1, "sub_": -1}
_FACTORS = {"mul": 1, "mul_": 1, "div": -1, "div_": -1}
# The axes of output and input channels of a weight in torch's own layout.
_AXES = {"conv": (0, 1), "transposed": (1, 0), "linear": (0, 1), "matmul": (-1, -2)}


@dataclass(frozen=True)
class Product:
    """One product. `axis` and `inner` are the axes of channels in what it gives and in what it reads."""

    node: fx.Node
    data: fx.Node
    weight: fx.Node
    bias: Any
    kind: Kind
    axis: int
    inner: int
    groups: int = 1

    def channels(self, weight: torch.Tensor) -> int:
        """How many output channels a weight in torch's own layout has."""
        grouped = self.groups if self.kind == "transposed" else 1
        return int(weight.shape[_AXES[self.kind][0]]) * grouped

    def across(self, factor: torch.Tensor, rank: int) -> torch.Tensor:
        """A factor for each output channel, shaped to multiply a weight of `rank` axes."""
        shape = [1] * rank
        shape[_AXES[self.kind][0]] = -1
        return factor.reshape(shape)


@dataclass(frozen=True)
class Affine:
    """What happens to a value channel by channel: value * scale + shift; `reach` is what the shift is summed from."""

    scale: torch.Tensor
    shift: torch.Tensor
    reach: torch.Tensor

    def then(self, after: Affine) -> Affine:
        return Affine(
            self.scale * after.scale,
            self.shift * after.scale + after.shift,
            self.reach * after.scale.abs() + after.reach,
        )


def products(node: fx.Node, known: Expressions) -> Product | None:
    """The product that a node is, None where it is no product with parameters."""
    name, args = kind(node), _arguments(node)
    found: Product | None = None
    if name in CONVOLUTIONS | TRANSPOSED and args[1] in known:
        transposed = name in TRANSPOSED
        groups = int(argument(node, 6 if transposed or name != "convolution" else 8, "groups", 1))
        role: Kind = "transposed" if transposed else "conv"
        found = Product(node, args[0], args[1], argument(node, 2, "bias", None), role, 1, 1, groups)
    elif name == "linear" and args[1] in known:
        found = Product(node, args[0], args[1], argument(node, 2, "bias", None), "linear", -1, -1)
    elif name in ("matmul", "mm", "bmm"):
        found = _matmul(node, args[0], args[1], None, known)
    elif name == "addmm" and not {k: v for k, v in node.kwargs.items() if v != 1}:
        found = _matmul(node, args[1], args[2], args[0] if args[0] in known else None, known)
    if found is None or found.data in known or not _real(known[found.weight]):
        return None
    rank = len(node.meta["val"].shape)
    read = len(found.data.meta["val"].shape)
    return replace(found, axis=found.axis % rank, inner=found.inner % read)


def _matmul(node: fx.Node, first: Any, second: Any, bias: Any, known: Expressions) -> Product | None:
    """`x @ w`, whose weight is [in, out]; or `w @ x`, whose weight is that of a linear layer over the last axis but
    one."""
    if second in known and known[second].dim() > 1:
        return Product(node, first, second, bias, "matmul", -1, -1)
    if first in known and known[first].dim() == 2 and len(second.meta["val"].shape) > 1:
        return Product(node, second, first, bias, "linear", -2, -2)
    return None


def behind(product: Product, known: Expressions) -> Iterator[tuple[fx.Node, Affine]]:
    """What follows a product channel by channel, step by step: the last node, and all up to it as one."""
    count = product.channels(known[product.weight])
    value, node, axis = _identity(count), product.node, product.axis
    while len(node.users) == 1:
        after = next(iter(node.users))
        moved = _moved(after, axis)
        if moved is not None:
            node, axis = after, moved
            continue
        step = _step(after, node, axis, count, known)
        if step is None:
            return
        value, node = value.then(step), after
        yield node, value


def before(product: Product, known: Expressions) -> Iterator[Affine]:
    """What a product's data went through channel by channel, from the last step back: as one."""
    shape = product.data.meta["val"].shape
    count, value, node = int(shape[product.inner]), None, product.data
    while node.op == "call_function":
        sources = [i for i in node.all_input_nodes if i not in known]
        if len(sources) != 1:
            return
        if kind(node) in _THROUGH:
            node = sources[0]
            continue
        step = _step(node, sources[0], product.inner, count, known)
        if step is None:
            added = _added(node, product.inner, count, known)
            if added is not None:
                yield added.then(value) if value is not None else added
            return
        value = step.then(value) if value is not None else step
        node = sources[0]
        yield value


def _added(node: fx.Node, axis: int, count: int, known: Expressions) -> Affine | None:
    """The bias of the layer whose result is read, which converters add behind the product that follows instead."""
    channels = {"linear": -1, "conv1d": 1, "conv2d": 1, "conv3d": 1}.get(kind(node))
    bias = known.get(node.args[2]) if channels is not None and len(node.args) > 2 else None
    rank = node.meta["val"].dim()
    if bias is None or bias.numel() != count or channels is None or channels % rank != axis % rank:
        return None
    return Affine(torch.ones_like(bias), bias, bias.abs())


def folded_input(
    product: Product, weight: torch.Tensor, step: Affine
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The factor that a weight takes for what its data went through; what its bias gains by that, and what this is
    summed from.

    A grouped convolution's weight is [out, in / groups, ...]: its input channels differ from group to group.
    """
    out_axis, in_axis = _AXES[product.kind]
    if product.kind == "conv" and product.groups > 1:
        each = (a.reshape(product.groups, -1).repeat_interleave(len(weight) // product.groups, 0)
                for a in (step.scale, step.shift, step.reach))  # fmt: skip
        shaped = [a.reshape(*a.shape, *[1] * (weight.dim() - 2)) for a in each]
    else:
        shape = [1] * weight.dim()
        shape[in_axis] = -1
        shaped = [a.reshape(shape) for a in (step.scale, step.shift, step.reach)]
    axes = [i for i in range(weight.dim()) if i != out_axis % weight.dim()]
    scale, shift, reach = shaped
    return scale, (weight * shift).sum(axes), (weight.abs() * reach).sum(axes)


def batch_norm(node: fx.Node, known: Expressions) -> Affine:
    """BatchNorm in eval mode as scale and shift."""
    _, *given, _, _, epsilon, _ = _arguments(node)
    gamma, beta, mean, variance = (known[a] if a is not None else None for a in given)
    assert mean is not None and variance is not None  # in eval mode
    scale = (gamma if gamma is not None else 1.0) / torch.sqrt(variance + epsilon)
    offset = beta if beta is not None else torch.zeros_like(mean)
    return Affine(scale, offset - mean * scale, offset.abs() + (mean * scale).abs())


def _arguments(node: fx.Node) -> list[Any]:
    return list(node.args)


def argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    """An argument of a call, by place or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _step(node: fx.Node, source: fx.Node, axis: int, count: int, known: Expressions) -> Affine | None:
    """What one operator does to `source` channel by channel; None where it does something else."""
    name, args = kind(node), _arguments(node)
    if name == "batch_norm":
        fits = axis == 1 and not node.args[5] and args[0] is source and args[3] in known
        return batch_norm(node, known) if fits else None
    if name == "neg":
        return replace(_identity(count), scale=-torch.ones(count, dtype=torch.float64))
    if name not in _FACTORS | _SUMMANDS or len(args) != 2 or node.kwargs:
        return None
    second = args[0] is source
    other = _by_channel(args[1] if second else args[0], axis, count, node, known)
    if other is None:
        return None
    one, none = torch.ones(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    if name in _SUMMANDS:
        sign = _SUMMANDS[name]
        if second:
            return Affine(one, sign * other, other.abs())
        return Affine(sign * one, other, other.abs())
    if _FACTORS[name] == 1:
        return Affine(other, none, none)
    return Affine(1 / other, none, none) if second and other.all() else None


def _by_channel(value: Any, axis: int, count: int, node: fx.Node, known: Expressions) -> torch.Tensor | None:
    """An operand as one number for each channel [count]; None where it is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return torch.full((count,), float(value), dtype=torch.float64)
    tensor = known[value] if isinstance(value, fx.Node) and value in known else None
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        return None
    rank = len(node.meta["val"].shape)
    if tensor.dim() > rank:
        return None
    shape = [1] * (rank - tensor.dim()) + list(tensor.shape)
    if any(n > 1 for i, n in enumerate(shape) if i != axis) or shape[axis] not in (1, count):
        return None
    return tensor.reshape(-1).double().expand(count)


def _moved(node: fx.Node, axis: int) -> int | None:
    """Where an operator that only moves values puts an axis; None for every other operator."""
    name, args = kind(node), _arguments(node)
    rank = len(node.meta["val"].shape) if isinstance(node.meta.get("val"), torch.Tensor) else 0
    if name in _THROUGH:
        return axis
    if name == "transpose":
        pair = [int(a) % rank for a in args[1:3]]
        return pair[1 - pair.index(axis)] if axis in pair else axis
    if name == "permute":
        return [int(a) % rank for a in args[1]].index(axis)
    return None


def _identity(count: int) -> Affine:
    none = torch.zeros(count, dtype=torch.float64)
    return Affine(torch.ones(count, dtype=torch.float64), none, none)


def _real(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 1
