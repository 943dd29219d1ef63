"""What an ONNX file draws at random and decides by data, sub-graphs and functions included. Child only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from parity.formats.graph import Array, Constant, Grid
from parity.formats.onnx import branches, folding, rewriting
from parity.formats.survey import MOST, RANDOM, Meaning, Node, Survey, linked, recurrent

_MOVING = ("Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze")
_MEANINGS: Mapping[str, Meaning] = {
    **dict.fromkeys(("Equal",), "equal"),
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "LessOrEqual"), "order"),
    **dict.fromkeys(("IsNaN", "IsInf"), "finite"),
    **dict.fromkeys(("And", "Or", "Not", "Xor"), "boolean"),
    **dict.fromkeys(("Shape", "Size"), "shape"),
    **dict.fromkeys(("Identity", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Tile", "QuantizeLinear",
                     "DequantizeLinear"), "same"),
    "NonZero": "nonzero",
    "Sign": "sign",
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK", "Hardmax", "NonMaxSuppression", "Unique"), "rank"),
    **dict.fromkeys(("Floor", "Ceil", "Round"), "round"),
    "OneHot": "onehot",
    **dict.fromkeys(("TreeEnsemble", "TreeEnsembleRegressor", "TreeEnsembleClassifier", "SVMClassifier", "Binarizer",
                     "Shrink", "ThresholdedRelu"), "order"),
    **dict.fromkeys(("LabelEncoder", "CategoryMapper", "OneHotEncoder", "TfIdfVectorizer", "DictVectorizer"), "equal"),
}  # fmt: skip
_EDGES = (  # attributes whose numbers an operator compares its data with
    "threshold", "lambd", "alpha", "nodes_values", "nodes_splits", "keys_int64s", "keys_floats", "keys_tensor",
    "cats_int64s", "pool_int64s", "min", "max",
)  # fmt: skip
_ATTRIBUTED = ("TreeEnsemble", "Binarizer", "Shrink", "ThresholdedRelu", "LabelEncoder", "CategoryMapper",
               "OneHotEncoder", "TfIdfVectorizer", "Clip")  # fmt: skip

_RECURRENT = {"GRU": ("sigmoid", "tanh"), "LSTM": ("sigmoid", "tanh"), "RNN": ("tanh", "relu")}
"""The activations of PyTorch's recurrent layers. What only one of these differs by shows on any input."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_WHOLE = (TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8,
          TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64)  # fmt: skip


def survey(folder: str, notes: Mapping[str, Any]) -> Survey:
    """The survey of an .onnx file. Weights in other files are not read."""
    survey = _read(folder, notes, whole=False)
    survey.taken = lambda case: _read(folder, notes, whole=False, case=case)
    return survey


def constants(folder: str, notes: Mapping[str, Any]) -> Survey:
    """The survey of an .onnx file with all constants, those in other files too."""
    return _read(folder, notes, whole=True)


def _read(folder: str, notes: Mapping[str, Any], whole: bool, case: Mapping[str, Array] | None = None) -> Survey:
    """`case`: inputs by the model's names, which decide by their sizes what branches are read."""
    model = onnx.load(str(Path(folder, notes["entry"])), load_external_data=whole)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    if case is not None:
        names = notes.get("inputs", {})
        branches.take(model, {names.get(name, {"name": name})["name"]: value for name, value in case.items()})
    folding.densify(model.graph)
    if whole:
        folding.fold(model)
    read = _Reader(whole)
    read.types = _types(model)
    read.graph(model.graph, "")
    stored = {i.name for i in model.graph.initializer}
    read.survey.inputs = [value.name for value in model.graph.input if value.name not in stored]
    return read.survey


