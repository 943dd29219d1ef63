"""The chain of proof for Core ML: is the conversion right, and what may a device do to it?

First the lowering: the fp32 sibling of the file, executed with no activation rounded, is the float64 oracle to 100 dB.
What holds there holds at every precision, since the same passes of the converter made both files; what the precision
adds is judged by the golden test. A file without a sibling is held to what storing its weights alone costs. Then the
risk, which does not gate: fp16 overflow and its headroom, and what accumulation in fp16 would change. Imports no
converter and no runtime: those are in child processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from parity import formats as targets
from parity.core.case import Array, Case, digest
from parity.core.contract import OutputSpec
from parity.core.errors import NoTwin
from parity.core.plan import Cell
from parity.core.record import Check, EventRecord, RiskRecord
from parity.formats.messages import LoweringRequest, Risk
from parity.formats.target import versions
from parity.judging.floor import raw_floors
from parity.judging.judge import lowered
from parity.judging.limits import is_default
from parity.judging.metrics import EXACT_DB
from parity.process import serialise
from parity.session import rows
from parity.store.code_key import code_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from parity.core.settings import ModelConfig
    from parity.judging.limits import Limit
    from parity.session.artefacts import Artifact
    from parity.session.evaluations import Reference
    from parity.session.session import Session
    from parity.store.cache import Entry

T = TypeVar("T")
STORAGE = {"fp16": "storage", "dynamic": "weights"}  # the twins that round weights only
CLEAN_DB = 100.0  # the default limit
ROOM_DB = 24.0  # 16 times what eager float32 costs, as the lift has it
FRAGILE_DB = 30.0  # fp16 accumulation that moves an output by more than 3 % of itself
Limits = Mapping[str, "Limit"]


@dataclass(frozen=True)
class Lowering:
    """What was measured of one cell, by output: `worst`, the least (decibels, case); `ratio`, the error over the cost
    of storing the weights, only where there is no fp32 sibling. `risk` is of the cell's own file. `plain`: the worst
    decibels of the module as PyTorch runs it in float32, of outputs that are below `CLEAN_DB`."""

    worst: Mapping[str, tuple[float, str]]
    ratio: Mapping[str, float]
    risk: RiskRecord
    plain: Mapping[str, float] = field(default_factory=dict)

    def checks(self, limits: Callable[[str], Limits]) -> list[Check]:
        """One check an output; `limits` gives the limits in force by output."""
        found = []
        for name, (decibels, case) in self.worst.items():
            spec = OutputSpec(name)
            if name in self.ratio:
                what = f"no activation rounded and no fp32 sibling: {decibels:.1f} dB in the worst case, {case}"
                found.append(lowered(spec, "lowering_ratio", self.ratio[name], limits(name), what))
            else:
                what = f"no activation rounded: worst case {case}"
                found.append(lowered(spec, "lowering_db", decibels, self._widened(name, limits(name)), what))
        return found

    def _widened(self, output: str, limits: Limits) -> Limits:
        """The limits, where float32 itself amplifies rounding in this model: a default then leaves room for that."""
        limit = limits.get("lowering_db")
        if limit is None or limit.value is None or output not in self.plain or not is_default(limit.source):
            return limits
        value = round(min(limit.value, self.plain[output] - ROOM_DB), 1)
        if value == limit.value:
            return limits
        source = f"{limit.source}, less what float32 costs this model in PyTorch, {self.plain[output]:.0f} dB"
        return {**limits, "lowering_db": replace(limit, value=value, source=source)}

    def warnings(self) -> list[str]:
        """What a person should know of the risk, in words."""
        said = [event.sentence for event in self.risk.events]
        said += [
            f"fp16 accumulation alone moves {name} to {decibels:.0f} dB: devices that accumulate in fp16 may differ"
            for name, decibels in self.risk.stress_db.items() if decibels < FRAGILE_DB
        ]  # fmt: skip
        return said


def measure(session: Session, cell: Cell, cases: Sequence[Case], oracle: Reference) -> Lowering:
    """Execute sibling and file on `cases`. Raises ChildFailure and ParityError."""
    model = session.config.models[cell.model]
    artifact, sibling = session.artifact(cell), _sibling(session, cell)
    rows = _lowered(session, cell, sibling or artifact, cases)
    # An output that the file does not have is a broken contract and a broken golden check already.
    shared = [o for o in model.contract.outputs if all(o.name in row for row in rows)]
    worst = {o.name: worst_case(rows, oracle.outputs, o.name, cases) for o in shared}
    ratio: dict[str, float] = {}
    if sibling is None:
        twin = session.twin(model, cases, cell.precision, STORAGE[cell.precision])
        known = raw_floors(oracle.outputs, twin, cell.precision, shared)
        ratio = {name: floor.ratio([row[name] for row in rows]).pooled for name, floor in known.items()}
    low = [o.name for o in shared if worst[o.name][0] < CLEAN_DB and o.name not in ratio]
    return Lowering(worst, ratio, _risk(session, cell, artifact, cases), _plain(session, model, cases, oracle, low))


def _plain(
    session: Session, model: ModelConfig, cases: Sequence[Case], oracle: Reference, outputs: Sequence[str]
) -> dict[str, float]:
    """The worst decibels of PyTorch's own float32 run, by output; empty where there is none."""
    if not outputs:
        return {}
    try:
        rows = session.plain(model, cases, "fp32")
    except NoTwin:
        return {}
    return {name: worst_case(rows, oracle.outputs, name, cases)[0] for name in outputs}


