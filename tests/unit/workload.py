"""What the children of the isolation tests do: every way to die, to hang and to answer."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.case import Array
from parity.core.errors import ParityError
from parity.process import child

calls = 0


@dataclass(frozen=True)
class Failing:
    message: str
    kind: str = "ValueError"


@dataclass(frozen=True)
class Dying:
    file: str
    how: str


@dataclass(frozen=True)
class Sum:
    sum: float
    back: Sequence[Array]


def echo(value: Any = None) -> Any:
    return value


def pid() -> int:
    return os.getpid()


def count() -> int:
    global calls
    calls += 1
    return calls


def environment(name: str) -> str | None:
    return os.environ.get(name)


def where() -> dict[str, Any]:
    return {"cwd": os.getcwd(), "group": os.getpgrp(), "pid": os.getpid()}


def segfault() -> None:
    child.stage("convert")
    print("about to fall", file=sys.stderr, flush=True)
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def raise_signal(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(30)


def hang(seconds: float) -> None:
    child.stage("load")
    time.sleep(seconds)


def hang_talking() -> None:
    while True:
        child.stage("convert")
        time.sleep(0.005)


def hang_in_native_code(file: str = "") -> None:
    if file:
        Path(file).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock


def hang_with_children(file: str) -> None:
    kid = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(file).write_text(f"{os.getpid()} {kid.pid}")
    time.sleep(600)


def start_helper() -> list[int]:
    return [os.getpid(), subprocess.Popen(["sleep", "600"]).pid]


def eat(mebibytes: int) -> int:
    kept = []
    for _ in range(0, mebibytes, 16):
        kept.append(np.ones(16 << 17))  # 16 MiB, touched
        time.sleep(0.002)
    return len(kept)


def eat_in_a_child(mebibytes: int) -> None:
    code = f"import numpy, time; x = numpy.ones({mebibytes} << 17); time.sleep(600)"
    subprocess.run([sys.executable, "-c", code], check=False)


def leave(code: Any) -> None:
    sys.exit(code)


def leave_at_once(code: int) -> None:
    os._exit(code)


def fail(asked: Failing) -> None:
    raise {"ValueError": ValueError, "KeyboardInterrupt": KeyboardInterrupt, "MemoryError": MemoryError,
           "ParityError": ParityError, "RecursionError": RecursionError}[asked.kind](asked.message)  # fmt: skip


def unsendable() -> Any:
    return {"path": Path("x"), "set": {1}}


def noise() -> str:
    print("python prints")
    sys.stdout.flush()
    os.write(1, b"prt1 native code prints to descriptor 1\n" * 100)
    ctypes.CDLL(None).puts(b"libc prints")
    ctypes.CDLL(None).fflush(None)
    sys.stderr.write("and to stderr\n")
    return "answer"


def reads_stdin() -> str:
    return sys.stdin.read()


def total(arrays: Sequence[Array]) -> Sum:
    return Sum(float(sum(a.sum() for a in arrays)), arrays)


def wrong_total(arrays: Sequence[Array]) -> Any:
    return {"sum": "3", "back": arrays}


def zeros(mebibytes: int) -> Any:
    return np.zeros(mebibytes << 20, np.uint8)


def note(file: str) -> int:
    """Append this process to `file`, then die if it has answered before."""
    global calls
    calls += 1
    with open(file, "a") as out:
        out.write(f"{os.getpid()}\n")
    if calls > 1:
        os.abort()
    return os.getpid()


def note_and_die(asked: Dying) -> None:
    with open(asked.file, "a") as out:
        out.write(f"{os.getpid()}\n")
    if asked.how == "abort":
        os.abort()
    elif asked.how == "hang":
        time.sleep(600)
    raise ValueError("told")


def write_garbage() -> None:
    """What a broken child would do: write into the protocol."""
    assert child._out is not None
    child._out.write(b"Traceback (most recent call last): this is no message at all")
    child._out.flush()
    time.sleep(600)


def write_half() -> None:
    assert child._out is not None
    child._out.write(b"prt1")
    child._out.flush()
    os._exit(0)


def no_event() -> None:
    child._send({"no": "event"})
    time.sleep(600)


@dataclass(frozen=True)
class Attempt:
    what: str
    path: str = ""


def attempt(asked: Attempt) -> str:
    """What becomes of something that a confined child may not do, or may: "done", or the name of the error."""
    try:
        _ATTEMPTS[asked.what](Path(asked.path))
    except OSError as error:
        return type(error).__name__
    except subprocess.CalledProcessError:
        return "CalledProcessError"
    return "done"


def _in_a_thread(path: Path) -> None:
    raised: list[OSError] = []

    def write() -> None:
        try:
            path.write_text("x")
        except OSError as error:
            raised.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


_ATTEMPTS: dict[str, Callable[[Path], Any]] = {
    "write": lambda path: path.write_text("x"),
    "write in a thread": _in_a_thread,
    "append": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_APPEND)),
    "truncate": lambda path: os.truncate(path, 0),
    "make a folder": lambda path: path.mkdir(),
    "link": lambda path: path.symlink_to("/"),
    "remove": lambda path: path.unlink(),
    "move away": lambda path: path.rename(Path(tempfile.gettempdir(), "moved")),
    "move there": lambda path: Path(tempfile.mkstemp()[1]).rename(path),
    "write by a program": lambda path: subprocess.run(["sh", "-c", 'echo > "$0"', path], check=True, stderr=-3),
    "read": lambda path: path.read_bytes(),
    "temporary file": lambda _: Path(tempfile.mkstemp()[1]).write_text("x"),
    "temporary folder": lambda _: tempfile.TemporaryDirectory().cleanup(),
    "move within": lambda _: Path(tempfile.mkstemp()[1]).rename(Path(tempfile.mkdtemp(), "moved")),
    "null": lambda _: Path(os.devnull).write_text("x"),
    "internet": lambda _: socket.socket(socket.AF_INET),
    "internet 6": lambda _: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
    "local": lambda _: socket.socket(socket.AF_UNIX),
    "pair": lambda _: socket.socketpair(),
}


def echo_and_pid(value: Any) -> int:
    return os.getpid()


def write_only(version: int) -> bool:
    """Whether this process is held as a kernel with `version` of Landlock would hold it."""
    from parity.process import sandbox

    held = sandbox._write_only([Path(tempfile.gettempdir())], version)
    return held and attempt(Attempt("write", "/parity-was-here")) == "PermissionError"


def interpreter() -> dict[str, Any]:
    """Whose interpreter this is, and whether it could import our serialiser's library by itself."""
    return {"prefix": sys.prefix, "ours": importlib.util.find_spec("cattrs") is not None}


def whose() -> dict[str, str]:
    """Whose copies of what our serialiser imports a converter here would get."""
    names = ("attr", "attrs", "typing_extensions")
    return {name: importlib.import_module(name).whose for name in names}
