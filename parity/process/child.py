"""The child's side of isolation: `main` serves calls until its parent closes the pipe.

Whatever native code prints goes to the log (the file that the parent gave as stderr), never into the protocol. A
child whose parent is gone is ended, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import inspect
import os
import select
import signal
import sys
import traceback
import typing
from pathlib import Path
from typing import Any, BinaryIO

from parity.core.errors import ParityError, Unconvertible
from parity.process import processor, sandbox, serialise, wire

_out: BinaryIO | None = None
memory = 8 << 30  # bytes that the call in progress may use; what is read in it asks
_group = os.getpid()  # the child leads it; its watcher, a fork, ends it


def stage(name: str) -> None:
    """Tell the parent which stage begins: export, convert, load, run. A later crash or time-out is named after it."""
    if _out is not None:
        _send({"event": "stage", "stage": name})
    print(f"-- {name}", file=sys.stderr, flush=True)


def _send(message: Any) -> None:
    assert _out is not None
    for piece in wire.encode(message):
        _out.write(piece)
    _out.flush()


def _resolve(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _end_with_parent(lifeline: int) -> None:
    """Fork a watcher that kills this process group once the parent is gone.

    Nobody but the parent has the other end of the pipe `lifeline`, so it hangs up when the parent
    dies, however it dies. A thread would do where the interpreter's lock is given up in time; native
    code can keep it for minutes. The kernel's own signal (PR_SET_PDEATHSIG) would leave behind what
    converters have started, and comes as soon as the thread that started the child ends.
    """
    if os.fork():
        os.close(lifeline)
        return
    os.dup2(lifeline, 0)
    for descriptor in os.listdir("/dev/fd"):  # above all the pipe that the parent reads to its end
        with contextlib.suppress(OSError):
            if int(descriptor) > 0:
                os.close(int(descriptor))
    hang_up = select.poll()
    hang_up.register(0, 0)
    hang_up.poll()
    _end(1)


def _end(code: int) -> None:
    """Leave at once, with everything that converters have started, where the group is this child's own."""
    if os.getpgrp() == _group:
        os.killpg(0, signal.SIGKILL)
    os._exit(code)  # skip the teardown of native runtimes: several of them crash there


def _answer(message: Any) -> Any:
    """What the function of a message gives, as builtins. It takes one argument, of a declared type, or none."""
    function = _resolve(message["function"])
    parameters = list(inspect.signature(function).parameters)
    if not parameters:
        return serialise.to_builtins(function())
    kind = typing.get_type_hints(function)[parameters[0]]
    return serialise.to_builtins(function(serialise.from_builtins(kind, message["request"])))


def _call(message: Any) -> Any:
    global memory
    memory = message["memory"]
    try:
        return {"event": "result", "value": _answer(message)}
    except ParityError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return {"event": "error", "message": str(error), "of_input": isinstance(error, Unconvertible)}
    except SystemExit as error:
        traceback.print_exc()
        return {"event": "error", "message": f"called sys.exit({error.code!r})"}
    except MemoryError as error:
        traceback.print_exc()
        return {"event": "error", "message": f"MemoryError: {error}" if str(error) else "MemoryError"}
    except BaseException as error:
        traceback.print_exc()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {
            "event": "error",
            "message": f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:500],
        }


def main() -> None:
    global _out
    if "PARITY_LIFELINE" in os.environ:
        _end_with_parent(int(os.environ.pop("PARITY_LIFELINE")))
    requests = os.fdopen(os.dup(0), "rb")
    _out = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    faulthandler.enable()
    if processor.multiplies_wrongly():  # before any runtime looks at the processor
        processor.without_amx()
    with contextlib.suppress(OSError):  # let the kernel end a child, not the session, when memory runs out
        Path("/proc/self/oom_score_adj").write_text("1000")
    if "PARITY_WRITABLE" in os.environ:  # and before a runtime starts threads
        sandbox.confine(map(Path, os.environ["PARITY_WRITABLE"].split(os.pathsep)))

    def read(count: int) -> bytes:
        data = requests.read(count)
        if len(data) < count:
            raise EOFError
        return data

    while True:
        try:
            request = wire.decode(read)
        except EOFError:
            break
        reply = _call(request)
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            _send(reply)
        except (TypeError, ValueError, RecursionError) as error:  # nothing was written: it is encoded as a whole
            _send({"event": "error", "message": f"{request['function']}: its result cannot be sent: {error}"[:500]})
    _end(0)