def _sibling(session: Session, cell: Cell) -> Artifact | None:
    """The fp32 file of the same model and target; None for a file from elsewhere that came without one."""
    if cell.precision == "fp32":
        return session.artifact(cell)
    given = session.config.models[cell.model].artifacts
    if f"{cell.target}-{cell.precision}" in given and f"{cell.target}-fp32" not in given:
        return None
    return session.artifact(Cell(cell.model, cell.target, "fp32"))


def worst_case(
    rows: Sequence[Mapping[str, Array]], wants: Sequence[Mapping[str, Array]], name: str, cases: Sequence[Case]
) -> tuple[float, str]:
    """The least signal to noise of any case, in dB, and the case; the signal is at least the output's rms over all
    cases, so that a case that is almost zero does not decide. 0 dB where shapes differ or values are not finite."""
    got, want = [row[name] for row in rows], [row[name] for row in wants]
    usual = math.sqrt(
        sum(float(np.square(w, dtype=np.float64).sum()) for w in want) / max(sum(w.size for w in want), 1)
    )
    found = []
    for g, w, case in zip(got, want, cases, strict=True):
        if g.shape != w.shape or not (np.isfinite(g).all() and np.isfinite(w).all()):
            same = g.shape == w.shape and np.array_equal(g, w, equal_nan=False)
            found.append((EXACT_DB if same else 0.0, case.id))
            continue
        noise = float(np.linalg.norm((g.astype(np.float64) - w).ravel()))
        signal = max(float(np.linalg.norm(w.astype(np.float64).ravel())), usual * math.sqrt(w.size))
        if noise == 0:
            found.append((EXACT_DB, case.id))
        else:
            found.append((max(20 * math.log10(signal / noise), 0.0) if signal else 0.0, case.id))
    return min(found)


def _lowered(session: Session, cell: Cell, artifact: Artifact, cases: Sequence[Case]) -> list[dict[str, Array]]:
    """Outputs of the artefact with no activation rounded, one a case; made once for the same file and cases."""

    def lower(folder: Path) -> Mapping[str, Any]:
        session.progress(cell.id, "lower")
        outputs = _call(session, cell, "lower", artifact, cases, list[dict[str, Array]])
        rows.write(folder / "outputs.npz", outputs)
        return {"cases": len(outputs)}

    entry = _built(session, cell, "lower", artifact, cases, lower)
    return rows.read(entry.folder / "outputs.npz", len(cases))


def _risk(session: Session, cell: Cell, artifact: Artifact, cases: Sequence[Case]) -> RiskRecord:
    def risk(folder: Path) -> Mapping[str, Any]:
        session.progress(cell.id, "risk")
        answer = _call(session, cell, "risk", artifact, cases, Risk)
        return dict(serialise.to_builtins(answer))

    answer = serialise.from_builtins(Risk, _built(session, cell, "risk", artifact, cases, risk).notes)
    events = tuple(
        EventRecord(**{**serialise.to_builtins(event), "case": cases[event.case].id}) for event in answer.events
    )
    peak = answer.peak
    return RiskRecord(events, peak.value, peak.headroom, peak.operator, peak.output, answer.stress)


def _call(
    session: Session,
    cell: Cell,
    function: str,
    artifact: Artifact,
    cases: Sequence[Case],
    answer: type[T],
) -> T:
    request = LoweringRequest(str(artifact.folder), artifact.notes, [c.inputs for c in cases])
    target = targets.get(cell.target)
    return session.children.call(target.family, f"{target.lowering}:{function}", request, answer, stage=function)


def _built(
    session: Session,
    cell: Cell,
    function: str,
    artifact: Artifact,
    cases: Sequence[Case],
    builder: Callable[[Path], Mapping[str, Any]],
) -> Entry:
    """What `function` gives for a file, how its outputs are named, and the inputs; made once."""
    spec = {
        "lowering": function,
        "artifact": artifact.record.key,
        "notes": {side: dict(artifact.notes[side]) for side in ("inputs", "outputs")},
        "cases": digest(cases),
        "code": code_key(f"{targets.get(cell.target).lowering}:{function}"),
        "packages": versions(("torch", "numpy")),
    }
    name, since = f"{cell.id}~{function}", session.rebuild_since
    return session.store.build(spec, name, builder, rebuild_since=since)
