"""What can be measured between two arrays, in one pass over them.

Measuring is separate from judging (`parity.compare`), so that a stored measurement can be judged again under
new limits. What each metric means and how it is limited is in `parity.judging.registry`. Imports numpy
and the standard library only: no pytest, no torch, no converter.

All arithmetic is float64 on blocks that stay in the L2 cache; the arrays themselves are never copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.core.errors import ParityError

Array = npt.NDArray[Any]

EXACT_DB = 400.0
"""Decibels that stand for equality. Any difference is clipped to -EXACT_DB .. EXACT_DB - 1, so every value
is finite and a limit of EXACT_DB holds for equal outputs alone.

The smallest relative error that float64 can hold is 2**-53 (319 dB) in each element, or 393 dB in one of 25
million; only differences around denormal elements lie beyond.
"""

# Three float64 buffers of this length take 192 KiB of L2; OpenBLAS starts threads for a dot product above 10
# 000 elements, which would make the sums depend on the number of cores.
BLOCK = 8192


SUMMED = ("max_abs", "max_rel", "mean_abs", "rms", "rel_rms", "mean_signed", "cosine", "sqnr", "psnr")
"""Always measured, together, in one pass."""
DECIDED = ("top1", "top5", "decision_flips", "flip_margin")
"""Decisions between classes along an axis: measured when asked for."""


@dataclass(frozen=True)
class Nonfinite:
    """Counts of elements that are not finite.

    `permitted`: infinities of one sign at the same place in both (an attention mask, say); they are left out
    of every sum. `refused`: all others, NaN in both at the same place included; `first` is the index of the
    first.
    """

    got_nan: int = 0
    got_inf: int = 0
    want_nan: int = 0
    want_inf: int = 0
    permitted: int = 0
    refused: int = 0
    first: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Sums:
    """Sums over the finite elements, enough to pool cases.

    Scaled by powers of two so that squares of huge or tiny values neither overflow nor vanish: the true
    `want2` is `want2 * 4**want_exp`, the true `abs` is `abs * 2**error_exp`, and so on.
    """

    count: int
    got2: float
    want2: float
    cross: float
    error2: float
    signed: float
    abs: float
    peak: float
    """Largest |got - want|, not scaled."""
    low: float
    high: float
    """Range of want, not scaled."""
    got_exp: int = 0
    want_exp: int = 0
    error_exp: int = 0


@dataclass(frozen=True)
class Measurement:
    """What one pass found. `worst` is the flat C-order index of the largest difference, the first if tied."""

    sums: Sums
    nonfinite: Nonfinite
    worst: int
    max_rel: float


@dataclass
class _Scan:
    """The rows of the pass, one a block, and the scale they were taken at."""

    exps: tuple[int, int, int] = (0, 0, 0)
    # got2, want2, cross, error2, signed, abs
    rows: list[tuple[float, ...]] = field(default_factory=list)
    # start, length, largest |difference|
    blocks: list[tuple[int, int, float]] = field(default_factory=list)
    got_peak: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    worst: int = 0
    peak: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * 6)
    first: int = -1


def _blocks(got: Array, want: Array, span: tuple[int, int] | None = None) -> Iterator[tuple[Array, Array, Array]]:
    """Yield float64 views (got, want, got - want) in C order, in blocks of at most BLOCK elements.

    The third is a buffer that the caller may overwrite and the next block reuses; the others are read-only.
    `span` restricts to a range of flat C-order indices.
    """
    wide = [a.dtype.kind in "iu" and a.dtype.itemsize == 8 for a in (got, want)]
    dtypes: list[npt.DTypeLike] = [np.float64, np.float64]
    if any(wide):
        dtypes = [np.uint64 if a.dtype == np.uint64 else np.int64 for a in (got, want)]
    pairs = np.nditer(
        [got, want],
        flags=["external_loop", "buffered", "ranged"],
        op_dtypes=dtypes,
        order="C",
        casting="same_kind",
        buffersize=BLOCK,
    )
    if span is not None:
        pairs.iterrange = span  # type: ignore[misc]  # settable, the stub says otherwise
    buffer = np.empty(min(BLOCK, got.size))
    for a, b in pairs:
        error = buffer[: a.size]
        if any(wide):
            # float64 holds 53 bits of 64: subtract the halves, which are exact, and round once.
            np.subtract((a >> 32).astype(np.float64), (b >> 32).astype(np.float64), out=error)
            error *= 2.0**32
            error += (a & 0xFFFFFFFF).astype(np.float64) - (b & 0xFFFFFFFF).astype(np.float64)
            yield a.astype(np.float64), b.astype(np.float64), error
        else:
            np.subtract(a, b, out=error)
            yield a, b, error


def _without_nonfinite(a: Array, b: Array, error: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Copies with zero in all three where one is not finite, and the masks of permitted and refused."""
    permitted = np.isinf(a) & (a == b)
    refused = ~(np.isfinite(a) & np.isfinite(b) | permitted)
    out = permitted | refused
    return np.where(out, 0.0, a), np.where(out, 0.0, b), np.where(out, 0.0, error), permitted, refused


