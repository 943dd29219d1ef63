"""The child's side of every runtime: open an artefact, run cases through it under the model's own names and layout."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.cases import sequence
from parity.cases.recipes import Layout, viewed
from parity.core.errors import ParityError
from parity.formats.target import load_part
from parity.process.child import stage

_CANONICAL = {3: "NCL", 4: "NCHW", 5: "NCDHW"}
_open: dict[int, tuple[Any, Mapping[str, Any]]] = {}


def open_session(session: str, folder: str, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Open the artefact in `folder`; returns {"handle", "description"}."""
    stage("load")
    opened = load_part(session)(folder, notes)
    handle = max(_open, default=0) + 1
    _open[handle] = (opened, notes)
    return {"handle": handle, "description": opened.describe()}


def close_session(handle: int) -> None:
    _open.pop(handle, None)


def run(
    handle: int,
    cases: Sequence[Mapping[str, np.ndarray[Any, Any]]],
    layouts: Sequence[Mapping[str, Layout]] | None = None,
) -> dict[str, Any]:
    """Outputs of every case in order, as {"outputs": [{name: array}], "milliseconds": [inference only]}.

    `layouts` names, for each case, the inputs that the runtime is to be given as views of other memory.
    """
    stage("run")
    session, notes = _open[handle]
    outputs, milliseconds = [], []
    for number, case in enumerate(cases):
        given = fed(notes, case)
        for name, layout in (layouts[number] if layouts else {}).items():
            own = notes["inputs"][name]["name"]
            given[own] = viewed(given[own], layout)
        start = time.perf_counter()
        got = session.run(given)
        milliseconds.append(1000 * (time.perf_counter() - start))
        outputs.append(named(notes, got))
    return {"outputs": outputs, "milliseconds": milliseconds}


def play(
    handle: int,
    steps: Sequence[Mapping[str, np.ndarray[Any, Any]]],
    carry: Mapping[str, str],
    keep: Sequence[str],
    free: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The outputs `keep` of every step, each step's state being what the artefact itself gave in the step before."""
    stage("run")
    session, notes = _open[handle]
    dtypes = {name: value.dtype for name, value in steps[0].items()}

    def run(case: dict[str, Any], number: int) -> dict[str, Any]:
        given = {name: value.astype(dtypes[name]) for name, value in case.items()}
        return named(notes, session.run(fed(notes, given)))

    return sequence.play(run, steps, carry, keep, sequence.Free(**free) if free else None)


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
