"""Messages between the test process and its children: JSON with raw arrays behind it. No pickle, so a child cannot
make the parent run code. Shared by both ends; imports NumPy and the standard library only."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_HEAD = struct.Struct("<4sIQ")  # magic, header bytes, array bytes
_MAGIC = b"prt1"
MAX_HEADER = 256 << 20


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
        return {str(k): _strip(v, arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strip(v, arrays) for v in value]
    return value


def decode(read: Callable[[int], bytes]) -> Any:
    """The next message, where `read(n)` returns exactly n bytes. Raises ValueError for anything malformed."""
    magic, header_bytes, body_bytes = _HEAD.unpack(read(_HEAD.size))
    if magic != _MAGIC or header_bytes > MAX_HEADER:
        raise ValueError("not a message")
    header = json.loads(read(header_bytes))
    body = memoryview(read(body_bytes))
    arrays, at = [], 0
    for code, shape in header["a"]:
        dtype = np.dtype(code)
        size = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "biufc" or size < 0 or at + size > len(body):
            raise ValueError("array does not fit its message")
        arrays.append(np.frombuffer(body[at : at + size], dtype).reshape(shape))
        at += size
    return _fill(header["m"], arrays)


def _fill(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            return arrays[value["__array__"]]
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {k: _fill(v, arrays) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, arrays) for v in value]
    return value