def _scan(got: Array, want: Array, exps: tuple[int, int, int] = (0, 0, 0)) -> _Scan:
    scan = _Scan(exps)
    ones = np.ones(min(BLOCK, got.size))
    start = 0
    for a, b, error in _blocks(got, want):
        got2, want2, kept = float(a.dot(a)), float(b.dot(b)), b
        # A sum of squares is finite only if every element is: the mask costs nothing until one is not.
        if not math.isfinite(got2 + want2):
            a_raw, b_raw = a, b
            a, b, error, permitted, refused = _without_nonfinite(a, b, error)
            found = (np.isnan(a_raw), np.isinf(a_raw), np.isnan(b_raw), np.isinf(b_raw), permitted, refused)
            scan.counts = [n + int(mask.sum()) for n, mask in zip(scan.counts, found, strict=True)]
            if scan.first < 0 and refused.any():
                scan.first = start + int(refused.argmax())
            got2, want2, kept = float(a.dot(a)), float(b.dot(b)), b[~(permitted | refused)]
        scan.got_peak = max(scan.got_peak, float(a.max()), -float(a.min()))
        if kept.size:
            scan.low, scan.high = min(scan.low, float(kept.min())), max(scan.high, float(kept.max()))
        if any(exps):
            a, b, scaled = (np.ldexp(x, -exp) for x, exp in zip((a, b, error), exps, strict=True))
            got2, want2 = float(a.dot(a)), float(b.dot(b))
        else:
            scaled = error
        one = ones[: a.size]
        row = [got2, want2, float(a.dot(b)), float(scaled.dot(scaled)), float(scaled.dot(one))]
        np.abs(error, out=error)
        peak = float(error.max())
        if peak > scan.peak:
            scan.peak, scan.worst = peak, start + int(error.argmax())
        row.append(float(np.abs(scaled, out=scaled).dot(one)) if any(exps) else float(error.dot(one)))
        scan.rows.append(tuple(row))
        scan.blocks.append((start, a.size, peak))
        start += a.size
    return scan


def _exponent(peak: float) -> int:
    """0 while squares of `peak`, their sums and products of two sums fit float64; else its exponent."""
    return 0 if 2.0**-200 <= peak <= 2.0**200 else math.frexp(peak)[1]


def _max_rel(got: Array, want: Array, scan: _Scan, floor: float) -> float:
    """The largest |got - want| / max(|want|, floor).

    The floor is known only after the pass. A block's largest difference over the floor bounds its ratio from
    above, so only the blocks that may hold the maximum are read again, the likeliest first.
    """
    if scan.peak == 0.0:
        return 0.0
    if floor == 0.0:
        return math.inf
    best = 0.0
    for start, length, peak in sorted(scan.blocks, key=lambda block: -block[2]):
        if peak / floor <= best:
            break
        for a, b, error in _blocks(got, want, (start, start + length)):
            if not math.isfinite(float(a.dot(a)) + float(b.dot(b))):
                a, b, error, *_ = _without_nonfinite(a, b, error)
            size = np.maximum(np.abs(b), floor)
            best = max(best, float((np.abs(error) / size).max()))
    return best


