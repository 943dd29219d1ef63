"""An ONNX proto brought into the form that the proof reads, before it is read. What it computes stays the same.

Pure, apart from NumPy and the proto that is changed in place.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

_MOVING = frozenset(  # operators whose results are values of their first input, whatever these stand for
    ("Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice", "Split", "Squeeze",
     "Tile", "Transpose", "Unsqueeze")
)  # fmt: skip

LARGE = 1 << 10  # bytes
_SHARED = frozenset(("bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"))

Scale = tuple[bytes, ...]  # what a DequantizeLinear's scale, zero point and attributes are, to tell two apart


def constants_to_initializers(model: Any) -> None:
    """Make an initializer of what each Constant node holds."""
    kept = []
    for node in model.graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is not None:
            model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(value), node.output[0]))
        else:
            kept.append(node)
    replace_nodes(model.graph, kept)


def graphs(holder: Any) -> Iterator[Any]:
    """A graph or function, and the graphs of the bodies and branches in it."""
    yield holder
    for node in holder.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs(inner)


def replace_nodes(graph: Any, nodes: list[Any]) -> None:
    """Put `nodes`, of the graph itself or not, in the place of all that it has."""
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]  # deleted under it otherwise
    del graph.node[:]
    graph.node.extend(copies)


def initializer(name: str, values: np.ndarray[Any, Any]) -> Any:
    """An initializer. One that is large, and of a type that ONNX Runtime takes from NumPy, comes without its values, as
    if they lay in a file beside the model."""
    if values.nbytes <= LARGE or values.dtype.name not in _SHARED:
        return numpy_helper.from_array(values, name)
    proto = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(values.dtype), dims=values.shape)
    proto.data_location = TensorProto.EXTERNAL
    proto.external_data.add(key="location", value="memory")
    return proto


def without_values(graph: Any) -> None:
    """Take the values from large initializers. A model of hundreds of megabytes is copied and serialised for each link
    of a proof; its values need not be."""
    for each in graph.initializer:
        each.CopyFrom(initializer(each.name, numpy_helper.to_array(each)))


def with_values(graph: Any, values: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Give large initializers their values back."""
    for each in bare(graph):
        each.CopyFrom(numpy_helper.from_array(np.asarray(values[each.name], order="C"), each.name))


def bare(graph: Any) -> list[Any]:
    """The initializers without their values."""
    return [i for i in graph.initializer if i.data_location == TensorProto.EXTERNAL]


