"""The noise floor: how far a precision alone moves an output; and an artefact's distance from the oracle in its units.

Pure functions on the outputs of oracle, twin and artefact. NumPy and the standard library only.

Every ratio divides like by like, so it has no unit and does not change when an output is scaled. For one case the
divisor is the larger of the twin's error in it and its error overall: a case in which the twin is right by chance makes
no ratio, and one that is hard for the precision has its own floor. A channel has its own floor too, and the error
overall stands in for no more than chance explains (`parity.judging.parts`): scores beside coordinates are judged by
what the precision costs the scores.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

import numpy as np

from parity.core.contract import OutputSpec
from parity.core.errors import ParityError
from parity.judging.parts import SMALLEST, Channels, chance, channels, rms_by, stray
from parity.judging.post_processing import PostProcessed
from parity.judging.scales import (
    BESIDE,
    TAIL,
    below,
    count,
    gaps,
    largest,
    lost_on_one_grid,
    rms_of,
    size,
    small_channels,
)

Array = np.ndarray[Any, np.dtype[Any]]
Rows = Sequence[Array]

UNITS: Mapping[str, float] = {"fp32": 2.0**-24, "fp16": 2.0**-15, "dynamic": 2.0**-11, "int8": 1 / 256}
"""The least floor, as a share of the output's rms over all cases: what storing the output once costs.

fp32: half a unit in the last place. Less is chance: the twin of a small network is right to a quarter of that on some
pictures, and one in ten sets of three failed a correct file. fp16: a sixteenth of half a unit. int8: one of the 256
levels of an output that reaches its rms once; real ranges are wider. dynamic: outputs are float, and layers with small
weights stay float too, so it is that of fp16.
Without it, a twin that happens to be exact (a model that only moves data) would make every ratio infinite.
An artefact that stores its outputs as fp16 has a higher one, element by element: `half_units`.
"""
PLAUSIBLE: Mapping[str, float] = {"fp32": 1e-3, "fp16": 0.1, "dynamic": 0.5, "int8": 0.5}
"""A precision that costs more of an output's rms than this leaves little to tell a faulty file from a correct one."""
FP16_MAX = 65504.0
ROOT3 = math.sqrt(3.0)
STATISTICS = ("pooled", "worst", "channel", "peak")


@dataclass(frozen=True)
class Ratio:
    """An artefact's error over the floor. 1: as far from the oracle as the twin is. Infinite: not finite, or unjudged.

    `pooled`: rms over all cases, and over the elements that larger ones hide, whichever is worse. `worst`: rms of the
    worst case, or of such elements in it, `worst_case` its index. `channel`: rms of the worst channel over all cases,
    along whichever axis, `worst_channel` its index there; NaN where the output has no such axis. `peak`: largest error
    of any element over the twin's largest; hidden elements have none, since `worst` shows one that is far off.
    `by_case`: what the worst is the largest of.
    `distance`: rms between artefact and twin over the floor. Near 0 where the runtime rounds exactly where the twin
    does (the usual case below fp32), 1.4 where both err for reasons of their own. Described, not gated: an artefact
    that is better than its precision is at distance 1.
    """

    pooled: float
    worst: float
    channel: float
    peak: float
    worst_case: int = 0
    worst_channel: int | None = None
    by_case: tuple[float, ...] = ()
    axis: int | None = None  # the one that the worst channel is on
    distance: float = math.inf
    reason: str = ""
    part: str = ""  # which elements `pooled` is of, where others hide them

    def over(self, limits: Mapping[str, float]) -> list[str]:
        """The statistics that are over their limit; one that is not finite is over every limit, one that does not
        apply is over none."""
        values = {name: float(getattr(self, name)) for name in STATISTICS}
        if self.worst_channel is None and not self.reason:
            del values["channel"]
        return [n for n, v in values.items() if n in limits and not v <= limits[n]]