def measure(got: Array, want: Array) -> Measurement:
    """Read two arrays of one shape, at least one element and real dtype of at most 8 bytes, once.

    A second reading happens only for values beyond 2**+-200 (scaled sums) and, block by block, for `max_rel`.
    The difference of 64-bit integers is exact to one rounding.
    """
    with np.errstate(all="ignore"):
        scan = _scan(got, want)
        peaks = (scan.got_peak, max(scan.high, -scan.low), scan.peak)
        exps = (_exponent(peaks[0]), _exponent(peaks[1]), _exponent(peaks[2]))
        if any(exps):
            scan = _scan(got, want, exps)
        first = None if scan.first < 0 else unravel(scan.first, got.shape)
        got_nan, got_inf, want_nan, want_inf, permitted, refused = scan.counts
        nonfinite = Nonfinite(got_nan, got_inf, want_nan, want_inf, permitted, refused, first)
        # Blocks are summed in float64 by BLAS; across blocks fsum rounds once.
        got2, want2, cross, error2, signed, total = (_total(column) for column in zip(*scan.rows, strict=True))
        count = int(got.size) - permitted - refused
        sums = Sums(count, got2, want2, cross, error2, signed, total, scan.peak, scan.low, scan.high, *exps)
        max_rel = math.nan
        if count and not nonfinite.refused:
            max_rel = _max_rel(got, want, scan, _ldexp(math.sqrt(sums.want2 / count), exps[1]))
    return Measurement(sums, nonfinite, scan.worst, max_rel)


def difference_count(got: Array, want: Array, threshold: float) -> int:
    """How many elements differ by more than `threshold`; the same infinity in both does not differ."""
    with np.errstate(all="ignore"):
        return sum(int((np.abs(error) > threshold).sum()) for _, _, error in _blocks(got, want))


def summed_metrics(sums: Sums, max_rel: float) -> dict[str, float]:
    """The SUMMED metrics, in order. All are finite unless a difference overflows float64 or want is all zero.

    Against a want of zeros a nonzero error has no relative size: `max_rel` and `rel_rms` are inf, `sqnr` is
    -EXACT_DB. PSNR of a constant want, whose range is zero, is -EXACT_DB unless nothing differs.
    """
    n = sums.count
    norms = sums.got2 * sums.want2
    if sums.peak == 0.0:
        cosine = 1.0
    else:
        cosine = max(-1.0, min(1.0, sums.cross / math.sqrt(norms))) if norms > 0.0 else 0.0
    rel_rms = math.sqrt(sums.error2 / sums.want2) if sums.want2 > 0.0 else (math.inf if sums.peak else 0.0)
    span = sums.high / 2 - sums.low / 2
    return {
        "max_abs": sums.peak,
        "max_rel": max_rel,
        "mean_abs": _ldexp(sums.abs / n, sums.error_exp),
        "rms": _ldexp(math.sqrt(sums.error2 / n), sums.error_exp),
        "rel_rms": _ldexp(rel_rms, sums.error_exp - sums.want_exp),
        "mean_signed": _ldexp(sums.signed / n, sums.error_exp),
        "cosine": cosine,
        "sqnr": _decibel(sums, math.sqrt(sums.want2), sums.want_exp, math.sqrt(sums.error2)),
        "psnr": _decibel(sums, span, 1, math.sqrt(sums.error2 / n)),
    }


def _decibel(sums: Sums, signal: float, signal_exp: int, error: float) -> float:
    """20 log10 of signal over error, both amplitudes, clipped so that only equality reaches EXACT_DB."""
    if sums.peak == 0.0:
        return EXACT_DB
    if signal == 0.0:
        return -EXACT_DB
    if math.isinf(error):
        return math.nan
    ratio = math.log10(signal) - math.log10(error) + math.log10(2) * (signal_exp - sums.error_exp)
    return max(-EXACT_DB, min(EXACT_DB - 1, 20 * ratio))


