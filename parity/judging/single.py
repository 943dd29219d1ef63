"""One input at a time: the error of an artefact in units of what its precision costs, where there is no set of cases.

A property test draws inputs that no table was measured on, so the floor of a single input has three parts and the
largest counts: what the precision costs on golden data, as a share of the output; what storing a typical output costs;
and the error of the model's twins on this very input. The twins cost most, so they are asked only for the inputs that
the first two leave undecided: they can only lower the ratio. What they excuse within the declared range has an end: a
precision that costs a model its output on inputs that it promises to take does not fit the model. Pure NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from parity.judging.floor import (
    ROOT3,
    UNITS,
    Floor,
    Hidden,
    differences,
    finite_part,
    half_units,
    holds_halves,
    rms_over,
)
from parity.judging.parts import Channels, chance, rms_by, stray
from parity.judging.scales import BESIDE, below, count, gaps, lost_on_one_grid, rms_of
from parity.judging.ties import excused, largest_jump

Array = np.ndarray[Any, np.dtype[Any]]
Values = TypeVar("Values", Array, Array | None)

OVERFLOWS = "the model itself overflows at this precision: its twin does"
GIVES_NAN = "the model itself gives NaN"
BESIDE_NAN = "the model itself gives NaN in another output"
OTHER_INTEGERS = "other integers than the model, beside NaN of the model"
OTHER_NUMBERS = "other numbers than the model, beside elements that overflow in its twin"
_APART = 12.0  # times what rounding costs these elements in the twin: the widest limit that drawn inputs have
TIE = "the model decides between equals"
FURTHER = 2.0  # than the furthest of a few tries may jump, a right file is not
AMPLIFIED = 10.0  # times what the precision usually costs: a twin that is off by more draws its error by chance
AMPLIFIED_BY_FLOAT32 = 1e3 * UNITS["fp32"]  # of a usual output; networks that do not amplify are off by 1e-6 at most
SAMPLES = 16  # elements that larger ones hide where golden data has none: fewer may be small by chance
GROSS = 3.0  # times a usual output: two outputs that chance draws are about 1.4 apart

# Of a typical output. Set by hand: who loses three quarters of it has not rounded it. `lost` in drawn.json is what
# correct files lose at most, 0.55 in fp16 files of a network with random weights, 0.01 otherwise (a test holds it
# below). What leaves the calibrated ranges is cut off, so that at int8 there is no such bound, and dynamic takes its
# ranges from the input.
EXCUSED = {"fp32": 0.75, "fp16": 0.75}


@dataclass(frozen=True)
class Usual:
    """What a precision costs on golden data: as a share of an output's rms, and the least for any output; and the
    output's rms there (None: no golden data tells). `channels` and `hidden`: what it costs those there."""

    relative: float
    least: float
    typical: float | None = None
    precision: str = ""
    channels: tuple[Channels, ...] = ()
    hidden: tuple[Hidden, ...] = ()

    @classmethod
    def of(cls, floor: Floor | None, precision: str) -> Usual:
        """From the golden floor; without one, storing an output of rms 1 once."""
        if floor is None or floor.reason or not math.isfinite(floor.pooled):
            return cls(UNITS[precision], UNITS[precision] * 1e-3, None, precision)
        relative = max(floor.relative, UNITS[precision])
        return cls(relative, floor.least, floor.magnitude, precision, floor.channels, floor.hidden)

    def floor(self, got: Array, want: Array, size: float | None = None) -> float:
        """What the precision costs an output on one input, before any twin is asked. `size`: what stands for the
        output's rms, where that is not `want`'s own."""
        stored = rms(self._storing(got, want)) / ROOT3
        return max(self.relative * (size_of(want) if size is None else size), self.least, stored)

    def small(self, got: Array, want: Array, error: Array) -> tuple[Small, ...]:
        """The elements of an output on one input that far larger ones hide, or would hide: those of golden data.

        They cost what they cost there, or that share of their size, where they are larger here. Where golden data has
        no such elements and a mask shows up on this input first, the others are an output as golden data has it.
        """
        known = [(part.below, part.cost, part.rms, count(part.masks)) for part in self.hidden if part.below]
        typical = self.typical or 0.0
        if not known:
            known = [
                (bound, self.relative * typical, typical, want.size)
                for bound in gaps([want])
                if count(below([want], bound)) >= SAMPLES
            ]
        sets = []
        for bound, cost, usual, elements in known:
            (mask,) = below([finite_part(want)], bound)
            if not mask.any():
                continue
            size = rms_of([want], [mask])
            share = cost / usual if usual else self.relative
            stored = rms_of([self._storing(got, want)], [mask]) / ROOT3
            by_chance = float(chance(elements)) * float(stray(int(mask.sum())))
            most = EXCUSED.get(self.precision, math.inf) * max(size, usual)
            floor = max(cost, share * size, stored, self.relative * size)
            largest = float(np.abs(want[mask]).max())
            sets.append(Small(mask, rms_of([error], [mask]), floor, by_chance, most, largest))
        return tuple(sets)

    def parts(self, got: Array, want: Array, error: Array, whole: float) -> tuple[Part, ...]:
        """The channels of an output on one input, those of golden data with as many. `whole`: the output's floor.

        A channel costs what it costs on golden data, or, where it is larger here, the share of its size that it
        costs there. The share that the output costs is as good a guess for a channel that golden data never moves.
        """
        parts = []
        for usual in self.channels:
            if want.ndim <= usual.axis or want.shape[usual.axis] != len(usual.costs) or not want.size:
                continue
            shares = usual.costs / np.maximum(usual.sizes, np.finfo(np.float64).tiny)
            shares = np.where(usual.sizes > usual.costs, np.maximum(shares, self.relative), self.relative)
            sizes = rms_by([finite_part(want)], usual.axis)
            stored = rms_by([self._storing(got, want)], usual.axis) / ROOT3
            elements = want.size // want.shape[usual.axis]
            floors = usual.floors(np.maximum(shares * sizes, stored), whole, elements)
            errors = usual.together(rms_by([error], usual.axis))
            parts.append(Part(usual, errors, usual.together(floors)))
        return tuple(parts)

    def _storing(self, got: Array, want: Array) -> Array:
        """The largest error, element by element, of storing the oracle's output as the artefact stores its own."""
        if self.precision == "fp16" and holds_halves([got]):
            return half_units(want)
        if self.precision == "int8":
            return np.asarray(ROOT3 * lost_on_one_grid([got], [want])[0])
        return np.zeros(want.shape)

    def gross(self, want: Array) -> float:
        """The rms error from which an output is wrong whatever else is known of the file: it is lost."""
        size = max(self.typical or 0.0, size_of(want))
        return EXCUSED.get(self.precision, 1.0) * size

    def most(self, want: Array, precision: str) -> float:
        """The most that a twin may excuse of an output on an input within the declared range."""
        if self.typical is None or want.dtype.kind != "f" or precision not in EXCUSED:
            return math.inf
        return EXCUSED[precision] * max(self.typical, size_of(want))


