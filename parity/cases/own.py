"""What a project brings as a function of its own: cases beside the golden files, and the strategy that draws inputs.

A function is named "module:function" in the configuration and imported from the project's root where it is needed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from parity.cases.golden import tensors
from parity.core.case import Case, case_id
from parity.core.contract import Contract
from parity.core.errors import ConfigError, ParityError

_made: dict[tuple[str, str, str], list[Case]] = {}


def function(name: str, key: str, root: Path) -> Callable[..., Any]:
    """The function that `key` of the configuration names. Raises ParityError where there is none."""
    module, _, attribute = name.partition(":")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a project's module raises when it is imported
        raise ParityError(f"{key} {name!r}: {_said(error)}") from None
    if not callable(found):
        raise ParityError(f"{key} {name!r} is {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def cases(name: str, contract: Contract, root: Path) -> list[Case]:
    """The cases that a project's `module:function` makes of the contract, made once a process.

    It gives {case name: {input name: array}}; an array named `label` beside them is the true class. Raises ConfigError
    for anything that is no such table, holds no case, or does not fit the contract.
    """
    key = (str(root), name, repr(contract))
    if key not in _made:
        _made[key] = _cases(name, contract, root)
    return _made[key]


def _cases(name: str, contract: Contract, root: Path) -> list[Case]:
    where = f"cases {name!r}"
    try:
        made = function(name, "cases", root)(contract)
    except ParityError as error:
        raise ConfigError(str(error)) from None
    except Exception as error:  # the project's own code
        raise ConfigError(f"{where} raised {_said(error)}") from None
    if not isinstance(made, Mapping) or not all(isinstance(m, Mapping) for m in made.values()):
        raise ConfigError(f"{where} gave {type(made).__name__}, not {{case name: {{input name: array}}}}")
    if not made:
        raise ConfigError(f"{where} gave no case")
    try:
        return [tensors(f"{where}, case {id!s}", case_id(str(id)), arrays, contract) for id, arrays in made.items()]
    except ParityError as error:
        raise ConfigError(str(error)) from None


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
