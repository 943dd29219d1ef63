"""pytest-parity: does every exported file still compute what the PyTorch model computes?

Everything that a project or an extension needs is a name of this package. Importing it is cheap: no converter, no
runtime, no torch and no NumPy. Each name is loaded from its room when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity import mil
    from parity.cases.recipes import register_recipe
    from parity.cases.strategies import recipes
    from parity.core.errors import ConfigError, ParityError
    from parity.core.plan import Cell, Plan
    from parity.core.record import CellRecord, RunRecord
    from parity.core.settings import ModelSpec
    from parity.exporting.alone import verify
    from parity.faults import Fault, FileFault, register_fault
    from parity.faults.inputs import on_picture
    from parity.formats import register_target
    from parity.formats.target import Route, Step, Target
    from parity.judging.compare import Comparison, compare, register_metric
    from parity.judging.post_processing import register_match, register_post
    from parity.reference.modelling import load as load_module
    from parity.report.render import render

_ROOMS = {
    "Cell": "core.plan",
    "CellRecord": "core.record",
    "Comparison": "judging.compare",
    "ConfigError": "core.errors",
    "Fault": "faults",
    "FileFault": "faults",
    "ModelSpec": "core.settings",
    "ParityError": "core.errors",
    "Plan": "core.plan",
    "Route": "formats.target",
    "RunRecord": "core.record",
    "Step": "formats.target",
    "Target": "formats.target",
    "compare": "judging.compare",
    "load_module": "reference.modelling:load",
    "on_picture": "faults.inputs",
    "recipes": "cases.strategies",
    "register_fault": "faults",
    "register_match": "judging.post_processing",
    "register_metric": "judging.compare",
    "register_post": "judging.post_processing",
    "register_recipe": "cases.recipes",
    "register_target": "formats",
    "render": "report.render",
    "verify": "exporting.alone",
}
"""Public name -> the module that it is loaded from, and what it is called there where that is something else."""

__all__ = [
    "Cell",
    "CellRecord",
    "Comparison",
    "ConfigError",
    "Fault",
    "FileFault",
    "ModelSpec",
    "ParityError",
    "Plan",
    "Route",
    "RunRecord",
    "Step",
    "Target",
    "compare",
    "load_module",
    "mil",
    "on_picture",
    "recipes",
    "register_fault",
    "register_match",
    "register_metric",
    "register_post",
    "register_recipe",
    "register_target",
    "render",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "mil":
        return importlib.import_module("parity.mil")
    if name not in _ROOMS:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    module, _, attribute = _ROOMS[name].partition(":")
    return getattr(importlib.import_module(f"parity.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