@dataclass(frozen=True)
class Part:
    """The channels of one output along one axis on one input: rms errors and floors [channels], each of the channel and
    its peers. Of many channels one is far off now and then; that all of one size are tells more."""

    usual: Channels
    errors: Array
    floors: Array

    def ratio(self) -> float:
        """The largest error over its floor."""
        return float((self.errors / self.floors).max())

    @property
    def words(self) -> str:
        """The worst channel, and how far it is off."""
        worst = int((self.errors / self.floors).argmax())
        where = f"number {worst} along axis {self.usual.axis}, with those of its size,"
        return f"{where} is off by {self.errors[worst]:.3g} rms, the precision costs it {self.floors[worst]:.3g}"

    def excused(self, off: Array, raised: float, whole: float, most: float) -> Part:
        """With a twin taken into the floors, whose error is `off`.

        What raises the floor of the output raises that of each channel as much, up to that of the output: the error
        of one twin in one channel of one input is small by chance too often.
        """
        off_by = self.usual.together(rms_by([off], self.usual.axis))
        floors = np.maximum(self.floors, np.minimum(self.floors * raised, whole))
        return replace(self, floors=np.maximum(floors, np.minimum(off_by, most)))


@dataclass(frozen=True)
class Small:
    """The elements of one output on one input that far larger ones hide: their rms error and floor."""

    mask: Array
    error: float
    floor: float
    by_chance: float  # how many times the floor few elements may be off
    most: float  # that a twin may excuse on an input within the declared range
    largest: float

    def ratio(self) -> float:
        """The error over the floor."""
        return self.error / (self.floor * self.by_chance)

    @property
    def words(self) -> str:
        """Which elements, and how far they are off."""
        off = f"are off by {self.error:.3g} rms, the precision costs them {self.floor:.3g}"
        return f"the elements of at most {self.largest:.3g}, {BESIDE}, {off}"

    def excused(self, off: Array, raised: float, whole: float, most: float) -> Small:
        """With a twin taken into the floor, whose error is `off`."""
        cost = rms_of([off], [self.mask])
        return replace(self, floor=max(self.floor, min(cost, self.most) if math.isfinite(most) else cost))


