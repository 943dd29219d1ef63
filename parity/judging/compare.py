"""Judge what an artefact computed against what the oracle computed.

`compare` measures (`parity.judging.metrics`) and checks limits; `aggregate` takes the worst over many cases. Nothing
passes by default: no limit, no element, another shape, another kind of dtype, NaN anywhere and a value that
could not be measured are each a comparison that did not pass, with a reason. Imports numpy and the standard
library only.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from parity.core.errors import ParityError
from parity.judging.metrics import (
    DECIDED,
    EXACT_DB,
    SUMMED,
    Array,
    Nonfinite,
    Sums,
    decided_metrics,
    difference_count,
    measure,
    pool,
    summed_metrics,
    unravel,
)
from parity.judging.registry import METRICS, compared, register_metric
from parity.judging.spec import MetricSpec, Sense

__all__ = [
    "EXACT_DB",
    "METRICS",
    "Aggregate",
    "Check",
    "Comparison",
    "MetricSpec",
    "Nonfinite",
    "Worst",
    "WorstCase",
    "aggregate",
    "compare",
    "register_metric",
]

State = Literal["pass", "fail", "error"]

_KINDS = {"b": "bool", "i": "integer", "u": "integer", "f": "float"}


@dataclass(frozen=True)
class Check:
    """One value against one limit. `passed` is derived: a value that is not finite never passes.

    For a signed metric (`mean_signed`) `value` is the magnitude, so that `value <= limit` holds for any
    reader.
    """

    metric: str
    value: float
    limit: float
    sense: Sense
    passed: bool = field(init=False)

    def __post_init__(self) -> None:
        inside = self.value <= self.limit if self.sense == "max" else self.value >= self.limit
        object.__setattr__(self, "passed", math.isfinite(self.value) and inside)

    def __str__(self) -> str:
        unit = METRICS[self.metric].unit if self.metric in METRICS else ""
        suffix = " dB" if unit == "dB" else ""
        if math.isnan(self.value):
            return f"{self.metric} was not measured (limit {self.limit:.4g}{suffix})"
        sign = {("max", True): "<=", ("max", False): ">", ("min", True): ">=", ("min", False): "<"}
        value, limit = _distinct(self.value, self.limit)
        return f"{self.metric} {value} {sign[self.sense, self.passed]} {limit}{suffix}"


@dataclass(frozen=True)
class Worst:
    """The element with the largest absolute difference (the first of equals, in C order)."""

    index: tuple[int, ...]
    got: float
    want: float


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`: what was measured, what was judged, and why it did not pass.

    `error` says why the question could not be asked (no limit, no element, NaN in the oracle); `mismatch`
    says why `got` cannot be measured against `want` (shape, dtype, non-finite elements). In both cases but
    "no limit" every metric is NaN. `differing` counts the elements that differ by more than the `max_abs`
    limit (0 without one); it is None unless a check failed.
    """

    metrics: dict[str, float]
    checks: tuple[Check, ...]
    shape: tuple[int, ...]
    elements: int
    nonfinite: Nonfinite
    worst: Worst | None = None
    differing: int | None = None
    sums: Sums | None = None
    error: str = ""
    mismatch: str = ""

    @property
    def passed(self) -> bool:
        """True only if there is a check, every check passed, and nothing stood in the way of measuring."""
        return bool(self.checks) and all(c.passed for c in self.checks) and not (self.error or self.mismatch)

    @property
    def state(self) -> State:
        if self.error:
            return "error"
        return "pass" if self.passed else "fail"

    @property
    def reason(self) -> str:
        """Why it did not pass, in one line; empty if it passed."""
        broken = [check for check in self.checks if not check.passed]
        text = ", ".join(map(str, broken))
        if self.worst is not None and any(check.metric == "max_abs" for check in broken):
            text += f" at {self.worst.index}"
        return self.error or self.mismatch or text

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        if self.error or self.mismatch:
            return f"not judged: {self.reason}"
        held = sum(check.passed for check in self.checks)
        total = len(self.checks)
        lines = [f"{held} of {total} limits held" if held == total else f"{total - held} of {total} limits broken"]
        lines += [f"  {'ok    ' if check.passed else 'BROKEN'} {check}" for check in self.checks]
        if self.worst is not None:
            got, want = _distinct(self.worst.got, self.worst.want)
            lines.append(
                f"  greatest difference {self.metrics['max_abs']:.4g} at {self.worst.index}: got {got}, want {want}"
            )
        if self.differing is not None:
            allowed = next((c.limit for c in self.checks if c.metric == "max_abs"), 0.0)
            share = self.differing / self.elements
            lines.append(
                f"  {self.differing:,} of {self.elements:,} elements ({share:.2%}) differ"
                + (f" by more than {allowed:.4g}" if allowed > 0 else "")
            )
        if self.nonfinite.permitted:
            lines.append(f"  {self.nonfinite.permitted:,} elements are the same infinity in both and left out")
        return "\n".join(lines)


