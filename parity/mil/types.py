"""The data types of Core ML programs, and how the bytes of each become a numpy array."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.mil.errors import CorruptPackage

Array = npt.NDArray[Any]

ELEMENT_LIMIT = 2**31
"""No value of a program may have more elements than this: a damaged shape must not ask for all memory."""


@dataclass(frozen=True)
class DataType:
    """One element type: ``kind`` is ``float``, ``int``, ``bool`` or ``string``; ``bits`` is its stored width."""

    name: str
    kind: str
    bits: int
    signed: bool = True

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and largest integer that the type holds."""
        if self.signed:
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy type that holds one element; types below 8 bits use a byte."""
        if self.kind == "float":
            return np.dtype(f"f{self.bits // 8}")
        if self.kind == "bool":
            return np.dtype(np.bool_)
        return np.dtype(f"{'i' if self.signed else 'u'}{max(self.bits, 8) // 8}")

    def byte_count(self, elements: int) -> int:
        """How many bytes ``elements`` elements take in a file; sub-byte elements are packed."""
        return -(-elements * self.bits // 8)

    def unpack(self, raw: bytes, elements: int) -> Array:
        """``elements`` elements from their stored bytes; below 8 bits, least significant bits come first."""
        if len(raw) != self.byte_count(elements):
            raise CorruptPackage(
                f"{elements} elements of {self.name} need {self.byte_count(elements)} bytes, found {len(raw)}"
            )
        if self.bits >= 8:
            return np.frombuffer(raw, self.numpy.newbyteorder("<"), elements).astype(self.numpy, copy=False)
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[: elements * self.bits]
        codes = (bits.reshape(elements, self.bits).astype(np.int32) << np.arange(self.bits)).sum(1)
        if self.signed:
            codes = np.where(codes >= 1 << (self.bits - 1), codes - (1 << self.bits), codes)
        packed: Array = codes.astype(self.numpy)
        return packed


def _integer(name: str, bits: int) -> DataType:
    return DataType(name, "int", bits, signed=not name.startswith("u"))


STRING = DataType("string", "string", 0)
BOOL = DataType("bool", "bool", 8)
FP16, FP32, FP64 = DataType("fp16", "float", 16), DataType("fp32", "float", 32), DataType("fp64", "float", 64)

# The numbers of the enum DataType in coremltools' MIL.proto.
MIL_TYPES: dict[int, DataType] = {
    1: BOOL,
    2: STRING,
    10: FP16,
    11: FP32,
    12: FP64,
    21: _integer("int8", 8),
    22: _integer("int16", 16),
    23: _integer("int32", 32),
    24: _integer("int64", 64),
    25: _integer("int4", 4),
    31: _integer("uint8", 8),
    32: _integer("uint16", 16),
    33: _integer("uint32", 32),
    34: _integer("uint64", 64),
    35: _integer("uint4", 4),
    36: _integer("uint2", 2),
    37: _integer("uint1", 1),
    38: _integer("uint6", 6),
    39: _integer("uint3", 3),
}
BY_NAME: dict[str, DataType] = {t.name: t for t in MIL_TYPES.values()}


@dataclass(frozen=True)
class TensorType:
    """A declared tensor: element type and shape. ``None`` is a size, or a whole shape, known only at run time."""

    dtype: DataType
    shape: tuple[int | None, ...] | None

    @classmethod
    def of(cls, proto: Any) -> TensorType:
        """From MIL.proto's ``TensorType``."""
        dtype = MIL_TYPES.get(proto.dataType)
        if dtype is None:
            raise CorruptPackage(f"unknown element type number {proto.dataType}")
        if any(d.WhichOneof("dimension") == "unknown" and d.unknown.variadic for d in proto.dimensions):
            return cls(dtype, None)
        shape = tuple(d.constant.size if d.WhichOneof("dimension") == "constant" else None for d in proto.dimensions)
        if math.prod(n for n in shape if n) > ELEMENT_LIMIT:
            raise CorruptPackage(f"a value of shape {list(shape)} is declared: too large to be real")
        return cls(dtype, shape)

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a value of this shape is what was declared."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            d is None or d == n for d, n in zip(self.shape, shape, strict=True)
        )

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape of a value whose every size must be known, such as a constant or a state."""
        if self.shape is None or any(n is None for n in self.shape):
            raise CorruptPackage("a constant or a state is declared with an unknown shape")
        return tuple(n for n in self.shape if n is not None)
