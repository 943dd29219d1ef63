"""pytest-parity: does every exported file still compute what the PyTorch model computes?

Importing this package is cheap: no converter, no runtime and no torch. The public names load when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from parity.core.errors import ConfigError, ParityError

# Eager, because `parity.compare` is both this function and a submodule: whichever is bound last would win.
from parity.judging.compare import Comparison, compare, register_metric

if TYPE_CHECKING:
    from parity.cases.recipes import register_recipe
    from parity.core.plan import Cell, Plan
    from parity.core.record import RunRecord
    from parity.faults import Fault, FileFault, register_fault
    from parity.formats import register_target
    from parity.formats.target import Target
    from parity.judging.post_processing import register_match, register_post
    from parity.report.render import render

_HOMES = {
    "Cell": "parity.core.plan",
    "Fault": "parity.faults",
    "FileFault": "parity.faults",
    "Plan": "parity.core.plan",
    "RunRecord": "parity.core.record",
    "Target": "parity.formats.target",
    "register_fault": "parity.faults",
    "register_match": "parity.judging.post_processing",
    "register_post": "parity.judging.post_processing",
    "register_recipe": "parity.cases.recipes",
    "register_target": "parity.formats",
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