def compare(got: Array, want: Array, *, axis: int = -1, also: Iterable[str] = (), **limits: float) -> Comparison:
    """Compare the output of an artefact with that of the oracle, in float64, and check each named limit.

    `got` and `want`: real arrays of one and the same shape; nothing is broadcast, squeezed or permuted.
    Floats compare with floats, integers with integers, bool with bool, of any width. `limits` are metric
    names: `compare(got, want, cosine=0.99, max_abs=1e-3)`; the sense of each comes from its
    metric. Decisions (`top1` ...) are taken along `axis`. `also` names decisions or registered metrics to
    measure without judging.

    Non-finite elements: an infinity of the same sign at the same place in both is permitted, left out of
    every sum and counted in `nonfinite`; any other makes every metric NaN. NaN in `want` is an error of the
    oracle.

    Raises ParityError for an unknown metric, a limit that is not a finite number or that no value could break, or
    an argument that is no array.
    """
    also = tuple(also)
    for name in (*limits, *also):
        compared(name)
    bounds = {name: _limit(name, value) for name, value in limits.items()}
    names = dict.fromkeys((*SUMMED, *also, *bounds))
    got, want = _array(got, "got"), _array(want, "want")

    error = _refused(want, "want")
    mismatch = _refused(got, "got")
    if not (error or mismatch):
        if got.shape != want.shape:
            mismatch = f"shape of got is {got.shape}, of want {want.shape}"
        elif _KINDS[got.dtype.kind] != _KINDS[want.dtype.kind]:
            mismatch = f"dtype of got is {got.dtype} ({_KINDS[got.dtype.kind]}), of want {want.dtype}"
        elif want.size == 0:
            error = f"no elements to compare: shape {want.shape}"
    if error or mismatch:
        return _unmeasured(names, bounds, want, Nonfinite(), error, mismatch)

    found = measure(got, want)
    bad = found.nonfinite
    if bad.want_nan:
        error = f"want has {bad.want_nan:,} NaN: the oracle itself is not defined there"
    elif bad.refused:
        mismatch = (
            f"{bad.refused:,} of {got.size:,} elements are not finite and not the same, the first at "
            f"{bad.first}: got {got[bad.first].item()!r}, want {want[bad.first].item()!r}"
        )
    elif found.sums.count == 0:
        error = f"no finite elements to compare: all {got.size:,} are infinite"
    if error or mismatch:
        return _unmeasured(names, bounds, want, bad, error, mismatch)

    values = summed_metrics(found.sums, found.max_rel)
    if not names.keys().isdisjoint(DECIDED):
        values |= {k: v for k, v in decided_metrics(got, want, axis).items() if k in names}
    values |= {name: _registered(METRICS[name], got, want) for name in names if METRICS[name].fn is not None}
    checks = _checks(values, bounds)
    failed = not all(check.passed for check in checks)
    index = unravel(found.worst, got.shape)
    return Comparison(
        metrics=values,
        checks=checks,
        shape=want.shape,
        elements=want.size,
        nonfinite=bad,
        worst=Worst(index, got[index].item(), want[index].item()),
        differing=difference_count(got, want, max(0.0, bounds.get("max_abs", 0.0))) if failed else None,
        sums=found.sums,
        error="" if checks else "no limit was given: nothing was judged",
    )


@dataclass(frozen=True)
class WorstCase:
    """The case where a metric was worst."""

    case: str
    value: float