@dataclass(frozen=True)
class Hidden:
    """Elements that far larger ones hide in every figure of the whole output: they have a floor of their own."""

    masks: tuple[Array, ...]  # one a case
    cost: float  # the twin's rms error on them, or what storing them costs
    largest: float
    rms: float  # of the oracle's elements
    below: float = 0.0  # the size that all of them are below; 0 for whole channels
    by_case: tuple[float, ...] = ()  # the twin's rms error on those of each case; 0 where there are none

    @property
    def words(self) -> str:
        return f"the elements of at most {self.largest:.3g}, {BESIDE}"

    def with_another(self, other: Hidden) -> Hidden:
        """The larger of the costs, overall and in each case."""
        by_case = tuple(map(max, self.by_case, other.by_case))
        return replace(self, cost=max(self.cost, other.cost), by_case=by_case)

    def costs(self, stored: Rows) -> float:
        """What the precision costs these elements. `stored`: the most that storing each element may be off by."""
        return max(self.cost, rms_of(stored, self.masks) / ROOT3)

    def ratio(self, errors: Rows, stored: Rows) -> float:
        """The rms error of these elements over all cases, over what the precision costs them."""
        return rms_of(errors, self.masks) / (self.costs(stored) * float(chance(count(self.masks))))

    def ratios(self, errors: Rows, stored: Rows) -> Array:
        """The same of each case [cases], so that one bad case is not averaged away. The few elements of a case may be
        further off by chance, besides."""
        by_chance = float(chance(count(self.masks)))
        ratios = np.zeros(len(errors))
        for case, (error, mask, twin) in enumerate(zip(errors, self.masks, self.by_case, strict=True)):
            if mask.any():
                few = float(stray(int(mask.sum())))
                cost = max(self.costs(stored), twin, rms_of([stored[case]], [mask]) / ROOT3)
                ratios[case] = rms_of([error], [mask]) / (cost * by_chance * few)
        return ratios


