"""Files that appear whole or not at all: written beside their place under a name of their own, then renamed.

Two processes that write the same file never meet, whoever reads finds the old file or the new one, and a full disk or
a kill leaves the old one as it was. Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator, Mapping

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]
from pathlib import Path

from parity.core.errors import ParityError


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """The name of a new file beside `path`, gone at the end unless it was renamed."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """The name of a new file beside `path`, to be written in the body; renamed to `path` when the body ends well.

    Nothing is left behind when it does not. The folder must exist. `sync` waits until the bytes are on the disk, for
    what must survive a power cut. Raises OSError.
    """
    with _temporary(path) as temporary:
        yield temporary
        if sync:
            _sync(temporary)
        temporary.replace(path)


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write `path` as UTF-8, whole or not at all. Raises OSError."""
    with replacing(path, sync=sync) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold `folder` against other processes that ask for it here; where its file system has no locks, nothing holds.

    The lock is the operating system's: it ends with the process, and leaves no file.
    """
    with contextlib.ExitStack() as stack:
        if fcntl is not None:
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def publish(texts: Mapping[Path, str]) -> list[Path]:
    """Write files that belong together: all are on the disk before the first gets its name, in the order given, and no
    other process publishes into their folders meanwhile.

    Folders are made. Raises ParityError with one line, and then none of the files has changed unless a rename failed.
    """
    path = next(iter(texts), Path())
    try:
        with contextlib.ExitStack() as stack:
            ready = {}
            for path, text in texts.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                ready[path] = stack.enter_context(_temporary(path))
                ready[path].write_text(text, encoding="utf-8")
                _sync(ready[path])
            for folder in sorted({path.parent for path in texts}):
                stack.enter_context(alone(folder))
            for path, temporary in ready.items():
                temporary.replace(path)
    except OSError as error:
        raise ParityError(f"{path}: cannot be written: {error.strerror or error}") from None
    return list(texts)
