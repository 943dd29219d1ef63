"""What of a module's computation follows from its inputs: tensors, by the memory that holds them, and numbers that
Python code reads out of them. Where in the code it happens. In a child process only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

_SKIPPED = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.dirname(__file__)) + os.sep)
_COMPARING = ("lt", "le", "gt", "ge", "eq", "ne")
_COMPUTING = ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "neg", "abs")

Note = Callable[[str, float, bool], None]
"""(comparison, the number compared with, its outcome)"""


class Followed:
    """The tensors that depend on some inputs."""

    def __init__(self, inputs: Sequence[torch.Tensor]):
        # A weak reference keeps the address of a storage from being given to another; it does not keep the memory.
        self._storages: dict[int, StorageWeakRef] = {}
        for tensor in inputs:
            self.add(tensor)

    def __contains__(self, tensor: object) -> bool:
        storage = _storage(tensor)
        return storage is not None and storage._cdata in self._storages

    def any(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether an argument depends on the inputs."""
        return any(tensor in self for value in (*args, *kwargs.values()) for tensor in _tensors(value))

    def write(self, schema: Any, args: Sequence[Any], result: Any) -> None:
        """Follow the results of an operator, and the arguments that it writes."""
        for tensor in _tensors(result):
            self.add(tensor)
        for declared, value in zip(schema.arguments, args, strict=False):
            if declared.alias_info is not None and declared.alias_info.is_write:
                for tensor in _tensors(value):
                    self.add(tensor)

    def add(self, tensor: object) -> None:
        """Follow a tensor; anything else is left."""
        storage = _storage(tensor)
        if storage is not None and storage._cdata not in self._storages:
            self._storages[storage._cdata] = StorageWeakRef(storage)


def _storage(tensor: object) -> Any | None:
    """The memory of a tensor; None where it has none of its own, as sparse ones."""
    if not isinstance(tensor, torch.Tensor):
        return None
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


class Reading(TorchFunctionMode):
    """Has `Tensor.item()` of what is followed give a number that notes what Python compares it with. A number that is
    taken for a truth value is compared with 0."""

    def __init__(self, followed: Followed, note: Note):
        super().__init__()
        self.followed, self.note = followed, note
        self.classes = {kind: _noting(kind, note) for kind in (int, float)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.item and type(result) in self.classes and args[0] in self.followed:
            return self.classes[type(result)](result)
        if func is torch.Tensor.__bool__ and args[0].dtype is not torch.bool and args[0] in self.followed:
            self.note("ne", 0.0, result)
        return result


def _noting(kind: type, note: Note) -> type:
    """A class of numbers that notes each comparison with another number, of itself and of what is computed from it."""

    def compared(name: str) -> Callable[[Any, Any], Any]:
        def compare(self: Any, other: Any) -> Any:
            outcome = getattr(kind, f"__{name}__")(self, other)
            if isinstance(outcome, bool) and isinstance(other, (int, float)):
                note(name, float(other), outcome)
            return outcome

        return compare

    def computed(name: str) -> Callable[..., Any]:
        def compute(self: Any, *others: Any) -> Any:
            result = getattr(kind, f"__{name}__")(self, *others)
            return classes.get(type(result), lambda value: value)(result)

        return compute

    def truth(self: Any) -> bool:
        outcome = bool(kind(self) != 0)
        note("ne", 0.0, outcome)
        return outcome

    methods: dict[str, Any] = {f"__{name}__": compared(name) for name in _COMPARING}
    methods |= {f"__{name}__": computed(name) for name in _COMPUTING if hasattr(kind, f"__{name}__")}
    made = type(kind.__name__, (kind,), {**methods, "__hash__": kind.__hash__, "__bool__": truth})
    classes: dict[type, type] = {kind: made}
    return made


def place(names: Mapping[int, str]) -> str:
    """Where the project's code is now: `at model.py:12 (blocks.3)`, with the name of the innermost module by `names`,
    of ids; of a reference file `at FILE:NODE`. Empty where no code and no module's name stands behind it."""
    where, module = "", ""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        own = frame.f_locals.get("self")
        if isinstance(own, torch.nn.Module) and frame.f_code.co_filename.startswith(_SKIPPED[1]):
            return "".join(f"at {node}" for node in getattr(own, "executing", ()))
        file = frame.f_code.co_filename
        if not where and not file.startswith(("<", *_SKIPPED)):
            where = f"at {os.path.basename(file)}:{frame.f_lineno}"
        if not module and id(own) in names:
            module = names[id(own)]
        if where and module:
            break
        frame = frame.f_back
    return " ".join(part for part in (where, f"({module})" if module else "") if part)
