"""The child's side of every runtime: open an artefact, run cases through it under the model's own names and layout."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.cases import sequence
from parity.cases.differing import differs
from parity.cases.recipes import Layout, viewed
from parity.cases.sequence import Free
from parity.core.case import Array
from parity.core.errors import ParityError
from parity.formats.target import load_part
from parity.process.child import stage

Rows = Sequence[Mapping[str, Array]]

_RUNS, _SECONDS = 8, 1.0  # in another way, at most: what threads do differs from run to run
_CANONICAL = {3: "NCL", 4: "NCHW", 5: "NCDHW"}
_open: dict[int, tuple[Any, Mapping[str, Any]]] = {}
_takes: dict[int, list[str]] = {}  # by handle, what the file calls its inputs; empty where it does not say


@dataclass(frozen=True)
class OpenRequest:
    """The artefact in `folder`, by a "module:class" that opens it with the artefact's notes."""

    session: str
    folder: str
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class Opened:
    """An open artefact: `handle` names it in this child; `description` is what its runtime says of it."""

    handle: int
    description: Mapping[str, Any]


@dataclass(frozen=True)
class RunRequest:
    """Cases for an open artefact: inputs by the model's names and in its layouts.

    `layouts` names, for each case, the inputs that the runtime is to be given as views of other memory.
    """

    handle: int
    cases: Rows
    layouts: Sequence[Mapping[str, Layout]] | None = None


@dataclass(frozen=True)
class Outputs:
    """Outputs of every case by the model's names, in order; `milliseconds` are those of inference alone.

    `overwritten` are the model's inputs that the file was seen to write into since it was opened, where the runtime
    hands it the caller's own memory; `returned` are those in whose memory an output was seen to lie.
    """

    outputs: Rows
    milliseconds: Sequence[float]
    overwritten: Sequence[str] = ()
    returned: Sequence[str] = ()


@dataclass(frozen=True)
class Otherwise:
    """A way of running a file, and the outputs that differ in it by more than rounding."""

    way: str
    outputs: Sequence[str]


@dataclass(frozen=True)
class PlayRequest:
    """Steps that feed one another in an open artefact: `carry` says which output replaces which input, `keep` names
    the outputs that are wanted."""

    handle: int
    steps: Rows
    carry: Mapping[str, str]
    keep: Sequence[str]
    free: Free | None = None


def open_session(request: OpenRequest) -> Opened:
    """Open an artefact."""
    stage("load")
    opened = load_part(request.session)(request.folder, request.notes)
    handle = max(_open, default=0) + 1
    description = opened.describe()
    _open[handle] = (opened, request.notes)
    _takes[handle] = [entry["name"] for entry in description.get("inputs", ())]
    return Opened(handle, description)


def described(handle: int) -> dict[str, Any]:
    """What the session says of itself by now: some of it shows when it has run."""
    return dict(_open[handle][0].describe())


def close_session(handle: int) -> None:
    _open.pop(handle, None)
    _takes.pop(handle, None)


def run(request: RunRequest) -> Outputs:
    """Outputs of every case."""
    stage("run")
    session, notes = _open[request.handle]
    outputs, milliseconds = [], []
    for number, case in enumerate(request.cases):
        given = fed(notes, case)
        for name, layout in (request.layouts[number] if request.layouts else {}).items():
            own = notes["inputs"][name]["name"]
            given[own] = viewed(given[own], layout)
        start = time.perf_counter()
        got = _answer(request.handle, given)
        milliseconds.append(1000 * (time.perf_counter() - start))
        outputs.append(named(notes, got))
    overwritten, returned = (sorted(getattr(session, seen, ())) for seen in ("overwritten", "returned"))
    return Outputs(outputs, milliseconds, overwritten, returned)


def otherwise(request: RunRequest) -> list[Otherwise]:
    """The ways in which an app may run the file and in which it gives something else than as it is measured."""
    stage("run")
    session, notes = _open[request.handle]
    seen: list[Otherwise] = []
    for way, run_otherwise in session.otherwise() if hasattr(session, "otherwise") else ():
        for case in request.cases:
            usual = named(notes, session.run(fed(notes, case)))
            end = time.perf_counter() + _SECONDS
            for _ in range(_RUNS if "threads" in way else 1):
                got = _tried(notes, run_otherwise, fed(notes, case))
                names = [n for n, value in usual.items() if n not in got or differs(np.array(value), np.array(got[n]))]
                seen += [Otherwise(way, names)] if names else []
                if names or time.perf_counter() > end:
                    break
    return seen


def _tried(notes: Mapping[str, Any], run_otherwise: Any, given: Mapping[str, Array]) -> Mapping[str, Any]:
    """What a run gives; nothing where it fails, as numbers from nowhere may be indices."""
    try:
        return named(notes, run_otherwise(given))
    except Exception:
        return {}


def play(request: PlayRequest) -> list[dict[str, Array]]:
    """The outputs `keep` of every step, each step's state being what the artefact itself gave in the step before."""
    stage("run")
    _, notes = _open[request.handle]
    dtypes = {name: value.dtype for name, value in request.steps[0].items()}

    def run(case: dict[str, Any], number: int) -> dict[str, Any]:
        given = {name: value.astype(dtypes[name]) for name, value in case.items()}
        return named(notes, _answer(request.handle, fed(notes, given)))

    return sequence.play(run, request.steps, request.carry, request.keep, request.free)


def _answer(handle: int, given: Mapping[str, Array]) -> Mapping[str, Any]:
    """What the session gives. Raises ParityError where it fails for want of a name that the file does not have."""
    session, notes = _open[handle]
    try:
        return dict(session.run(given))
    except Exception:
        _expect_names(notes, _takes[handle])
        raise


def _expect_names(notes: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise ParityError where the file has an input under no name that it is said to have."""
    for mine, entry in notes["inputs"].items():
        if names and entry["name"] not in names:
            raise ParityError(
                f"the file has no input {entry['name']!r}, it has {', '.join(map(repr, names))}: "
                f"say which is the model's {mine!r}: --tensor {mine}=THEIRS (in a table of artifacts: inputs)"
            )


def fed(notes: Mapping[str, Any], case: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """A case under the artefact's own names and layouts."""
    return {entry["name"]: _to(case[name], entry.get("layout")) for name, entry in notes["inputs"].items()}


def named(notes: Mapping[str, Any], got: Mapping[str, Any]) -> dict[str, Any]:
    """What an artefact gave under the model's names and layouts. An output that it does not have is left out, for the
    caller to notice; none is matched by position."""
    return {n: _from(got[e["name"]], e.get("layout")) for n, e in notes["outputs"].items() if e["name"] in got}


def _permutation(layout: str, rank: int) -> list[int]:
    canonical = _CANONICAL.get(rank, "")
    if sorted(layout) != sorted(canonical):
        raise ParityError(
            f"layout {layout!r} does not fit a tensor of rank {rank} (a permutation of {canonical or '?'})"
        )
    return [canonical.index(axis) for axis in layout]


def _to(value: np.ndarray[Any, Any], layout: str | None) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(value.transpose(_permutation(layout, value.ndim))) if layout else value


def _from(value: np.ndarray[Any, Any], layout: str | None) -> np.ndarray[Any, Any]:
    if not layout:
        return value
    return np.ascontiguousarray(value.transpose(np.argsort(_permutation(layout, value.ndim))))
