"""Files that appear whole or not at all: written beside their place under a name of their own, then renamed.

Two processes that write the same file never meet, whoever reads finds the old file or the new one, and a full disk or
a kill leaves the old one as it was. Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from parity.errors import ParityError


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """The name of a new file beside `path`, to be written in the body; renamed to `path` when the body ends well.

    Nothing is left behind when it does not. The folder must exist. `sync` waits until the bytes are on the disk, for
    what must survive a power cut. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write `path` as UTF-8, whole or not at all. Raises OSError."""
    with replacing(path, sync=sync) as temporary:
        temporary.write_text(text, encoding="utf-8")


def publish(texts: Mapping[Path, str]) -> list[Path]:
    """Write files that belong together, in the folders that they name: all are on the disk before the first appears.

    Folders are made. Raises ParityError with one line, and then none of the files has changed unless a rename failed.
    """
    path = next(iter(texts), Path())
    try:
        with contextlib.ExitStack() as stack:
            for path, text in [*texts.items()][::-1]:  # an exit stack ends with what was entered first
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(replacing(path)).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ParityError(f"{path}: cannot be written: {error.strerror or error}") from None
    return list(texts)
