"""Which routes can be gone here: those whose toolchains are on this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from parity import formats as targets
from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.settings import Config, ToolchainConfig
from parity.formats.target import NO_CALIBRATION, Route, Target
from parity.process.toolchains import environments
from parity.process.toolchains.resolving import Toolchain, resolve


def toolchain(config: Config, name: str) -> Toolchain:
    """The toolchain of that name, as the project sets it, looked for once in a process. Raises ParityError."""
    return _resolved(name, config.toolchains.get(name), environments.home())


@lru_cache
def _resolved(name: str, setting: ToolchainConfig | None, _: Path) -> Toolchain:
    return resolve(name, setting)


def forget() -> None:
    """Have toolchains looked for again, after one was made or removed."""
    _resolved.cache_clear()


def python_of(config: Config, target: Target) -> str:
    """The interpreter that runs the target's files: this one, unless the runtime needs a toolchain that is here."""
    if not target.toolchain:
        return sys.executable
    return toolchain(config, target.toolchain).python or sys.executable


def usable(config: Config, routes: Sequence[Route]) -> tuple[Route, ...]:
    """The routes whose toolchains are here, in order. Raises ParityError, with the first one's reason, for none."""
    here, why = [], ""
    for route in routes:
        reason = _missing(config, route)
        if not reason:
            here.append(route)
        why = why or reason
    if not here and why:
        raise ParityError(why)
    return tuple(here)


def unavailable(config: Config, cell: Cell) -> str | None:
    """Why a cell cannot be measured on this machine, with what would change that; None when it can.

    A file that the project brings needs no route, and no calibration data.
    """
    model, target = config.models[cell.model], targets.get(cell.target)
    reason = target.unavailable(cell, model, python_of(config, target))
    if f"{cell.target}-{cell.precision}" in model.artifacts:
        return None if reason == NO_CALIBRATION else reason
    reason = reason or target.cannot_start_from(model)
    if reason is not None:
        return reason
    try:
        usable(config, target.routes(cell, model, config))
    except ParityError as error:
        return str(error)
    return None


def _missing(config: Config, route: Route) -> str:
    """Why the route cannot be gone here; "" where it can."""
    names = dict.fromkeys(step.toolchain for step in route.steps if step.toolchain)
    return next((chain.why for name in names if (chain := toolchain(config, name)).why), "")
