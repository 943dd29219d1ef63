"""Copied into a project as `sitecustomize.py`: its child processes die at one named call, each model in its own way.

SABOTAGE names the call (`parity.reference.oracle:evaluate`). Which way it dies stands in its arguments: the model's
options, the artefact's folder or the clip's, hold a word `way_segfault`. Calls without such a word work.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

WAYS = {  # way -> (state, what the reason says)
    "segfault": ("crash", "SIGSEGV (segmentation fault)"),
    "abort": ("crash", "SIGABRT (abort)"),
    "kill": ("crash", "SIGKILL (killed: out of memory, or by hand)"),
    "stack": ("crash", "SIGSEGV (segmentation fault)"),
    "bus": ("crash", "SIGBUS (bus error)"),
    "quit": ("crash", "exited with code 3"),
    "memory": ("crash", "used more than 0.6 GiB, ended: `memory` in [tool.parity] raises it"),
    "garbage": ("crash", "broke off its answer"),
    "half": ("crash", "SIGKILL"),
    "hang": ("timeout", "no answer within"),
    "stopped": ("timeout", "no answer within"),
    "exit": ("error", "called sys.exit(3)"),
    "raise": ("error", "ValueError: unsupported operator aten::nothing"),
}


def strike(way: str) -> None:
    """Die, hang or misbehave in this way."""
    if way == "segfault":
        ctypes.string_at(0)
    elif way == "abort":
        os.abort()
    elif way in ("kill", "bus"):
        os.kill(os.getpid(), signal.SIGKILL if way == "kill" else signal.SIGBUS)
    elif way == "stack":
        deep: list[Any] = []
        for _ in range(1_000_000):
            deep = [deep]
        sys.setrecursionlimit(1 << 30)
        repr(deep)
    elif way == "quit":
        os._exit(3)
    elif way == "memory":
        kept = []
        while True:
            kept.append(bytearray(os.urandom(1) * (8 << 20)))
    elif way in ("garbage", "half"):
        from parity.process import child, wire

        assert child._out is not None
        whole = b"".join(wire.encode({"event": "result", "value": "x" * 10_000}))
        child._out.write(b"\xff" * 64 if way == "garbage" else whole[:5000])
        child._out.flush()
        if way == "half":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    elif way == "hang":
        time.sleep(600)
    elif way == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif way == "exit":
        sys.exit(3)
    elif way == "raise":
        raise ValueError("unsupported operator aten::nothing\nand much more\x00 that nobody wants to read")


def words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from words(key)
            yield from words(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from words(entry)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from words(getattr(value, field.name))


def way_of(arguments: Any) -> str | None:
    """The way that the arguments name, as `way_NAME` somewhere in them."""
    for word in words(arguments):
        at = word.find("way_")
        if at >= 0:
            name = word[at + 4 :].split("/")[0].split("-")[0]
            return name if name in WAYS else None
    return None


def install(call: str) -> None:
    from parity.process import child

    resolve, opened = child._resolve, {}

    def sabotaged(path: str) -> Callable[..., Any]:
        real = resolve(path)

        @functools.wraps(real)
        def act(*requests: Any) -> Any:
            (request,) = requests or (None,)
            called = request.function if path == "parity.process.steps:run" else path
            way = way_of(request) or opened.get(getattr(request, "handle", None))
            if called == call and way is not None:
                print(f"sabotage: {way} in {call}", file=sys.stderr, flush=True)
                strike(way)
            result = real(*requests)
            if path.endswith(":open_session"):
                opened[result.handle] = way
            return result

        return act

    child._resolve = sabotaged


if os.environ.get("SABOTAGE"):
    install(os.environ["SABOTAGE"])