@dataclass(frozen=True)
class Judged:
    """One output of one input. `ratio`: error over floor, of the output or of a channel, whichever is larger; infinite
    where not finite or not the oracle's shape.

    `costs`: rms error of each twin that was asked, infinite where it is not finite. `reason` says why there is no
    finite ratio; `undefined` that the output cannot be judged on this input, because the model itself (or its twin) is
    not finite there. Where the model gives NaN in some elements, `skipped` of them, the others are judged. `strange`
    says what the file gives there that the model does not, though nothing can be said to be wrong.
    """

    ratio: float
    floor: float
    error: float
    costs: tuple[float, ...] = ()
    reason: str = ""
    undefined: str = ""
    exact: bool = False  # integers: `ratio` is the share of elements that differ
    silent: str = ""  # why this output, on this input, says nothing of the artefact
    parts: tuple[Part | Small, ...] = ()
    skipped: int = 0
    strange: str = ""

    @property
    def words(self) -> str:
        """How far the output is off, or the channel that makes the ratio."""
        for part in self.parts:
            if part.ratio() == self.ratio and self.ratio > self.error / self.floor:
                return part.words
        return f"off by {self.error:.3g} rms, the precision costs {self.floor:.3g}"

    def settled(self) -> Judged:
        """With the ratio that errors and floors give."""
        ratios = [self.error / self.floor if self.error else 0.0, *(part.ratio() for part in self.parts)]
        return replace(self, ratio=max(ratios))


def judge(got: Array | None, want: Array, usual: Usual, flat: bool = False) -> Judged:
    """The ratio by what golden data costs. Integers and booleans: the share of elements that differ, floor 1.

    `flat`: the input is of one level. A normalisation finds nothing in it but rounding, and an output that nothing
    feeds is nearly 0: such an output may be off by what one of the usual size may be. Infinities of the oracle's, a
    mask's say, have to be the artefact's too. Where the oracle gives NaN, the artefact may give anything, and nowhere
    else.
    """
    skipped = int(np.isnan(want).sum()) if want.dtype.kind == "f" else 0
    if skipped and skipped == want.size:
        return Judged(math.inf, 0.0, math.inf, undefined=GIVES_NAN, skipped=skipped)
    if got is None:
        return Judged(math.inf, 0.0, math.inf, reason="the artefact does not give this output")
    if got.shape != want.shape:
        return Judged(math.inf, 0.0, math.inf, reason=f"shape {list(got.shape)}, the oracle's is {list(want.shape)}")
    if (got.dtype.kind == "f") != (want.dtype.kind == "f"):
        return Judged(math.inf, 0.0, math.inf, reason=f"dtype {got.dtype}, the oracle's is {want.dtype}")
    if want.dtype.kind != "f":
        share = float((got != want).mean()) if want.size else 0.0
        return Judged(share, 1.0, share, exact=True)
    got, want = _defined(got, want), _defined(want, want)
    size = max(size_of(want), usual.typical or 0.0) if flat else size_of(want)
    floor = usual.floor(got, want, size)
    (off,) = differences([got], [want])
    if not _finite(off):
        bad = int((~np.isfinite(off)).sum())
        whose = "NaN or infinite" if _finite(want) else "NaN, or infinite where the oracle's are not, or the reverse"
        reason = f"{bad} of {got.size} elements are {whose}"
        return Judged(math.inf, floor, math.inf, reason=reason, skipped=skipped)
    parts: tuple[Part | Small, ...] = (*usual.parts(got, want, off, floor), *usual.small(got, want, off))
    return Judged(0.0, floor, rms(off), parts=parts, skipped=skipped).settled()


