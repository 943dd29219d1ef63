"""What the evaluator can say of a Core ML file beyond its outputs, in the child: lowering, headroom, fragility.

The precision of an execution is the evaluator's choice, so errors can be told apart by their cause. Without any
rounding (mode `fp64`) only the conversion itself is left; with partial sums in fp16 too (mode `stress`) it shows what a
device with narrow accumulators may do. On any operating system, whichever executor runs the cell itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity import mil
from parity.formats.coreml.state import execute
from parity.formats.serve import fed, named
from parity.formats.target import Array, narrowed
from parity.judging.metrics import EXACT_DB
from parity.process.child import stage

Rows = Sequence[Mapping[str, Array]]


def lower(folder: str, notes: Mapping[str, Any], cases: Rows) -> list[dict[str, Array]]:
    """Outputs of every case with no activation rounded, under the model's names: the conversion and its weights."""
    stage("lower")
    program = mil.load(Path(folder, notes["entry"]))
    return [named(notes, execute(program, notes, _fed(notes, case), mode="fp64")) for case in cases]


def risk(folder: str, notes: Mapping[str, Any], cases: Rows) -> dict[str, Any]:
    """What the file does on the cases where it declares fp16: events and the largest magnitude, and how far fp16
    accumulation moves each output from fp16 results alone.

    {"events": [{"kind", "operator", "output", "module", "said", "headroom", "case", "cases"}], "peak": {"value",
    "headroom", "operator", "output"}, "stress": {output: decibels, the worst case}}. An event is the first of its kind
    and place; `case` is its index, `cases` counts those that it happened in.
    """
    stage("risk")
    program = mil.load(Path(folder, notes["entry"]))
    found: dict[tuple[str, str], dict[str, Any]] = {}
    peak = program.peak
    stress: dict[str, float] = {}
    for number, case in enumerate(cases):
        inputs = _fed(notes, case)
        plain = named(notes, execute(program, notes, inputs))
        for event in program.events:
            entry = found.setdefault(
                (event.kind, event.output),
                {"kind": event.kind, "operator": event.operator, "output": event.output, "module": event.module,
                 "said": event.figures, "headroom": event.detail.get("headroom"), "case": number, "cases": 0},
            )  # fmt: skip
            entry["cases"] += 1
        if program.peak.value > peak.value:
            peak = program.peak
        narrow = named(notes, execute(program, notes, inputs, mode="stress"))
        for name in plain:
            if plain[name].dtype.kind == "f":
                stress[name] = min(stress.get(name, EXACT_DB), decibels(narrow[name], plain[name]))
    where = {"value": peak.value, "headroom": peak.headroom if peak.value else None}
    return {
        "events": list(found.values()),
        "peak": {**where, "operator": peak.operator, "output": peak.output},
        "stress": stress,
    }


def decibels(got: Array, want: Array) -> float:
    """Signal to noise of one array; 0 where nothing finite can be said."""
    noise = float(np.linalg.norm((got.astype(np.float64) - want).ravel()))
    signal = float(np.linalg.norm(want.astype(np.float64).ravel()))
    if noise == 0:
        return EXACT_DB
    if not (np.isfinite(noise) and np.isfinite(signal) and signal > 0):
        return 0.0
    return float(min(20 * np.log10(signal / noise), EXACT_DB))


def _fed(notes: Mapping[str, Any], case: Mapping[str, Array]) -> dict[str, Array]:
    return narrowed(fed(notes, case))
