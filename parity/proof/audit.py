"""Every stored constant against the torch tensor that belongs there, without running anything. Pure.

At int8 a weight may be half a step of its grid from the torch value, at fp16 half a unit in the last place, at fp32
what float32 rounding costs. Grids must be finite, positive, in range, and fit each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from parity.core.proof import Culprit, Link
from parity.formats.graph import TABLE, Array, Constant, Graph, Grid
from parity.proof.match import ALIKE, Match, shares_grid

ROUNDING = 16 * 2.0**-24  # a few float32 roundings: folding BatchNorm takes five
HALF = 0.5  # steps
_SNAP = 1e-5  # a gain this close to 1 is 1: scales are float32, and zero points move a range by a little
_SURE = 6.0  # standard errors by which two gains must differ to be two
_LEAST = 1e-5  # a smaller factor is a dead channel: 1 over the places of a feature map is folded, too
_LEAST_STEP = 0.5e-6 / 127 * (1 + 2.0**-20)  # TFLite's quantiser makes no finer: kSmallestHalfRange, 0.5e-6
_COARSEST = 2.0  # times the natural step; a coarser grid excuses no value, unless the channel is dead
_DEAD = 1 / 512  # of its bias: what a channel's products may lose and not move an output of 256 levels
CLIP_COST = 0.2  # rms of what clipping takes away over rms of the tensor; activations of correct files: 0.14 at most
_NOTHING = 2.0**-24  # of a tensor's largest value: what a table's own float32 arithmetic leaves where zero is meant
_COMPUTED = 2.0  # times a constant's largest value: from such a magnitude on it was made with more error than is stored
_SUBNORMAL = 2.0**-14  # below it fp16 has fewer digits
_FP16_FLOOR = 2.0**-23  # converters lift what fp16 would flush to zero; two steps of the smallest subnormal


@dataclass(frozen=True)
class Audited:
    """One constant: the worst deviation in units of what its precision allows, and the gain it was stored with."""

    match: Match
    gain: Array  # broadcastable to the values; 1 where the converter folded nothing in
    worst: float
    excess: Array  # deviation beyond the allowance, in steps; zero or less is fine; one zero for all that are sound

    @property
    def sound(self) -> bool:
        return bool(self.worst <= 1.0)

    @property
    def computed(self) -> bool:
        """Whether float32 cannot compute this constant as well as it stores it, so that a right file is further off."""
        reach = float(np.abs(self.match.values).max(initial=0))
        return not self.match.constant.reduced and float(self.match.magnitude.max(initial=0)) > _COMPUTED * reach

    @property
    def expected(self) -> Array:
        """What the lift puts in this constant's place: the torch values, with the gain."""
        return self.match.values * self.gain


def audit(graph: Graph, matches: Mapping[str, Match], precision: str) -> tuple[dict[str, Audited], Link]:
    """Audit every matched constant and every grid. Fails on the first deviation, and names all."""
    gains = {name: gain(m) for name, m in matches.items() if m.constant.slot("weight", "operand")}
    audited = {name: _lean(_audited(graph, m, gains)) for name, m in matches.items()}
    audited = {name: a for name, a in audited.items() if a.sound or not _by_chance(a.match)}
    culprits = [_culprit(a) for a in audited.values() if not a.sound]
    culprits += _precision_class(graph, audited, precision)
    for name, tensor_grid in _grids(graph):
        known = matches[name].name if name in matches else name
        culprits += [Culprit("tensor", known, what) for what in _grid_faults(graph, name, tensor_grid)]
    culprits += _bias_scales(graph, matches)
    worst = max((a.worst for a in audited.values()), default=0.0)
    figures = {
        "unreduced": round(_unreduced(audited), 6),
        "tensors": len(audited),
        "within": sum(a.sound for a in audited.values()),
        "unit": {"fp32": "float32 rounding", "fp16": "half a unit"}.get(precision, "half a step"),
        "worst": round(worst, 6),
        "clipped": _clipped_shares(audited),
        "computed": [a.match.name for a in audited.values() if a.sound and a.computed],
        "folded": [a.match.name for a in audited.values() if bool(np.any(a.gain != 1))],
    }
    return audited, Link.judged("audit", figures, culprits)