def without_idle(model: Any) -> Any:
    """The model without initializers that nothing reads: ONNX Runtime drops them, and then misses what they hold."""
    graph = model.graph
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    if all(i.name in read for i in graph.initializer):
        return model
    model = copy.deepcopy(model)
    used = [i for i in graph.initializer if i.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(used)
    return model


def leave(graph: Any, written: Collection[str], cuts: Collection[str]) -> None:
    """Drop every node and constant that the tensors in `written` do not need, where those in `cuts` are given."""
    producer = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    pending = [producer[name] for name in written]
    kept: set[int] = set()
    while pending:
        place = pending.pop()
        if place not in kept:
            kept.add(place)
            pending += [producer[n] for n in graph.node[place].input if n in producer and n not in cuts]
    replace_nodes(graph, [node for place, node in enumerate(graph.node) if place in kept])
    read = {name for node in graph.node for name in node.input}
    constants = [i for i in graph.initializer if i.name in read]
    copies = [type(i).FromString(i.SerializeToString()) for i in constants]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def dequantise_first(graph: Any) -> None:
    """Dequantise every stored tensor where it is read, and once for each scale that it is read with.

        table (uint8) -> Gather -> DequantizeLinear                table -> DequantizeLinear -> Gather
                           |-----> Transpose -> DequantizeLinear                                  |--> Transpose

    ONNX Runtime's dynamic quantiser leaves the first: integers are moved, and turned into reals where they are used.
    With one scale for the whole tensor the second is the same to the bit, and says which values the table stands for.
    A tensor that is read with two scales becomes two, so that each is held against the module's own values.
    """
    _First(graph).rewrite()


def _rename(names: Any, old: str, new: str) -> None:
    renamed = [new if name == old else name for name in names]
    del names[:]
    names.extend(renamed)


class _First:
    def __init__(self, graph: Any):
        self.graph = graph
        self.stored = {i.name: i for i in graph.initializer}
        self.producer = {name: node for node in graph.node for name in node.output}
        self.outputs = {value.name for value in graph.output}
        self.scales: dict[str, list[Scale]] = {}  # by stored tensor, those that it is read with
        self.reals: dict[tuple[str, Scale], str] = {}  # by integer tensor and scale, the same in reals
        self.nodes: list[Any] = []
        self.renamed: dict[str, str] = {}

    def rewrite(self) -> None:
        for node in list(self.graph.node):
            for old, new in self.renamed.items():
                _rename(node.input, old, new)
            table = self._table(node) if node.op_type == "DequantizeLinear" else ""
            if not table or self._is_in_place(node, table):
                self.nodes.append(node)
                continue
            self.renamed[node.output[0]] = self._real(node.input[0], table, node)
        self._keep_outputs()
        replace_nodes(self.graph, self._read(self.nodes))

    def _keep_outputs(self) -> None:
        """Give the graph's outputs the names that they had."""
        for name in sorted(self.outputs & set(self.renamed)):
            real = self.renamed[name]
            if real in self.outputs:  # two outputs of one tensor
                self.nodes.append(helper.make_node("Identity", [real], [name]))
                continue
            for node in self.nodes:
                _rename(node.input, real, name)
                _rename(node.output, real, name)
            self.renamed = {old: name if new == real else new for old, new in self.renamed.items()}

    def _is_in_place(self, node: Any, table: str) -> bool:
        """Whether a DequantizeLinear reads the tensor itself, and is the first to do so: it stays as it is."""
        scale = self._scale(node)
        if node.input[0] != table or (table, scale) in self.reals or self.scales.setdefault(table, [scale])[0] != scale:
            return False
        self.reals[table, scale] = node.output[0]
        return True

    def _table(self, node: Any) -> str:
        """The stored tensor whose values a DequantizeLinear reads; none where it cannot be told or moved."""
        name = node.input[0]
        if name in self.stored:
            return str(name)
        scale = self.stored.get(node.input[1])
        if scale is None or int(np.prod(scale.dims)) != 1:
            return ""
        while (before := self.producer.get(name)) is not None and before.op_type in _MOVING:
            name = before.input[0]
        return str(name) if name in self.stored else ""

    def _real(self, name: str, table: str, reader: Any) -> str:
        """The name of an integer tensor's reals, which are made where they are not there."""
        scale = self._scale(reader)
        if (name, scale) in self.reals:
            return self.reals[name, scale]
        known = self.scales.setdefault(table, [])
        if scale not in known:
            known.append(scale)
        number = known.index(scale)
        suffix = f"/real{number or ''}"
        if name == table:
            self.reals[name, scale] = real = f"{name}{suffix}"
            stored = self._copy(table, number)
            node = helper.make_node("DequantizeLinear", [stored, *reader.input[1:]], [real])
            node.attribute.extend(reader.attribute)
            self.nodes.append(node)
            return real
        before = self.producer[name]
        inputs = [self._real(before.input[0], table, reader), *before.input[1:]]
        moved = helper.make_node(before.op_type, inputs, [f"{output}{suffix}" for output in before.output])
        moved.attribute.extend(before.attribute)
        self.nodes.append(moved)
        self.reals |= {(output, scale): f"{output}{suffix}" for output in before.output}
        return self.reals[name, scale]

    def _scale(self, reader: Any) -> Scale:
        parts = [numpy_helper.to_array(self.stored[n]) if n in self.stored else n for n in reader.input[1:] if n]
        content = [p.tobytes() + p.dtype.str.encode() if isinstance(p, np.ndarray) else p.encode() for p in parts]
        return *content, *(attribute.SerializeToString() for attribute in reader.attribute)

    def _copy(self, table: str, number: int) -> str:
        """The stored tensor itself, or a copy under a name of its own for the second scale and each further."""
        if not number:
            return table
        copied = type(self.stored[table]).FromString(self.stored[table].SerializeToString())
        copied.name = f"{table}/{number}"
        self.graph.initializer.append(copied)
        return str(copied.name)

    def _read(self, nodes: list[Any]) -> list[Any]:
        """The nodes without those that moved integers which nothing reads any more."""
        while True:
            read = self.outputs | {name for node in nodes for name in node.input}
            left = [n for n in nodes if n.op_type not in _MOVING or read.intersection(n.output)]
            if len(left) == len(nodes):
                return nodes
            nodes = left
