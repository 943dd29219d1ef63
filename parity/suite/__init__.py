"""The parametrised tests. A project has one test file that says `from parity.suite import *`.

Each kind of check has a file here, of its name: what it measures, for which cells, and the test that does it for a cell
of the plan. What the measurements mean is in `judging`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from parity.core import kinds
from parity.core.kinds import Kind
from parity.core.settings import ModelConfig
from parity.formats.target import Target
from parity.session.planning import Data
from parity.suite.check_kind import SuiteKind

_FILES = [importlib.import_module(f"parity.suite.{kind.name}") for kind in kinds.KINDS]
KINDS: tuple[SuiteKind, ...] = tuple(file.KIND for file in _FILES)
_TESTS: dict[str, Callable[..., None]] = {kind.test.__name__: kind.test for kind in KINDS}

# In the order of a plan: pytest runs them so, and what names the cause of a fault comes before what feels it.
__all__ = list(_TESTS)


def __getattr__(name: str) -> Callable[..., None]:
    """The test of a kind of check, by its name."""
    if name not in _TESTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _TESTS[name]


def planned_kinds(model: ModelConfig, target: Target, data: Data) -> tuple[Kind, ...]:
    """The kinds of check that a cell of `model` in `target` has to be measured by, in the order of a plan."""
    return tuple(kind.described.name for kind in KINDS if kind.planned(model, target, data))