def _lean(audited: Audited) -> Audited:
    """A sound constant without what nobody asks of it: as many numbers as the constant has."""
    return replace(audited, excess=np.zeros(())) if audited.sound else audited


def _clipped_shares(audited: Mapping[str, Audited]) -> dict[str, float]:
    """By table, the share of its values that its grid does not reach."""
    shares = {a.match.name: float(clipped(a.match.constant, a.expected).mean()) for a in audited.values()}
    return {name: round(share, 6) for name, share in shares.items() if share}


def exact(graph: Graph, match: Match) -> Audited:
    """A constant that holds its torch values with no factor, rounded to its type."""
    return _measured(graph, match, np.ones([1] * match.values.ndim))


def _by_chance(match: Match) -> bool:
    """Whether a match is no evidence unless it is exact: a single number, such as a coefficient of the polynomial that
    stands for erf, lies near some number of the model's. The lift keeps it as it is, and sees whether it is right."""
    return match.values.size == 1 and not match.constant.slot("weight", "bias")


def gain(match: Match) -> Array:
    """The factor, a channel or for all, by which a stored constant is larger than torch's: converters legally fold
    scalars into weights. Whether it is legal here, the lift decides: a legal gain is made up for elsewhere.

    A min-max grid gives it exactly, from its largest integer; where the values' regression contradicts that, the grid
    is no min-max grid and the regression is taken, if it differs from 1 by more than quantisation noise explains. A
    grid of few levels leaves a channel's regression too rough to round by: one factor that all values agree on is.
    """
    grid, want = match.constant.grid, match.values
    if want.ndim == 0 or (grid is not None and grid.wide):
        return np.ones([1] * want.ndim)
    if grid is None:
        return _float_gain(match)
    keep = grid.axis if grid.per_channel else None
    axes = tuple(i for i in range(want.ndim) if i != keep)
    got, step = match.constant.real, grid.step(want.ndim)
    if _calibrated_table(match.constant):  # whose values may lie beyond the ends of its grid
        inside = (match.constant.stored > grid.low) & (match.constant.stored < grid.high)
        got, want = got * inside, want * inside
    if np.any(grid.zero != 0):  # an asymmetric grid reaches from the smallest value, or 0, to the largest, or 0
        reach, ours = _span(got, axes), _span(want, axes)
        levels = grid.high - grid.low
    else:
        reach, ours = (np.abs(v).max(axis=axes, keepdims=True) for v in (got, want))
        levels = grid.high
    power = np.square(want).sum(axis=axes, keepdims=True)
    # Only of values that reach just to its ends is a grid the min-max grid. Where more reach beyond them (the last
    # negative integer of a symmetric grid is in use), or none does (a bound of a clamp has the grid of what it
    # clamps), its ends say nothing.
    with np.errstate(divide="ignore", invalid="ignore"):
        min_max = np.abs(reach / np.abs(step) - levels) < HALF
        by_range = reach / ours
        by_values = (got * want).sum(axis=axes, keepdims=True) / power
        noise = np.abs(step) / np.sqrt(12 * power)
        agree = (np.abs(by_range - by_values) <= _SURE * noise) & min_max
        free = np.where(np.abs(by_values - 1) > _SURE * noise, by_values, 1.0)
        result = np.where(np.abs(by_range - 1) < _SNAP, 1.0, np.where(agree, by_range, free))
        if np.any((result == free) & (free != 1)):
            common = _common_factor(got, want, HALF * np.broadcast_to(np.abs(step), want.shape))
            if common is not None:
                return np.full([1] * want.ndim, common)
    # A dead or inverted channel is no gain: leave it to the audit.
    return np.asarray(np.where(np.isfinite(result) & (result > _LEAST), result, 1.0))


