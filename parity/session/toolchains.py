"""Which routes can be gone here: those whose toolchains are on this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from parity import formats as targets
from parity.core.errors import ConfigError, ParityError
from parity.core.plan import Cell
from parity.core.settings import Config, ToolchainConfig
from parity.formats.target import NO_CALIBRATION, Route, Target
from parity.process.toolchains import environments
from parity.process.toolchains.definitions import versioned
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


def labels(config: Config) -> dict[str, str]:
    """Lock and Python, by name, of the toolchains that are here and that a cell of the project can be made with."""
    names = dict.fromkeys(chain for cell in config.cells for chain in targets.get(cell.target).toolchains)
    chains = (toolchain(config, name) for name in names)
    return {
        chain.name: f"{chain.lock[:12] or 'of the own environment'}, Python {chain.version}"
        for chain in chains
        if chain.python
    }


def python_of(config: Config, target: Target) -> str:
    """The interpreter that runs the target's files: this one, unless the runtime needs a toolchain that is here."""
    if not target.toolchain:
        return sys.executable
    return toolchain(config, target.toolchain).python or sys.executable


def choose(config: Config, texts: Sequence[str]) -> Config:
    """The configuration with toolchains chosen by TARGET=NAME or TARGET=NAME==VERSION. Raises ConfigError."""
    chosen, settings = dict(config.chosen), dict(config.toolchains)
    for text in texts:
        name, equal, wanted = text.partition("=")
        if not equal:
            raise ConfigError(f"--parity-toolchain {text}: write TARGET=NAME, as in tflite=litert")
        try:
            target = targets.get(name)
            chain, setting = versioned(wanted)
        except ParityError as error:
            raise ConfigError(f"--parity-toolchain {text}: {error}") from None
        if chain not in target.toolchains:
            there = ", ".join(target.toolchains) or "none"
            raise ConfigError(f"--parity-toolchain {text}: {name} has no route by {chain!r}; its toolchains: {there}")
        chosen[name] = chain
        if setting is not None:
            settings[chain] = setting
    return replace(config, chosen=chosen, toolchains=settings)


def routes_of(config: Config, cell: Cell) -> tuple[Route, ...]:
    """The routes of a cell, best first; of those only the ones by its target's chosen toolchain, where one is."""
    routes = targets.get(cell.target).routes(cell, config.models[cell.model], config)
    chain = config.chosen.get(cell.target)
    return tuple(r for r in routes if chain is None or any(step.toolchain == chain for step in r.steps))


def usable(config: Config, cell: Cell) -> tuple[Route, ...]:
    """The cell's routes whose toolchains are here, in order. Raises ParityError, with the first one's reason, for
    none."""
    here, reasons = [], dict[str, None]()
    for route in routes_of(config, cell):
        reason = _missing(config, route)
        if not reason:
            here.append(route)
        reasons[reason] = None
    if not here and reasons:
        first, *others = reasons
        raise ParityError(first + "".join(f", or {_short(reason)}" for reason in others))
    return tuple(here)


def _short(reason: str) -> str:
    """The command in what `resolve` says of a missing toolchain."""
    return reason.partition(" is not installed: ")[2] or reason


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
        usable(config, cell)
    except ParityError as error:
        return str(error)
    return None


def _missing(config: Config, route: Route) -> str:
    """Why the route cannot be gone here; "" where it can."""
    names = dict.fromkeys(step.toolchain for step in route.steps if step.toolchain)
    return next((chain.why for name in names if (chain := toolchain(config, name)).why), "")
