"""Messages between the test process and its children: JSON with raw arrays behind it. No pickle, so a child cannot
make the parent run code. Shared by both ends; imports NumPy and the standard library only."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from parity.core import strict_json

_HEAD = struct.Struct("<4sIQ")  # magic, header bytes, array bytes
_MAGIC = b"prt1"
MAX_HEADER = 256 << 20
MAX_BODY = 64 << 30
_MARKS = ({"__array__"}, {"__float__"}, {"__map__"})  # a caller's dict with such a key alone goes inside "__map__"


def encode(message: Any) -> list[bytes | memoryview]:
    """The message as byte pieces to write in order. Holds builtins, and ndarrays of any numeric dtype and shape."""
    arrays: list[np.ndarray[Any, Any]] = []
    header = json.dumps({"m": _strip(message, arrays), "a": [[a.dtype.str, list(a.shape)] for a in arrays]}).encode()
    pieces: list[bytes | memoryview] = [
        _HEAD.pack(_MAGIC, len(header), sum(a.nbytes for a in arrays)),
        header,
    ]
    pieces += [a.reshape(-1).view(np.uint8).data for a in arrays if a.nbytes]
    return pieces


def _strip(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject or value.dtype.kind not in "biufc":
            raise TypeError(f"cannot send an array of dtype {value.dtype}")
        arrays.append(np.asarray(value, order="C"))
        return {"__array__": len(arrays) - 1}
    if isinstance(value, np.generic):
        return _strip(value.item(), arrays)
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": repr(value)}
    if isinstance(value, Mapping):
        entries = {str(k): _strip(v, arrays) for k, v in value.items()}
        return {"__map__": entries} if entries.keys() in _MARKS else entries
    if isinstance(value, (list, tuple)):
        return [_strip(v, arrays) for v in value]
    return value


def decode(read: Callable[[int], bytes]) -> Any:
    """The next message, where `read(n)` returns exactly n bytes. Raises ValueError for anything malformed."""
    magic, header_bytes, body_bytes = _HEAD.unpack(read(_HEAD.size))
    if magic != _MAGIC or header_bytes > MAX_HEADER or body_bytes > MAX_BODY:
        raise ValueError("not a message")
    text = read(header_bytes)
    try:
        header = strict_json.loads(text)
        layouts = [_layout(code, shape) for code, shape in header["a"]]
        if sum(size for _, _, size in layouts) != body_bytes:
            raise ValueError("arrays do not fit their message")
        arrays: list[np.ndarray[Any, Any]] = []
        body, at = memoryview(read(body_bytes)), 0
        for dtype, shape, size in layouts:
            arrays.append(np.ndarray(shape, dtype, body[at : at + size] if size else b""))
            at += size
        return _fill(header["m"], arrays)
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"malformed message: {error}") from None


def _layout(code: str, shape: list[int]) -> tuple[np.dtype[Any], list[int], int]:
    """dtype, shape and bytes of an array as its header says, when they make sense."""
    dtype = np.dtype(code)
    if not isinstance(code, str) or dtype.kind not in "biufc" or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("not an array of numbers")
    return dtype, shape, math.prod(shape) * dtype.itemsize


def _fill(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"__array__"}:
            index = value["__array__"]
            if type(index) is not int or not 0 <= index < len(arrays):
                raise ValueError("no such array")
            return arrays[index]
        if value.keys() == {"__float__"}:
            return float(value["__float__"])
        if value.keys() == {"__map__"}:
            value = value["__map__"]
        return {k: _fill(v, arrays) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, arrays) for v in value]
    return value