def pool(parts: Iterable[Sums]) -> Sums:
    """The sums over all elements of several cases, on the largest of their scales."""
    parts = list(parts)
    # A part that is all zero has exponent 0, which must not swallow tiny ones.
    g = max((p.got_exp for p in parts if p.got2), default=0)
    w = max((p.want_exp for p in parts if p.want2), default=0)
    e = max((p.error_exp for p in parts if p.error2), default=0)
    return Sums(
        count=sum(p.count for p in parts),
        got2=_total(_ldexp(p.got2, 2 * (p.got_exp - g)) for p in parts),
        want2=_total(_ldexp(p.want2, 2 * (p.want_exp - w)) for p in parts),
        cross=_total(_ldexp(p.cross, p.got_exp - g + p.want_exp - w) for p in parts),
        error2=_total(_ldexp(p.error2, 2 * (p.error_exp - e)) for p in parts),
        signed=_total(_ldexp(p.signed, p.error_exp - e) for p in parts),
        abs=_total(_ldexp(p.abs, p.error_exp - e) for p in parts),
        peak=max(p.peak for p in parts),
        low=min(p.low for p in parts),
        high=max(p.high for p in parts),
        got_exp=g,
        want_exp=w,
        error_exp=e,
    )


def decided_metrics(got: Array, want: Array, axis: int) -> dict[str, float]:
    """The DECIDED metrics, in order, for class scores along `axis`; a row is what the other axes select.

    Scores are ranked in each array's own dtype; of equal scores the one with the lower index ranks first, so
    a tie that rounding makes in `got` may flip a decision: `flip_margin` says how much that decision was
    worth. NaN where nothing is decided: fewer than 2 classes (`top5`: fewer than 6, of which five would
    always agree).
    """
    if got.ndim == 0:
        return dict.fromkeys(DECIDED, math.nan)
    if not -got.ndim <= axis < got.ndim:
        raise ParityError(
            f"compare: axis {axis} is out of range for shape {got.shape}: use {-got.ndim} to {got.ndim - 1}"
        )
    classes = got.shape[axis]
    if classes < 2:
        return dict.fromkeys(DECIDED, math.nan)
    best_got = np.expand_dims(np.argmax(got, axis), axis)
    best_want = np.expand_dims(np.argmax(want, axis), axis)
    flipped = best_got != best_want
    rows, flips = int(flipped.size), int(flipped.sum())
    margin = 0.0
    if flips:
        lost, chosen = (np.take_along_axis(want, best, axis)[flipped] for best in (best_want, best_got))
        margin = float((lost.astype(np.float64) - chosen.astype(np.float64)).max())
    top5 = math.nan
    if classes > 5:
        score = np.take_along_axis(got, best_want, axis)
        index = np.arange(classes).reshape([-1 if a == axis % got.ndim else 1 for a in range(got.ndim)])
        rank = ((got > score) | ((got == score) & (index < best_want))).sum(axis)
        top5 = int((rank < 5).sum()) / rows
    return {
        "top1": (rows - flips) / rows,
        "top5": top5,
        "decision_flips": float(flips),
        "flip_margin": margin,
    }


def iou(got: Array, want: Array) -> float:
    """Intersection over union of masks: elements above 0.5, or, of integers, the mean over the classes of `want`."""
    if want.dtype.kind in "iu":
        classes = np.unique(want)
        shares = [((got == c) & (want == c)).sum() / ((got == c) | (want == c)).sum() for c in classes]
        return float(np.mean(shares)) if len(shares) else 1.0
    a, b = np.asarray(got) > 0.5, np.asarray(want) > 0.5
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def unravel(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index of a flat C-order position."""
    return tuple(int(i) for i in np.unravel_index(flat, shape)) if shape else ()


def _ldexp(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)


def _total(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)