def _float_gain(match: Match) -> Array:
    """The one factor of a constant in floating point; 1 where its values agree on none, for then it is no factor."""
    got, want = match.constant.real, match.values
    half = match.constant.stored.dtype == np.float16
    slack = 0.5 * np.spacing(np.abs(match.constant.stored)).astype(np.float64) if half else ROUNDING * np.abs(got)
    common = _common_factor(got, want, slack)
    return np.full([1] * want.ndim, 1.0 if common is None else common)


def _common_factor(got: Array, want: Array, slack: Array) -> float | None:
    """One factor that all values agree on within their rounding, `slack`: 1 if it is among those, a simple fraction if
    one is, else the middle. None where they do not agree."""
    large = np.abs(want) > 1e-3 * np.abs(want).max(initial=0)
    ratio, width = got[large] / want[large], (slack[large] + ROUNDING * np.abs(got[large])) / np.abs(want[large])
    low, high = float((ratio - width).max(initial=-np.inf)), float((ratio + width).min(initial=np.inf))
    if not _LEAST < low <= high < np.inf:
        return None
    if low <= 1 <= high:
        return 1.0
    simple = float(Fraction((low + high) / 2).limit_denominator(16))
    return simple if low <= simple <= high else (low + high) / 2


def _span(values: Array, axes: tuple[int, ...]) -> Array:
    high = np.maximum(values.max(axis=axes, keepdims=True), 0)
    return np.asarray(high - np.minimum(values.min(axis=axes, keepdims=True), 0))


def _audited(graph: Graph, match: Match, gains: Mapping[str, Array]) -> Audited:
    slot = match.constant.slot("bias")
    if slot is None or match.constant.name in gains:
        scaled = _measured(graph, match, gains.get(match.constant.name, np.ones(())))
        if match.constant.grid is not None or scaled.sound:
            return scaled
        return _measured(graph, match, np.ones(()))  # off by more than a factor: say how far from torch
    # A gain folded into the layer's output scales its bias too; one folded from its input does not.
    layer = gains.get(slot.weight, np.ones(()))
    per_channel = np.ones(match.values.shape)
    if layer.size == match.values.size or layer.size == 1:
        per_channel = per_channel * layer.reshape(-1 if layer.size > 1 else ())
    plain, scaled = _measured(graph, match, np.ones(())), _measured(graph, match, per_channel)
    return plain if plain.worst <= scaled.worst else scaled


def _measured(graph: Graph, match: Match, factor: Array) -> Audited:
    constant, want = match.constant, match.values * factor
    rounding = ROUNDING * np.abs(match.magnitude * factor)
    error = np.abs(constant.real - want)
    if constant.grid is not None:
        step = np.broadcast_to(constant.grid.step(want.ndim), want.shape)
        if not constant.grid.wide:  # a grid that is too coarse for its values excuses nothing
            fine = np.minimum(step, np.maximum(_COARSEST * natural_step(constant.grid, want), _LEAST_STEP))
            step = np.where(_dead(graph, constant) | shares_grid(graph, constant), step, fine)
        allowed = HALF * step + np.maximum(rounding, _NOTHING * np.abs(want).max(initial=0))
    elif constant.stored.dtype == np.float16:
        step = np.maximum(np.spacing(np.abs(want).astype(np.float16)).astype(np.float64), 2.0**-24)
        small = np.where(graph.flushes & (constant.stored == 0), _SUBNORMAL, _FP16_FLOOR)
        allowed = np.where(np.abs(want) < _SUBNORMAL, small, HALF * step) + rounding
    else:
        step = np.maximum(2.0**-24 * np.abs(want), np.finfo(np.float32).tiny)
        allowed = rounding + np.finfo(np.float32).tiny
    with np.errstate(divide="ignore", invalid="ignore"):
        share, excess = error / allowed, (error - allowed) / step
    within = (error == 0) | clipped(constant, want)
    share = np.where(within, 0.0, np.where(np.isnan(share), np.inf, share))
    excess = np.where(within | (error <= allowed), np.minimum(np.nan_to_num(excess), 0.0), excess)
    return Audited(match, factor, float(share.max(initial=0)), np.asarray(excess))