@dataclass(frozen=True)
class Aggregate:
    """Many comparisons of one output. Passes only if there is one and each passed.

    `worst`: for each metric the worst case; a case that lacks the metric or measured NaN is the worst of all.
    `pooled`: the summed metrics over the elements of all cases together; NaN if any case was not measured.
    `max_abs` and `max_rel` are those of the worst case. `failed`: the cases that did not pass, in order.
    """

    cases: int
    worst: dict[str, WorstCase]
    pooled: dict[str, float]
    failed: tuple[str, ...]
    reason: str

    @property
    def passed(self) -> bool:
        return self.cases > 0 and not self.failed

    def __bool__(self) -> bool:
        return self.passed


def aggregate(comparisons: Mapping[str, Comparison]) -> Aggregate:
    """Reduce the comparisons of one output, by case id, to the worst: a mean would hide one bad frame."""
    failed = tuple(case for case, comparison in comparisons.items() if not comparison.passed)
    names = dict.fromkeys(name for comparison in comparisons.values() for name in comparison.metrics)
    worst = {}
    for name in names:
        values = {case: comparison.metrics.get(name, math.nan) for case, comparison in comparisons.items()}
        case = max(values, key=lambda case: _badness(name, values[case]))
        worst[name] = WorstCase(case, values[case])
    sums = [comparison.sums for comparison in comparisons.values() if comparison.sums is not None]
    pooled = dict.fromkeys(SUMMED, math.nan)
    if sums and len(sums) == len(comparisons):
        pooled = summed_metrics(pool(sums), worst["max_rel"].value)
    reason = "" if comparisons else "no cases: nothing was compared"
    if failed:
        first = f"{comparisons[failed[0]].reason} ({failed[0]})"
        reason = first if len(failed) == 1 else f"{len(failed)} of {len(comparisons)} cases, first: {first}"
    return Aggregate(len(comparisons), worst, pooled, failed, reason)


def _badness(name: str, value: float) -> float:
    """Orders values of a metric from best to worst."""
    if math.isnan(value):
        return math.inf
    metric = METRICS[name]
    return abs(value) if metric.signed else value if metric.sense == "max" else -value


def _limit(name: str, value: object) -> float:
    if not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value):
        why = METRICS[name].empty(float(value))
        if why:
            raise ParityError(f"compare: {name} {why}")
        return float(value)
    raise ParityError(f"compare: the limit {name}={value!r} is not a finite number: nothing can be judged by it")


def _array(value: object, role: str) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise ParityError(f"compare: {role} is a masked array, which hides elements: pass its .data or .filled(...)")
    if not isinstance(value, (np.ndarray, np.generic, bool, int, float)):
        raise ParityError(f"compare: {role} is {type(value).__name__}, not a numpy array: convert it first")
    return np.asarray(value)


def _refused(array: Array, role: str) -> str:
    """Why the dtype cannot be compared, or ''."""
    if array.dtype.kind not in _KINDS:
        return f"dtype of {role} is {array.dtype}: only bool, integer and float arrays of numpy compare"
    if array.dtype.itemsize > 8:
        return f"dtype of {role} is {array.dtype}: wider than the float64 of the comparison"
    return ""


def _registered(metric: MetricSpec, got: Array, want: Array) -> float:
    assert metric.fn is not None
    try:
        return float(metric.fn(got, want))
    except Exception as error:
        raise ParityError(f"compare: the metric {metric.name!r} raised {type(error).__name__}: {error}") from error


def _checks(values: Mapping[str, float], bounds: Mapping[str, float]) -> tuple[Check, ...]:
    return tuple(
        Check(name, abs(values[name]) if METRICS[name].signed else values[name], limit, METRICS[name].sense)
        for name, limit in bounds.items()
    )


def _unmeasured(
    names: Iterable[str],
    bounds: Mapping[str, float],
    want: Array,
    nonfinite: Nonfinite,
    error: str,
    mismatch: str,
) -> Comparison:
    values = dict.fromkeys(names, math.nan)
    return Comparison(
        metrics=values,
        checks=_checks(values, bounds),
        shape=want.shape,
        elements=want.size,
        nonfinite=nonfinite,
        error=error,
        mismatch=mismatch,
    )


def _distinct(one: float, other: float) -> tuple[str, str]:
    """Both in as many digits as it takes to tell them apart, at least 4."""
    for digits in range(4, 18):
        texts = f"{one:.{digits}g}", f"{other:.{digits}g}"
        if one == other or texts[0] != texts[1]:
            return texts
    return str(one), str(other)  # integers beyond 2**53
