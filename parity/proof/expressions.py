"""Expressions of parameters alone, evaluated: each can be a constant of a file, for converters evaluate them too.

Every node of the exported graph that reads nothing but parameters, buffers and literals has a value
in float64. It has a value in float32 as well: what the two differ by is what a converter's own
rounding may cost, which cancellation can make many times the rounding of the result (a weight less
its mean, a sum of a table). Imports torch: child only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

_SUMS = {"linear", "matmul", "mm", "bmm", "addmm", "einsum", "sum", "mean", "cumsum", "var", "norm"} | {
    f"conv{'_transpose' * transposed}{rank}d" for rank in (1, 2, 3) for transposed in (0, 1)
}
MARGIN = 4.0  # times the difference that one float32 evaluation shows: another order of sums shows more
UNIT = 16 * 2.0**-24  # of its magnitude, that a folded constant may be off by


class Expressions:
    """The values of a graph's nodes that depend on parameters and literals alone, by node."""

    def __init__(self, module: fx.GraphModule):
        self.values: dict[Any, Any] = {}
        self._single: dict[Any, Any] = {}  # the same in float32
        self._summed: set[Any] = set()  # nodes whose values are sums, or follow from sums
        for node in module.graph.nodes:
            if node.op == "get_attr":
                self.values[node] = _attribute(module, str(node.target))
                self._single[node] = _narrow(self.values[node])
            elif node.op == "call_function" and all(i in self.values for i in node.all_input_nodes):
                self._evaluate(node)
        self._single = {node: value for node, value in self._single.items() if node.op == "call_function"}

    def __contains__(self, node: Any) -> bool:
        return node in self.values

    def __getitem__(self, node: Any) -> Any:
        return self.values[node]

    def get(self, node: Any) -> Any:
        """The value of a node; None where it depends on an input."""
        return self.values.get(node)

    def computed(self) -> Iterator[fx.Node]:
        """The nodes whose values are computed tensors of more than one real number."""
        for node, value in self.values.items():
            if node.op == "call_function" and _is_real(value) and value.numel() > 1:
                yield node

    def magnitude(self, node: Any) -> torch.Tensor:
        """What a node's value was made from, element by element, so that float32 rounding of it may be what the
        rounding of so large a number is."""
        value: torch.Tensor = self.values[node]
        reach = value.abs()
        if node in self._summed and value.numel():  # sums round by what was summed, not by what is left
            reach = torch.full_like(reach, float(reach.max()))
        single = self._single.get(node)
        if node.op == "get_attr" or not isinstance(single, torch.Tensor) or not value.numel():
            return reach
        if not value.is_floating_point() or single.shape != value.shape:
            return reach
        error = (single.to(value.dtype) - value).abs().nan_to_num(nan=0.0, posinf=0.0)
        return torch.maximum(reach, torch.full_like(reach, MARGIN * float(error.max()) / UNIT))

    def _evaluate(self, node: fx.Node) -> None:
        self.values[node] = _called(node, self.values.__getitem__)
        try:
            self._single[node] = _called(node, self._single.__getitem__, torch.float32)
        except Exception:  # an operator that takes no float32 has no other rounding to show
            self._single[node] = self.values[node]
        if kind(node) in _SUMS or self._summed.intersection(node.all_input_nodes):
            self._summed.add(node)


def kind(node: fx.Node) -> str:
    """The aten operator's bare name, `conv2d`."""
    if node.op != "call_function":
        return ""
    return str(node.target).removeprefix("aten.").partition(".")[0]


def _called(node: fx.Node, value: Callable[[Any], Any], dtype: torch.dtype = torch.float64) -> Any:
    arguments, keywords = fx.map_arg((node.args, node.kwargs), value)
    target: Any = node.target
    return target(
        *(dtype if argument is torch.float64 else argument for argument in arguments),
        **{name: dtype if argument is torch.float64 else argument for name, argument in keywords.items()},
    )


def _is_real(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _narrow(value: Any) -> Any:
    wide = isinstance(value, torch.Tensor) and value.dtype == torch.float64
    return value.float() if wide else value


def _attribute(module: torch.nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value.detach() if isinstance(value, torch.Tensor) else value
