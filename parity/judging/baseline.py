"""The ledger of the last release: what every cell cost in accuracy, bytes and time, and what changed since. Pure.

`reports/baseline.json` is committed. Its keys are sorted and every figure has a line of its own, so that a review
shows a widened limit, a larger file or a new drift as one changed line. Limits say what is acceptable at all; the
ledger says what was achieved, and so catches what got much worse inside a generous limit. A change counts only when
it is large against what it was (a ratio) and large enough to mean something (a floor). Imports no converter, no pytest.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from parity.core import strict_json
from parity.core.case import OVER_ALL
from parity.core.errors import ParityError
from parity.core.kinds import BY_NAME, KINDS
from parity.core.record import (
    BaselineRecord,
    CellRecord,
    Check,
    Finding,
    Regression,
    RunRecord,
    Sense,
    build,
    plain,
)
from parity.judging.registry import METRICS

SCHEMA = "parity.baseline/1"
DEFAULT_PATH = "reports/baseline.json"

# What computes or decodes besides a cell's own runtime. Converters are left out on purpose: drift that a new converter
# brings is what the ledger is there to show, while another measuring instrument makes figures incomparable.
# OpenCV's four distributions hold the same module; an environment has one of them.
OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
INSTRUMENTS = ("numpy", *OPENCV, "pillow")

# Errors of the same code on the same machine repeat bit for bit, and a retrained model moves its worst case by some
# ten per cent. Half as much again is neither.
RATIO = 1.5
# Another processor sums float32 in another order: between two of x86-64, one with AMX, figures of the same files moved
# by up to 2.04 times, in 8 of 59 cells by more than 1.5.
RATIO_ELSEWHERE = 3.0
# Floors are in the unit of the error, so that a change is large enough to mean something. Metrics in the unit of an
# output, and a project's own, have no natural floor but the limit that somebody set.
FLOORS: Mapping[str, float] = {
    spec.name: spec.ledger_floor for spec in METRICS.values() if spec.ledger_floor is not None
}
SHARE_OF_LIMIT = 0.05

# Names, versions and alignment move a file by less than a page; a twentieth is more than metadata.
BYTES_RATIO, BYTES_FLOOR = 1.05, 4096
# Classes are powers of two and a figure at the edge of one falls to either side: one step says nothing, two say that
# it takes at least twice as long. A run of less than 4 ms measures the scheduler, and counts as one of 4 ms.
LATENCY_STEPS, LATENCY_FLOOR_MS = 2, 4.0
COST_FLOOR_S = 1.0  # below it start-up decides
# Share of injected faults that the gate lets through: a quarter more of them, and one in twenty of all.
POWER_RATIO, POWER_FLOOR = 1.25, 0.05

Figures = Mapping[str, Mapping[str, Mapping[str, float]]]  # kind -> output -> metric -> figure
Change = Literal["regressed", "improved"] | None


@dataclass(frozen=True)
class Asked:
    """What one kind of check was measured on: another number of cases or another contract is another question."""

    cases: int
    contract: str  # hash of the names of cases and outputs


@dataclass(frozen=True)
class PowerFigure:
    injected: int
    killed: int


@dataclass(frozen=True)
class LedgerCell:
    """One cell at the last release. `drift` and `limits` have the same keys: what has no limit is not kept."""

    measured: Mapping[str, Asked]
    drift: Figures
    limits: Figures
    runtime: str = ""
    toolchain: str | None = None  # that made the file; None in ledgers that do not say
    bytes: int | None = None
    latency_ms: float | None = None  # the power of two nearest to the median; 4 is 4 ms or less
    latency_vs_fp32: float | None = None  # the power of two nearest to the ratio to the fp32 cell of model and target
    power: PowerFigure | None = None
    cost_s: float | None = None  # the power of two nearest to what a cold run of the cell takes; splits plans evenly


@dataclass(frozen=True)
class Instruments:
    """The measuring instruments that all cells share."""

    python: str
    machine: str
    packages: Mapping[str, str]
    processor: str = ""


@dataclass(frozen=True)
class Baseline:
    environment: Instruments
    cells: Mapping[str, LedgerCell] = field(default_factory=dict)
    schema: str = SCHEMA


# From a record to a ledger and its text.


def of(record: RunRecord) -> Baseline:
    """The ledger of a run: every cell that measured something, its worst figures rounded to four digits of error."""
    e = record.environment
    packages = {name: e.packages[name] for name in INSTRUMENTS if name in e.packages}
    shared = Instruments(".".join(e.python.split(".")[:2]), e.machine, packages, e.processor)
    float32 = {(c.model, c.target): _milliseconds(c) for c in record.cells if c.precision == "fp32"}
    cells = {}
    for cell in record.cells:
        drift, limits, measured = _figures(cell)
        if measured:
            own, other = _milliseconds(cell), float32.get((cell.model, cell.target))
            cells[cell.id] = LedgerCell(
                measured, drift, limits,
                runtime=f"{cell.runtime.name} {cell.runtime.version}" if cell.runtime else "",
                toolchain=cell.toolchain.label if cell.toolchain else None,
                bytes=sum(f.bytes for f in cell.artifact.files) if cell.artifact else None,
                latency_ms=_class(own),
                latency_vs_fp32=_class(own / other) if own and other and cell.precision != "fp32" else None,
                power=PowerFigure(cell.power.injected, cell.power.killed) if cell.power else None,
                cost_s=_class(max(cold_seconds(cell), COST_FLOOR_S)),
            )  # fmt: skip
    return Baseline(shared, cells)


def cold_seconds(cell: CellRecord) -> float:
    """What the cell took, and its converter too where this run found the file in the cache."""
    exported = cell.artifact.export_seconds if cell.artifact and cell.artifact.cached else None
    return (cell.seconds or 0.0) + (exported or 0.0)


def costs(baseline: Baseline | None) -> dict[str, float]:
    """Seconds by cell id, as the ledger knows them."""
    return {id: cell.cost_s for id, cell in baseline.cells.items() if cell.cost_s} if baseline else {}


def _milliseconds(cell: CellRecord) -> float | None:
    median = cell.runtime.median_ms if cell.runtime else None
    return max(median, LATENCY_FLOOR_MS) if median is not None and median > 0 else None


def _class(value: float | None) -> float | None:
    """The power of two nearest to `value` on a logarithmic scale."""
    return 2.0 ** round(math.log2(value)) if value and 1e-300 < value < 1e300 else None


def worst(checks: list[Check]) -> Check:
    """The check with the largest error among checks of one metric that have a value."""
    return max(checks, key=lambda c: (c.value or 0.0) * (1 if c.sense == "max" else -1))


def widest(checks: list[Check]) -> float:
    """The most generous limit among checks of one metric, each of which has one."""
    limits = [c.limit for c in checks if c.limit is not None]
    return max(limits) if checks[0].sense == "max" else min(limits)


def gated(cell: CellRecord) -> dict[tuple[str, str, str], list[Check]]:
    """The cell's checks with a limit, by (kind, output, metric), of the kinds that the ledger keeps."""
    groups: dict[tuple[str, str, str], list[Check]] = {}
    for check in cell.checks:
        if BY_NAME[check.kind].in_ledger and check.limit is not None:
            groups.setdefault((check.kind, check.output, check.metric), []).append(check)
    return groups