@dataclass(frozen=True)
class Floor:
    """What a precision costs on one output: the twin's rms error overall, by case and by channel, and its largest."""

    precision: str
    pooled: float
    peak: float
    by_case: tuple[float, ...]
    channels: tuple[Channels, ...]
    magnitude: float  # rms of the oracle's output over all cases
    least: float  # the floor below which no part goes: UNITS of the magnitude
    axis: int | None
    reason: str = ""  # why nothing can be judged against it
    want: tuple[Array, ...] = field(default=(), repr=False, compare=False)
    twin: tuple[Array, ...] = field(default=(), repr=False, compare=False)
    hidden: tuple[Hidden, ...] = field(default=(), repr=False, compare=False)

    @property
    def relative(self) -> float:
        """What the precision costs, as a share of the output: `quantisation costs 5.3 % rms`."""
        return self.pooled / self.magnitude if self.magnitude else 0.0

    @property
    def absolute(self) -> bool:
        """Whether the twin was closer than storing the output allows, so that the floor is the least one."""
        return self.pooled <= self.least

    def with_another(self, rows: Rows) -> Floor:
        """The floor of which every part is the larger of its own and of that of `rows`, which are as right as the
        twin's. Rows that are not finite, or of other shapes, change nothing."""
        if self.reason or any(
            r.shape != w.shape or not np.isfinite(r).all() for r, w in zip(rows, self.want, strict=True)
        ):
            return self
        other = floor(self.want, rows, self.precision, self.axis)
        return replace(
            self,
            pooled=max(self.pooled, other.pooled),
            peak=max(self.peak, other.peak),
            by_case=tuple(map(max, self.by_case, other.by_case)),
            channels=tuple(a.with_another(b) for a, b in zip(self.channels, other.channels, strict=True)),
            hidden=tuple(a.with_another(b) for a, b in zip(self.hidden, other.hidden, strict=True)),
        )

    def at_least(self, rows: Rows) -> Floor:
        """`with_another`; where the twin's own rows are not finite, the floor of `rows` alone, if they are."""
        if not self.reason or any(r.shape != w.shape for r, w in zip(rows, self.want, strict=True)):
            return self.with_another(rows)
        other = floor(self.want, rows, self.precision, self.axis)
        return self if other.reason else other

    def ratio(self, got: Rows) -> Ratio:
        """How far `got`, one array a case in the oracle's order, is from the oracle. Raises ParityError for other
        shapes or another number of cases."""
        errors = differences(got, self.want)
        if self.reason:
            return _refused(self.reason, 0)
        bad = [i for i, e in enumerate(errors) if not np.isfinite(e).all()]
        if bad:
            return _refused(f"{len(bad)} of {len(errors)} cases hold values that are not finite", bad[0])
        stored = self._storing(got)
        pooled = max(self.pooled, self.least, rms_over(stored) / ROOT3)
        by_case = np.array([rms_over([s]) for s in stored]) / ROOT3
        floors = np.maximum(np.maximum(np.asarray(self.by_case), max(self.pooled, self.least)), by_case)
        cases = np.array([rms_over([e]) for e in errors]) / floors
        parts, axis = self._of_channels(errors, stored)
        overall = (rms_over(errors) / pooled, "")
        for small in self.hidden:
            cases = np.maximum(cases, small.ratios(errors, stored))
        hidden = [(part.ratio(errors, stored), part.words) for part in self.hidden]
        worst, part = max([overall, *hidden], key=lambda pair: pair[0])
        return Ratio(
            pooled=worst,
            worst=float(cases.max()),
            channel=float(parts.max()) if len(parts) else math.nan,
            peak=_peak(errors) / max(self.peak, self.least, _peak(stored)),
            worst_case=int(cases.argmax()),
            worst_channel=int(parts.argmax()) if len(parts) else None,
            by_case=tuple(cases.tolist()),
            axis=axis,
            distance=rms_over(differences(got, self.twin)) / pooled,
            part=part,
        )

    def lost(self, got: Rows) -> list[tuple[float, str]]:
        """What the precision costs each set of hidden elements, as a share of its rms, and which elements they are.

        As much as the file is off there, but no more than the precision explains. Tails are left out: elements that
        are as small beside 1 as beside the others.
        """
        if self.reason:
            return []
        errors, stored = differences(got, self.want), self._storing(got)
        return [
            (min(rms_of(errors, part.masks), part.costs(stored)) / part.rms, part.words)
            for part in self.hidden
            if part.rms > TAIL
        ]

    def _storing(self, got: Rows) -> list[Array]:
        """The largest error, element by element, of storing the oracle's outputs as the artefact stores its own."""
        if self.precision == "fp16" and holds_halves(got):
            return [half_units(w) for w in self.want]
        if self.precision == "int8":  # a lost element is off by all of itself, and not by up to that
            return [ROOT3 * lost for lost in lost_on_one_grid(got, self.want)]
        return [np.zeros(np.shape(w)) for w in self.want]

    def _of_channels(self, errors: Rows, stored: Rows) -> tuple[Array, int | None]:
        """The ratios of the channels along the axis where one is worst, and that axis; none without an axis."""
        whole = max(self.pooled, self.least)
        worst, axis = np.zeros(0), None
        for part in self.channels:
            ratios = rms_by(errors, part.axis) / part.floors(rms_by(stored, part.axis) / ROOT3, whole)
            if axis is None or ratios.max() > worst.max():
                worst, axis = ratios, part.axis
        return worst, axis


