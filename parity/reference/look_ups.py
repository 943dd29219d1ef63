"""What a module looks up by its inputs: the tables, and the inputs whose values choose rows. In a child only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


def look_ups(
    module: torch.nn.Module, inputs: Mapping[str, np.ndarray[Any, Any]]
) -> tuple[list[LookUp], list[tuple[LookUp, torch.Tensor]]]:
    """The look-ups by an input itself, and every table of real numbers that the module looks something up in, as it is
    when it is used: with the name of the parameter that it is, else one that says what looked it up."""
    watch = _Watch(module, inputs)
    with modelling.plain_attention(), torch.no_grad(), watch:
        module(*(torch.from_numpy(np.array(value)) for value in inputs.values()))
    return watch.direct, watch.tables


class _Watch(TorchDispatchMode):
    def __init__(self, module: torch.nn.Module, inputs: Mapping[str, np.ndarray[Any, Any]]):
        super().__init__()  # type: ignore[no-untyped-call]
        tensors = [*module.named_parameters(), *module.named_buffers()]
        self.names = {value.data_ptr(): name for name, value in tensors}
        self.whole = {name: value.reshape(-1) for name, value in inputs.items() if value.dtype.kind in "iu"}
        self.direct: list[LookUp] = []
        self.tables: list[tuple[LookUp, torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if name in _TABLES and isinstance(args[0], torch.Tensor) and args[0].dim():
            self._note(name, args[0], args[1:])
        return func(*args, **(kwargs or {}))

    def _note(self, operator: str, table: torch.Tensor, indices: Any) -> None:
        name = self.names.get(table.data_ptr(), f"a table of {operator}")
        rows = int(table.shape[0])
        if table.is_floating_point():
            self.tables.append((LookUp("", name, rows), table.detach().clone()))
        flat = [i for given in indices for i in (given if isinstance(given, (list, tuple)) else [given])]
        for index in flat:
            if isinstance(index, torch.Tensor) and not index.is_floating_point() and index.dtype is not torch.bool:
                values = index.reshape(-1).numpy()
                self.direct += [LookUp(n, name, rows) for n, v in self.whole.items() if np.array_equal(v, values)]
