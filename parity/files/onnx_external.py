"""The files beside an ONNX file that hold its weights, read without `onnx`. Standard library only.

A tensor may say `location`, a path from which a runtime reads its bytes. Nothing in the format keeps that path in the
folder of the file, and ONNX Runtime 1.23 follows it wherever it leads. So the paths are read here first, from the
bytes of the protobuf: every field of a message is looked at, also one that is given twice, and more than a runtime
would read is looked at rather than less.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from parity.core.errors import ParityError

# Message -> the fields that lead to tensors, with the message in them (onnx.proto).
_INNER: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 6: "graph", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2  # fields of an entry
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4 only bracket fields


def external_files(path: Path) -> tuple[Path, ...]:
    """The files that hold tensors of the ONNX file `path`, each once, sorted; their paths
    begin with the file's folder and have no `..`.

    Raises ParityError, one line, for a path that leaves the file's folder (by `..`, by its root, or by a link), for one
    where no file is, and for a file that is no ONNX file. Where the file itself is a link, as in the cache of a model
    hub, its weights may also be beside what it links to.
    """
    try:
        locations = _locations(path)
        homes = {path.parent.resolve(), path.resolve().parent}
        return tuple(sorted({_inside(path, location, homes) for location in locations}))
    except OSError as error:
        raise ParityError(f"{path.name}: cannot be read: {error.strerror or error}") from None


def _inside(path: Path, location: str, homes: set[Path]) -> Path:
    shown = f"{location!r:.80}"
    file = path.parent / os.path.normpath(location)
    try:
        real = (path.parent / location).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        real = None
    outside = real is not None and not any(real.is_relative_to(home) for home in homes)
    if outside or Path(location).is_absolute() or file.is_relative_to(path.parent / ".."):
        raise ParityError(f"{path.name}: keeps weights in {shown}, outside its own folder; refused")
    if real is None or not real.is_file() or file.resolve() != real:
        raise ParityError(f"{path.name}: keeps weights in {shown}, and no such file is beside it")
    return file


def _locations(path: Path) -> list[str]:
    """Every `location` of a tensor, as the file has it."""
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return list(_walk(content))
            except (IndexError, ValueError):
                raise ParityError(f"{path.name}: no valid ONNX file: its messages do not end where they say") from None


def _walk(content: mmap.mmap) -> Iterator[str]:
    waiting = [("model", 0, len(content))]
    while waiting:
        message, start, end = waiting.pop()
        for number, at, stop in _fields(content, start, end):
            inner = _INNER[message].get(number)
            if inner == "entry":
                yield from _entry(content, at, stop)
            elif inner:
                waiting.append((inner, at, stop))


def _entry(content: mmap.mmap, start: int, end: int) -> Iterator[str]:
    """The value of a table's entry whose key is `location`."""
    fields = [(number, content[at:stop]) for number, at, stop in _fields(content, start, end)]
    if (_KEY, b"location") in fields:
        yield from (value.decode("utf-8", "surrogateescape") for number, value in fields if number == _VALUE)


def _fields(content: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of each field of bytes in a message. Raises ValueError where it is no message."""
    while at < end:
        tag, at = _varint(content, at)
        number, wire = tag >> 3, tag & 7
        start = at
        if wire == _VARINT:
            _, at = _varint(content, at)
        elif wire == _BYTES:
            size, start = _varint(content, at)
            at = start + size
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        elif wire not in (3, 4):
            raise ValueError(f"wire type {wire}")
        if at > end:
            raise ValueError("a field ends outside its message")
        if wire == _BYTES:
            yield number, start, at


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends. Raises IndexError at the end of the file."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