def floor(want: Rows, twin: Rows, precision: str, axis: int | None = None) -> Floor:
    """The floor of one output from the oracle's and the twin's arrays, one a case. `axis` counts classes or channels.

    Raises ParityError for an unknown precision, no cases, or arrays that do not match.
    """
    if precision not in UNITS:
        raise ParityError(f"no noise floor for precision {precision!r}")
    if not want:
        raise ParityError("a noise floor needs at least one case")
    errors = differences(twin, want)
    magnitude = rms_over([finite_part(w) for w in want])
    # An output that is zero everywhere may be off by what float32 cannot tell from zero, and no more.
    least = UNITS[precision] * magnitude or SMALLEST
    bad = sum(not np.isfinite(e).all() for e in errors)
    reason = ""
    if any(np.isnan(w).any() for w in want):
        reason = "the oracle itself gives NaN"
    elif bad:
        reason = f"the model itself overflows at {precision}: its twin is not finite in {bad} of {len(want)} cases"
    elif not np.isfinite(magnitude):
        reason = "the oracle's values are too large to square"
    if reason:
        return Floor(precision, math.inf, math.inf, (), (), magnitude, least, axis, reason, tuple(want))
    return Floor(
        precision,
        rms_over(errors),
        _peak(errors),
        tuple(rms_over([e]) for e in errors),
        () if axis is None else channels([finite_part(w) for w in want], errors, UNITS[precision], magnitude),
        magnitude,
        least,
        axis,
        "",
        tuple(want),
        tuple(twin),
        _hidden(want, errors, precision, axis),
    )


def _hidden(want: Rows, errors: Rows, precision: str, axis: int | None) -> tuple[Hidden, ...]:
    """The sets of elements that larger ones hide."""
    sets = [(below(want, bound), bound) for bound in gaps(want)]
    if axis is not None:
        sets += [(masks, 0.0) for masks in small_channels(want, axis)]
    return tuple(
        Hidden(
            tuple(masks),
            max(rms_of(errors, masks), UNITS[precision] * size(want, masks)),
            largest(want, masks),
            rms_of(want, masks),
            bound,
            tuple(rms_of([e], [m]) if m.any() else 0.0 for e, m in zip(errors, masks, strict=True)),
        )
        for masks, bound in sets
    )


def floors(
    oracle: Sequence[PostProcessed],
    twin: Sequence[PostProcessed],
    precision: str,
    outputs: Sequence[OutputSpec],
) -> dict[str, Floor]:
    """The floor of every output that holds real numbers as it is compared; oracle and twin hold one row a case.

    Integer outputs (class indices, token ids) are left out: no rounding makes a wrong one right.
    """
    return raw_floors([row.outputs for row in oracle], [row.outputs for row in twin], precision, outputs)


def raw_floors(
    oracle: Sequence[Mapping[str, Array]],
    twin: Sequence[Mapping[str, Array]],
    precision: str,
    outputs: Sequence[OutputSpec],
) -> dict[str, Floor]:
    """`floors` of outputs as the model computes them, for what looks inside it: diagnosis, divergence, lowering."""
    found = {}
    for spec in outputs:
        want = [row[spec.name] for row in oracle]
        if all(w.dtype.kind == "f" for w in want):
            axis = channel_axis(spec, want[0].ndim) if want else None
            found[spec.name] = floor(want, [row[spec.name] for row in twin], precision, axis)
    return found


def channel_axis(spec: OutputSpec, ndim: int) -> int | None:
    """Which axis counts classes or channels: the last of scores, embeddings and boxes, the second of feature maps."""
    if ndim < 2:
        return None
    return 1 if spec.kind == "dense" and ndim >= 3 else ndim - 1


def differences(got: Rows, want: Rows) -> list[Array]:
    """got - want in float64 for each case; equal infinities differ by nothing. Raises ParityError."""
    if len(got) != len(want):
        raise ParityError(f"{len(want)} cases were asked for and {len(got)} came back")
    errors = []
    for index, (g, w) in enumerate(zip(got, want, strict=True)):
        if g.shape != w.shape:
            raise ParityError(f"case {index}: shape {list(g.shape)}, the oracle's is {list(w.shape)}")
        g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            errors.append(np.where(g == w, 0.0, g - w))
    return errors


def finite_part(values: Array) -> Array:
    """The values with 0 where they are not finite: the size of an output is that of its numbers, not of a mask's
    infinities."""
    return np.where(np.isfinite(values), values, 0.0)


