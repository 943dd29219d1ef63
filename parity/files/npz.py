"""NumPy files that anybody may have made: numbers only, and never more memory than the file is worth. NumPy only."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
MOST_BYTES = 4 << 30  # of one archive, unpacked
SUSPICIOUS, MOST_TIMES = 256 << 20, 100  # what unpacks to this much, and to this many times its size, is a bomb


def load(source: Path | BinaryIO) -> dict[str, Array]:
    """The arrays of an .npz by name. Raises OSError, and ValueError for everything that is no archive of numbers."""
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            size, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
            if size > MOST_BYTES or (size > SUSPICIOUS and size > MOST_TIMES * packed):
                raise ValueError(f"unpacks to {size / (1 << 30):.1f} GiB, from {packed / (1 << 20):.1f} MiB")
            if len({m.filename for m in members}) != len(members):
                raise ValueError("holds two arrays of one name")
            return {(name := m.filename.removesuffix(".npy")): _named(name, archive.read(m)) for m in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError) as error:
        raise ValueError(_first_line(error)) from None
    except MemoryError:
        raise ValueError("does not fit into memory") from None


def _named(name: str, data: bytes) -> Array:
    try:
        return array(data)
    except ValueError as error:
        raise ValueError(f"{name!r:.80}: {error}") from None


def array(data: bytes) -> Array:
    """The array of numbers in the bytes of an .npy file; the header must fit the bytes. Raises ValueError."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
        header: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
    except Exception as error:  # the header is Python text, and its parser raises whatever it likes
        raise ValueError(f"not a NumPy array ({_first_line(error)})") from None
    rest = len(data) - stream.tell()
    if dtype.kind not in "biuf" or min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != rest:
        raise ValueError("not an array of numbers whose header fits it")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:160]
