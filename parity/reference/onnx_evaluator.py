"""ONNX operators that have no execution in PyTorch here, by onnx's own reference implementation. In the child only.

Each node is a model of its own for `onnx.reference`, which computes in NumPy. It is reached through a PyTorch
operator, so that a twin sees that its results depend on the data, and rounds them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.reference.onnx_layers import Unsupported

_FLOATS = {torch.float32: 1, torch.float64: 11}  # torch dtype -> ONNX element type
_OTHER_FLOATS = (1, 10, 11, 16)


class Evaluator:
    """One node, executed in NumPy with every float, those of its sub-graphs too, in float64 or float32.

    `reads` are the names of its inputs, then of what its sub-graphs read from outside. Raises Unsupported where onnx
    has no implementation of the operator.
    """

    def __init__(self, proto: Any, opsets: Sequence[Any]):
        self.proto, self.opsets = proto, tuple(opsets)
        outer = (name for inner in _graphs(proto) for name in _outer(inner))
        self.reads = tuple(dict.fromkeys(name for name in (*proto.input, *outer) if name))
        self.seconds = 0.0
        self._made: dict[torch.dtype, Any] = {}
        self._model(torch.float32)
        self.handle = len(_EVALUATORS)
        _EVALUATORS.append(self)

    def __deepcopy__(self, memo: Any) -> Evaluator:
        return self  # nothing in it can be changed

    def _model(self, dtype: torch.dtype) -> Any:
        import onnx
        from onnx.reference import ReferenceEvaluator

        if dtype not in self._made:
            node = onnx.NodeProto()
            node.CopyFrom(self.proto)
            _retype(node, _FLOATS[dtype])
            ports = [[onnx.ValueInfoProto(name=n) for n in names if n] for names in (self.reads, node.output)]
            graph = onnx.helper.make_graph([node], "node", *ports)
            try:
                self._made[dtype] = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=self.opsets))
            except Exception as error:
                raise Unsupported(f"{node.op_type} ({str(error).splitlines()[0]:.80})") from None
        return self._made[dtype]

    def __call__(self, values: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        """The node's outputs, from values by name; None for one that nobody asked for. Floats are of `dtype`."""
        results = iter(onnx_node(self.handle, dtype == torch.float64, [values[name] for name in self.reads]))
        every = (next(results) if name else None for name in self.proto.output)
        return tuple(v.to(dtype) if v is not None and v.is_floating_point() else v for v in every)

    def run(self, dtype: torch.dtype, values: Sequence[Tensor]) -> list[Tensor]:
        start = time.perf_counter()
        given = (v.to(dtype) if v.is_floating_point() else v for v in values)
        fed = {name: value.numpy() for name, value in zip(self.reads, given, strict=True)}
        with np.errstate(all="ignore"):
            results = self._model(dtype).run(None, fed)
        self.seconds += time.perf_counter() - start
        for result in results:
            if not isinstance(result, (np.ndarray, np.generic)) or np.asarray(result).dtype.kind not in "fiub":
                raise Unsupported(f"{self.proto.op_type} of what is no tensor of numbers")
        return [torch.from_numpy(np.array(result)) for result in results]


_EVALUATORS: list[Evaluator] = []


@torch.library.custom_op(
    "parity::onnx_node", mutates_args=(), schema="(int handle, bool double, Tensor[] values) -> Tensor[]"
)
def onnx_node(handle: int, double: bool, values: list[Tensor]) -> list[Tensor]:
    """The results of the node that `handle` names."""
    return _EVALUATORS[handle].run(torch.float64 if double else torch.float32, values)


def _graphs(node: Any) -> Iterator[Any]:
    """The sub-graphs of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _outer(graph: Any) -> Iterator[str]:
    """The names that a sub-graph reads and does not make."""
    made = {entry.name for entry in (*graph.input, *graph.initializer)}
    made |= {entry.values.name for entry in graph.sparse_initializer}
    for node in graph.node:
        reads = [*node.input, *(name for inner in _graphs(node) for name in _outer(inner))]
        yield from (name for name in reads if name not in made)
        made |= set(node.output)
    yield from (entry.name for entry in graph.output if entry.name not in made)


def _retype(node: Any, code: int) -> None:
    """Change every float that a node or a node of its sub-graphs holds, or is told to cast to, to the element type."""
    from onnx import TensorProto, numpy_helper

    def tensor(held: Any) -> None:
        if held.data_type in _OTHER_FLOATS and held.data_type != code:
            values = numpy_helper.to_array(held).astype(np.float64 if code == TensorProto.DOUBLE else np.float32)
            held.CopyFrom(numpy_helper.from_array(values, held.name))

    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i in _OTHER_FLOATS:
            attribute.i = code
        for held in (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors):
            tensor(held)
    if node.op_type == "Constant":
        _widen_constant(node, code)
    for inner in _graphs(node):
        for held in inner.initializer:
            tensor(held)
        for each in inner.node:
            _retype(each, code)


def _widen_constant(node: Any, code: int) -> None:
    """A constant that is written as numbers is of float32 by definition: write it as a tensor."""
    from onnx import helper

    for attribute in list(node.attribute):
        if attribute.name in ("value_float", "value_floats"):
            values = [attribute.f] if attribute.name == "value_float" else list(attribute.floats)
            shape = [] if attribute.name == "value_float" else [len(values)]
            node.attribute.remove(attribute)
            node.attribute.append(helper.make_attribute("value", helper.make_tensor("", code, shape, values)))
