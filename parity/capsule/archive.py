"""The container of a capsule: a zip in one canonical form, sealed by a manifest. Pure; standard library only.

Members are stored without compression, sorted by name, with fixed dates and attributes; the last one is the manifest,
which names size and SHA-256 of every other. So the same members are the same bytes, nothing can unpack to more than the
file has, and a reader need not trust any field of the format: it writes every header again from name, size and checksum
and compares. A file that differs from that in one byte, anywhere, is refused. Any zip tool can open it.

Layout: PKWARE APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (end).
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from parity.core import strict_json
from parity.core.errors import ParityError
from parity.store import atomic

Content = Literal["capsule", "outputs"]
MANIFEST = "~manifest.json"  # "~" sorts after every name that a member may have
SCHEMA = "parity.capsule/1"

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_DATE = (0, 0x21)  # 1980-01-01 00:00, the first that the format has
_UTF8 = 0x800
_MOST_BYTES, _MOST_MEMBERS = (1 << 32) - 2, (1 << 16) - 2  # what the format holds without its 64-bit extension
_MOST_NAME = 400
_BLOCK = 1 << 20


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    crc: int

    def local(self) -> bytes:
        name = self.name.encode()
        return _LOCAL.pack(b"PK\3\4", 10, _UTF8, 0, *_DATE, self.crc, self.size, self.size, len(name), 0) + name

    def central(self, offset: int) -> bytes:
        name = self.name.encode()
        return (
            _CENTRAL.pack(b"PK\1\2", 10, 10, _UTF8, 0, *_DATE, self.crc, self.size, self.size,
                          len(name), 0, 0, 0, 0, 0, offset) + name
        )  # fmt: skip


def pack(folder: Path, output: Path, content: Content, capsule: str | None = None) -> str:
    """Write every file of `folder` into the archive `output`, in place of what was there; returns its seal.

    `capsule` is the seal of the capsule that these outputs answer. Raises ParityError when it does not fit or cannot
    be written; nothing half-written stays.
    """
    files = sorted((p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file())
    _check_names([name for name, _ in files], str(output))
    digests = {name: _digests(path) for name, path in files}
    sealed = [[name, size, sha] for name, (size, _, sha) in digests.items()]
    manifest = _canonical({"schema": SCHEMA, "content": content, "capsule": capsule, "members": sealed})
    members = [_Member(name, size, crc) for name, (size, crc, _) in digests.items()]
    members.append(_Member(MANIFEST, len(manifest), zlib.crc32(manifest)))
    total = sum(len(m.local()) + m.size + len(m.central(0)) for m in members) + _END.size
    if total > _MOST_BYTES or len(members) > _MOST_MEMBERS:
        raise ParityError(
            f"{output}: {total / 2**30:.1f} GiB in {len(members)} members is more than one capsule holds "
            f"(4 GiB, {_MOST_MEMBERS} members): pack fewer cells, with --targets or --cells"
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(output) as temporary, temporary.open("wb") as file:
            for member, path in zip(members, [path for _, path in files] + [None], strict=True):
                file.write(member.local())
                if path is None:
                    file.write(manifest)
                else:
                    with path.open("rb") as source:
                        while block := source.read(_BLOCK):
                            file.write(block)
            file.write(_directory(members))
    except OSError as error:
        raise ParityError(f"{output}: cannot be written: {error.strerror or error}") from None
    return hashlib.sha256(manifest).hexdigest()


def _digests(path: Path) -> tuple[int, int, str]:
    """Size, CRC-32 and SHA-256."""
    size, crc, sha = 0, 0, hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size, crc = size + len(block), zlib.crc32(block, crc)
            sha.update(block)
    return size, crc, sha.hexdigest()


def _directory(members: list[_Member]) -> bytes:
    """The central directory and the end record for members that follow each other from the start of the file."""
    offset, lines = 0, []
    for member in members:
        lines.append(member.central(offset))
        offset += len(member.local()) + member.size
    text = b"".join(lines)
    return text + _END.pack(b"PK\5\6", 0, 0, len(members), len(members), len(text), offset, 0)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _check_names(names: list[str], where: str) -> None:
    """Refuse every name that could leave the folder that it is unpacked in, or meet another there on a file system
    that ignores case. Raises ParityError."""
    for name in names:
        parts = name.split("/")
        odd = any(p in ("", ".", "..") or p != p.strip(" ") or p.endswith(".") for p in parts)
        if odd or "\\" in name or ":" in name or not name.isprintable() or len(name.encode()) > _MOST_NAME:
            raise ParityError(f"{where}: the member name {name!r:.80} is not a plain relative path")
        if not name < MANIFEST:
            raise ParityError(f"{where}: the member name {name!r:.80} is reserved")
    if names != sorted(names):
        raise ParityError(f"{where}: its members are not in order")
    folded = [name.casefold() for name in names]
    if len(set(folded)) != len(folded):
        twice = next(n for n in folded if folded.count(n) > 1)
        raise ParityError(f"{where}: two members are named {twice!r:.80}")
    taken = set(folded)
    for name in folded:
        folder = name
        while "/" in folder:
            folder = folder.rpartition("/")[0]
            if folder in taken:
                raise ParityError(f"{where}: {folder!r:.80} is both a member and a folder")


class Archive:
    """A verified archive: opening it has read every byte of it once. Use as a context manager.

    Raises ParityError, one line, for anything that `pack` would not have written.
    """

    def __init__(self, path: Path, content: Content):
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise ParityError(f"{path}: cannot be read: {error.strerror or error}") from None
        try:
            self._open(content)
        except OSError as error:
            self._file.close()
            raise ParityError(f"{path}: cannot be read: {error.strerror or error}") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def sha256(self, name: str) -> str:
        return self._sealed[name][1]

    def size(self, name: str) -> int:
        return self._sealed[name][0]

    def read(self, name: str) -> bytes:
        """The bytes of a member. Raises ParityError when it is not there or no longer what it was."""
        if name not in self._places:
            raise ParityError(f"{self.path}: incomplete: it has no {name!r}")
        offset, size = self._places[name]
        self._file.seek(offset)
        data = self._file.read(size)
        if hashlib.sha256(data).hexdigest() != self._sealed[name][1]:
            raise ParityError(f"{self.path}: {name!r} changed while it was read")
        return data

    def extract(self, name: str, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(self.read(name))

    def _bad(self, why: str) -> ParityError:
        return ParityError(f"{self.path}: damaged or changed since it was made: {why}")

    def _open(self, content: Content) -> None:
        members, self._places = self._members()
        if not members or members[-1].name != MANIFEST:
            raise self._bad("it has no manifest at its end")
        manifest = self._verified(members)
        self.seal = hashlib.sha256(manifest).hexdigest()
        try:
            found = strict_json.loads(manifest)
            if _canonical(found) != manifest:
                raise ValueError("not canonical")
            kind, self.capsule, listed = found["content"], found["capsule"], found["members"]
            self._sealed: Mapping[str, tuple[int, str]] = {str(n): (int(size), str(sha)) for n, size, sha in listed}
            if found["schema"] != SCHEMA or set(found) != {"schema", "content", "capsule", "members"}:
                raise ValueError(f"its schema is {found['schema']!r:.40}, this version reads {SCHEMA!r}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._bad(f"its manifest cannot be read ({error})") from None
        if [[m.name, m.size] for m in members[:-1]] != [[n, size] for n, size, _ in listed]:
            raise self._bad("its manifest lists other members than it has")
        for name, (_, sha) in self._sealed.items():
            if self._found[name] != sha:
                raise self._bad(f"{name!r} is not what its manifest says")
        del self._places[MANIFEST]
        if kind != content:
            other = {"capsule": "a capsule", "outputs": "outputs of a capsule"}
            raise ParityError(f"{self.path}: holds {other.get(str(kind), 'something else')}, not {other[content]}")

    def _members(self) -> tuple[list[_Member], dict[str, tuple[int, int]]]:
        """The members as the directory names them, and where the data of each begins; the directory is verified."""
        file = self._file
        size = file.seek(0, 2)
        if size < _END.size:
            raise self._bad("it is cut off")
        file.seek(size - _END.size)
        magic, _, _, _, count, length, start, _ = _END.unpack(file.read(_END.size))
        if magic != b"PK\5\6" or start + length + _END.size != size or length > count * (_CENTRAL.size + _MOST_NAME):
            raise self._bad("it is cut off, or not a capsule")
        file.seek(start)
        text = file.read(length + _END.size)
        members, at = [], 0
        for _ in range(count):
            if at + _CENTRAL.size > length:
                raise self._bad("its directory is cut off")
            fields = _CENTRAL.unpack_from(text, at)
            end = at + _CENTRAL.size + fields[10]
            try:
                name = text[at + _CENTRAL.size : end].decode()
            except UnicodeDecodeError:
                raise self._bad("a member's name is not text") from None
            members.append(_Member(name, fields[8], fields[7]))
            at = end
        _check_names([m.name for m in members if m.name != MANIFEST], str(self.path))
        places, offset = {}, 0
        for member in members:
            offset += len(member.local())
            places[member.name] = (offset, member.size)
            offset += member.size
        if offset != start or len(places) != count or _directory(members) != text:
            raise self._bad("its directory does not fit its members")
        return members, places

    def _verified(self, members: list[_Member]) -> bytes:
        """Read the file through, comparing every header and checksum; keeps digests, returns the manifest."""
        self._found: dict[str, str] = {}
        self._file.seek(0)
        kept = b""
        for member in members:
            header = member.local()
            if self._file.read(len(header)) != header:
                raise self._bad(f"the header of {member.name!r} is not as written")
            left, crc, sha = member.size, 0, hashlib.sha256()
            while left:
                block = self._file.read(min(left, _BLOCK))
                if not block:
                    raise self._bad("it is cut off")
                left, crc = left - len(block), zlib.crc32(block, crc)
                sha.update(block)
                if member.name == MANIFEST:
                    kept += block
            if crc != member.crc:
                raise self._bad(f"the checksum of {member.name!r} is wrong")
            self._found[member.name] = sha.hexdigest()
        return kept