def _calibrated_table(constant: Constant) -> bool:
    """Whether a constant is a table on an asymmetric grid: that of what was looked up in it during calibration.

    TFLite gives a table and what is looked up in it one grid. A symmetric grid is made for the table alone.
    """
    slot, grid = constant.slot("weight"), constant.grid
    return slot is not None and slot.layout == TABLE and grid is not None and bool(grid.zero.any())


def clipped(constant: Constant, want: Array) -> Array:
    """Which values of a table lie beyond its grid and are stored as its end, as a mask of the table's shape.

    Rows that calibration did not look up may reach further than those that it did. What a row loses is bounded as what
    any activation may lose.
    """
    grid = constant.grid
    if grid is None or not _calibrated_table(constant):
        return np.zeros(want.shape, bool)
    steps = grid.steps(want)
    ended = ((steps > grid.high) & (constant.stored == grid.high)) | (
        (steps < grid.low) & (constant.stored == grid.low)
    )
    lost = np.where(ended, np.square(constant.real - want), 0.0).reshape(len(want), -1).sum(1)
    power = np.square(want).reshape(len(want), -1).sum(1)
    bearable = lost <= CLIP_COST**2 * power
    return np.asarray(ended & bearable.reshape([-1] + [1] * (want.ndim - 1)))


def _dead(graph: Graph, weight: Constant) -> Array:
    """Which output channels of an int8 weight only their bias speaks for, broadcastable to the weight's values.

    A bias is stored in steps of (data's scale times weight's scale). Where the weights of a channel are next to
    nothing, its int32 would not hold the bias, so a converter widens the weight's scale until it does. What is then
    lost is at most half a step of every weight times the largest datum: nothing, beside such a bias.
    """
    grid, rank = weight.grid, weight.stored.ndim
    alive = np.zeros([1] * rank, bool)
    bias = next((c for c in graph.constants.values() if _is_bias_of(c, weight)), None)
    slot = bias.slot("bias") if bias is not None else None
    if grid is None or not grid.per_channel or bias is None or slot is None or slot.data not in graph.grids:
        return alive
    channels = grid.scale.size
    if bias.stored.size != channels:
        return alive
    data = graph.grids[slot.data]
    largest = np.abs(data.scale).max() * (data.high - data.low)
    fan_in = weight.stored.size / channels
    lost = HALF * np.abs(grid.scale) * fan_in * largest
    return grid.spread(lost <= _DEAD * np.abs(bias.real.reshape(-1)), rank)


def _is_bias_of(constant: Constant, weight: Constant) -> bool:
    slot = constant.slot("bias")
    return slot is not None and slot.weight == weight.name


def natural_step(grid: Grid, values: Array) -> Array:
    """The step of a grid made for `values`: their reach over the integers; infinite where all are zero."""
    axes = tuple(i for i in range(values.ndim) if not (grid.per_channel and i == grid.axis))
    if grid.zero.any():
        step = _span(values, axes) / (grid.high - grid.low)
    else:
        step = np.abs(values).max(axis=axes, keepdims=True) / grid.high
    return np.asarray(np.where(step > 0, step, np.inf))


def _culprit(audited: Audited) -> Culprit:
    """Which channels are off, by how much, and whether it looks like one value, one channel, or another tensor."""
    match, excess = audited.match, np.nan_to_num(audited.excess, nan=np.inf, posinf=1e30)
    wrong = excess > 0
    axis = match.axis if match.values.ndim else None
    channels: tuple[int, ...] = ()
    if axis is not None:
        by_channel = np.moveaxis(excess, axis, 0).reshape(excess.shape[axis], -1).max(axis=1)
        order = [int(i) for i in np.argsort(-by_channel, kind="stable") if by_channel[i] > 0]
        channels = tuple(order[:32])
    real = match.constant.real
    unit = "steps" if match.constant.grid is not None else "ulp"
    what = f"{int(wrong.sum())} of {wrong.size} values off, the worst by {float(excess.max()) + HALF:.3g} {unit}"
    if not real.any() and match.values.any():
        what += "; all stored values are zero"
    elif match.weight is not None and match.cosine < ALIKE:
        what += f"; not this tensor (cosine {match.cosine:.2f})"
    elif axis is not None and (dead := [c for c in channels if not np.take(real, c, axis).any()]):
        what += f"; dead: {', '.join(map(str, dead[:4]))}"
    return Culprit("tensor", match.name, what, channels)


