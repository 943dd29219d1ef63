"""What a run does with memory that others hold, or that nobody wrote. In a child process only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.cases.differing import differs
from parity.process.child import stage
from parity.reference import modelling
from parity.reference.messages import Memory, WaysRequest

UNINITIALISED = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted", "resize_")
"""Operators whose results hold what lay in memory before."""
_FILL = 1000.0  # of numbers: so far in either direction


class Filled(TorchDispatchMode):
    """Tensors that are made without values hold random ones, as in a process that used its memory before."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = torch.Generator().manual_seed(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name.partition("::")[2] in UNINITIALISED and isinstance(result, torch.Tensor):
            self._fill(result)
        return result

    def _fill(self, tensor: torch.Tensor) -> None:
        if tensor.is_floating_point():
            tensor.uniform_(-_FILL, _FILL, generator=self.generator)
        elif not tensor.is_complex() and not tensor.is_quantized:
            tensor.random_(0, 2, generator=self.generator)


def shared(tensors: Mapping[str, torch.Tensor], results: Iterable[Any]) -> list[str]:
    """The names of those `tensors` in whose memory one of the results lies."""
    places = {result.untyped_storage().data_ptr() for result in results if isinstance(result, torch.Tensor)}
    return [name for name, t in tensors.items() if t.numel() and t.untyped_storage().data_ptr() in places]


def of_module(request: WaysRequest) -> Memory:
    """What the module does in any of the cases. PyTorch counts the changes of a tensor in place."""
    stage("oracle")
    module = modelling.load(request.model)
    overwritten, returned = set[str](), set[str]()
    uninitialised = False
    for case in request.cases:
        tensors = _tensors(case)
        results = _results(module, tensors)
        overwritten.update(name for name, tensor in tensors.items() if tensor._version)
        returned.update(shared(tensors, results))
        copies = [result.numpy().copy() for result in results if isinstance(result, torch.Tensor)]
        with Filled():
            again = _results(module, _tensors(case))
        filled = [result.numpy() for result in again if isinstance(result, torch.Tensor)]
        uninitialised = uninitialised or any(map(differs, copies, filled))
    return Memory(sorted(overwritten), sorted(returned), uninitialised)


def _tensors(case: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in case.items()}


def _results(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> list[Any]:
    with modelling.plain_attention(), torch.no_grad():
        return list(torch.utils._pytree.tree_leaves(module(*tensors.values())))
