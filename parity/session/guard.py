"""The guard behind the fingerprint: once a run, a model is run and held against what is stored.

A fingerprint cannot know everything: a module may read the environment or a file when it runs. So
the oracle's outputs on one case are kept as a witness, and computed again in every run by the very
same code. Where the two disagree, whatever is stored for that fingerprint is stale: a new epoch
becomes part of the fingerprint, and with it of every key, so that nothing made before is used. One case
does not show all: so files and variables that the model was seen to read are held against what
was there, too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.case import Array
from parity.judging.single import rms
from parity.process.isolate import ChildFailure
from parity.store import epochs
from parity.store.cache import Entry, Store, key_of
from parity.store.code_key import code_key

ORACLE = "parity.reference.oracle:evaluate"
BEYOND = 1e-6  # of an output's rms; float64 on another machine moves it by much less
BEYOND_FLOAT32 = 1e-3  # where the module cannot run in float64, another machine moves it by so much
_ROUNDS = 3  # epochs that other processes may begin while this one looks

_PUT_ASIDE = "all that is stored was put aside and made again"

Row = Mapping[str, Array]
Reads = Mapping[str, Mapping[str, str]]  # hashes by name, of files and of variables


@dataclass(frozen=True)
class Outputs:
    """What the oracle gave for the witness's case, and what it computed in: float64 or float32."""

    row: Row
    dtype: str


Evaluate = Callable[[Row], Outputs]


@dataclass(frozen=True)
class Guarded:
    """A fingerprint with its epoch, and a sentence about what was put aside; mostly empty."""

    fingerprint: dict[str, str]
    finding: str = ""


def guarded(
    store: Store,
    name: str,
    fingerprint: Mapping[str, str],
    inputs: Callable[[], Row],
    evaluate: Evaluate,
    changed: Callable[[Reads], str] = lambda reads: "",
) -> Guarded:
    """Hold the model `name` against its witness; where there is none yet, make one of `inputs`.

    `evaluate` runs the oracle on one case. Where it raises ChildFailure, the tests that need the
    oracle say so. `changed` names what a model read when something was stored of it, and is not
    as it was. Raises ParityError of the store.
    """
    subject = key_of(fingerprint)
    finding = ""
    for _ in range(_ROUNDS):
        epoch = epochs.current(store, subject)
        if name_of_read := changed(epoch.reads):
            epochs.ended(store, subject, epoch)
            finding = f"model {name} reads {name_of_read}, which has changed: {_PUT_ASIDE}"
            continue
        marked = {**fingerprint, "epoch": epoch.name} if epoch.name else dict(fingerprint)
        spec = {"witness": marked, "code": code_key(ORACLE)}
        try:
            entry = store.build(spec, f"{name}~witness", partial(_keep, inputs, evaluate))
            difference = "" if entry.built else _difference(entry, evaluate)
        except ChildFailure:
            return Guarded(marked, finding)
        is_new = entry.key not in epoch.witnesses
        if not difference and (is_new or not entry.built):
            epochs.witnessed(store, subject, epoch, entry.key)
            return Guarded(marked, finding)
        epochs.ended(store, subject, epoch)
        if difference:
            finding = f"model {name} computes something else than is stored of it ({difference}): {_PUT_ASIDE}"
    return Guarded({**fingerprint, "epoch": epochs.new_name()}, finding)


def _keep(make: Callable[[], Row], evaluate: Evaluate, folder: Path) -> dict[str, Any]:
    """Make a witness: the inputs and outputs of one case, in one file."""
    case = make()
    now = evaluate(case)
    arrays = {f"in/{key}": value for key, value in case.items()}
    arrays |= {f"out/{key}": value for key, value in now.row.items()}
    np.savez(folder / "witness.npz", **arrays)
    return {"dtype": now.dtype}


def _difference(entry: Entry, evaluate: Evaluate) -> str:
    """How the model differs from its witness; empty where it does not.

    A module that disagrees with itself, by noise that it draws, shows nothing. Raises ChildFailure
    where this machine, and not the module, is why it does not run.
    """
    inputs: dict[str, Array] = {}
    kept: dict[str, Array] = {}
    content = io.BytesIO((entry.folder / "witness.npz").read_bytes())
    with np.load(content, allow_pickle=False) as archive:
        for key in archive.files:
            side, _, name = key.partition("/")
            (inputs if side == "in" else kept)[name] = archive[key]
    try:
        now = evaluate(inputs)
    except ChildFailure as failure:
        if failure.state != "error" or failure.reason.startswith("MemoryError"):
            raise
        return f"it fails: {failure.reason}"
    exact = now.dtype == entry.notes["dtype"] == "float64"
    limit = BEYOND if exact else BEYOND_FLOAT32
    difference = disagreement(kept, now.row, limit)
    if difference and disagreement(now.row, evaluate(inputs).row, limit):
        return ""
    return difference


def disagreement(kept: Row, now: Row, limit: float) -> str:
    """How the first output that moved by more than `limit` of its rms did so; "" where none did."""
    if set(kept) != set(now):
        return f"outputs {sorted(now)} instead of {sorted(kept)}"
    for name, before in kept.items():
        after = now[name]
        if before.shape != after.shape:
            return f"{name}: shape {list(after.shape)} instead of {list(before.shape)}"
        if before.dtype.kind != "f":
            if not np.array_equal(before, after):
                return f"{name}: other integers"
            continue
        finite = np.isfinite(before)
        others = ~finite
        if not np.isfinite(after[finite]).all():
            return f"{name}: values that are not finite"
        if not np.array_equal(before[others], after[others], equal_nan=True):
            return f"{name}: other values that are not finite"
        error = rms(after[finite] - before[finite]) / (rms(before[finite]) or 1.0)
        if error > limit:
            return f"{name}: by {error:.2g} of its rms"
    return ""
