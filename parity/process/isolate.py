"""Child processes with a time-out, a memory cap and a name for every way to die.

Converters and native runtimes never run in the pytest process. A child stays warm between calls; one that dies takes
only its call with it, and a call that died in a used child is repeated once in a fresh one, so that a verdict never
depends on what ran before.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import psutil

from parity.core.errors import ParityError
from parity.core.factories import roots
from parity.process import serialise, wire
from parity.process.memory import LEAST_CAP, usual_cap

T = TypeVar("T")

LOG_TAIL = 4000  # characters of a child's log that a failure carries
# How the reasons of a child begin that had too little memory: ended here, by itself, or by the kernel.
_OUT_OF_MEMORY = ("used more than ", "MemoryError", "SIGKILL ")
_SIGNALS = {
    "SIGSEGV": "segmentation fault",
    "SIGABRT": "abort",
    "SIGKILL": "killed: out of memory, or by hand",
    "SIGBUS": "bus error",
    "SIGILL": "illegal instruction",
    "SIGFPE": "arithmetic fault",
}
_PIPE_BYTES = 1 << 20
# `python -m` would import from the folder where the child stands first, and only some versions have an option (-P)
# against that, which the child's need not be.
_MAIN = "import sys; sys.path[:1] = filter(None, sys.path[:1]); from parity.process import child; child.main()"
_POLL = 0.2  # seconds between looks at memory and clock, each of which costs a busy machine half a millisecond


class ChildFailure(ParityError):
    """A call that did not come back with a result: `state` is crash, timeout or error.

    `of_input` says that a converter's step failed at what it was given, whatever the precision; `routes_failed` is why
    each route of a cell failed, "route: why", where several did.
    """

    def __init__(
        self,
        state: str,
        stage: str,
        reason: str,
        log: str = "",
        of_input: bool = False,
        routes_failed: Sequence[str] = (),
    ):
        super().__init__(f"{stage}: {reason}" if stage else reason)
        self.state, self.stage, self.reason, self.log = state, stage, reason, log
        self.of_input, self.routes_failed = of_input, tuple(routes_failed)

    @property
    def notes(self) -> dict[str, Any]:
        """The failure as builtins; `ChildFailure(**notes)` is it again."""
        return {
            "state": self.state,
            "stage": self.stage,
            "reason": self.reason,
            "log": self.log,
            "of_input": self.of_input,
            "routes_failed": list(self.routes_failed),
        }

    @property
    def exhausted(self) -> bool:
        """Whether time or memory ran out, as they would again for the same work."""
        return self.state == "timeout" or self.reason.startswith(_OUT_OF_MEMORY)


@dataclass(frozen=True)
class Budget:
    """What one call may use: wall-clock seconds, and resident bytes of the child with its own children."""

    seconds: float = 600.0
    memory: int = LEAST_CAP

    @classmethod
    def of(cls, seconds: float, memory: int) -> Budget:
        """What a configuration says; where its `memory` is 0, what the machine has to give."""
        return cls(seconds, memory or usual_cap())


@cache
def _alone() -> tempfile.TemporaryDirectory[str]:
    """Folders for interpreters with an environment of their own: on their path our site-packages would shadow theirs.

    `package` holds this package and nothing else, `libraries` what its serialiser imports. Kept until this process
    ends.
    """
    folder = tempfile.TemporaryDirectory(prefix="parity-")
    package, libraries = Path(folder.name, "package"), Path(folder.name, "libraries")
    for place in (package, libraries):
        place.mkdir()
    (package / "parity").symlink_to(Path(__file__).resolve().parents[1])
    for name in serialise.LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # what only an older Python needs may be absent here
            continue
        file = Path(spec.origin)
        source = file.parent if spec.submodule_search_locations else file
        (libraries / source.name).symlink_to(source)
    return folder


def child_environment(root: Path | None, threads: int = 1, python: str = sys.executable) -> dict[str, str]:
    """The environment of a child: threads pinned, no GPU, quiet, the project importable."""
    env = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
                 "TF_NUM_INTEROP_THREADS"):  # fmt: skip
        env[name] = str(threads)
    env |= {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1",
            "TF_ENABLE_ONEDNN_OPTS": "0", "TF_USE_LEGACY_KERAS": "1", "PYTHONIOENCODING": "utf-8"}  # fmt: skip
    env.pop("PYTEST_CURRENT_TEST", None)
    # Converters call tools of their own environment by name (onnx2tf: onnxsim), which need not be activated.
    env["PATH"] = os.pathsep.join([str(Path(python).parent), *filter(None, [env.get("PATH")])])
    inherited = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    if python == sys.executable:
        here = str(Path(__file__).resolve().parents[2])
        env.pop(serialise.CARRIED, None)
    else:
        here = str(Path(_alone().name, "package"))
        env[serialise.CARRIED] = str(Path(_alone().name, "libraries"))
        # A folder of installed distributions is of another environment, perhaps of another Python.
        inherited = [path for path in inherited if not any(Path(path).glob("*.dist-info"))]
        env.pop("PYTHONHOME", None)
        # An emulated interpreter is confined by this one, before the emulator starts.
        env["PARITY_CONFINER"], env["PARITY_CONFINER_PATH"] = sys.executable, here
    paths = [str(path) for path in roots(root)] if root else []
    env["PYTHONPATH"] = os.pathsep.join([*paths, here, *inherited])
    return env


class Child:
    """One warm process. `call` runs a function in it by name; request and answer are of declared types.

    One that is `confined_to` folders, the first of which takes its temporary files, can write nowhere else and opens no
    sockets, as far as the kernel offers that.
    """

    def __init__(
        self,
        name: str,
        python: str = sys.executable,
        root: Path | None = None,
        threads: int = 1,
        confined_to: Sequence[Path] = (),
    ):
        self.name, self.python, self.root, self.threads = name, python, root, threads
        self.confined_to = tuple(confined_to)
        self.calls = 0
        self.stage = ""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1  # our end of a pipe that hangs up when we die, by which the child's watcher knows

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        self.kill()  # one that died by itself may have left children behind
        self._log.seek(0, os.SEEK_END)
        environment = child_environment(self.root, self.threads, self.python)
        if self.confined_to:
            for folder in self.confined_to:  # what is not there when the child starts stays forbidden
                folder.mkdir(parents=True, exist_ok=True)
            environment["PARITY_WRITABLE"] = os.pathsep.join(map(str, self.confined_to))
            environment["TMPDIR"] = str(self.confined_to[0])
        lifeline, self._lifeline = os.pipe()
        environment["PARITY_LIFELINE"] = str(lifeline)
        try:
            self._process = subprocess.Popen(
                [self.python, "-c", _MAIN],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,
                cwd=self.root,
                env=environment,
                pass_fds=[lifeline],
                start_new_session=True,
            )
        except OSError:
            os.close(self._lifeline)
            raise
        finally:
            os.close(lifeline)
        assert self._process.stdin and self._process.stdout
        os.set_blocking(self._process.stdin.fileno(), False)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, AttributeError):  # Linux; elsewhere the default size has to do
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.calls = 0

    def call(
        self,
        function: str,
        request: object,
        answer: type[T],
        *,
        budget: Budget = Budget(),
        stage: str = "run",
        on_stage: Callable[[str], None] | None = None,
        again: bool = True,
    ) -> T:
        """The answer of `module:function(request)` run in the child.

        `request` is of the type that the function declares, and is left out where it takes none; `answer` is the type
        that it gives. `again=False` is for a call that leans on what an earlier one left in the child: a fresh one
        cannot answer it. Raises ChildFailure.
        """
        message = {"function": function, "request": serialise.to_builtins(request)}
        value = self._sent(message, budget, stage, on_stage, again)
        try:
            return serialise.from_builtins(answer, value)
        except ValueError as error:
            raise ChildFailure("error", self.stage, f"{function}: its answer is {error}"[:500]) from None

    def _sent(
        self,
        request: Mapping[str, Any],
        budget: Budget,
        stage: str,
        on_stage: Callable[[str], None] | None,
        again: bool,
    ) -> Any:
        request = {**request, "memory": budget.memory}
        used = self.alive and self.calls > 0
        try:
            return self._call(request, budget, stage, on_stage)
        except ChildFailure as failure:
            if failure.state != "crash" or not (used and again):
                raise
            return self._call(request, budget, stage, on_stage)

    def _call(
        self,
        request: Mapping[str, Any],
        budget: Budget,
        stage: str,
        on_stage: Callable[[str], None] | None,
    ) -> Any:
        if not self.alive:
            try:
                self.start()
            except OSError as error:
                reason = f"cannot start {self.python}: {error.strerror or error}"
                raise ChildFailure("error", stage, reason) from None
        assert self._process and self._process.stdin and self._process.stdout
        self.calls += 1
        self.stage = stage
        self._log.seek(0, os.SEEK_END)
        log_start = self._log.tell()
        clock = _Clock(self._process.pid, budget)
        try:
            clock.write(self._process.stdin.fileno(), wire.encode(request))
            while True:
                message = wire.decode(lambda n: clock.read(self._process.stdout.fileno(), n))  # type: ignore[union-attr]
                match message:
                    case {"event": "stage", "stage": str(name)}:
                        clock.check()  # a child that keeps talking never lets the pipe run dry
                        self.stage = name
                        if on_stage:
                            on_stage(name)
                    case {"event": "result", "value": value}:
                        return value
                    case {"event": "error", "message": str(reason)}:
                        of_input = message.get("of_input") is True
                        break
                    case _:
                        raise ValueError("no answer")
        except TimeoutError:
            self.kill()
            reason = f"no answer within {budget.seconds:g} s, ended"
            raise ChildFailure("timeout", self.stage, reason, self._tail(log_start)) from None
        except MemoryError:
            self.kill()
            reason = f"used more than {budget.memory / (1 << 30):.1f} GiB, ended: `memory` in [tool.parity] raises it"
            raise ChildFailure("crash", self.stage, reason, self._tail(log_start)) from None
        except (EOFError, BrokenPipeError, ValueError) as error:
            reason = self._obituary(0 if isinstance(error, ValueError) else 5)
            raise ChildFailure("crash", self.stage, reason, self._tail(log_start)) from None
        except BaseException:
            self.kill()  # interrupted in mid-message: the pipe is of no more use
            raise
        raise ChildFailure("error", self.stage, reason, self._tail(log_start), of_input)

    def _obituary(self, seconds: float) -> str:
        """Why the process is gone, in words. Ends it where it is not gone after `seconds`."""
        assert self._process
        try:
            code = self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return "broke off its answer"
        self.kill()
        if code >= 0:
            return f"exited with code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"{name} ({_SIGNALS[name]})" if name in _SIGNALS else name

    def _tail(self, start: int) -> str:
        self._log.seek(0, os.SEEK_END)
        end = self._log.tell()
        self._log.seek(max(start, end - 4 * LOG_TAIL))
        return self._log.read().decode("utf-8", "replace").replace("\x00", "")[-LOG_TAIL:].strip()

    def kill(self) -> None:
        """End the child and everything that it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()
        self._process = None
        os.close(self._lifeline)

    def close(self) -> None:
        self.kill()
        self._log.close()


