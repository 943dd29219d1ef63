"""What kind of error it is, how sure a count makes us, and whether the cases say anything: description for people.

Pure functions. NumPy and the standard library only; the binomial bounds are computed here, scipy is no dependency.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from parity.judging.floor import Floor, differences, finite_part

Array = np.ndarray[Any, np.dtype[Any]]
Rows = Sequence[Array]

EXPLAINED = 0.5  # a kind names an error when taking it out leaves at most this share of the rms
ONE_PLACE = 0.9  # share of the squared error that makes it one case's or one channel's
WEAK_SPREAD = 0.02  # outputs that vary by less than this share of their size hardly depend on the inputs
FEWEST = 4  # cases, in all of which no element is wrong by chance, and no output the same
ROUNDED = 2.0**-20  # of an output's rms: sixteen times what storing it as float32 costs
SATURATED = 0.01  # outputs within 1 that vary by less are at the end of a sigmoid: inputs are lacking, not the file
KEPT = 0.2  # a file that keeps at most this share of what an output varies by gives nearly the same for every input
SAME = "the file gives nearly the same output for every case, and the oracle does not"
WEAK_FLOOR = 10.0  # and so do those whose variation is less than this many noise floors


@dataclass(frozen=True)
class Trend:
    """got = gain * want + offset by least squares over all elements, and the mean of got - want."""

    gain: float
    offset: float
    mean_signed: float
    left: float  # rms of what the line does not explain, as a share of the rms error


def trend(got: Rows, want: Rows) -> Trend:
    """Description only: quantisation has a real bias, so correct int8 files have a gain and an offset too."""
    errors = differences(got, want)
    e, w = _flat(errors), _flat([np.asarray(x, np.float64) for x in want])
    keep = np.isfinite(e) & np.isfinite(w)
    e, w = e[keep], w[keep]
    if not e.size:
        return Trend(math.nan, math.nan, math.nan, math.nan)
    centred = w - w.mean()
    size = float(centred @ centred)
    slope = float(centred @ (e - e.mean())) / size if size > 0 else 0.0
    offset = float(e.mean() - slope * w.mean())
    total = float(e @ e)
    left = float(np.square(e - slope * w - offset).sum())
    return Trend(1 + slope, offset, float(e.mean()), math.sqrt(left / total) if total else 0.0)


Kind = Literal["none", "not finite", "permutation", "one case", "one channel", "gain", "offset", "noise"]


@dataclass(frozen=True)
class Error:
    """What kind of error an artefact has, and the sentence that says so."""

    kind: Kind
    sentence: str
    left: float = 1.0  # rms of what the kind does not explain, as a share of the rms error


def classify(got: Rows, want: Rows, axis: int | None = None) -> Error:
    """The first kind that explains the error, from the most to the least specific."""
    errors = differences(got, want)
    flat = _flat(errors)
    if not np.isfinite(flat).all():
        bad = sum(not np.isfinite(e).all() for e in errors)
        return Error("not finite", f"NaN or infinity in {bad} of {len(errors)} cases")
    total = float(flat @ flat)
    if not total:
        return Error("none", "equal to the oracle", 0.0)
    channels = _channels(errors, axis)
    oracle = [finite_part(np.asarray(w, np.float64)) for w in want]  # infinities that both have are no difference
    wanted = _channels(oracle, axis)
    found = _permuted(wanted + channels, wanted, total) if channels.size else None
    if found:
        return found
    cases = np.array([float(np.square(e).sum()) for e in errors])
    if len(cases) >= 4 and cases.max() > ONE_PLACE * total:
        return Error("one case", f"{cases.max() / total:.0%} of the squared error is in case {int(cases.argmax())} of "
                     f"{len(cases)}", math.sqrt(1 - cases.max() / total))  # fmt: skip
    line = trend(got, want)
    proportional = _without_gain(flat, _flat(oracle), total)
    if proportional[1] <= EXPLAINED:
        return Error("gain", f"the output is {proportional[0]:.4g} times the oracle's", proportional[1])
    if channels.size:
        means = channels.mean(1, keepdims=True)
        left = math.sqrt(float(np.square(channels - means).sum()) / total)
        if left <= EXPLAINED and channels.shape[1] >= 4:
            biggest = int(np.abs(means).argmax())
            most = f"channel {biggest} by {float(means[biggest, 0]):+.4g}"
            return Error("offset", f"every channel is off by a constant, {most}", left)
        shares = np.square(channels).sum(1) / total
        if len(shares) >= 4 and shares.max() > ONE_PLACE:
            return Error("one channel", f"{shares.max():.0%} of the squared error is in channel {int(shares.argmax())} "
                         f"of {len(shares)}", math.sqrt(1 - float(shares.max())))  # fmt: skip
    if line.left <= EXPLAINED and flat.size >= 4:
        return Error("offset", f"the output is {line.gain:.4g} times the oracle's and {line.offset:+.4g}", line.left)
    return Error("noise", "no gain, offset, permutation or single case explains it")


def _permuted(got: Array, want: Array, total: float) -> Error | None:
    """Channels in another order: each one's nearest oracle channel is another's, and taking them so leaves little."""
    if len(got) < 2:
        return None
    distance = np.square(got).sum(1)[:, None] + np.square(want).sum(1)[None] - 2 * got @ want.T
    nearest = distance.argmin(1)
    if len(set(nearest.tolist())) != len(nearest) or (nearest == np.arange(len(nearest))).all():
        return None
    left = math.sqrt(float(np.square(got - want[nearest]).sum()) / total)
    if left > EXPLAINED:
        return None
    moved = [i for i, n in enumerate(nearest.tolist()) if i != n]
    pairs = ", ".join(f"{i} holds the oracle's {nearest[i]}" for i in moved[:3])
    return Error("permutation", f"{len(moved)} of {len(got)} channels are in other places: {pairs}", left)


def _without_gain(error: Array, want: Array, total: float) -> tuple[float, float]:
    """The gain g of got = g * want through the origin, and the share of the rms error that it leaves."""
    size = float(want @ want)
    slope = float(want @ error) / size if size else 0.0
    return 1 + slope, math.sqrt(float(np.square(error - slope * want).sum()) / total)


def _flat(rows: Rows) -> Array:
    return np.concatenate([r.reshape(-1) for r in rows]) if rows else np.zeros(0)


def _channels(rows: Rows, axis: int | None) -> Array:
    """[channels, everything else] over all cases; empty where there is no such axis."""
    if axis is None or not rows or len({r.shape[axis] for r in rows}) != 1:
        return np.zeros((0, 0))
    return np.concatenate([np.moveaxis(r, axis, 0).reshape(r.shape[axis], -1) for r in rows], 1)


@dataclass(frozen=True)
class Sensitivity:
    """How much an output varies over the cases: rms around its mean, as a share of its rms and in noise floors."""

    spread: float
    floors: float
    weak: str  # why the evidence is weak; empty where it is not


def sensitivity(want: Rows, floor: Floor) -> Sensitivity:
    """Whether an output depends on its inputs enough for the cases to say anything about the artefact."""
    if len(want) < 2:
        return Sensitivity(math.nan, math.nan, "there is one case only: nothing shows whether outputs follow inputs")
    if len({w.shape for w in want}) > 1:
        return Sensitivity(math.nan, math.nan, "")
    stacked = np.stack([finite_part(np.asarray(w, np.float64)) for w in want])
    around = math.sqrt(float(np.square(stacked - stacked.mean(0)).mean()))
    spread = around / floor.magnitude if floor.magnitude else 0.0
    floors = around / max(floor.pooled, floor.least)
    weak = ""
    if not spread > WEAK_SPREAD:
        weak = f"the output varies by only {spread:.2%} of its size over {len(want)} cases: untrained or saturated?"
    elif not floors > WEAK_FLOOR:
        weak = f"over {len(want)} cases the output varies by only {floors:.2g} times what the precision costs"
    return Sensitivity(spread, floors, weak)


def lost_variation(got: Rows, floor: Floor) -> float | None:
    """The share that a file loses of what its output varies by over the cases; None unless it loses nearly all.

    The rms of an output with a large mean says nothing of that: 1000.9 for every input is 0.1 % off. Also None for
    fewer cases than `FEWEST` or of several shapes, and where the oracle varies by no more than float32 rounds.
    """
    if len(got) < FEWEST or len({w.shape for w in floor.want}) > 1:
        return None
    want, given = np.stack(floor.want).astype(np.float64), np.stack(got).astype(np.float64)
    varied, kept = (math.sqrt(float(np.square(x - x.mean(0)).mean())) for x in (want, given))
    if varied <= ROUNDED * floor.magnitude or kept > KEPT * varied:
        return None
    if varied < SATURATED and np.abs(want).max() <= 1:
        return None
    error = given - want
    return math.sqrt(float(np.square(error - error.mean(0)).mean())) / varied


def binomial_upper(count: int, total: int, confidence: float = 0.95) -> float:
    """The largest share p with P(X <= count) >= 1 - confidence for X ~ Binomial(total, p).

    The one-sided exact bound of Clopper and Pearson, Biometrika 26 (1934) 404-413. For a count of 0 it is
    1 - (1 - confidence) ** (1 / total), about 3 / total at 95 %.
    """
    if not 0 <= count <= total or total < 1:
        raise ValueError(f"{count} of {total} is no share")
    if count == total:
        return 1.0
    low, high = count / total, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        below = binomial_at_most(count, total, middle)
        low, high = (middle, high) if below >= 1 - confidence else (low, middle)
    return high


def binomial_at_most(count: int, total: int, share: float) -> float:
    """P(X <= count) for X ~ Binomial(total, share)."""
    if count >= total or share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    hits = np.arange(count + 1)
    logs = _log_choices(count, total) + hits * math.log(share) + (total - hits) * math.log1p(-share)
    return float(np.exp(logs).sum())


def binomial_lower(count: int, total: int, confidence: float = 0.95) -> float:
    """The smallest share that is not refuted: the mirror image of `binomial_upper`."""
    return 1 - binomial_upper(total - count, total, confidence)


def _log_choices(count: int, total: int) -> Array:
    """log C(total, i) for i = 0 .. count, as running sums, so that large totals do not overflow."""
    i = np.arange(1, count + 1, dtype=np.float64)
    return np.concatenate([[0.0], np.cumsum(np.log((total - i + 1) / i))])


def drop_bound(lost: int, won: int, total: int) -> float:
    """How large the loss of accuracy may be: `lost` cases only the oracle has right, `won` only the artefact.

    upper(lost) - lower(won), each at 97.5 %, so that both hold together with at least 95 % (Bonferroni).
    """
    return binomial_upper(lost, total, 0.975) - binomial_lower(won, total, 0.975)


@dataclass(frozen=True)
class Flips:
    """Rows whose largest element changed: all, and those whose lead was beyond what the precision moves."""

    total: int
    rows: int
    beyond_noise: int


def flips(got: Rows, want: Rows, floor: Floor, twin: Rows = (), sigmas: float = 6.0) -> Flips:
    """Decisions along the last axis. A lead below `sigmas` floors times sqrt(2), since two scores move, may flip; so
    may one that the `twin` loses too. Where far larger scores hide others, the floor is that of the others."""
    a, b = (np.concatenate([np.asarray(r, np.float64).reshape(-1, r.shape[-1]) for r in rows]) for rows in (got, want))
    same = np.isfinite(a) | (a == b)  # a masked class is one that nobody chooses
    chosen = np.where(same.all(1), a.argmax(1), -1)
    best = b.argmax(1)
    changed = chosen != best
    largest, other = b.max(1), np.take_along_axis(b, np.maximum(chosen, 0)[:, None], 1)[:, 0]
    noise = sigmas * math.sqrt(2) * _noise(floor, np.maximum(np.abs(largest), np.abs(other)))
    beyond = changed & ((largest - other > noise) | (chosen < 0))
    if len(twin):
        theirs = np.concatenate([np.asarray(r, np.float64).reshape(-1, r.shape[-1]) for r in twin])
        beyond &= theirs.argmax(1) == best
    return Flips(int(changed.sum()), len(b), int(beyond.sum()))


def _noise(floor: Floor, sizes: Array) -> Array:
    """The floor of scores of these sizes [rows]."""
    noise = np.full(sizes.shape, max(floor.pooled, floor.least))
    for part in sorted(floor.hidden, key=lambda part: -part.largest):
        noise[sizes <= part.largest] = part.cost
    return noise