def _figures(cell: CellRecord) -> tuple[dict[str, Any], dict[str, Any], dict[str, Asked]]:
    drift: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for (kind, output, metric), checks in gated(cell).items():
        if any(c.value is None or not math.isfinite(c.value) for c in checks):
            continue  # no worst among what has no figure; the gate speaks of it
        found = worst(checks)
        assert found.value is not None
        rounded = _rounded(found.value, found.sense)
        drift.setdefault(kind, {}).setdefault(output, {})[metric] = rounded
        limits.setdefault(kind, {}).setdefault(output, {})[metric] = widest(checks)
    measured = {}
    for kind in drift:
        asked = sorted({(c.case, c.output) for c in cell.checks if c.kind == kind})
        cases = {case for case, _ in asked} - {OVER_ALL} or {OVER_ALL}
        measured[kind] = Asked(len(cases), hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16])
    return drift, limits, measured


def _rounded(value: float, sense: Sense) -> float:
    """`value` to four digits of its distance from the ideal, so that the last bits make no line of a review."""
    distance = 1 - value if sense == "min" and 0 < value < 1 else abs(value)
    if not 1e-300 < distance < 1e300:
        return value
    return round(value, 3 - math.floor(math.log10(distance)))


def save(record: RunRecord) -> str:
    """The ledger of a run as text: sorted keys, a line a figure, same record, same bytes."""
    return json.dumps(_without_none(plain(of(record))), indent=1, sort_keys=True, allow_nan=False) + "\n"