def _light(model: Any) -> Any:
    """A model without the values of large initializers, which no type follows from."""
    light = type(model)(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    for name in ("node", "input", "output", "value_info"):
        getattr(light.graph, name).extend(getattr(model.graph, name))
    for each in model.graph.initializer:
        absent = each.data_location == TensorProto.EXTERNAL
        light.graph.initializer.append(
            each if absent else rewriting.initializer(each.name, numpy_helper.to_array(each))
        )
    return light


def _types(model: Any) -> dict[str, int]:
    """The element types of tensors by name, as far as they follow; a name of a sub-graph stands for itself."""
    try:
        model = onnx.shape_inference.infer_shapes(_light(model))
    except Exception:  # a model of more than 2 GB, or one that is no model
        return {}
    types: dict[str, int] = {}
    ahead = [model.graph]
    while ahead:
        graph = ahead.pop()
        values = (*graph.input, *graph.value_info, *graph.output)
        types.update((value.name, value.type.tensor_type.elem_type) for value in values)
        ahead += [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return types


class _Reader:
    """Fills a survey. Names of a sub-graph begin with its node's, unless they are those of an outer graph."""

    def __init__(self, whole: bool) -> None:
        self.survey, self.whole = Survey(()), whole
        self.types: dict[str, int] = {}
        self.moved: dict[str, str] = {}  # by result of an operator that only moves values, what it moves
        self.names: list[dict[str, str]] = []

    def graph(self, graph: Any, prefix: str) -> None:
        made = [i.name for i in (*graph.initializer, *graph.input)]
        made += [name for node in graph.node for name in node.output]
        self.names.append({name: prefix + name for name in made})
        for initializer in graph.initializer:
            self._constant(self._name(initializer.name), initializer)
        for value in graph.input:
            if value.type.tensor_type.elem_type == TensorProto.BOOL:
                self.survey.booleans.add(self._name(value.name))
        for node in graph.node:
            self._node(node)

    def _name(self, name: str) -> str:
        return next((scope[name] for scope in reversed(self.names) if name in scope), name)

    def _node(self, node: Any) -> None:
        attributes = {a.name: a for a in node.attribute}
        outputs = tuple(self._name(name) for name in node.output if name)
        inputs = tuple(self._name(name) for name in node.input if name)
        place = node.name or (node.output[0] if node.output else "")
        if node.op_type == "Constant":
            if "value" in attributes:
                self._constant(outputs[0], attributes["value"].t)
            else:
                value = helper.get_attribute_value(node.attribute[0])
                if not isinstance(value, (bytes, list)) or (isinstance(value, list) and len(value) <= MOST):
                    self.survey.constants[outputs[0]] = np.asarray(value)
            return
        if node.op_type == "DequantizeLinear":
            self._quantised(*_padded(inputs[:3]), int(attributes["axis"].i) if "axis" in attributes else 1)
        elif node.op_type.startswith("QLinear"):  # its operands come as (integers, scale, zero point)
            for place in range(len(node.input) - 1):
                self._quantised(*_padded([self._name(name) for name in node.input[place : place + 3]]), axis=0)
        if node.op_type in _MOVING and inputs:
            self.moved.update(dict.fromkeys(outputs, inputs[0]))
        inner = [(a.name, a.g) for a in node.attribute if a.HasField("g")]
        if inner:
            self.survey.nodes += self._controlled(node, inner, inputs, outputs, place)
            return
        if node.op_type.startswith(_ATTRIBUTED):
            inputs += self._edges(place, attributes)
        kind = node.op_type + _choosing(attributes)
        meaning, nested = self._meaning(node, attributes), len(self.names) > 1
        self.survey.nodes.append(Node(kind, place, inputs, outputs, meaning, inner=nested))
        if node.op_type in _RECURRENT:
            self.survey.nodes += (replace(part, inner=nested) for part in self._beside(node, place, attributes))

    def _beside(self, node: Any, place: str, attributes: Mapping[str, Any]) -> Iterator[Node]:
        """What a recurrent operator's attributes add to what PyTorch's layers compute."""
        results = [self._name(name) for name in node.output if name]
        given = [name.decode("utf-8", "replace").lower() for name in
                 (attributes["activations"].strings if "activations" in attributes else ())]  # fmt: skip
        other = [name for name in given if name not in _RECURRENT[node.op_type]]
        if node.op_type == "GRU" and not ("linear_before_reset" in attributes and attributes["linear_before_reset"].i):
            other.append("reset before product")
        clip = float(attributes["clip"].f) if "clip" in attributes else 0.0
        yield from recurrent(place, results, ("clip", clip), other, self.survey.constants)

    def _controlled(
        self, node: Any, inner: list[tuple[str, Any]], inputs: tuple[str, ...], outputs: tuple[str, ...], place: str
    ) -> Iterator[Node]:
        """If: each branch gives the outputs. Loop and Scan: the body's results are its next inputs."""
        given = [self._name(name) if name else "" for name in node.input]
        for attribute, body in inner:
            prefix = f"{place}/{attribute}/"
            self.graph(body, prefix)
            taken, left = ([self._name(v.name) for v in side] for side in (body.input, body.output))
            self.names.pop()
            if node.op_type == "If":
                yield from linked(left, outputs)
            elif node.op_type == "Loop":  # the body takes (iteration, condition, values), gives (condition, values)
                yield from linked(given[2:], taken[2:])
                yield from linked(left[1:], taken[2:])
                yield from linked(left[1:], outputs)
                yield Node("Loop", place, tuple(name for name in (*given[:2], left[0]) if name), (), "loop")
            else:
                yield from linked(given, taken)
                yield from linked(left, taken)
                yield from linked(left, outputs)
        if node.op_type == "If":
            yield Node("If", place, inputs[:1], outputs, "branch")

    def _meaning(self, node: Any, attributes: Mapping[str, Any]) -> Meaning:
        kind = node.op_type
        if kind == "Cast":
            return self._cast(node.input[0], attributes["to"].i)
        if kind == "Gather":
            return "table" if self._integers(self._name(node.input[0])) else ""
        if kind == "Dropout":
            mode = self.survey.constants.get(self._name(node.input[2])) if len(node.input) > 2 else None
            return "random" if mode is not None and bool(mode) else "same"
        if kind == "BatchNormalization":
            training = "training_mode" in attributes and attributes["training_mode"].i == 1
            return "training" if training or len([name for name in node.output if name]) > 1 else ""
        return _MEANINGS.get(kind) or ("random" if RANDOM.search(kind) else "")

    def _cast(self, given: str, to: int) -> Meaning:
        if to == TensorProto.BOOL:
            return "nonzero"
        return "round" if self.types.get(given) in _FLOATS and to in _WHOLE else "same"

    def _edges(self, place: str, attributes: Mapping[str, Any]) -> tuple[str, ...]:
        """Constants for the numbers that a node's attributes compare its data with, by name."""
        names = []
        for key in _EDGES:
            if key in attributes:
                value = helper.get_attribute_value(attributes[key])
                values = numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
                if values.dtype.kind in "fiu" and 0 < values.size <= MOST:
                    names.append(f"{place}/{key}")
                    self.survey.constants[names[-1]] = values
        return tuple(names)

    def _integers(self, name: str) -> bool:
        return name in self.survey.constants and self.survey.constants[name].dtype in (np.int32, np.int64)

    def _constant(self, name: str, tensor: Any) -> None:
        small = int(np.prod(tensor.dims)) <= MOST and tensor.data_location != TensorProto.EXTERNAL
        if not small and not self.whole:
            return
        values = numpy_helper.to_array(tensor)
        if small:
            self.survey.constants[name] = values
        if self.whole and values.dtype.kind in "fiu":
            self.survey.stored[name] = Constant(name, values, None)

    def _quantised(self, name: str, scale: str, zero: str, axis: int) -> None:
        """Give a stored tensor the quantisation parameters that it is read with, also where its integers are moved
        before: table -> Gather -> DequantizeLinear. Those by block are none of a grid."""
        stored = self.survey.stored
        if scale not in stored or stored[scale].stored.dtype.kind != "f":
            return
        scales = stored[scale].stored.astype(np.float64).reshape(-1)
        while scales.size == 1 and name in self.moved:
            name = self.moved[name]
        if name not in stored or stored[name].grid is not None or stored[name].stored.dtype.kind not in "iu":
            return
        values = stored[name].stored
        axis %= max(values.ndim, 1)
        if scales.size > 1 and (not values.ndim or values.shape[axis] != scales.size):
            return
        point = stored[zero].stored if zero in stored else np.zeros(1)
        zeros = np.broadcast_to(point.reshape(-1).astype(np.float64), scales.shape)
        limits = np.iinfo(values.dtype)
        grid = Grid(scales, zeros, axis, int(limits.min), int(limits.max))
        self.survey.stored[name] = replace(stored[name], grid=grid)


def _choosing(attributes: Mapping[str, Any]) -> str:
    """How a scatter reduces, behind its name, where it keeps the largest or least of what it is given."""
    reduction = attributes["reduction"].s.decode("utf-8", "replace") if "reduction" in attributes else ""
    return f" {reduction}" if reduction in ("max", "min") else ""


def _padded(names: Sequence[str]) -> tuple[str, str, str]:
    name, scale, zero = (*names, "", "")[:3]
    return name, scale, zero
