"""Inputs that may turn a decision of the module which no measured case turned: levels over the whole range and beside
the numbers that it compares with, noise of several strengths, one element, two inputs at once. Which of them turn one,
a run of the module says; only those are measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from parity.cases.recipes import Fill, Recipe, family
from parity.core.case import spread
from parity.core.contract import Contract, InputSpec

LEVELS = 9  # from the lowest to the highest
BESIDE = 1 / 64  # of the range: how far beside a number that the module compares with
MOST_NUMBERS = 6  # of those
MOST_PAIRS = 24  # of two inputs at once
STRENGTHS = (1 / 32, 1 / 8, 1 / 2)  # of noise, as shares of the range


def trials(contract: Contract, thresholds: Sequence[float]) -> list[Recipe]:
    """The recipes, at the sizes of the export example, the simplest first. None leaves the declared range.

    `thresholds` are the numbers that the module compares with.
    """
    dims = contract.example()
    base = {spec.name: Fill("all" if family(spec) == "mask" else "uniform") for spec in contract.inputs}
    floats = [spec for spec in contract.inputs if family(spec) == "float"]
    integers = [spec for spec in contract.inputs if family(spec) == "integer"]
    filled: list[Mapping[str, Fill]] = []
    if floats:
        filled += _together(floats, thresholds)
    for spec in floats:
        filled += [{spec.name: Fill("edge_at_one", levels=(level,))} for level in _range(spec)]
        if math.prod(spec.sized(dims)) > 1:
            filled += [{spec.name: Fill("halves", levels=(level,))} for level in _range(spec)]
    for spec in integers:
        filled += [{spec.name: Fill("edge", levels=(level,))} for level in _numbers(spec, thresholds)]
    choices = {spec.name: _choices(spec, thresholds) for spec in (*floats, *integers)}
    for first, second in itertools.combinations(choices, 2):
        filled += list(_pairs({name: choices[name] for name in (first, second)}))
    return [Recipe({**base, **fills}, dims) for fills in filled]


def _together(floats: Sequence[InputSpec], thresholds: Sequence[float]) -> list[Mapping[str, Fill]]:
    """All inputs of real numbers at the same place of their ranges."""
    filled: list[Mapping[str, Fill]] = []
    for share in np.linspace(0, 1, LEVELS):
        filled.append({spec.name: Fill("edge", levels=(_at(spec, share),)) for spec in floats})
    for number in _some(thresholds):
        for side in (-BESIDE, BESIDE):
            levels = {spec.name: number + side * _width(spec) for spec in floats}
            inside = {spec.name: levels[spec.name] for spec in floats if _holds(spec, levels[spec.name])}
            filled.append({name: Fill("edge", levels=(level,)) for name, level in inside.items()})
    for strength in STRENGTHS:
        for share in sorted({strength / 2, 0.5, 1 - strength / 2}):
            fills = {spec.name: Fill("around", 1, strength, levels=(_at(spec, share),)) for spec in floats}
            filled.append(fills)
    return [fills for fills in filled if fills]


def _pairs(choices: Mapping[str, Sequence[float]]) -> Iterator[Mapping[str, Fill]]:
    """Both inputs at each of their levels."""
    product = list(itertools.product(*choices.values()))
    for place in spread(len(product), MOST_PAIRS):
        yield {name: Fill("edge", levels=(level,)) for name, level in zip(choices, product[place], strict=True)}


def _choices(spec: InputSpec, thresholds: Sequence[float]) -> list[float]:
    """The levels that an input takes while another takes its own."""
    if family(spec) == "integer":
        return _numbers(spec, thresholds)[:MOST_NUMBERS]
    return [_at(spec, share) for share in (0.0, 0.5, 1.0)]


def _numbers(spec: InputSpec, thresholds: Sequence[float]) -> list[float]:
    """The whole numbers at and beside `thresholds` that an input of integers may hold, those at whole ones first."""
    low, high = _range(spec)
    sizes = [t for t in thresholds if abs(t) < 1 << 31]
    near = [float(math.floor(t) + step) for step in (0, 1, -1) for t in sorted(sizes, key=lambda t: t % 1 != 0)]
    return [value for value in dict.fromkeys(near) if low <= value <= high][:MOST_PAIRS]


def _some(thresholds: Sequence[float]) -> list[float]:
    numbers = sorted(set(thresholds))
    return [numbers[place] for place in spread(len(numbers), MOST_NUMBERS)] if numbers else []


def _range(spec: InputSpec) -> tuple[float, float]:
    names = Fill("").names(spec, ())
    return float(names["lo"]), float(names["hi"])


def _width(spec: InputSpec) -> float:
    low, high = _range(spec)
    return high - low


def _at(spec: InputSpec, share: float) -> float:
    low, high = _range(spec)
    return low + float(share) * (high - low)


def _holds(spec: InputSpec, level: float) -> bool:
    low, high = _range(spec)
    return low <= level <= high
