"""The inputs that everybody meets and nobody tries: all zero, all lowest, all highest, all padding, a black and a white
picture. Each is a recipe like a drawn one, and is tried once of every model, whatever is drawn. Beside them the
integers at which a file decides, and all rows of tables that nothing else has looked at.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.cases.recipes import SWEEP, Extreme, Fill, Recipe, family
from parity.core.case import spread
from parity.core.contract import Contract, InputSpec, Preprocess

MOST_EDGES = 16  # of one input
MOST_SWEEPS = 256  # inputs that a model's tables are swept with
LONGEST_COUNT = 1 << 14  # of a state; a module may make as many places as it counts


def extremes(contract: Contract, padding: Mapping[str, int] | None = None) -> list[Recipe]:
    """The recipes, at the sizes of the export example; what would be the same input twice is there once.

    `padding`: the padding id of an integer input, where it is not 0. A mask shows everything, but in the input of
    nothing but padding.
    """
    ids = padding or {}
    fills = [{spec.name: _filled(spec, kind, ids) for spec in contract.inputs} for kind in _kinds(contract)]
    fills += _pictures(contract)
    different: dict[tuple[tuple[float, ...], ...], Recipe] = {}
    for inputs in fills:
        different.setdefault(tuple(map(_level, inputs.values())), Recipe(inputs, contract.example()))
    return list(different.values())


def edges(contract: Contract, thresholds: Sequence[int], states: Collection[str] = ()) -> list[Recipe]:
    """Every integer input, but masks, at each of `thresholds` that its range holds and at both neighbours, whole; and
    at one place of many. All other inputs are drawn.

    An input of `states` counts on beyond the range that golden data shows, so its range ends at `LONGEST_COUNT`.
    """
    recipes = []
    dims = contract.example()
    others = {spec.name: Fill("all" if family(spec) == "mask" else "uniform") for spec in contract.inputs}
    for spec in contract.inputs:
        if family(spec) != "integer":
            continue
        names = Fill("").names(spec, ())
        high = max(names["hi"], LONGEST_COUNT) if spec.name in states else names["hi"]
        near = sorted({value for t in thresholds for value in (t - 1, t, t + 1) if names["lo"] <= value <= high})
        fills = [Fill("edge", levels=(float(near[i]),)) for i in spread(len(near), MOST_EDGES)]
        if math.prod(spec.sized(dims)) > 1:
            inside = [t for t in thresholds if names["lo"] <= t <= high]
            fills += [Fill("edge_at_one", levels=(float(inside[i]),)) for i in spread(len(inside), MOST_EDGES // 2)]
        recipes += [Recipe({**others, spec.name: fill}, dims) for fill in fills]
    return recipes


@dataclass(frozen=True)
class Sweep:
    """Recipes in which an input holds every integer of a range; `left` are the inputs that were too large for
    `MOST_SWEEPS`, with how many integers were not tried of how many."""

    recipes: tuple[Recipe, ...]
    left: Mapping[str, tuple[int, int]]


def sweep(contract: Contract, rows: Mapping[str, int], dims: Mapping[str, int]) -> Sweep:
    """Every integer input in `rows` with each integer once that its range and so many rows hold, at the sizes `dims`.
    All other inputs are drawn, and masks show everything."""
    fills: dict[str, list[Fill]] = {}
    left: dict[str, tuple[int, int]] = {}
    for spec in contract.inputs:
        if spec.name not in rows or family(spec) != "integer":
            continue
        names = Fill("").names(spec, ())
        first = max(names["lo"], 0)
        last = min(names["hi"], rows[spec.name] - 1) if spec.range else rows[spec.name] - 1
        size = math.prod(spec.sized(dims))
        starts = list(range(first, last + 1, size))
        chosen = [starts[i] for i in spread(len(starts), MOST_SWEEPS)]
        if len(chosen) < len(starts):
            left[spec.name] = (last + 1 - first - size * len(chosen), last + 1 - first)
        # The last one begins earlier, so that it fills its input without an id beyond the table.
        pairs = [(min(start, max(first, last + 1 - size)), min(start + size, last + 1)) for start in chosen]
        fills[spec.name] = [Fill(SWEEP, levels=tuple(map(float, pair))) for pair in pairs]
    others = {spec.name: Fill("all" if family(spec) == "mask" else "uniform") for spec in contract.inputs}
    most = max(map(len, fills.values()), default=0)
    each = ({name: parts[i % len(parts)] for name, parts in fills.items() if parts} for i in range(most))
    return Sweep(tuple(Recipe({**others, **held}, dims) for held in each), left)


def _kinds(contract: Contract) -> tuple[Extreme, ...]:
    """Only what takes integers or masks is ever padded."""
    padded = any(family(spec) != "float" for spec in contract.inputs)
    return ("zeros", "lowest", "highest", *(("padding",) if padded else ()))


def _filled(spec: InputSpec, kind: Extreme, padding: Mapping[str, int]) -> Fill:
    sort = family(spec)
    names = Fill("").names(spec, ())
    low, high, nearest = names["lo"], names["hi"], names["rest"]
    if sort == "mask":
        return Fill(kind, levels=(0.0 if kind == "padding" else 1.0,))
    if kind == "padding" and sort == "integer":
        return Fill(kind, levels=(min(max(padding.get(spec.name, 0), low), high),))
    level = {"lowest": low, "highest": high}.get(kind, nearest)
    return Fill(kind, levels=(level,))


def _pictures(contract: Contract) -> list[dict[str, Fill]]:
    """What a black and a white picture are once preprocessed: a level a channel."""
    pictures = [spec for spec in contract.inputs if len(spec.shape) == 4]
    how = contract.preprocess
    if how is None or len(pictures) != 1:
        return []
    (picture,) = pictures
    others = {spec.name: _filled(spec, "zeros", {}) for spec in contract.inputs}
    shades: tuple[tuple[Extreme, int], ...] = (("black", 0), ("white", 255))
    return [{**others, picture.name: Fill(kind, levels=_shade(how, pixel))} for kind, pixel in shades]


def _level(fill: Fill) -> tuple[float, ...]:
    """The levels of a fill, one where those of all channels are equal."""
    return fill.levels if len(set(fill.levels)) > 1 else fill.levels[:1]


def _shade(how: Preprocess, pixel: int) -> tuple[float, ...]:
    """The value of a pixel in each channel, in float32 as preprocessing computes it."""
    mean, std = np.asarray(how.mean, np.float32), np.asarray(how.std, np.float32)
    values = (np.float32(pixel) / np.float32(how.scale) - mean) / std
    channels = 1 if how.color == "L" else 3
    return tuple(float(value) for value in np.broadcast_to(values, channels))
