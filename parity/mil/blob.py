"""The weight file of a package (``weights/weight.bin``), read with suspicion.

Layout, version 2 (coremltools ``mlmodel/src/MILBlob/Blob/StorageFormat.hpp``): a 64-byte header with the
number of blobs and the version, then for each blob a 64-byte record, aligned to 64 bytes, that says where
its data is. A record holds the sentinel 0xDEADBEEF, element type, size and offset of the data, and the
unused bits of the last byte. The whole chain is walked once when the file is opened, so a truncated or
overlapping file is refused before any weight is used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity.mil.errors import CorruptPackage
from parity.mil.types import Array, DataType

SENTINEL = 0xDEADBEEF
ALIGNMENT = 64
# The numbers of the enum BlobDataType in MILBlob/Blob/BlobDataType.hpp.
BLOB_TYPES = {
    1: "fp16",
    2: "fp32",
    3: "uint8",
    4: "int8",
    5: "bf16",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}


@dataclass(frozen=True)
class Blob:
    """Where one weight lies in the file: its element type, and its data's size and offset in bytes."""

    dtype: str
    size: int
    data: int
    padding_bits: int


class BlobFile:
    """An open weight file. ``blobs`` maps the offset of each record, as programs refer to it, to its blob."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._bytes: Array = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise CorruptPackage(f"weight file {path.name} cannot be read: {error}") from error
        if len(self._bytes) < ALIGNMENT:
            raise CorruptPackage(f"weight file {path.name} is truncated: no header")
        count, version = struct.unpack("<II", self._bytes[:8].tobytes())
        if version != 2:
            raise CorruptPackage(f"weight file {path.name} has version {version}; only 2 is known")
        self.blobs = self._walk(count)

    def _walk(self, count: int) -> dict[int, Blob]:
        blobs: dict[int, Blob] = {}
        position = ALIGNMENT
        for number in range(count):
            record = self._bytes[position : position + ALIGNMENT].tobytes()
            if len(record) < ALIGNMENT:
                raise CorruptPackage(f"weight file {self.path.name} is truncated: {number} of {count} weights")
            sentinel, code, size, data, padding = struct.unpack("<IIQQQ", record[:32])
            if sentinel != SENTINEL:
                raise CorruptPackage(f"weight file {self.path.name}: no weight at offset {position}")
            if data < position + ALIGNMENT:
                raise CorruptPackage(f"weight file {self.path.name}: weights overlap at offset {position}")
            if data + size > len(self._bytes):
                raise CorruptPackage(
                    f"weight file {self.path.name} is truncated: weight at offset {position} ends at byte "
                    f"{data + size}, the file at {len(self._bytes)}"
                )
            blobs[position] = Blob(BLOB_TYPES.get(code, f"type number {code}"), size, data, padding)
            position = -(-(data + size) // ALIGNMENT) * ALIGNMENT
        return blobs

    def read(self, offset: int, dtype: DataType, elements: int) -> Array:
        """The weight whose record is at ``offset``, which the program says has this type and element count."""
        blob = self.blobs.get(offset)
        if blob is None:
            raise CorruptPackage(f"weight file {self.path.name}: no weight at offset {offset}")
        if blob.dtype != dtype.name:
            raise CorruptPackage(f"weight at offset {offset} is stored as {blob.dtype}, the program says {dtype.name}")
        # Before there were types below a byte, coremltools left memory of its process in the place of the unused bits.
        unused = blob.padding_bits if dtype.bits < 8 else 0
        if blob.size * 8 - unused != elements * dtype.bits:
            raise CorruptPackage(
                f"weight at offset {offset}: {blob.size} bytes are stored, {elements} elements of {dtype.name} "
                f"need {dtype.byte_count(elements)}"
            )
        return dtype.unpack(self._bytes[blob.data : blob.data + blob.size].tobytes(), elements)
