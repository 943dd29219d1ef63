"""What a graph decides by the values of its inputs: comparisons, branches, loops, and look-ups in tables of integers.

A file that takes another way for some inputs equals the module on all others, so no figure shows it: what it decides by
is read from its graph, and held against what the module decides by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["equal", "order", "finite", "branch", "loop", "table", "process", "sign", "rank", "round", "onehot",
                 "code"]  # fmt: skip
"""`equal`: equal or not; `order`: greater or less, with equality or not; `finite`: NaN or infinite; `table`: a look-up
in a table of integers; `process`: reads the process or the memory in which a tensor lies, and no value; `sign`: which
side of zero; `rank`: which is the largest, or in what order; `round`: to whole numbers; `onehot`: a vector with one
place chosen; `code`: a hash or another code of the values."""
STEPS: tuple[Family, ...] = ("sign", "rank", "round", "onehot", "code")
"""Families that are compared by being there at all: a converter may write one operator out as several of them."""


@dataclass(frozen=True)
class Decision:
    """One operator that decides. `constants` are the distinct values that its data is compared with, in order, one
    tuple for each side that may be the constant; empty where both sides are computed."""

    family: Family
    constants: tuple[tuple[float, ...], ...] = ()
    operator: str = ""
    place: str = ""
    site: str = ""  # of a module's: what a person is told of it, where it depends on the inputs and has two outcomes

    def __str__(self) -> str:
        values = " or ".join(_listed(values) for values in self.constants)
        return f"{self.operator} {self.place}" + (f" with {values}" if values else "")


@dataclass(frozen=True)
class Turn:
    """Where a module goes another way beyond a `bound` of its data, or (None) by which of its data are the largest."""

    bound: float | None
    site: str  # what a person is told of it


def place_of_bound(site: str) -> str:
    """Where a bound is, by its site, `OPERATOR above NUMBER PLACE`; empty of a choice."""
    _, side, _, place = (*site.split(" ", 3), "", "", "")[:4]
    return place if side in ("above", "below") else ""


YES, NO, MANY = 1, 2, 4
"""The outcomes of a decision, as bits: of one on many elements, or made twice, both may be there at once."""


def _listed(values: tuple[float, ...]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:4])
    return shown + (f" ... {values[-1]:g}" if len(values) > 4 else "")
