"""The matrix of a run: models and precisions against targets, the same for the page and the summary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from parity import formats
from parity.core.record import State
from parity.report.glossary import STATE_ORDER
from parity.report.view import PRECISIONS, CellView


@dataclass(frozen=True)
class MatrixRow:
    """One precision of one model: a slot for each target; a slot holds no cell, one or (oddly) several."""

    precision: str
    slots: tuple[tuple[CellView, ...], ...]


@dataclass(frozen=True)
class MatrixModel:
    """One model with its rows and how many of its cells are in each state."""

    name: str
    rows: tuple[MatrixRow, ...]
    tally: tuple[tuple[State, int], ...]


@dataclass(frozen=True)
class Matrix:
    """Columns are targets; models stand in the order of their worst cell."""

    targets: tuple[str, ...]
    models: tuple[MatrixModel, ...]
    figures: bool  # whether any cell has a size or a latency


def tally(cells: Iterable[CellView]) -> tuple[tuple[State, int], ...]:
    """How many cells are in each state, what blocks first, states that do not occur left out."""
    counts: dict[State, int] = {}
    for cell in cells:
        counts[cell.state] = counts.get(cell.state, 0) + 1
    return tuple((state, counts[state]) for state in STATE_ORDER if state in counts)


def matrix(cells: Sequence[CellView]) -> Matrix:
    """The matrix of `cells`, which come in the order of the page (worst first)."""
    targets = formats.ordered(cell.record.target for cell in cells)
    by_model: dict[str, list[CellView]] = {}
    for cell in cells:
        by_model.setdefault(cell.record.model, []).append(cell)
    models = []
    for name, own in by_model.items():
        slots: dict[tuple[str, str], tuple[CellView, ...]] = {}
        for cell in own:
            key = cell.record.precision, cell.record.target
            slots[key] = (*slots.get(key, ()), cell)
        rows = tuple(
            MatrixRow(precision, tuple(slots.get((precision, target), ()) for target in targets))
            for precision in _ordered((cell.record.precision for cell in own), PRECISIONS)
        )
        models.append(MatrixModel(name, rows, tally(own)))
    return Matrix(targets, tuple(models), any(cell.size or cell.ms for cell in cells))


def _ordered(names: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    found = dict.fromkeys(names)
    return (*(name for name in known if name in found), *sorted(name for name in found if name not in known))
