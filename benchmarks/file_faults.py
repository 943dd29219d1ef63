"""Faults put into real exported files, whatever the model: a TFLite flatbuffer or an ONNX proto, edited and saved.

Each fault takes a `Draft`, an opened copy of the file, and returns whether it applies. Values go back on the file's own
grid, or in its own floating point, as a converter would have stored them. Layers are the first, the middle and the last
by their place in the graph; randomness is seeded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import helper, numpy_helper

from parity.proof import tflite_graph as tflite
from parity.proof.graph import Array, Constant, Slot
from parity.proof.onnx_graph import OnnxArtefact

Edit = Callable[["Draft"], bool]


@dataclass(frozen=True)
class Layer:
    """A weight with its layout ("OHWI", "OI", "VD" for a table ...) and its bias, by the file's names."""

    name: str
    layout: str
    bias: str

    def axis(self, letter: str) -> int | None:
        return self.layout.index(letter) if letter in self.layout else None


class Draft:
    """A file in the hands of a fault. `values` are reals; `put` stores them as the file stores such a tensor."""

    def __init__(self, target: str, folder: Path, notes: Mapping[str, Any]):
        self.target, self.notes = target, notes
        artefact: Any = tflite.TFLiteArtefact(str(folder), notes) if target == "tflite" else None
        artefact = artefact or OnnxArtefact(str(folder), notes, ())
        self.graph = artefact.graph
        self.model = artefact._parse() if target == "tflite" else copy.deepcopy(artefact.model)
        self.place = {n: i for i, n in enumerate(artefact.names)} if target == "tflite" else {}
        self.now: dict[str, Array] = {}
        self.rng = np.random.default_rng(7)

    def layers(self, tables: bool = False) -> list[Layer]:
        found: list[tuple[int, Layer]] = []
        biases = {slot.weight: c.name for c in self.graph.constants.values() if (slot := c.slot("bias"))}
        for constant in self.graph.constants.values():
            slot: Slot | None = constant.slot("weight")
            if slot is not None and (slot.layout == "VD") == tables:
                found.append((slot.operator, Layer(constant.name, slot.layout, biases.get(constant.name, ""))))
        return [layer for _, layer in sorted(found, key=lambda pair: pair[0])]

    def values(self, name: str) -> Array:
        return self.now.get(name, self.graph.constants[name].real)

    def put(self, name: str, real: Array) -> bool:
        """Store `real`; returns whether anything that is stored became another."""
        constant: Constant = self.graph.constants[name]
        dtype = constant.stored.dtype
        stored = (constant.grid.nearest(real) if constant.grid else real).astype(dtype)
        self.now[name] = constant.grid.real(stored) if constant.grid else stored.astype(np.float64)
        self._store(name, stored)
        return not np.array_equal(stored, constant.stored)

    def put_integers(self, name: str, stored: Array) -> None:
        self._store(name, stored.astype(self.graph.constants[name].stored.dtype))

    def _store(self, name: str, stored: Array) -> None:
        if self.target == "tflite":
            tflite.put(self.model, self.model.subgraphs[0].tensors[self.place[name]], np.ascontiguousarray(stored))
        else:
            found = next(i for i in self.model.graph.initializer if i.name == name)
            found.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(stored), name))

    def save(self, folder: Path) -> None:
        file = folder / self.notes["entry"]
        if self.target == "tflite":
            file.write_bytes(tflite.pack(self.model))
        else:
            onnx.save(self.model, str(file))


# Which layer, and what is done to it.


