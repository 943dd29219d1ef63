"""What a project's code reads while a model is made and run: files in the project's folder, environment variables.

No key can know these before, so they are recorded in the child that runs the model, by a hook that Python calls at each
`open`, and held against what is there before an answer is taken from the store. Not seen are reads by native code and
by processes that the model starts, listings of folders, files outside the project, and variables that installed
packages read. Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, wraps
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

from parity.core.settings import ModelSpec
from parity.reference.messages import Driven, Evaluated, Reads

_CODE = (".py", ".pyc", ".pyi", ".so", ".pyd", ".dylib", ".dll")  # the fingerprint follows source along its imports
_OF_A_CHILD = ("TMPDIR", "PYTEST_", "PARITY_")  # how variables begin that one process of a run has and another not
_BETWEEN = ("os", "collections.abc", "_collections_abc")  # frames between a caller and the look-up of a variable
ABSENT = ""


class _Request(Protocol):
    @property
    def model(self) -> ModelSpec: ...


R = TypeVar("R", bound=_Request)
A = TypeVar("A", Evaluated, Driven)


@dataclass
class _Collected:
    """What was read since somebody began to listen; `root` is the project's folder."""

    root: str
    files: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)


_listening: list[_Collected | None] = []  # the last one hears; None: nobody
_initial = dict(os.environ)  # before the project's code changes any
_at_making: dict[str, Reads] = {}  # by specification
_at_running: dict[str, Reads] = {}  # by project: what one model read, a function may have kept for another
_hooked = False


def noting(evaluate: Callable[[R], A]) -> Callable[[R], A]:
    """A function that runs a model, with `reads` in its answer. A reference file runs no code of the project."""

    @wraps(evaluate)
    def call(request: R) -> A:
        model = request.model
        if model.reference:
            return evaluate(request)
        with _heard(model.root) as collected:
            answer = evaluate(request)
        _at_running[model.root] = _joined(_at_running.get(model.root), _reads(collected))
        return replace(answer, reads=_joined(_at_making.get(repr(model)), _at_running[model.root]))

    return call


@contextlib.contextmanager
def making(model: ModelSpec) -> Iterator[None]:
    """What is read within belongs to this model alone."""
    with _heard(model.root) as collected:
        yield
    _at_making[repr(model)] = _reads(collected)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """What is read within is in the fingerprint anyway."""
    _listening.append(None)
    try:
        yield
    finally:
        _listening.pop()


def changed(reads: Reads, root: Path, environment: Mapping[str, str]) -> str:
    """The first file or variable that is not as it was read; "" where all are. `environment` is that of a child."""
    for name, digest in reads.files.items():
        if _file(os.path.join(root, name)) != digest:
            return name
    for name, digest in reads.variables.items():
        if _variable(name, environment) != digest:
            return f"the variable {name}"
    return ""


def of(noted: Mapping[str, Mapping[str, str]]) -> Reads:
    """What an entry of the store, or an epoch, noted."""
    return Reads(noted.get("files", {}), noted.get("variables", {}))


@contextlib.contextmanager
def _heard(root: str) -> Iterator[_Collected]:
    _hook_in()
    collected = _Collected(os.path.realpath(root))
    _listening.append(collected)
    try:
        yield collected
    finally:
        _listening.pop()


def _hook_in() -> None:
    """Have Python tell of each `open`, for the life of the process, and of each look-up of a variable."""
    global _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_on_event)
        os.environ.__class__ = _Environment


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _listening:
        return
    collected, (path, _, flags) = _listening[-1], arguments
    writes = isinstance(flags, int) and flags & os.O_ACCMODE == os.O_WRONLY
    if collected is not None and isinstance(path, (str, bytes)) and not writes:
        collected.files.add(os.path.abspath(os.fsdecode(path)))


class _Environment(type(os.environ)):  # type: ignore[misc]
    """The environment, which notes what the project's code looks up."""

    def __getitem__(self, key: str) -> str:
        collected = _listening[-1] if _listening else None
        if collected is not None and isinstance(key, str) and _is_own(_caller(sys._getframe(1)), collected.root):
            collected.variables.add(key)
        return str(super().__getitem__(key))


def _caller(frame: FrameType | None) -> str:
    """The file of the code that looks a variable up, past the library's own."""
    while frame is not None and frame.f_globals.get("__name__") in _BETWEEN:
        frame = frame.f_back
    return frame.f_code.co_filename if frame is not None else ""


@lru_cache(10_000)
def _is_own(file: str, root: str) -> bool:
    """Whether a file is in the project's folder, and not in an environment that lies there."""
    path = os.path.realpath(file)
    return path.startswith(root + os.sep) and "site-packages" not in path.split(os.sep)


def _reads(collected: _Collected) -> Reads:
    """The content, as it is now, of what was read."""
    root = collected.root
    paths = sorted(os.path.realpath(path) for path in collected.files)
    own = [path for path in paths if _is_own(path, root) and not path.endswith(_CODE)]
    files = {os.path.relpath(path, root).replace(os.sep, "/"): _file(path) for path in own}
    names = sorted(name for name in collected.variables if not name.startswith(_OF_A_CHILD))
    return Reads(files, {name: _variable(name, _initial) for name in names})


def _joined(first: Reads | None, second: Reads) -> Reads:
    if first is None:
        return second
    return Reads({**first.files, **second.files}, {**first.variables, **second.variables})


def _file(path: str) -> str:
    """SHA-256 of a file; ABSENT where there is none."""
    try:
        state = os.stat(path)
        if not os.path.isfile(path):
            return ABSENT
        return _content(path, state.st_mtime_ns, state.st_size, state.st_ino, state.st_ctime_ns)
    except OSError:
        return ABSENT


@lru_cache(10_000)
def _content(path: str, *state: int) -> str:
    """SHA-256 of a file in a certain state: large ones are looked at often."""
    digest = hashlib.sha256()
    with unheard(), open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _variable(name: str, environment: Mapping[str, str]) -> str:
    """A hash of a variable's value, which may be secret; ABSENT where it is not set."""
    value = environment.get(name)
    if value is None:
        return ABSENT
    return hashlib.sha256(f"{name}\0{value}".encode("utf-8", "surrogateescape")).hexdigest()
