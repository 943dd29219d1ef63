"""pytest-parity: does every exported file still compute what the PyTorch model computes?

Importing this package is cheap: no converter, no runtime and no torch. The public names load when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Eager, because `parity.compare` is both this function and a submodule: whichever is bound last would win.
from parity.compare import Comparison, compare, register_metric
from parity.errors import ConfigError, ParityError

if TYPE_CHECKING:
    from parity.cases.recipes import register_recipe
    from parity.faults import Fault, FileFault, register_fault
    from parity.plan import Cell, Plan
    from parity.posts import register_match, register_post
    from parity.record import RunRecord
    from parity.report.render import render
    from parity.targets import register_target
    from parity.targets.base import Target

_HOMES = {
    "Cell": "parity.plan",
    "Fault": "parity.faults",
    "FileFault": "parity.faults",
    "Plan": "parity.plan",
    "RunRecord": "parity.record",
    "Target": "parity.targets.base",
    "register_fault": "parity.faults",
    "register_match": "parity.posts",
    "register_post": "parity.posts",
    "register_recipe": "parity.cases.recipes",
    "register_target": "parity.targets",
    "render": "parity.report",
}

__all__ = [
    "Cell",
    "Comparison",
    "ConfigError",
    "Fault",
    "FileFault",
    "ParityError",
    "Plan",
    "RunRecord",
    "Target",
    "compare",
    "register_fault",
    "register_match",
    "register_metric",
    "register_post",
    "register_recipe",
    "register_target",
    "render",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