def holds_halves(got: Rows) -> bool:
    """Whether every value is an fp16 number, whatever type it is stored as: the artefact rounds its outputs to fp16."""
    with np.errstate(over="ignore"):
        return all(np.array_equal(g, np.asarray(g).astype(np.float16).astype(np.float64)) for g in got)


def half_units(want: Array) -> Array:
    """Half a unit in the last place of fp16 at each element, float64: the most by which rounding it can be off. The
    errors of many elements are spread evenly up to it, so that their rms is this over the root of three."""
    magnitude = np.abs(np.nan_to_num(np.asarray(want, np.float64), nan=0.0, posinf=0.0, neginf=0.0))
    _, exponent = np.frexp(np.clip(magnitude, 2.0**-24, FP16_MAX))
    return np.asarray(np.ldexp(1.0, np.maximum(exponent - 12, -25)))


def _peak(arrays: Rows) -> float:
    return max((float(np.abs(a).max()) for a in arrays if a.size), default=0.0)


def rms_over(arrays: Rows) -> float:
    """Root mean square over all elements of all arrays; scaled first, so that no square over- or underflows."""
    count = sum(a.size for a in arrays)
    peak = max((float(np.abs(a).max()) for a in arrays if a.size), default=0.0)
    if not count or not peak or not math.isfinite(peak):
        return peak
    return peak * math.sqrt(sum(float(np.square(a / peak).sum()) for a in arrays) / count)


def _refused(reason: str, case: int) -> Ratio:
    return Ratio(math.inf, math.inf, math.inf, math.inf, worst_case=case, reason=reason)


@dataclass(frozen=True)
class Natural:
    """What correct exports were measured to have: the twin's flavour, default limits by statistic, and the spread."""

    flavour: str
    limits: Mapping[str, float]
    count: int
    spread: Mapping[str, Mapping[str, float]]  # statistic -> {"median", "p95", "max"}
    note: str = ""


@functools.cache
def _table(name: str = "natural.json") -> dict[str, Any]:
    text = resources.files("parity.judging").joinpath(name).read_text(encoding="utf-8")
    return dict(json.loads(text))


ROOM = 1.25
"""How much further off a drawn input may be than any that was measured, where all are counted in limits of cases."""


@dataclass(frozen=True)
class Drawn:
    """The limit of one drawn input over its own floor, and how many inputs of how many correct files it rests on."""

    limit: float
    inputs: int
    files: int


def drawn(target: str, precision: str) -> Drawn:
    """What one drawn input may be off by: `stretch` times what one golden case may. A target that nobody measured has
    the widest limit of its precision. Raises ParityError for an unknown precision."""
    known = [found for name in _table()["cells"] if name.endswith(f"-{precision}")
             if (found := natural(*name.split("-"))) is not None]  # fmt: skip
    if not known:
        raise ParityError(f"no limit was measured for inputs drawn at {precision!r}")
    own = natural(target, precision)
    case = own.limits["worst"] if own else max(n.limits["worst"] for n in known)
    cells = _table("drawn.json")["cells"].values()
    return Drawn(round(stretch() * case, 1), sum(c["inputs"] for c in cells), sum(c["models"] for c in cells))


@functools.cache
def stretch(without: str = "") -> float:
    """How much wider limits of golden cases are for drawn inputs: ROOM times the most that any input of any correct
    file used of its own. One number for all targets and precisions, so that no model sets its own limit; `without` is
    a model whose files are left out."""
    used = [1 / ROOM]
    for name, cell in _table("drawn.json")["cells"].items():
        if (found := natural(*name.split("-"))) is not None:
            used += [worst / found.limits["worst"] for model, worst in cell["worst"].items() if model != without]
    return ROOM * max(used)


def natural(target: str, precision: str) -> Natural | None:
    """The committed measurements for a target and precision; None where none were made, so that nothing is gated by
    a number that nobody measured."""
    entry = _table()["cells"].get(f"{target}-{precision}")
    if entry is None:
        return None
    return Natural(entry["flavour"], entry["limits"], entry["count"], entry["spread"], entry.get("note", ""))
