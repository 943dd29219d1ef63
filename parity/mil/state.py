"""The states of a program between calls."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parity.mil.errors import InputError
from parity.mil.types import Array


class State:
    """The states of a program between calls, such as a key-value cache. A new one holds zeros."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values

    def read(self, name: str) -> Array:
        """A copy of one state."""
        return self.values[self._known(name)].numpy().copy()

    def write(self, name: str, value: Array) -> None:
        """Replace one state; the shape must be the same."""
        old = self.values[self._known(name)]
        if tuple(np.shape(value)) != tuple(old.shape):
            raise InputError(f"state {name!r} has shape {list(old.shape)}, not {list(np.shape(value))}")
        self.values[name] = torch.as_tensor(np.array(value)).to(old.dtype)

    def copy(self) -> State:
        """An independent copy, to replay a step from."""
        return State({name: value.clone() for name, value in self.values.items()})

    def _known(self, name: str) -> str:
        if name not in self.values:
            raise InputError(f"there is no state {name!r}; there are {', '.join(self.values) or 'none'}")
        return name