def pick(draft: Draft, which: str) -> Layer | None:
    layers = draft.layers()
    place = {"first": 0, "middle": len(layers) // 2, "last": len(layers) - 1}[which]
    return layers[place] if layers else None


def weight(which: str, act: Callable[[Draft, Array, Layer], Array | None]) -> Edit:
    """Change the weight of one layer; `act` returns the new values, or None where it cannot be done."""

    def edit(draft: Draft) -> bool:
        layer = pick(draft, which)
        new = act(draft, draft.values(layer.name).copy(), layer) if layer else None
        return new is not None and layer is not None and draft.put(layer.name, new)

    return edit


def bias(which: str, act: Callable[[Draft, Array], Array]) -> Edit:
    def edit(draft: Draft) -> bool:
        layer = pick(draft, which)
        if layer is None or not layer.bias:
            return False
        return draft.put(layer.bias, act(draft, draft.values(layer.bias).copy()))

    return edit


def whole_layer(which: str, act: Callable[[Array, int], Array]) -> Edit:
    """Change weight and bias of a layer alike, along its outputs."""

    def edit(draft: Draft) -> bool:
        layer = pick(draft, which)
        axis = layer.axis("O") if layer else None
        if layer is None or axis is None:
            return False
        changed = draft.put(layer.name, act(draft.values(layer.name), axis))
        if layer.bias:
            changed |= draft.put(layer.bias, act(draft.values(layer.bias), 0))
        return changed

    return edit


def every(act: Callable[[Array], Array]) -> Edit:
    def edit(draft: Draft) -> bool:
        changed = [draft.put(layer.name, act(draft.values(layer.name))) for layer in draft.layers()]
        return any(changed)

    return edit


def stale(part: float) -> Callable[[Draft, Array, Layer], Array]:
    return lambda d, w, _: w + part * w.std() * d.rng.standard_normal(w.shape)


def dead(draft: Draft, w: Array, layer: Layer) -> Array | None:
    return _channel(w, layer, lambda c: c * 0)


def _channel(w: Array, layer: Layer, act: Callable[[Array], Array]) -> Array | None:
    """The strongest output channel changed."""
    axis = layer.axis("O")
    if axis is None:
        return None
    moved = np.moveaxis(w, axis, 0)
    strongest = int(np.abs(moved).reshape(len(moved), -1).sum(1).argmax())
    moved[strongest] = act(moved[strongest])
    return w


def _largest(w: Array, act: Callable[[float], float]) -> Array:
    w.flat[int(np.abs(w).argmax())] = act(float(w.flat[int(np.abs(w).argmax())]))
    return w


def halved(draft: Draft, w: Array, layer: Layer) -> Array:
    """An exponent bit of the largest value flipped."""
    return _largest(w, lambda v: v / 2)


def swapped(values: Array, axis: int) -> Array:
    order = list(range(values.shape[axis]))
    if len(order) < 2:
        return values
    order[0], order[len(order) // 2] = order[len(order) // 2], order[0]
    return np.take(values, order, axis)


def mirrored(draft: Draft, w: Array, layer: Layer) -> Array | None:
    axis = layer.axis("W")
    axis = axis if axis is not None and axis < w.ndim and w.shape[axis] > 1 else layer.axis("I")
    return np.flip(w, axis) if axis is not None and axis < w.ndim else None


def transposed(draft: Draft, w: Array, layer: Layer) -> Array | None:
    for a, b in (("H", "W"), ("O", "I")):
        i, j = layer.axis(a), layer.axis(b)
        if i is not None and j is not None and i < w.ndim and j < w.ndim and w.shape[i] == w.shape[j] > 1:
            return np.swapaxes(w, i, j)
    return None


def inputs_reversed(draft: Draft, w: Array, layer: Layer) -> Array | None:
    axis = layer.axis("I")
    return np.flip(w, axis) if axis is not None and axis < w.ndim and w.shape[axis] > 1 else None


def pruned(draft: Draft, w: Array, layer: Layer) -> Array:
    return np.where(np.abs(w) < np.quantile(np.abs(w), 0.2), 0.0, w)


def four_bits(draft: Draft, w: Array, layer: Layer) -> Array:
    step = np.abs(w).max() / 7
    return np.rint(w / step) * step


def ten_bits(w: Array) -> Array:
    step = np.abs(w).max() / 511
    return np.asarray(np.rint(w / step) * step)


def bfloat16(w: Array) -> Array:
    bits = w.astype(np.float32).view(np.uint32)
    return ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def exchanged(draft: Draft) -> bool:
    """Two layers of one shape hold each other's weights."""
    layers = draft.layers()
    for i, a in enumerate(layers):
        for b in layers[i + 1 :]:
            one, two = draft.values(a.name), draft.values(b.name)
            if one.shape == two.shape:
                return draft.put(a.name, two) | draft.put(b.name, one)
    return False


def rows_of_table(draft: Draft) -> bool:
    """Two rows of an embedding, or of the last layer's inputs where there is no table, exchanged."""
    tables = draft.layers(tables=True)
    if tables:
        return draft.put(tables[0].name, swapped(draft.values(tables[0].name), 0))
    layer = pick(draft, "last")
    axis = layer.axis("I") if layer else None
    if layer is None or axis is None:
        return False
    return draft.put(layer.name, swapped(draft.values(layer.name), axis))


def operand(act: Callable[[Array], Array], least: int = 1) -> Edit:
    """The largest constant of an element-wise operator (a norm's gain, a table of positions, a scale)."""

    def edit(draft: Draft) -> bool:
        found = [
            c for c in draft.graph.constants.values()
            if c.slots and not c.slot("weight", "bias") and (c.stored.dtype.kind == "f" or c.grid is not None)
            and c.stored.size >= least
        ]  # fmt: skip
        return bool(found) and draft.put((c := max(found, key=lambda c: c.stored.size)).name, act(c.real.copy()))

    return edit


def one_less(values: Array) -> Array:
    values.flat[0] = 0
    return values


# Grids of int8 files.


def scale_of(which: str, what: str, factor: float) -> Edit:
    """The scale of a weight's first channel, a bias, or the activation that a layer writes."""

    def edit(draft: Draft) -> bool:
        name = _gridded(draft, which, what)
        return name is not None and _grid(draft, name, factor, 0)

    return edit


def zero_of(which: str, by: int) -> Edit:
    def edit(draft: Draft) -> bool:
        name = _gridded(draft, which, "activation")
        return name is not None and _grid(draft, name, 1.0, by)

    return edit


def _gridded(draft: Draft, which: str, what: str) -> str | None:
    if which in ("input", "output"):
        port = (draft.graph.inputs if which == "input" else draft.graph.outputs)[0]
        return port.tensor if port.tensor in draft.graph.grids else None
    layer = pick(draft, which)
    if layer is None:
        return None
    if what == "activation":
        slot = draft.graph.constants[layer.name].slot("weight")
        name = draft.graph.operators[slot.operator].outputs[0]
        return name if name in draft.graph.grids else None
    name = layer.name if what == "weight" else layer.bias
    return name if name and draft.graph.constants[name].grid is not None else None


def _grid(draft: Draft, name: str, factor: float, by: int) -> bool:
    """In TFLite on the tensor; in ONNX in the initialisers of the nodes that read or write it."""
    if draft.target == "tflite":
        given = draft.model.subgraphs[0].tensors[draft.place[name]].quantization
        given.scale, given.zeroPoint = np.array(given.scale, np.float32), np.array(given.zeroPoint, np.int64)
        given.scale[0] *= np.float32(factor)
        given.zeroPoint[0] += by
        return True
    nodes = [n for n in draft.model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == name]
    for node in nodes[:1]:
        found = next(i for i in draft.model.graph.initializer if i.name == node.input[2 if by else 1])
        values = numpy_helper.to_array(found).copy()
        flat = values.reshape(-1)
        flat[0] = flat[0] + by if by else flat[0] * factor
        fresh = f"{found.name}/edited"
        draft.model.graph.initializer.append(numpy_helper.from_array(values, fresh))
        node.input[2 if by else 1] = fresh
    return bool(nodes)


# Structure.

_ACTIVATION = schema.ActivationFunctionType


def activation(to: str) -> Edit:
    """The first activation function lost, or another in its place."""

    def edit(draft: Draft) -> bool:
        if draft.target == "onnx":
            return _onnx_activation(draft, to)
        for op in draft.model.subgraphs[0].operators:
            options = op.builtinOptions
            fused = getattr(options, "fusedActivationFunction", 0)
            if fused:
                other = _ACTIVATION.RELU_N1_TO_1 if fused != _ACTIVATION.RELU_N1_TO_1 else _ACTIVATION.RELU6
                options.fusedActivationFunction = _ACTIVATION.NONE if to == "lost" else other
                return True
        swaps = {"RELU": "RELU6", "RELU6": "RELU", "LOGISTIC": "TANH", "TANH": "LOGISTIC", "HARD_SWISH": "RELU6"}
        for op in draft.model.subgraphs[0].operators:
            kind = tflite.kind(draft.model, op)
            if kind in swaps and to != "lost":
                return _become(draft, op, swaps[kind])
            if kind == "GELU" and to != "lost":
                op.builtinOptions.approximate = not op.builtinOptions.approximate
                return True
        return False

    return edit


def _onnx_activation(draft: Draft, to: str) -> bool:
    swaps = {"Relu": "LeakyRelu", "LeakyRelu": "Relu", "Sigmoid": "HardSigmoid", "Tanh": "Softsign", "Erf": "Tanh",
             "HardSigmoid": "Sigmoid", "HardSwish": "Relu", "PRelu": "", "Clip": ""}  # fmt: skip
    for node in draft.model.graph.node:
        if node.op_type in swaps and (to == "lost" or swaps[node.op_type]):
            name = "Identity" if to == "lost" else swaps[node.op_type]
            node.op_type = name
            del node.attribute[:]
            del node.input[1:]
            return True
    return False


def _become(draft: Draft, op: Any, name: str) -> bool:
    code = schema.OperatorCodeT()
    number = getattr(schema.BuiltinOperator, name)
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    draft.model.operatorCodes.append(code)
    op.opcodeIndex = len(draft.model.operatorCodes) - 1
    return True


def sum_to_difference(draft: Draft) -> bool:
    """The first sum of two activations (a residual connection) subtracts."""
    if draft.target == "onnx":
        stored = {i.name for i in draft.model.graph.initializer}
        read = {n.output[0]: n.input[0] for n in draft.model.graph.node if n.op_type == "DequantizeLinear"}
        for node in draft.model.graph.node:
            if node.op_type == "Add" and not any(read.get(i, i) in stored for i in node.input):
                node.op_type = "Sub"
                return True
        return False
    for op in draft.model.subgraphs[0].operators:
        names = [n for n, i in draft.place.items() if i in [int(x) for x in op.inputs]]
        if tflite.kind(draft.model, op) == "ADD" and not any(n in draft.graph.constants for n in names):
            options = schema.SubOptionsT()
            options.fusedActivationFunction = op.builtinOptions.fusedActivationFunction
            op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.SubOptions, options
            return _become(draft, op, "SUB")
    return False


def operands_exchanged(draft: Draft) -> bool:
    """The inputs of a concatenation, or else the factors of a matrix product or difference, in the other order."""
    wanted = ("Concat", "CONCATENATION", "Sub", "SUB")
    ops = draft.model.graph.node if draft.target == "onnx" else draft.model.subgraphs[0].operators
    for op in ops:
        kind = op.op_type if draft.target == "onnx" else tflite.kind(draft.model, op)
        inputs = list(op.input) if draft.target == "onnx" else [int(i) for i in op.inputs]
        if kind in wanted and len(inputs) >= 2 and inputs[0] != inputs[1]:
            if draft.target == "onnx":
                op.input[0], op.input[1] = inputs[1], inputs[0]
            else:
                op.inputs = np.array([inputs[1], inputs[0], *inputs[2:]], np.int32)
            return True
    return False


def padding(draft: Draft) -> bool:
    """All padding of the first padded convolution or pool at the end, as SAME at stride 2 pads."""
    if draft.target == "onnx":
        for node in draft.model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "pads" and any(attribute.ints):
                    half = len(attribute.ints) // 2
                    low, high = attribute.ints[:half], attribute.ints[half:]
                    attribute.ints[:] = [0] * half + [a + b for a, b in zip(low, high, strict=True)]
                    return True
        return False
    for op in draft.graph.operators:
        name = op.inputs[1] if op.kind in ("PAD", "PADV2") else ""
        if name in draft.graph.constants:
            pads = draft.graph.constants[name].stored.copy()
            pads[:, 1], pads[:, 0] = pads.sum(1), 0
            draft.put_integers(name, pads)
            return True
    return False


def scaled_input(factor: float, shift: float = 0.0) -> Edit:
    """The input multiplied or moved inside the file: 1/256 for 1/255, a mean twice. Only where the input is float."""

    def edit(draft: Draft) -> bool:
        if draft.target != "onnx":
            return False
        graph = draft.model.graph
        entry = next((i for i in graph.input if i.type.tensor_type.elem_type == onnx.TensorProto.FLOAT), None)
        if entry is None:
            return False
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name == entry.name:
                    node.input[place] = "seeded/input"
        for name, value in (("seeded/factor", factor), ("seeded/shift", shift)):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
        graph.node.insert(0, helper.make_node("Mul", [entry.name, "seeded/factor"], ["seeded/scaled"]))
        graph.node.insert(1, helper.make_node("Add", ["seeded/scaled", "seeded/shift"], ["seeded/input"]))
        return True

    return edit


def _times(factor: float) -> Callable[[Array, int], Array]:
    return lambda v, axis: v * factor


FAULTS: Mapping[str, Edit] = {
    "first layer stale": weight("first", stale(0.2)),
    "middle layer stale": weight("middle", stale(0.2)),
    "last layer stale": weight("last", stale(0.2)),
    "middle layer slightly stale": weight("middle", stale(0.05)),
    "channel dead": weight("middle", dead),
    "one sign, middle": weight("middle", lambda d, w, _: _largest(w, lambda v: -v)),
    "one sign, last": weight("last", lambda d, w, _: _largest(w, lambda v: -v)),
    "one bit flipped": weight("middle", halved),
    "two channels swapped": weight("middle", lambda d, w, x: swapped(w, x.axis("O") or 0)),
    "kernel mirrored": weight("middle", mirrored),
    "kernel transposed": weight("middle", transposed),
    "first layer transposed": weight("first", transposed),
    "input channels reversed": weight("first", inputs_reversed),
    "classes swapped": whole_layer("last", swapped),
    "labels rotated": whole_layer("last", lambda v, axis: np.roll(v, 1, axis)),
    "middle channels rotated": whole_layer("middle", lambda v, axis: np.roll(v, 1, axis)),
    "weights clipped": weight("middle", lambda d, w, _: np.clip(w, -1.5 * w.std(), 1.5 * w.std())),
    "weights pruned": weight("middle", pruned),
    "four bits": weight("middle", four_bits),
    "layer times 1.02": weight("middle", lambda d, w, _: w * 0.98),
    "channel times 0.9": weight("middle", lambda d, w, x: _channel(w, x, lambda c: c * 0.9)),
    "outputs times 0.95": whole_layer("last", _times(0.95)),
    "first bias dropped": bias("first", lambda d, b: b * 0),
    "middle bias dropped": bias("middle", lambda d, b: b * 0),
    "final bias dropped": bias("last", lambda d, b: b * 0),
    "bias sign": bias("middle", lambda d, b: -b),
    "biases rotated": bias("middle", lambda d, b: np.roll(b, 1)),
    "one bias off": bias("middle", lambda d, b: _largest(b, lambda v: 0.8 * v)),
    "two layers exchanged": exchanged,
    "two rows exchanged": rows_of_table,
    "ten bits": every(ten_bits),
    "bfloat16 weights": every(bfloat16),
    "half weights": every(lambda w: w.astype(np.float16).astype(np.float64)),
    "operand times 1.02": operand(lambda v: v * 0.98),
    "operand lost in one place": operand(one_less, least=2),
    "weight scale of one channel": scale_of("middle", "weight", 1.02),
    "bias scale of one channel": scale_of("middle", "bias", 1.02),
    "activation range halved": scale_of("middle", "activation", 0.5),
    "activation scale": scale_of("middle", "activation", 1.05),
    "activation zero point": zero_of("middle", 3),
    "input scale 255/256": scale_of("input", "", 255 / 256),
    "output scale": scale_of("output", "", 1.02),
    "activation function lost": activation("lost"),
    "activation function swapped": activation("other"),
    "sum to difference": sum_to_difference,
    "operands exchanged": operands_exchanged,
    "padding at the end": padding,
    "1/256 for 1/255": scaled_input(255 / 256),
    "mean twice": scaled_input(1.0, -0.1),
}


def drafts(target: str, folder: Path, notes: Mapping[str, Any], work: Path) -> Iterator[tuple[str, Path]]:
    """Every fault that applies, with the folder of the faulty file."""
    for name, edit in FAULTS.items():
        draft = Draft(target, folder, notes)
        if edit(draft):
            place = work / name.replace(" ", "_").replace("/", "_").replace(",", "")
            place.mkdir(parents=True, exist_ok=True)
            draft.save(place)
            yield name, place