class _Clock:
    """Pipe input and output that give up on time or memory."""

    def __init__(self, pid: int, budget: Budget):
        self.budget = budget
        self.deadline = time.monotonic() + budget.seconds
        try:
            self.process: psutil.Process | None = psutil.Process(pid)
        except psutil.Error:
            self.process = None
        self.looked_at_family = 0.0

    def check(self) -> None:
        if time.monotonic() > self.deadline:
            raise TimeoutError
        if self.process is None:
            return
        with contextlib.suppress(psutil.Error):
            used = self.process.memory_info().rss
            if time.monotonic() - self.looked_at_family > 1:
                self.looked_at_family = time.monotonic()
                for relative in self.process.children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        used += relative.memory_info().rss
            if used > self.budget.memory:
                raise MemoryError

    def read(self, fd: int, count: int) -> bytes:
        data = bytearray(count)
        view, at = memoryview(data), 0
        while at < count:
            if not select.select([fd], [], [], _POLL)[0]:
                self.check()
                continue
            got = os.readv(fd, [view[at:]])
            if got == 0:
                raise EOFError
            at += got
        return bytes(data)

    def write(self, fd: int, pieces: list[bytes | memoryview]) -> None:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                if not select.select([], [fd], [], _POLL)[1]:
                    self.check()
                    continue
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(fd, rest) :]