def _precision_class(graph: Graph, audited: Mapping[str, Audited], precision: str) -> Iterator[Culprit]:
    """A float file whose weights carry less than it says: fp16 or bfloat16 values in an fp32 file, and the like."""
    if precision not in ("fp32", "fp16"):
        return
    for entry in audited.values():
        constant = entry.match.constant
        if not constant.slot("weight") or not constant.stored.size:
            continue
        if constant.stored.dtype != np.float32:
            if precision == "fp32":
                yield Culprit("tensor", entry.match.name, f"stored as {_stored_as(constant)} in an fp32 file")
        elif not entry.sound:
            values = constant.stored
            bits = values.view(np.uint32)
            if np.array_equal(values, values.astype(np.float16).astype(np.float32)):
                yield Culprit("tensor", entry.match.name, "holds fp16 values in an fp32 tensor")
            elif not (bits & 0xFFFF).any():
                yield Culprit("tensor", entry.match.name, "holds bfloat16 values in an fp32 tensor")


def _unreduced(audited: Mapping[str, Audited]) -> float:
    """The share of weight values that are stored in float32: that of a file of this precision's name, or of none."""
    weights = [a.match.constant for a in audited.values() if a.match.constant.slot("weight")]
    return sum(c.stored.size for c in weights if not c.reduced) / (sum(c.stored.size for c in weights) or 1)


def _stored_as(constant: Constant) -> str:
    return constant.stored.dtype.name


def _grids(graph: Graph) -> Iterator[tuple[str, Grid]]:
    yield from graph.grids.items()
    for name, constant in graph.constants.items():
        if constant.grid is not None:
            yield name, constant.grid


def _grid_faults(graph: Graph, name: str, grid: Grid) -> Iterator[str]:
    constant = graph.constants.get(name)
    # A channel of zeros may have the scale 0: whatever its integers are, it is zero, and the audit compares it.
    least = grid.scale >= 0 if constant is not None and grid.per_channel else grid.scale > 0
    if not (np.isfinite(grid.scale).all() and least.all()):
        yield f"scale {grid.scale.min():g} is not a positive number"
    if ((grid.zero < grid.low) | (grid.zero > grid.high)).any():
        yield f"zero point outside {grid.low} to {grid.high}"
    slot = constant.slot("weight", "bias") if constant is not None else None
    multiplied = slot is not None and slot.layout != TABLE and (slot.role == "bias" or grid.low < 0)
    if multiplied and graph.symmetric_weights and grid.zero.any():
        channels = ", ".join(str(int(i)) for i in np.flatnonzero(grid.zero)[:4])
        yield f"zero point of a weight or bias must be 0; it is not at {channels}"


def _bias_scales(graph: Graph, matches: Mapping[str, Match]) -> Iterator[Culprit]:
    """Integer kernels add a bias to the products: its scale must be that of data times weight."""
    for name, constant in graph.constants.items():
        slot = constant.slot("bias")
        if slot is None or constant.grid is None or slot.data not in graph.grids:
            continue
        weight = graph.constants.get(slot.weight)
        if weight is None or weight.grid is None:
            continue
        product = graph.grids[slot.data].scale * weight.grid.scale
        off = np.abs(constant.grid.scale / product - 1)
        if product.size not in (1, constant.grid.scale.size) or not (off < ROUNDING).all():
            known = matches[name].name if name in matches else name
            worst = tuple(int(i) for i in np.argsort(-off.reshape(-1)) if off.reshape(-1)[i] >= ROUNDING)
            yield Culprit("tensor", known, f"scale of the bias is not scale of data times weight, off by "
                          f"{100 * float(off.max()):.2g} %", worst)  # fmt: skip
