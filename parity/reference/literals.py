"""The numbers in a graph of PyTorch's operators that are no tensors and no sizes: epsilons, slopes, scales, bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

Literals = dict[str, list[tuple[float, ...]]]
"""The literals of each node, by the bare name of its operator (`layer_norm`); a node without one has an empty tuple."""

_NUMBERS = ("Tensor", "number", "Scalar", "float", "Optional[number]", "Optional[Scalar]", "Optional[float]", "Any")
_SIZES = ("arange", "linspace", "range", "full_like", "scalar_tensor", "to", "_to_copy", "size", "tensor")


def bare(name: str) -> str:
    """An operator's name without namespace, overload and the mark of working in place."""
    bare_name = name.rpartition("::")[2].partition(".")[0]
    return bare_name if bare_name.startswith("_") else bare_name.rstrip("_")


def of_node(schema: Any, argument: Callable[[str], Any]) -> tuple[float, ...] | None:
    """The literals of one node, in the order of its schema; None where its numbers are sizes. `argument` gives a number
    or a tensor of one number by the argument's name, None for anything else."""
    if bare(schema.name) in _SIZES:
        return None
    found = []
    for given in schema.arguments:
        value = argument(given.name)
        if isinstance(value, torch.Tensor) and value.dim() == 0:
            value = value.item()
        if value is None and given.has_default_value():
            value = given.default_value
        if isinstance(value, (int, float)) and not isinstance(value, bool) and str(given.type) in _NUMBERS:
            found.append(float(value))
    return tuple(found)


def of_graph(module: torch.fx.GraphModule, constants: Mapping[str, torch.Tensor]) -> Literals:
    """The literals of an exported graph. `constants` are tensors by the names of the nodes that stand for them."""
    found: Literals = {}
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            continue
        names = [argument.name for argument in schema.arguments]
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        values = {k: constants.get(v.name) if isinstance(v, torch.fx.Node) else v for k, v in given.items()}
        literals = of_node(schema, values.get)
        if literals is not None:
            found.setdefault(bare(schema.name), []).append(literals)
    return found