def _without_none(value: Any) -> Any:
    return {k: _without_none(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def load(text: str, where: str = "baseline") -> Baseline:
    """The ledger in `text`. Raises ParityError with one line for anything that is not one."""
    try:
        data = strict_json.loads(text, object_pairs_hook=strict_json.unique)
    except (ValueError, RecursionError) as error:
        raise ParityError(f"{where}: not a baseline ({error}); write it again with --parity-save-baseline") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise ParityError(f"{where}: schema is {found!r:.60}, this version reads {SCHEMA!r}")
    try:
        baseline = build(Baseline, data, "baseline")
    except ParityError as error:
        raise ParityError(f"{where}: {error}") from None
    for id, cell in baseline.cells.items():
        problem = _problem(cell)
        if problem:
            raise ParityError(f"{where}: cells[{id!r:.60}]: {problem}")
    return baseline


def _problem(cell: LedgerCell) -> str:
    def keys(figures: Figures) -> set[tuple[str, str, str]]:
        return {(k, o, m) for k, outputs in figures.items() for o, metrics in outputs.items() for m in metrics}

    if keys(cell.drift) != keys(cell.limits):
        odd = sorted(keys(cell.drift) ^ keys(cell.limits))[0]
        return f"{' '.join(odd)!r:.90} has a drift or a limit and not both"
    if set(cell.drift) != set(cell.measured):
        return f"kinds in drift and in measured differ: {sorted(set(cell.drift) ^ set(cell.measured))[0]!r:.60}"
    for name in ("latency_ms", "latency_vs_fp32", "cost_s"):
        value = getattr(cell, name)
        if value is not None and (value <= 0 or math.frexp(value)[0] != 0.5):
            return f"{name} {value!r} is not a power of two"
    if cell.bytes is not None and cell.bytes < 0:
        return f"bytes is {cell.bytes}"
    if any(asked.cases < 1 for asked in cell.measured.values()):
        return "a kind was measured on no case"
    if cell.power and not 0 <= cell.power.killed <= cell.power.injected:
        return f"power says {cell.power.killed} killed of {cell.power.injected} injected"
    return ""


def read(path: Path) -> Baseline:
    """The ledger in the file `path`. Raises ParityError when it is missing, unreadable or not a ledger."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParityError(f"{path}: cannot be read ({reason}); make one with --parity-save-baseline") from None
    return load(text, str(path))


# Comparing.


def compare(
    baseline: Baseline, record: RunRecord, path: str | None = None, *, any_environment: bool = False
) -> BaselineRecord:
    """What changed between the ledger and the run, a cell after the other, in the run's order.

    `any_environment` compares figures of different machines and versions too, for a person who knows that they differ.
    """
    now = of(record)
    shared = "" if any_environment else _environment(baseline.environment, now.environment)
    here = baseline.environment.processor == now.environment.processor
    ratio = RATIO if here or any_environment else RATIO_ELSEWHERE
    changes: list[Regression] = []
    for cell in record.cells:
        old, new = baseline.cells.get(cell.id), now.cells.get(cell.id)
        if new is None:  # not measured: its state says so, and the gate judges it
            continue
        if old is None:
            changes.append(Regression(cell.id, "cell", None, None, "new"))
            continue
        other = shared or ("" if any_environment or old.runtime == new.runtime else _differ(old.runtime, new.runtime))
        if other:
            changes.append(Regression(cell.id, other, None, None, "incomparable"))
        else:
            if old.toolchain and old.toolchain != new.toolchain:  # no reason not to compare: it is what is to be seen
                made_by = f"toolchain: {_differ(old.toolchain, new.toolchain or 'none')}"
                changes.append(Regression(cell.id, made_by, None, None, "changed"))
            kept = [kind.name for kind in KINDS if kind.in_ledger]
            kinds = [name for name in kept if name in cell.planned or not record.partial]
            changes += _compare_drift(cell, old, new, kinds, ratio)
            changes += _compare_costs(cell, old, new, baseline, now)
    if not record.partial:  # what was narrowed away was not removed
        planned = {cell.id for cell in record.cells}
        changes += [Regression(i, "cell", None, None, "removed") for i in baseline.cells if i not in planned]
    return BaselineRecord(path, tuple(changes))


def _differ(old: str, new: str) -> str:
    return f"{old or 'unknown'} -> {new or 'unknown'}"


def _environment(old: Instruments, new: Instruments) -> str:
    """The first instruments that differ; empty when all are the same."""
    parts = [f"{name} {_differ(a, b)}" for name, a, b in
             (("python", old.python, new.python), ("machine", old.machine, new.machine)) if a != b]  # fmt: skip
    names = sorted({*old.packages, *new.packages})
    parts += [f"{name} {_differ(old.packages.get(name, ''), new.packages.get(name, ''))}" for name in names
              if old.packages.get(name) != new.packages.get(name)]  # fmt: skip
    return ", ".join(parts)


def _compare_drift(
    cell: CellRecord, old: LedgerCell, new: LedgerCell, kinds: Sequence[str], ratio: float
) -> Iterator[Regression]:
    senses = {key: checks[0].sense for key, checks in gated(cell).items()}
    for kind in kinds:
        asked, asks = old.measured.get(kind), new.measured.get(kind)
        if asked != asks and asked and asks:
            what = f"{asked.cases} -> {asks.cases} cases" if asked.cases != asks.cases else "other cases or outputs"
            yield Regression(cell.id, f"{kind}: {what}", None, None, "incomparable")
            continue
        for key in sorted({*_keys(kind, old.drift), *_keys(kind, new.drift)}):
            was, value = _at(old.drift, key), _at(new.drift, key)
            if was is None or value is None:
                yield Regression(cell.id, _named(key), was, value, "new" if was is None else "removed")
                continue
            change = _moved(key[2], senses[key], was, value, _at(new.limits, key) or 0.0, ratio)
            if change:
                yield Regression(cell.id, _named(key), was, value, change)


def _compare_costs(
    cell: CellRecord, old: LedgerCell, new: LedgerCell, before: Baseline, now: Baseline
) -> Iterator[Regression]:
    if old.bytes is not None and new.bytes is not None:
        change = _direction(old.bytes, new.bytes, BYTES_RATIO, BYTES_FLOOR)
        if change:
            yield Regression(cell.id, "size in bytes", float(old.bytes), float(new.bytes), change)
    yield from _compare_latency(cell, old, new, before, now)
    if old.power and new.power and old.power.injected and new.power.injected:
        was, value = old.power.killed / old.power.injected, new.power.killed / new.power.injected
        change = _direction(1 - was, 1 - value, POWER_RATIO, POWER_FLOOR)
        if change:
            yield Regression(cell.id, "power (share of injected faults that the gate notices)", was, value, change)


def _compare_latency(
    cell: CellRecord, old: LedgerCell, new: LedgerCell, before: Baseline, now: Baseline
) -> Iterator[Regression]:
    what, was, value, excuse = "latency class against fp32", old.latency_vs_fp32, new.latency_vs_fp32, 0
    if was is not None and value is not None:  # a ratio also moves when its fp32 cell does
        sibling = f"{cell.model}-{cell.target}-fp32"
        first, second = before.cells.get(sibling), now.cells.get(sibling)
        if first and second and first.latency_ms and second.latency_ms:
            excuse = _steps(first.latency_ms, second.latency_ms)
    else:
        what, was, value = "latency class in ms", old.latency_ms, new.latency_ms
    if was is None or value is None:
        return
    steps = _steps(was, value)
    if steps + min(excuse, 0) >= LATENCY_STEPS:
        yield Regression(cell.id, what, was, value, "slower")  # a busy machine is too: a project says if that blocks
    elif steps + max(excuse, 0) <= -LATENCY_STEPS:
        yield Regression(cell.id, what, was, value, "improved")


def _steps(was: float, value: float) -> int:
    return round(math.log2(value) - math.log2(was))


def _keys(kind: str, figures: Figures) -> list[tuple[str, str, str]]:
    return [(kind, output, metric) for output, metrics in figures.get(kind, {}).items() for metric in metrics]


def _at(figures: Figures, key: tuple[str, str, str]) -> float | None:
    return figures.get(key[0], {}).get(key[1], {}).get(key[2])


def _named(key: tuple[str, str, str]) -> str:
    kind, output, metric = key
    text = f"{metric} of {output}" if output else metric
    return text if kind == "golden" else f"{text} ({kind})"


def _moved(metric: str, sense: Sense, was: float, value: float, limit: float, ratio: float) -> Change:
    unit = sense == "min" and not _in_decibels(metric) and 0 <= limit <= 1 and max(was, value) <= 1 + 1e-9
    floor = FLOORS.get(metric, SHARE_OF_LIMIT * abs(_error(metric, sense, limit, unit)))
    return _direction(_error(metric, sense, was, unit), _error(metric, sense, value, unit), ratio, floor)


def _error(metric: str, sense: Sense, value: float, unit: bool) -> float:
    """A figure as an error that is 0 at best: a score of at most 1 by what it lacks, decibels as a relative error,
    another score by its inverse."""
    if _in_decibels(metric):
        return math.exp(-max(min(value, 6000.0), -6000.0) / 20 * math.log(10))
    if sense == "max":
        return max(value, METRICS[metric].natural if metric in METRICS else 0.0)
    if unit:
        return max(1 - value, 0.0)
    return 1 / max(value, 1e-300)


def _in_decibels(metric: str) -> bool:
    """Whether the metric is a score in decibels: 20 more is a tenth of the error."""
    spec = METRICS.get(metric)
    return spec is not None and spec.unit == "dB" and spec.sense == "min"


def _direction(was: float, now: float, ratio: float, floor: float) -> Change:
    """Where an error went, if it went far: by the ratio and by the floor, both."""
    less, more = sorted((was, now))
    if more - less <= 0 or more - less < floor or more < ratio * less:
        return None
    return "regressed" if now > was else "improved"


# Limits that somebody widened pass every gate, so they are said aloud.


def attach(baseline: Baseline, record: RunRecord, path: str | None = None) -> RunRecord:
    """The record with its comparison to the ledger, and a warning in each cell for every limit that was widened."""
    cells = tuple(
        replace(cell, findings=(*cell.findings, *(Finding(text, "warning") for text in widened(old, cell))))
        if (old := baseline.cells.get(cell.id)) else cell
        for cell in record.cells
    )  # fmt: skip
    return replace(record, cells=cells, baseline=compare(baseline, record, path))


def widened(old: LedgerCell, cell: CellRecord) -> list[str]:
    """A sentence for every limit of the ledger that is wider now, or gone although the figure is still measured."""
    found, now = [], gated(cell)
    measured = {(c.kind, c.output, c.metric) for c in cell.checks}
    for kind in old.limits:
        for key in sorted(_keys(kind, old.limits)):
            was, checks = _at(old.limits, key), now.get(key)
            assert was is not None
            if checks:
                limit = widest(checks)
                if limit > was if checks[0].sense == "max" else limit < was:
                    source = next(c.source for c in checks if c.limit == limit)
                    found.append(f"the limit of {_named(key)} was widened since the baseline: {was:g} -> {limit:g}"
                                 + (f", set by {source}" if source else ""))  # fmt: skip
            elif key in measured:
                found.append(f"the limit of {_named(key)}, {was:g} in the baseline, is gone")
    return found


def told(change: Regression) -> str:
    """The change in one line, as the terminal shows it."""
    if change.before is None and change.now is None:
        return f"{change.cell}: {change.state}" + (f": {change.what}" if change.what != "cell" else "")
    before, now = (("none" if v is None else f"{v:.6g}") for v in (change.before, change.now))
    return f"{change.cell}: {change.what} {before} -> {now} ({change.state})"


__all__ = [
    "DEFAULT_PATH", "Asked", "Baseline", "Instruments", "LedgerCell", "PowerFigure", "attach", "compare", "load", "of",
    "read", "save", "told", "widened",
]  # fmt: skip
