"""Faults made in the file itself: a TFLite flatbuffer or an ONNX proto edited with NumPy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from parity.formats.tflite import graph as tflite


@dataclass(frozen=True)
class Edit:
    """A change to an int8 file of `skin`, the links one of which must name `culprit`."""

    name: str
    change: Callable[[Any], None]
    links: str
    culprit: str


def edited(folder: Path, work: Path, edit: Edit) -> Path:
    """A copy of the artefact in `folder` with the edit."""
    target = work / edit.name.replace(" ", "_").replace("/", "_")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    file = target / json.loads((folder / "manifest.json").read_text())["notes"]["entry"]
    if file.suffix == ".tflite":
        model = tflite.schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
        edit.change(model)
        file.write_bytes(tflite.pack(model))
    else:
        model = onnx.load(str(file))
        edit.change(model)
        onnx.save(model, str(file))
    return target


# TFLite: the nth operator of a kind, and its tensors.


def _operator(model: Any, kind: str, number: int) -> Any:
    return [op for op in model.subgraphs[0].operators if tflite.kind(model, op) == kind][number]


def _tensor(model: Any, kind: str, number: int, slot: int) -> Any:
    op = _operator(model, kind, number)
    return model.subgraphs[0].tensors[int(op.inputs[slot] if slot >= 0 else op.outputs[0])]


def _stored(kind: str, number: int, slot: int, act: Callable[[np.ndarray], None]) -> Callable[[Any], None]:
    """Change the stored integers of a constant."""

    def change(model: Any) -> None:
        tensor = _tensor(model, kind, number, slot)
        values = np.array(tflite.constant(model, tensor))
        act(values)
        tflite.put(model, tensor, values)

    return change


def _grid(kind: str, number: int, slot: int, act: Callable[[Any], None]) -> Callable[[Any], None]:
    """Change the scale or zero point of a tensor."""

    def change(model: Any) -> None:
        given = _tensor(model, kind, number, slot).quantization
        given.scale, given.zeroPoint = np.array(given.scale, np.float32), np.array(given.zeroPoint, np.int64)
        act(given)

    return change


def _times(values: np.ndarray, index: Any, factor: float) -> None:
    values[index] = values[index] * np.float32(factor)


def _set(values: np.ndarray, index: Any, value: Any) -> None:
    values[index] = value


def _nudge(values: np.ndarray) -> None:
    """One step towards zero, so that it stays on the grid."""
    values.flat[8] += 1 if values.flat[8] < 0 else -1


def _same_padding(model: Any) -> None:
    """Drop the PAD before a convolution of stride 2 and let the convolution pad by SAME."""
    graph = model.subgraphs[0]
    pads = [op for op in graph.operators if tflite.kind(model, op) in ("PAD", "PADV2")]
    pad = pads[0]
    reader = next(op for op in graph.operators if int(pad.outputs[0]) in [int(i) for i in op.inputs])
    reader.inputs = np.array([pad.inputs[0], *reader.inputs[1:]], np.int32)
    reader.builtinOptions.padding = tflite.schema.Padding.SAME
    graph.operators = [op for op in graph.operators if op is not pad]


def _swap_rows(values: np.ndarray) -> None:
    values[[2, 5]] = values[[5, 2]]


def _worse_range(model: Any) -> None:
    """An eighth of the reach for one activation, as a calibration that missed its large values would give."""
    tensor = _tensor(model, "CONV_2D", 3, -1)
    tensor.quantization.scale = np.array(tensor.quantization.scale, np.float32) * np.float32(0.125)


def _rescaled(factor: float) -> Callable[[Any], None]:
    return _grid("CONV_2D", 3, -1, lambda q: _times(q.scale, 0, factor))


def _shifted(by: int) -> Callable[[Any], None]:
    return _grid("CONV_2D", 3, -1, lambda q: _set(q.zeroPoint, 0, q.zeroPoint[0] + by))


_nudged = _stored("CONV_2D", 7, 1, lambda v: _nudge(v))
_flipped = _stored("CONV_2D", 7, 1, lambda v: v.flat.__setitem__(8, v.flat[8] ^ 64))

TFLITE = (
    Edit("weight scale off by 1 %", _grid("CONV_2D", 4, 1, lambda q: _times(q.scale, 3, 1.01)), "audit", "features.2"),
    Edit("weight zero point off by one", _grid("CONV_2D", 4, 1, lambda q: _set(q.zeroPoint, 3, 1)), "audit",
         "features.2"),
    Edit("bias scale off by 1 %", _grid("CONV_2D", 4, 2, lambda q: _times(q.scale, 3, 1.01)), "audit", "features.2.0"),
    Edit("bias scale per tensor", _grid("CONV_2D", 6, 2, lambda q: q.scale.fill(q.scale.mean())), "audit", "features."),
    Edit("stored weight off by one step", _nudged, "audit", "features.2.0.block.3.0.weight"),
    Edit("stored weight bit flip", _flipped, "audit", "features.2.0.block.3.0.weight"),
    Edit("stored bias zero", _stored("FULLY_CONNECTED", 0, 2, lambda v: v.fill(0)), "audit", "classifier.1.bias"),
    Edit("stored bias off by two steps", _stored("FULLY_CONNECTED", 0, 2, lambda v: _set(v, 3, v[3] + 2)), "audit",
         "classifier.1.bias"),
    Edit("stored rows swapped", _stored("FULLY_CONNECTED", 0, 1, _swap_rows), "audit", "classifier.1.weight"),
    Edit("scale zero", _grid("LOGISTIC", 3, -1, lambda q: q.scale.fill(0)), "audit", "Sigmoid"),
    Edit("zero point out of range", _grid("MUL", 5, -1, lambda q: q.zeroPoint.fill(200)), "audit", "Mul"),
    Edit("SAME padding in the file", _same_padding, "lift", "features.0.0.weight"),
    Edit("range of one activation too small", _worse_range, "range", "tf.math"),
    Edit("activation scale off by 2 %", _rescaled(1.02), "range", "tf.math"),
    Edit("activation zero point off by three", _shifted(3), "range", "tf.math"),
    Edit("output scale off by 5 %", _grid("FULLY_CONNECTED", 0, -1, lambda q: _times(q.scale, 0, 1.05)), "range", ""),
)  # fmt: skip


# ONNX: initialisers by name.


def _initializer(name: str, act: Callable[[np.ndarray], np.ndarray | None]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        found = next(i for i in model.graph.initializer if name in i.name)
        values = numpy_helper.to_array(found).copy()
        new = act(values)
        found.CopyFrom(numpy_helper.from_array(values if new is None else new, found.name))

    return change


_FC1 = "features.3.1.block.2.fc1"
ONNX = (
    Edit("weight scale off by 1 %", _initializer(f"{_FC1}.weight_scale", lambda v: _times(v, 3, 1.01)), "audit", _FC1),
    Edit("weight zero point off by one", _initializer(f"{_FC1}.weight_zero_point", lambda v: _set(v, 3, 1)),
         "audit", _FC1),
    Edit("bias scale off by 1 %", _initializer(f"{_FC1}.bias_quantized_scale", lambda v: _times(v, 3, 1.01)), "audit",
         _FC1),
    Edit("stored weight off by one step", _initializer(f"{_FC1}.weight_quantized", _nudge), "audit", _FC1),
    Edit("stored bias zero", _initializer("classifier.1.bias_quantized", lambda v: v.fill(0)), "audit", "classifier.1"),
    Edit("stored rows swapped", _initializer("classifier.1.weight_quantized", _swap_rows), "audit", "classifier.1"),
    Edit("scale infinite", _initializer("classifier.1.weight_scale", lambda v: v.fill(np.inf)), "audit",
         "classifier.1"),
)  # fmt: skip
