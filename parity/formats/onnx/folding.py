"""What an ONNX graph computes from its constants alone, computed once, so that the proof reads it as a constant.

    table -> Slice -> Concat -> Gather(ids)        becomes        table' -> Gather(ids)

The constants that such a part starts from say nothing of what it makes of them. What only reshapes, casts, turns or
dequantises one constant stays, for the reader sees through it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from parity.formats.graph import Array, NotPossible, moved_or_precise
from parity.formats.onnx import rewriting
from parity.formats.survey import RANDOM

_SEEN_THROUGH = ("Reshape", "Unsqueeze", "Squeeze", "Identity", "Cast", "Transpose", "QuantizeLinear")
_MOST = 1 << 30  # values of a sparse tensor: 4 GB
_FED = ("bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")


def densify(graph: Any) -> None:
    """Make initializers of sparse ones, and of Constant nodes that hold a sparse value, in sub-graphs too.

    Raises NotPossible where one is as large as no model is.
    """
    for inner in list(rewriting.graphs(graph)):
        for sparse in inner.sparse_initializer:
            inner.initializer.append(_dense(sparse, sparse.values.name))
        del inner.sparse_initializer[:]
        kept = []
        for node in inner.node:
            sparse = next((a.sparse_tensor for a in node.attribute if a.name == "sparse_value"), None)
            if sparse is not None and node.op_type == "Constant":
                inner.initializer.append(_dense(sparse, node.output[0]))
            else:
                kept.append(node)
        if len(kept) < len(inner.node):
            rewriting.replace_nodes(inner, kept)


def _dense(sparse: Any, name: str) -> Any:
    """Indices are places in the flat tensor, or one row of coordinates a value."""
    shape = tuple(sparse.dims)
    if math.prod(shape) > _MOST:
        raise NotPossible(f"the sparse constant {name} has the shape {list(shape)}")
    values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(shape, values.dtype)
    dense[np.unravel_index(places, shape) if places.ndim == 1 else tuple(places.T)] = values
    return numpy_helper.from_array(dense, name)


def fold(model: Any) -> None:
    """Make an initializer of each tensor that follows from constants alone, where other operators read it. What ONNX
    Runtime cannot compute so stays as it is."""
    _Folding(model).fold()


class _Folding:
    def __init__(self, model: Any):
        self.model, self.graph = model, model.graph
        self.stored = {i.name: i for i in self.graph.initializer}
        self.constant = set(self.stored)  # tensors that follow from no input
        self.plain = set(self.stored)  # those of them that are read as one stored constant
        self.nodes: dict[str, Any] = {}  # what computes them, by output
        self.folded: set[str] = set()  # those that are stored by now
        for node in self.graph.node:
            if _is_pure(node) and self.constant.issuperset(name for name in node.input if name):
                outputs = [name for name in node.output if name]
                self.constant.update(outputs)
                self.nodes.update(dict.fromkeys(outputs, node))
                dequantised = node.op_type == "DequantizeLinear"
                if dequantised or (node.op_type in _SEEN_THROUGH and node.input[0] in self.plain):
                    self.plain.update(outputs)

    def fold(self) -> None:
        wanted = self._wanted()
        if not wanted:
            return
        values = self._computed(wanted)
        before = []
        for name, value in values.items():
            quantised = self._quantised(name, value)
            if quantised is None:
                continue
            stored, node = quantised
            self.graph.initializer.append(numpy_helper.from_array(np.asarray(stored, order="C"), _name(name, node)))
            before += [node] if node is not None else []
            self.folded.add(name)
            del self.nodes[name]
        rewriting.replace_nodes(self.graph, [*before, *self._left()])

    def _wanted(self) -> list[str]:
        """The tensors to compute: those that operators on data read, or that operators read which are seen through."""
        read: dict[str, None] = {}
        for node in self.graph.node:
            computed = any(name in self.nodes for name in node.output)
            if not computed or self.plain.intersection(node.output):
                read |= dict.fromkeys(node.input)
        read |= dict.fromkeys(value.name for value in self.graph.output)
        return [name for name in read if name in self.nodes and name not in self.plain]

    def _ancestors(self, names: Collection[str]) -> list[Any]:
        """The operators that compute tensors, each once, in the graph's order."""
        needed: set[str] = set()
        ahead = list(names)
        while ahead:
            name = ahead.pop()
            if name in self.nodes and name not in needed:
                needed.add(name)
                ahead += self.nodes[name].input
        return [node for node in self.graph.node if needed.intersection(node.output)]

    def _computed(self, names: Sequence[str]) -> Mapping[str, Array]:
        """The values of tensors; none where the runtime refuses to compute them."""
        nodes = self._ancestors(names)
        read = {name for node in nodes for name in node.input if name in self.stored}
        arrays = {name: numpy_helper.to_array(self.stored[name]) for name in read}
        fed = {n: v for n, v in arrays.items() if v.nbytes > rewriting.LARGE and v.dtype.name in _FED}
        inputs = [
            helper.make_tensor_value_info(name, self.stored[name].data_type, value.shape) for name, value in fed.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in names]
        kept = [self.stored[name] for name in read if name not in fed]
        part = helper.make_graph(nodes, "constants", inputs, outputs, kept)
        model = helper.make_model(part, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            results = session.run(list(names), fed)
        except Exception:  # a runtime raises what it likes
            return {}
        return {n: v for n, v in zip(names, results, strict=True) if isinstance(v, np.ndarray) and v.dtype.kind != "O"}

    def _quantised(self, name: str, value: Array) -> tuple[Array, Any] | None:
        """What to store, and the operator that dequantises it where it lies on the grid that its parts were stored on;
        None where these had several grids, or half precision has rounded it several times."""
        readers = [node for node in self._ancestors([name]) if node.op_type == "DequantizeLinear"]
        if not readers:
            half = value.dtype == np.float16
            stored = (numpy_helper.to_array(i) for i in self.stored.values()) if half else ()
            return (value, None) if moved_or_precise(value, stored) else None
        grids = [tuple(map(self._content, node.input[1:])) for node in readers]
        scale = self._content(readers[0].input[1])
        if len(set(grids)) > 1 or scale is None or len(scale[1]) != 1 or value.dtype.kind != "f":
            return None
        reader = readers[0]
        zero = numpy_helper.to_array(self.stored[reader.input[2]]) if len(reader.input) > 2 else np.zeros((), np.uint8)
        limits = np.iinfo(zero.dtype)
        step, point = np.float64(scale[1][0]), float(zero.reshape(-1)[0])
        integers = np.rint(value / step) + point
        inside = bool(np.isfinite(value).all() and integers.min() >= limits.min and integers.max() <= limits.max)
        if not inside or not np.array_equal(((integers - point) * step).astype(value.dtype), value):
            return value, None
        node = helper.make_node("DequantizeLinear", [f"{name}/stored", *reader.input[1:]], [name], domain=reader.domain)
        return integers.astype(zero.dtype), node

    def _content(self, name: str) -> tuple[str, tuple[float, ...]] | None:
        if name not in self.stored:
            return None
        values = numpy_helper.to_array(self.stored[name])
        return values.dtype.name, tuple(np.asarray(values, np.float64).reshape(-1).tolist())

    def _left(self) -> list[Any]:
        """The nodes without those that nothing reads any more."""
        left: list[Any] = []
        read = {value.name for value in self.graph.output}
        for node in reversed(self.graph.node):
            folded = bool(self.constant.intersection(node.output))
            if folded and not read.intersection(name for name in node.output if name in self.nodes):
                continue
            if self.folded.intersection(node.output):  # another result of it is read
                node = copy.deepcopy(node)
                node.output[:] = [f"{name}/unread" if name in self.folded else name for name in node.output]
            left.append(node)
            read.update(node.input)
        return left[::-1]


def _name(name: str, node: Any) -> str:
    return name if node is None else str(node.input[0])


def _is_pure(node: Any) -> bool:
    """Whether a node computes the same each time, by itself."""
    return not RANDOM.search(node.op_type) and not any(a.HasField("g") for a in node.attribute)
