"""What one process has made already: results by the digest of what was asked.

The digest covers the function and the content of its arguments: a model's whole configuration,
every array of every case. Two questions share an answer only where they are the same question.
Nobody names one by hand.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np

from parity.core.errors import ParityError

P = ParamSpec("P")
T = TypeVar("T")


class Memo:
    """Results of this process. A failure is a result too: it is raised again, not tried again."""

    def __init__(self) -> None:
        self._results: dict[str, Any] = {}

    def once(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(*args, **kwargs)`, called once in this process.

        Raises the function's ParityError, at every call the same.
        """
        key = digest(function, *args, **kwargs)
        if key not in self._results:
            try:
                self._results[key] = function(*args, **kwargs)
            except ParityError as error:
                self._results[key] = error
        result = self._results[key]
        if isinstance(result, ParityError):
            raise result
        return result  # type: ignore[no-any-return]

    def made(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The result of that call; None where it was not made yet, or failed."""
        result = self._results.get(digest(function, *args, **kwargs))
        return None if isinstance(result, ParityError) else result

    def failed(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> ParityError | None:
        """The error of that call; None where it was not made yet, or did not fail."""
        result = self._results.get(digest(function, *args, **kwargs))
        return result if isinstance(result, ParityError) else None


class Remembers(Protocol):
    """A part of a session: it works with the session's memo."""

    @property
    def memo(self) -> Memo: ...


S = TypeVar("S", bound=Remembers)


def remembered(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method whose result the memo of its object keeps."""

    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.memo.once(functools.partial(method, self), *args, **kwargs)

    functools.update_wrapper(call, method)
    return call


def digest(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The address of a call: 64 hexadecimal digits.

    It covers the function's name and the content of its arguments. The object of a bound or partial
    method does not count: a memo belongs to one session, which has one of each.
    Raises TypeError for an argument whose content is not known.
    """
    inner = function.func if isinstance(function, functools.partial) else function
    asked = inspect.signature(function).bind(*args, **kwargs)
    asked.apply_defaults()
    whole = hashlib.sha256(f"{inner.__module__}:{inner.__qualname__}".encode())
    for name, value in asked.arguments.items():
        whole.update(f"\0{name}=".encode())
        _update(whole, value)
    return whole.hexdigest()


def _update(whole: Any, value: Any) -> None:
    """Add one value: its kind, then its content.

    Each kind opens with a letter of its own, and containers say how many entries follow, so that no
    two values have the same bytes.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        whole.update(json.dumps(value).encode() + b"\0")
    elif isinstance(value, PurePath):
        whole.update(b"P" + str(value).encode() + b"\0")
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.ascontiguousarray(value)
        whole.update(f"A{array.dtype.str}{np.shape(value)}\0".encode())
        whole.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
    elif is_dataclass(value) and not isinstance(value, type):
        whole.update(f"D{type(value).__qualname__}\0".encode())
        for field in fields(value):
            _update(whole, getattr(value, field.name))
    elif isinstance(value, Mapping):
        whole.update(f"M{len(value)}\0".encode())
        for key, entry in value.items():
            _update(whole, key)
            _update(whole, entry)
    elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        whole.update(f"S{len(value)}\0".encode())
        for entry in value:
            _update(whole, entry)
    elif isinstance(value, Set):
        digests = sorted(_digest_of(entry) for entry in value)
        whole.update(f"F{''.join(digests)}\0".encode())
    else:
        raise TypeError(f"the memo knows no content of {type(value).__name__}: {value!r:.80}")


def _digest_of(value: Any) -> str:
    whole = hashlib.sha256()
    _update(whole, value)
    return whole.hexdigest()