class Children:
    """The warm children of one session, one a family of tools, started when first needed.

    A call that names one of the `foreign` files or folders, or that asks for it, goes to a child of its own, which can
    write to `writable` alone and opens no sockets. Whoever hands such a child a folder to write to makes it in
    `scratch`, or adds it to `writable` before the first call.
    """

    def __init__(
        self,
        root: Path | None = None,
        budget: Budget = Budget(),
        threads: int = 1,
        foreign: Iterable[Path] = (),
    ):
        self.root, self.budget, self.threads = root, budget, threads
        self.foreign = frozenset(map(str, foreign))
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._also_writable: list[Path] = []
        self._children: dict[tuple[str, str, bool], Child] = {}

    @property
    def scratch(self) -> Path:
        """A folder that all confined children may write to, gone with this object."""
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="parity-", ignore_cleanup_errors=True)
        return Path(self._scratch.name).resolve()

    def allow(self, folder: Path) -> None:
        """Let confined children that are yet to start write to `folder`, too."""
        self._also_writable.append(folder)

    def __getitem__(self, family: str) -> Child:
        return self.get(family)

    def get(self, family: str, python: str = sys.executable, confined: bool = False) -> Child:
        key = (family, python, confined)
        if key not in self._children:
            writable = (self.scratch, *self._also_writable) if confined else ()
            self._children[key] = Child(family, python, self.root, self.threads, writable)
        return self._children[key]

    def call(
        self,
        family: str,
        function: str,
        request: object,
        answer: type[T],
        *,
        python: str = sys.executable,
        stage: str = "run",
        on_stage: Callable[[str], None] | None = None,
        again: bool = True,
        confined: bool = False,
    ) -> T:
        """The answer of `function(request)` in the warm child of `family`, within the session's budget."""
        child = self.get(family, python, confined or self.names_foreign(request))
        return child.call(function, request, answer, budget=self.budget, stage=stage, on_stage=on_stage, again=again)

    def names_foreign(self, value: Any) -> bool:
        """Whether a foreign file or folder is anywhere in what a child is asked; the project's root may be one that
        is."""
        if isinstance(value, str):
            return value in self.foreign
        if isinstance(value, Mapping):
            return any(self.names_foreign(item) for key, item in value.items() if key != "root")
        if is_dataclass(value):
            held = ((field.name, getattr(value, field.name)) for field in fields(value))
            return any(self.names_foreign(item) for name, item in held if name != "root")
        return isinstance(value, (list, tuple)) and any(map(self.names_foreign, value))

    def close(self) -> None:
        for child in self._children.values():
            child.close()
        self._children.clear()
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