def settle(judged: Judged, got: Array | None, want: Array, twin: Array, most: float = math.inf) -> Judged:
    """The ratio with one more twin taken into the floor, which counts for no more than `most`."""
    got, twin, want = _defined(got, want), _defined(twin, want), _defined(want, want)
    cost = distance(twin, want)
    judged = replace(judged, costs=(*judged.costs, cost))
    if judged.undefined or twin.shape != want.shape:
        return judged
    if math.isinf(cost) and (math.isinf(most) or judged.skipped or not _finite(want)):
        strange = OTHER_NUMBERS if _off_beside(judged, got, want, twin) else ""
        return replace(judged, undefined=OVERFLOWS, strange=strange)
    if got is None or not math.isfinite(judged.error):
        return judged
    if want.dtype.kind != "f":
        excused = (got != want) & (twin == want) if got.shape == want.shape else np.ones(1, bool)
        return replace(judged, ratio=min(judged.ratio, float(excused.mean()) if excused.size else 0.0))
    floor = max(judged.floor, min(cost, most))
    if not math.isfinite(cost):
        return replace(judged, floor=floor, parts=()).settled()
    (off,) = differences([twin], [want])
    parts = tuple(part.excused(off, floor / judged.floor, floor, most) for part in judged.parts)
    return replace(judged, floor=floor, parts=parts).settled()


def settle_tie(judged: Judged, got: Array | None, want: Array, tries: Sequence[Array], usual: Usual) -> Judged:
    """What `tries` of tie breakers leave of an error: integers that are ties are no error, and an input on which a
    float output jumps at least about as far as the file is off says nothing about the file."""
    if judged.undefined or got is None or got.shape != want.shape or not math.isfinite(judged.error):
        return judged
    tries = [_defined(values, want) for values in tries]
    got, want = _defined(got, want), _defined(want, want)
    if want.dtype.kind != "f":
        wrong = (got != want) & ~excused(got, want, tries, usual.precision == "fp32")
        return replace(judged, ratio=min(judged.ratio, float(wrong.mean()) if wrong.size else 0.0))
    jump = largest_jump(want, tries, usual.precision, usual.floor(got, want))
    if jump is None or judged.error > FURTHER * distance(jump, want):
        return judged
    return replace(judged, silent=TIE)


def unless_amplified(judged: Judged, want: Array, usual: Usual, single: Array) -> Judged:
    """Silent where the input, of one level, makes the model itself amplify rounding.

    `single` is the model's output in float32. A normalisation of what does not vary divides rounding by rounding: two
    such results are two draws of chance, and their ratio says nothing. A gross one, or one that is not finite, is wrong
    all the same.
    """
    single, want = _defined(single, want), _defined(want, want)
    alone = distance(single, want)
    if judged.undefined or want.dtype.kind != "f" or math.isinf(alone):
        return judged
    size = max(size_of(want), usual.typical or 0.0)
    costs = [cost for cost in (alone, *judged.costs) if math.isfinite(cost)]
    by_float32 = alone > AMPLIFIED_BY_FLOAT32 * size
    by_precision = max(costs) > AMPLIFIED * max(usual.relative * size, usual.least)
    if not (by_float32 or by_precision) or judged.error > GROSS * max(size, *costs):
        return judged
    return replace(judged, silent=f"the model amplifies rounding there: {alone:.2g} rms in float32")


def beside_nan(judged: Judged) -> Judged:
    """An output that may be decided by NaN in another: which of several NaN an argmax or a sort takes is a matter of
    the runtime."""
    if judged.undefined or judged.reason:
        return judged
    strange = OTHER_INTEGERS if judged.exact and judged.ratio else ""
    return replace(judged, undefined=BESIDE_NAN, strange=strange)


def _off_beside(judged: Judged, got: Array | None, want: Array, twin: Array) -> bool:
    """Whether elements are far off that overflow neither in the twin nor in the file."""
    if got is None or want.dtype.kind != "f" or got.shape != want.shape:
        return False
    finite = np.isfinite(got) & np.isfinite(want) & np.isfinite(twin)
    (off, cost) = (differences([values[finite]], [want[finite]])[0] for values in (got, twin))
    return bool(finite.any()) and rms(off) > _APART * max(rms(cost), judged.floor)


def distance(values: Array, want: Array) -> float:
    """The rms difference, equal infinities being no difference; infinite where it is not finite, or shapes differ."""
    if values.shape != want.shape:
        return math.inf
    apart = rms(differences([values], [want])[0])
    return apart if math.isfinite(apart) else math.inf


def size_of(want: Array) -> float:
    """The rms of an output's numbers, 0 standing for its infinities."""
    return rms(finite_part(want))


def rms(values: Array) -> float:
    """Root mean square of one array."""
    return rms_over([values])


def _defined(values: Values, want: Array) -> Values:
    """The values with 0 where the oracle gives NaN: there is nothing to compare."""
    if values is None or want.dtype.kind != "f" or values.shape != want.shape:
        return values
    undefined = np.isnan(want)
    return np.where(undefined, np.zeros_like(values), values) if undefined.any() else values


def _finite(values: Array) -> bool:
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
