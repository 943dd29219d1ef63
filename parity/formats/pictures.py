"""How a file's own metadata says that a picture becomes its input, which apps may follow. Reads bytes and text only."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_NORMALISED, _IMAGE = 1, 2  # NormalizationOptions and ImageProperties in the unions of TFLite's metadata schema
_COLORS = {1: "RGB", 2: "L"}  # ColorSpaceType of that schema
_FORMATS = {"Gray8": "L", "Gray16": "L", "Rgb8": "RGB", "Bgr8": "BGR", "Rgba8": "RGB", "Bgra8": "BGR"}
_RANGES = {  # Image.NominalPixelRange of ONNX: what the darkest and the brightest pixel become
    "NominalRange_0_255": (0.0, 255.0),
    "NominalRange_16_235": (16.0, 235.0),
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (-1.0, 1.0),
}
_FLOAT = np.dtype("<f4")


def stated(color: str, low: list[float], high: list[float], text: str) -> dict[str, Any]:
    """What metadata states: colour, and for each channel what pixels of 0 and 255 become; empty where it says neither.

    `text` is how the file says it.
    """
    return {"color": color, "low": low, "high": high, "text": text} if color or low else {}


def of_onnx(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the properties of an ONNX file state, as ONNX's MetadataProps.md defines them."""
    color = _FORMATS.get(metadata.get("Image.BitmapPixelFormat", ""), "")
    span = _RANGES.get(metadata.get("Image.NominalPixelRange", ""))
    keys = ("Image.BitmapPixelFormat", "Image.NominalPixelRange")
    text = ", ".join(metadata[key] for key in keys if metadata.get(key))
    return stated(color, [span[0]] if span else [], [span[1]] if span else [], text)


def of_tflite(content: bytes) -> dict[str, Any]:
    """What TFLITE_METADATA of a file states of its first input that is a picture; empty where it says nothing, or is
    broken."""
    from ai_edge_litert import schema_py_generated as schema

    try:
        model = schema.Model.GetRootAsModel(content, 0)
        for index in range(model.MetadataLength()):
            entry = model.Metadata(index)
            if entry.Name() == b"TFLITE_METADATA":
                return _of_tensors(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    except (struct.error, IndexError, ValueError, TypeError, AttributeError):
        return {}
    return {}


def _of_tensors(content: bytes) -> dict[str, Any]:
    from flatbuffers.table import Table

    root = Table(content, struct.unpack_from("<I", content)[0])
    for graph in _tables(root, 3):  # SubGraphMetadata
        for tensor in _tables(graph, 2):  # TensorMetadata of the inputs
            held = next(filter(None, (_union(unit, 0, _NORMALISED) for unit in _tables(tensor, 4))), None)
            mean, std = (_floats(held, slot) for slot in (0, 1)) if held is not None else ([], [])
            color = _color(tensor)
            if len(mean) != len(std) or 0 in std:
                mean, std = [], []
            low = [-m / s for m, s in zip(mean, std, strict=True)]
            high = [(255 - m) / s for m, s in zip(mean, std, strict=True)]
            normalised = f"mean {_text(mean)}, std {_text(std)} of pixels" if mean else ""
            if picture := stated(color, low, high, ", ".join(filter(None, (color, normalised)))):
                return picture
    return {}


def _color(tensor: Any) -> str:
    content = _table(tensor, 3)
    image = _union(content, 0, _IMAGE) if content is not None else None
    place = image.Offset(4) if image is not None else 0
    return _COLORS.get(image.Bytes[image.Pos + place], "") if image is not None and place else ""


def _text(values: list[float]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _offset(table: Any, slot: int) -> int:
    return int(table.Offset(4 + 2 * slot))


def _table(table: Any, slot: int) -> Any | None:
    from flatbuffers.table import Table

    place = _offset(table, slot)
    return Table(table.Bytes, table.Indirect(table.Pos + place)) if place else None


def _union(table: Any, slot: int, kind: int) -> Any | None:
    """The table of a union, whose type stands in the slot before it, where it is of a kind."""
    place = _offset(table, slot)
    return _table(table, slot + 1) if place and table.Bytes[table.Pos + place] == kind else None


def _tables(table: Any, slot: int) -> Iterator[Any]:
    from flatbuffers.table import Table

    if place := _offset(table, slot):
        start = table.Vector(place)
        for index in range(table.VectorLen(place)):
            yield Table(table.Bytes, table.Indirect(start + 4 * index))


def _floats(table: Any, slot: int) -> list[float]:
    if not (place := _offset(table, slot)):
        return []
    count = table.VectorLen(place)
    return [float(v) for v in np.frombuffer(table.Bytes, _FLOAT, count, table.Vector(place))]
