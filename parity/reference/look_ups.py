"""What a module looks up by its inputs, and the weights that it computes before it uses them. In a child only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.reference import modelling

_TABLES = ("embedding", "index", "index_select")


@dataclass(frozen=True)
class LookUp:
    """An input, and the table that its values choose rows of."""

    given: str
    table: str
    rows: int


@dataclass
class Used:
    """What one run of a module used: the look-ups by an input itself; by name, the tables of real numbers as they were
    looked up in, and other real tensors that an operator read and that are no parameter."""

    look_ups: list[LookUp] = field(default_factory=list)
    tables: dict[str, torch.Tensor] = field(default_factory=dict)
    computed: dict[str, torch.Tensor] = field(default_factory=dict)


def used(module: torch.nn.Module, inputs: Mapping[str, np.ndarray[Any, Any]], sizes: Collection[int]) -> Used:
    """What a module uses on one case. A table bears the name of the parameter that it is, else one that says what read
    it. Of computed tensors those with so many numbers as one of `sizes` are kept."""
    watch = _Watch(module, inputs, sizes)
    with modelling.plain_attention(), torch.no_grad(), watch:
        module(*(torch.from_numpy(np.array(value)) for value in inputs.values()))
    return watch.used


class _Watch(TorchDispatchMode):
    def __init__(self, module: torch.nn.Module, inputs: Mapping[str, np.ndarray[Any, Any]], sizes: Collection[int]):
        super().__init__()  # type: ignore[no-untyped-call]
        tensors = [*module.named_parameters(), *module.named_buffers()]
        self.names = {value.data_ptr(): name for name, value in tensors}
        self.whole = {name: value.reshape(-1) for name, value in inputs.items() if value.dtype.kind in "iu"}
        self.sizes, self.used = sizes, Used()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if name in _TABLES and isinstance(args[0], torch.Tensor) and args[0].dim():
            self._look_up(name, args[0], args[1:])
        for operand in _tensors(args):
            real = operand.is_floating_point() and operand.dim() > 1 and operand.numel() in self.sizes
            if real and operand.data_ptr() not in self.names:
                # It is held, so that no other tensor takes its place in memory.
                self.used.computed[f"an operand of {name} at {operand.data_ptr():x}"] = operand.detach()
        return func(*args, **(kwargs or {}))

    def _look_up(self, operator: str, table: torch.Tensor, indices: Any) -> None:
        name = self.names.get(table.data_ptr(), f"a table of {operator}, {list(table.shape)}")
        if table.is_floating_point():
            self.used.tables[name] = table.detach().clone()
        for index in _tensors(indices):
            if not index.is_floating_point() and index.dtype is not torch.bool:
                values = index.reshape(-1).numpy()
                direct = [given for given, value in self.whole.items() if np.array_equal(value, values)]
                self.used.look_ups += [LookUp(given, name, int(table.shape[0])) for given in direct]


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    """The tensors in arguments, those in lists too."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
