"""Selection by a condition, and lists of tensors. Loops and branches are the machine's own
(``parity.mil.machine``).

A list is a Python list with ``None`` where nothing has been written. Writing returns a new list, since a
program may still use the old one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parity.mil.errors import OperatorFailed
from parity.mil.registry import operator

LIST_LIMIT = 1_000_000


@operator(exact=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where the condition holds, else b."""
    return torch.where(cond.bool(), a, b)


@operator()
def make_list(
    elem_shape: Any, init_length: int = 1, dynamic_length: bool = True, dtype: str = "fp32"
) -> list[Tensor | None]:
    """An empty list of ``init_length`` places."""
    return _with_place([], init_length - 1)


@operator()
def list_length(ls: Any) -> Tensor:
    """The number of places of a list."""
    return torch.tensor(len(ls))


@operator()
def list_write(ls: Any, index: int, value: Tensor) -> list[Tensor | None]:
    """The list with ``value`` at ``index``, longer if need be."""
    result = _with_place(ls, index)
    result[index] = value
    return result


@operator()
def list_read(ls: Any, index: int) -> Tensor:
    """The element at ``index``."""
    return _element(ls, index)


@operator()
def list_gather(ls: Any, indices: list[int]) -> Tensor:
    """The elements at ``indices``, stacked on a new first axis."""
    return torch.stack([_element(ls, i) for i in indices])


@operator()
def list_scatter(ls: Any, indices: list[int], value: Tensor) -> list[Tensor | None]:
    """The list with the rows of ``value`` at ``indices``."""
    result = _with_place(ls, max(indices, default=-1))
    for row, index in enumerate(indices):
        result[index] = value[row]
    return result


def _with_place(ls: list[Tensor | None], index: int) -> list[Tensor | None]:
    if index >= LIST_LIMIT:
        raise OperatorFailed(f"a list of {index + 1} places is too long")
    return list(ls) + [None] * max(0, index + 1 - len(ls))


def _element(ls: list[Tensor | None], index: int) -> Tensor:
    if not -len(ls) <= index < len(ls) or (element := ls[index]) is None:
        raise OperatorFailed(f"the list has nothing at place {index}")
    return element
