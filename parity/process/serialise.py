"""Requests and answers as builtins and back: the one way in which a dataclass crosses a process
boundary.

`to_builtins` gives what `wire` frames: dicts by field name, lists, numbers, text and arrays.
`from_builtins` is strict: a field too many, too few or of another type is a ValueError that says
where. Nothing is coerced but a whole number where a fraction is declared; arrays pass through
untouched. Field types that are supported: dataclasses, str, int, float, bool, None, Literal, unions
of those, Sequence, list, tuple, Mapping, ndarray, and Any for plain JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

LIBRARIES = ("cattrs", "attrs", "attr", "typing_extensions", "exceptiongroup")
"""All that converting imports, the standard library and NumPy apart; all of it is Python alone."""
CARRIED = "PARITY_SERIALISER"
"""The environment variable that names a folder of those libraries, for an interpreter of another
environment."""


def to_builtins(value: object) -> Any:
    """`value` as dicts by field name, lists, numbers, text and arrays."""
    return _converter().unstructure(value)


def from_builtins(kind: type[T], value: Any) -> T:
    """A `kind` made of what `to_builtins` gave. Raises ValueError, with the place, where it is
    none."""
    converter = _converter()
    try:
        return typing.cast("T", converter.structure(value, kind))
    except Exception as error:  # cattrs raises groups, and whatever a hook raises
        places = "; ".join(_library().transform_error(error, format_exception=_reason))
        name = getattr(kind, "__name__", str(kind))
        raise ValueError(f"no {name}: {places}") from None


@cache
def _library() -> ModuleType:
    folder = os.environ.get(CARRIED)
    with _first(folder) if folder else contextlib.nullcontext():
        importlib.import_module("cattrs.strategies")
        return importlib.import_module("cattrs")


@contextlib.contextmanager
def _first(folder: str) -> Iterator[None]:
    """Import from `folder` first, and hide afterwards what was imported from there.

    An environment of its own may hold an `attrs` that is too old for our `cattrs`, and its
    converters need the one that it holds: each side gets the set that fits.
    """
    own = _taken_out()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        _taken_out()
        sys.modules.update(own)


def _taken_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in LIBRARIES]
    return {name: sys.modules.pop(name) for name in names}


@cache
def _converter() -> Any:
    cattrs = _library()
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in (str, int, bool, type(None)):
        converter.register_structure_hook(kind, _exactly)
    converter.register_structure_hook(float, _fraction)
    # A union of plain values keeps each as it is; it must come before the hooks that follow.
    strategies = cattrs.strategies
    strategies.configure_union_passthrough(str | int | float | bool | None, converter)
    converter.register_structure_hook_factory(_is_list, _list_hook)
    converter.register_structure_hook_func(_is_array, _array)
    converter.register_unstructure_hook_func(_is_array, lambda value: value)
    return converter


def _reason(error: BaseException, kind: Any) -> str:
    """What is wrong, in the words of the hook that found it."""
    if isinstance(error, TypeError):
        return str(error)
    return str(_library().v.format_exception(error, kind))


def _exactly(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def _fraction(value: Any, _: type) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"expected float, found {type(value).__name__}")
    return float(value)


def _is_array(hint: Any) -> bool:
    return hint is np.ndarray or typing.get_origin(hint) is np.ndarray


def _array(value: Any, _: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"expected an array, found {type(value).__name__}")
    return value


def _is_list(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) in (list, tuple, Sequence)


def _list_hook(hint: Any, converter: Any) -> Callable[[Any, Any], Any]:
    """Structures a list, a homogeneous tuple or a sequence, of lists alone: text is no list of
    letters."""
    entries = typing.get_args(hint)
    origin = typing.get_origin(hint) or hint
    several = origin is tuple and entries and entries[-1] is not Ellipsis
    if several:
        structure = converter.gen_structure_hetero_tuple(hint)
    else:
        structure = _library().cols.list_structure_factory(hint, converter)
    made = list if origin is list else tuple

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"expected a list, found {type(value).__name__}")
        return made(structure(value, hint))

    return hook
