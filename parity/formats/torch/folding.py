"""What a TorchScript file or an ExportedProgram computes from its constants alone, as constants that operators read.

    table -> slice -> cat -> embedding(ids)        computed: what `cat` gives, beside the table itself

The tensors that have names say nothing of what such a part makes of them. Child only, after the safe readers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from parity.files.torch_operators import schema_of
from parity.files.torch_scripts import nodes as every_node
from parity.formats.graph import Array, moved_or_precise
from parity.formats.survey import RANDOM


@dataclass(frozen=True)
class Computed:
    """A tensor `values` of `name`, and the operator `schema` that reads it as `argument`; `given`: what that one reads,
    by argument."""

    name: str
    values: torch.Tensor
    schema: Any
    argument: str
    given: Mapping[str, str]


def of_script(module: Any, stored: Collection[Array]) -> Iterator[Computed]:
    """What freezing the module computes, which also makes constants of its parameters. Puts it in evaluation mode.
    Nothing where it cannot be frozen."""
    try:
        graph = torch.jit.freeze(module.eval(), optimize_numerics=False).inlined_graph
    except AttributeError:  # a frozen module has no mode
        graph = module.inlined_graph.copy()
        torch._C._jit_pass_constant_propagation(graph)
    except RuntimeError:
        return
    constants: dict[str, torch.Tensor] = {}
    for node in every_node(graph):
        if node.kind() == "prim::Constant":
            value = node.output().toIValue()
            if isinstance(value, torch.Tensor) and _is_new(value, stored):
                constants[node.output().debugName()] = value
    for node in every_node(graph) if constants else ():
        schema = schema_of(node.schema()) if node.kind().startswith("aten::") else None
        names = [argument.name for argument in schema.arguments] if schema is not None else []
        given = {k: v.debugName() for k, v in zip(names, node.inputs(), strict=False)}
        for argument, name in given.items():
            if name in constants:
                yield Computed(f"computed %{name}", constants[name], schema, argument, given)


def of_program(module: fx.GraphModule, tensors: Mapping[str, torch.Tensor]) -> Iterator[Computed]:
    """What the nodes give that follow from `tensors` alone, by the placeholders' names."""
    values: dict[str, Any] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder" and node.name in tensors:
            values[node.name] = tensors[node.name]
        elif node.op == "get_attr" and isinstance(held := getattr(module, str(node.target), None), torch.Tensor):
            values[node.name] = held
        elif node.op == "call_function" and _is_pure(node) and all(n.name in values for n in node.all_input_nodes):
            try:
                with torch.no_grad():
                    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n.name])
                    values[node.name] = node.target(*args, **kwargs)
            except Exception:  # an operator refuses arguments as it likes
                continue
    stored = [tensor.detach().numpy() for tensor in tensors.values()]
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or node.name in values or schema is None:
            continue
        names = [argument.name for argument in schema.arguments]
        given = {k: v.name for k, v in (dict(zip(names, node.args, strict=False)) | node.kwargs).items()
                 if isinstance(v, fx.Node)}  # fmt: skip
        for argument, name in given.items():
            value = values.get(name)
            if name not in tensors and isinstance(value, torch.Tensor) and _is_new(value, stored):
                yield Computed(f"computed {name}", value, schema, argument, given)


def _is_pure(node: fx.Node) -> bool:
    """Whether a node computes the same each time, and writes to nothing."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return getattr(node.target, "__name__", "") == "getitem"
    return not schema.is_mutable and not RANDOM.search(schema.name)


def _is_new(value: torch.Tensor, stored: Collection[Array]) -> bool:
    """Whether a tensor is none of the file's own, nor one that half precision has rounded several times."""
    plain = value.layout == torch.strided and not value.is_quantized and value.dtype != torch.bfloat16
    if not plain or not value.dim() or not value.is_floating_point():
        return False
    values = value.detach().numpy()
    alike = (other for other in stored if other.shape == values.shape and other.dtype == values.dtype)
    return not any((other == values).all() for other in alike) and moved_or_precise(values, stored)
