"""Faults at every change of the file system: the N-th write, rename or removal kills the process or is refused.

CPython tells an audit hook of every such call before it is made, so a whole scenario can be cut off at each of them in
turn, without a mock in the code that is tested. A hook cannot be taken away again, so each goes into a process of its
own: a fork here, or a pytest run that imports this file from its conftest.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink", "os.utime",
           "os.chmod")  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REFUSALS = {"full": errno.ENOSPC, "broken": errno.EIO, "readonly": errno.EROFS, "denied": errno.EACCES,
            "quota": errno.EDQUOT}  # fmt: skip
WAYS = ("kill", *REFUSALS)
ONCE = ("kill", "broken")  # the other ways stay: a full disk is full for the next write too
FREES = ("os.remove", "os.rmdir")  # allowed on a full disk


class Saboteur:
    """An audit hook that strikes at the change number `at` (from 1) below one of `folders`, and from then on."""

    def __init__(self, folders: list[Path], way: str, at: int):
        self.folders, self.way, self.at, self.count = [str(f) for f in folders], way, at, 0
        self._busy = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self._busy or not self._changes(event, args):
            return
        self._busy = True
        try:
            self.count += 1
            if self.count == self.at or (self.count > self.at and self.way not in ONCE):
                self._strike(event, str(args[0]))
        finally:
            self._busy = False

    def _changes(self, event: str, args: tuple[Any, ...]) -> bool:
        if event == "open":
            path, _, flags = args
            writes = isinstance(flags, int) and bool(flags & WRITES)
        else:
            path, writes = (args[0] if args else None), event in CHANGES
        if not writes or not isinstance(path, (str, os.PathLike)):
            return False
        text = os.path.abspath(os.fspath(path))
        return any(text == f or text.startswith(f + os.sep) for f in self.folders)

    def _strike(self, event: str, path: str) -> None:
        if self.way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way in ("full", "quota") and event in FREES:
            return
        number = REFUSALS[self.way]
        raise OSError(number, os.strerror(number), path)


@dataclass(frozen=True)
class Fate:
    """How a forked scenario ended: "done", "killed", "refused" (an error that a user reads), or "traceback"."""

    how: str
    text: str = ""
    changes: int = 0


def forked(act: Callable[[], object], folders: list[Path], way: str = "none", at: int = 0) -> Fate:
    """Run `act` in a fork with a saboteur; `way="none"` only counts the changes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        os.close(reading)
        os._exit(_scene(act, Saboteur(folders, way, at or sys.maxsize), writing))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode("utf-8", "replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Fate("killed", signal.Signals(os.WTERMSIG(status)).name)
    how, _, rest = told.partition("\n")
    changes, _, text = rest.partition("\n")
    return Fate(how or "traceback", text, int(changes or 0))


def _scene(act: Callable[[], object], saboteur: Saboteur, pipe: int) -> int:
    from parity.core.errors import ParityError

    sys.addaudithook(saboteur)
    how, text = "done", ""
    try:
        act()
    except ParityError as error:
        how, text = "refused", str(error)
    except BaseException:
        how, text = "traceback", traceback.format_exc()
    os.write(pipe, f"{how}\n{saboteur.count}\n{text}".encode("utf-8", "replace")[:60_000])
    return 0
