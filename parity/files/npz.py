"""NumPy files that anybody may have made: numbers only, and never more memory than the file is worth."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from parity.files import archives

Array = np.ndarray[Any, np.dtype[Any]]
T = TypeVar("T")
MOST_BYTES = 4 << 30  # of one archive, unpacked

_MOST_HEADER = 1 << 14  # bytes; NumPy itself reads no header of more than 10,000
_NUMBERS = "biufc"  # kinds of dtype


def load(source: Path | BinaryIO, most_bytes: int = MOST_BYTES) -> dict[str, Array]:
    """The arrays of an .npz by name. Nothing is unpacked before the sizes of all of them are known and right.

    `most_bytes`: of all arrays together. Raises OSError, and ValueError for everything that is no archive of numbers.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            archives.check_sizes(members, most_bytes)
            for member in members:
                with archive.open(member) as stream:
                    head = stream.read(_MOST_HEADER)
                _named(member, head, partial(_header, size=member.file_size))
            return {_name(m): _named(m, archive.read(m), array) for m in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError) as error:
        raise ValueError(_first_line(error)) from None
    except MemoryError:
        raise ValueError("does not fit into memory") from None


def names(path: Path) -> frozenset[str]:
    """The names of an .npz's arrays, of which none is read; none where the file is no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(map(_name, archive.infolist()))
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return frozenset()


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each array in an .npz, by name; none where the file is no archive of numbers."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for member in archive.infolist():
                with archive.open(member) as stream:
                    found[_name(member)] = _header(stream.read(_MOST_HEADER), member.file_size)[0]
            return found
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError):
        return {}


def extent(path: Path, name: str) -> tuple[float, float] | None:
    """The least and the largest number of one array in an .npz, of which no other is read; None where there is no such
    array, or no number in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            (member,) = [member for member in archive.infolist() if _name(member) == name]
            archives.check_sizes([member], MOST_BYTES)
            values = array(archive.read(member))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError):
        return None
    return (float(values.min()), float(values.max())) if values.size and values.dtype.kind in "biuf" else None


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _named(member: zipfile.ZipInfo, data: bytes, read: Callable[[bytes], T]) -> T:
    try:
        return read(data)
    except ValueError as error:
        raise ValueError(f"{_name(member)!r:.80}: {error}") from None


def array(data: bytes) -> Array:
    """The array of numbers in the bytes of an .npy file; the header must fit the bytes. Raises ValueError."""
    shape, fortran, dtype, start = _header(data, len(data))
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


def _header(data: bytes, size: int) -> tuple[tuple[int, ...], bool, Any, int]:
    """(shape, whether in Fortran's order, dtype, offset of the numbers) that the first bytes of an .npy file state.

    Raises ValueError where they do not state numbers that fill a file of `size` bytes.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
        header: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
    except Exception as error:  # the header is Python text, and its parser raises whatever it likes
        raise ValueError(f"not a NumPy array ({_first_line(error)})") from None
    rest = size - stream.tell()
    if dtype.kind not in _NUMBERS or min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != rest:
        raise ValueError("not an array of numbers whose header fits it")
    return shape, fortran, dtype, stream.tell()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:160]
