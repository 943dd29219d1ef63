"""The inputs that models are checked on. A case is one set of input arrays with a name that a person can find."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


OVER_ALL = "all"
"""What a check over all cases of a kind names in a case's place."""


def case_id(name: str) -> str:
    """The id of a case that a file or a function calls `name`: the same, unless that is the word for all cases."""
    return f"{name} (case)" if name == OVER_ALL else name


@dataclass(frozen=True)
class Case:
    """One input: arrays by input name in the model's layout, batch included; `label` is the true class where known."""

    id: str
    inputs: Mapping[str, Array]
    label: int | None = None


def digest(cases: Sequence[Case]) -> str:
    """One hash for the names, dtypes, shapes and bytes of all inputs, in order."""
    whole = hashlib.sha256()
    for case in cases:
        for name, value in case.inputs.items():
            whole.update(f"{case.id}\0{name}\0{value.dtype.str}\0{value.shape}\0".encode())
            whole.update(np.ascontiguousarray(value).view(np.uint8).reshape(-1).data if value.size else b"")
    return whole.hexdigest()


def telling(cases: Sequence[Case]) -> list[int]:
    """The indices of the cases that count as evidence: of identical inputs the first, and one of those that are
    constant (a black picture, a white one), which show nothing of how outputs follow inputs.

    An input is constant when it has several elements and one value. One of a single element tells cases apart by it.
    """
    first: dict[tuple[bytes, ...], int] = {}
    for index, case in enumerate(cases):
        constant = all(_constant(value) for value in case.inputs.values() if value.size > 1)
        long = any(value.size > 1 for value in case.inputs.values())
        key = tuple(
            b"constant" if constant and long and value.size > 1 else _identity(value)
            for _, value in sorted(case.inputs.items())
        )
        first.setdefault(key, index)
    return list(first.values())


def _constant(value: Array) -> bool:
    return bool((value == value.reshape(-1)[0]).all())


def _identity(value: Array) -> bytes:
    head = f"{value.dtype.str}\0{value.shape}\0".encode()
    return head + hashlib.sha256(np.ascontiguousarray(value).tobytes()).digest()


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` indices below `count`, evenly spaced, the first always among them."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, wanted))})
