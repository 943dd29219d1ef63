"""The one way to copy a module. In a child process only."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module) -> Module:
    """A deep copy of a module, with values in place of tensors that torch has computed from parameters.

    `torch.nn.utils.weight_norm` and the like keep such a tensor as a plain attribute, and compute it
    anew in every call; torch refuses to deep-copy it for its history.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for tensor in _tensors(vars(part)):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(module, memo)


def _tensors(value: Any, depth: int = 3) -> Iterator[torch.Tensor]:
    """The tensors in an attribute, and in lists, tuples and dictionaries of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part, depth - 1)
