"""What the evaluator can say of a Core ML file beyond its outputs, in the child: lowering, headroom, fragility.

The precision of an execution is the evaluator's choice, so errors can be told apart by their cause. Without any
rounding (mode `fp64`) only the conversion itself is left; with partial sums in fp16 too (mode `stress`) it shows what a
device with narrow accumulators may do. On any operating system, whichever executor runs the cell itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parity import mil
from parity.formats.coreml.state import execute
from parity.formats.messages import LoweringRequest, Peak, Risk, RiskEvent
from parity.formats.serve import fed, named
from parity.formats.target import Array, narrowed
from parity.judging.metrics import EXACT_DB
from parity.process.child import stage


def lower(request: LoweringRequest) -> list[dict[str, Array]]:
    """Outputs of every case with no activation rounded, under the model's names: the conversion and its weights."""
    stage("lower")
    notes = request.notes
    program = mil.load(Path(request.folder, notes["entry"]))
    return [named(notes, execute(program, notes, _fed(notes, case), mode="fp64")) for case in request.cases]


def risk(request: LoweringRequest) -> Risk:
    """What the file does on the cases where it declares fp16: events and the largest magnitude, and how far fp16
    accumulation moves each output from fp16 results alone."""
    stage("risk")
    notes = request.notes
    program = mil.load(Path(request.folder, notes["entry"]))
    events: dict[tuple[str, str], RiskEvent] = {}
    peak = program.peak
    stress: dict[str, float] = {}
    for number, case in enumerate(request.cases):
        inputs = _fed(notes, case)
        plain = named(notes, execute(program, notes, inputs))
        for event in program.events:
            place = event.kind, event.output
            first = events.get(place) or RiskEvent(
                event.kind,
                event.operator,
                event.output,
                event.module,
                event.figures,
                event.detail.get("headroom"),
                case=number,
                cases=0,
            )
            events[place] = replace(first, cases=first.cases + 1)
        if program.peak.value > peak.value:
            peak = program.peak
        narrow = named(notes, execute(program, notes, inputs, mode="stress"))
        for name in plain:
            if plain[name].dtype.kind == "f":
                stress[name] = min(stress.get(name, EXACT_DB), decibels(narrow[name], plain[name]))
    headroom = peak.headroom if peak.value else None
    return Risk(list(events.values()), Peak(peak.value, headroom, peak.operator, peak.output), stress)


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
