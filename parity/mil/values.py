"""Constants of a program: MIL.proto's ``Value`` as numpy arrays, strings, lists and dictionaries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from parity.mil.errors import CorruptPackage
from parity.mil.package import Package
from parity.mil.types import Array, TensorType

Constant = Array | str | list[Any] | dict[Any, Any]


def decode(value: Any, package: Package) -> Constant:
    """The constant that a ``Value`` holds: immediate, or in a weight file of ``package``."""
    kind = value.type.WhichOneof("type")
    if kind == "listType":
        return [decode(v, package) for v in value.immediateValue.list.values]
    if kind == "dictionaryType":
        pairs = value.immediateValue.dictionary.values
        return {_key(decode(p.key, package)): decode(p.value, package) for p in pairs}
    if kind != "tensorType":
        raise CorruptPackage(f"a constant of kind {kind} cannot be read")
    declared = TensorType.of(value.type.tensorType)
    if value.WhichOneof("value") == "blobFileValue":
        reference = value.blobFileValue
        count = math.prod(declared.static_shape)
        raw = package.weight_file(reference.fileName).read(reference.offset, declared.dtype, count)
        return raw.reshape(declared.static_shape)
    return _immediate(value.immediateValue.tensor, declared)


def _key(key: Constant) -> Any:
    if isinstance(key, np.ndarray):
        return key.item() if key.size == 1 else tuple(key.tolist())
    return key if isinstance(key, str) else str(key)


def _immediate(tensor: Any, declared: TensorType) -> Constant:
    shape, dtype = declared.static_shape, declared.dtype
    count = math.prod(shape)
    field = tensor.WhichOneof("value")
    stored = getattr(tensor, field).values if field else []
    if dtype.kind == "string":
        if len(stored) != count or field not in (None, "strings"):
            raise CorruptPackage(f"a string constant holds {len(stored)} values, {count} are declared")
        return str(stored[0]) if not shape else [str(s) for s in stored]
    if field is None and count:
        raise CorruptPackage(f"a constant of shape {list(shape)} holds no value")
    if field == "bytes":
        return dtype.unpack(bytes(stored), count).reshape(shape)
    if field == "strings" or len(stored) != count:
        raise CorruptPackage(f"a constant of shape {list(shape)} holds {len(stored)} values")
    wide = np.array(stored, dtype=np.float64 if field in ("floats", "doubles") else np.int64)
    if dtype.kind == "int" and count and not dtype.limits[0] <= wide.min() <= wide.max() <= dtype.limits[1]:
        raise CorruptPackage(f"a constant of type {dtype.name} holds {wide.min()} to {wide.max()}")
    with np.errstate(over="ignore"):
        return wide.astype(dtype.numpy).reshape(shape)
