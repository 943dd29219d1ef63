"""A project's own faults: where they come from, and what is said of one that fails. Imports nothing heavy."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from parity.core import extensions
from parity.core.errors import ParityError


def load(plugins: Sequence[str] = ()) -> None:
    """Import the modules in which faults of others are registered: those named, and those of installed extensions.

    Raises ParityError for a module that cannot be imported; the built-in faults are imported already.
    """
    extensions.load()
    for name in plugins:
        try:
            importlib.import_module(name)
        except ParityError:
            raise
        except Exception as error:
            raise ParityError(f"plugins: the module {name!r} cannot be imported: {said(error)}") from error


def foreign(operator: Callable[..., Any]) -> bool:
    """Whether an operator is not this package's own, so that its failing is a mistake to be told."""
    return not getattr(operator, "__module__", "").startswith("parity.faults")


def said(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.160}" if lines else type(error).__name__
