"""`parity tools`: the toolchains, which hold converters in locked environments of their own, and the executors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from parity import formats as targets
from parity.commands import tool_executors
from parity.core.errors import ConfigError, ParityError
from parity.core.settings import Config
from parity.core.words import size
from parity.process.toolchains import environments, interpreters
from parity.process.toolchains.definitions import BUILT_IN, definition, off_platform, recipe, versioned
from parity.process.toolchains.resolving import Toolchain, resolve
from parity.session import project
from parity.session.toolchains import forget, routes_of, toolchain, unavailable

WIDTH = 12


def add(commands: Any) -> None:
    command = commands.add_parser(
        "tools", help="list, add and remove environments of converters, and executors", description=__doc__
    )
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="say which toolchains are here, and what each is for")
    install = actions.add_parser("install", help="make the environments of toolchains")
    install.add_argument(
        "names", nargs="*", metavar="NAME[==VERSION]", help="default: those that the project's cells need and lack"
    )
    remove = actions.add_parser("remove", help="delete the environments of toolchains")
    remove.add_argument("names", nargs="+", metavar="NAME")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    config = _config(optional=options.action != "install" or bool(options.names))
    if options.action == "list":
        for name in known(config):
            for line in lines(name, config):
                print(line)
        for name in tool_executors.NAMES:
            for line in tool_executors.lines(name):
                print(line)
        return 0
    if options.action == "remove":
        for name in options.names:
            if name in tool_executors.NAMES:
                tool_executors.remove(name)
            else:
                _remove(name, config)
        return 0
    for name in dict.fromkeys(options.names):
        if name in tool_executors.NAMES:
            tool_executors.install(name, _say)
        else:
            _install(name, config)
    if not options.names and not install_needed(config):
        print("nothing to install: every cell has what it needs")
    return 0


def known(config: Config | None) -> tuple[str, ...]:
    """Every toolchain by name: built in, then those that the project adds for targets of its own."""
    return tuple(dict.fromkeys((*BUILT_IN, *(config.toolchains if config else ()))))


def needed(config: Config | None) -> tuple[tuple[str, ...], ...]:
    """The missing toolchains, any one of which does for some cells that nothing else keeps from running, in the order
    of the cells' routes."""
    groups: dict[tuple[str, ...], None] = {}
    for cell in config.cells if config else ():
        assert config is not None
        model, target = config.models[cell.model], targets.get(cell.target)
        if f"{cell.target}-{cell.precision}" in model.artifacts or not unavailable(config, cell):
            continue
        if target.toolchain:
            groups[(target.toolchain,)] = None
        elif target.unavailable(cell, model) is None and target.cannot_start_from(model) is None:
            names = [step.toolchain for route in routes_of(config, cell) for step in route.steps if step.toolchain]
            groups[tuple(dict.fromkeys(names))] = None
    return tuple(group for group in groups if group)


def install_needed(config: Config | None) -> bool:
    """Make what the project's cells lack: of toolchains that do for the same cells the first that can be made here.

    Returns whether anything was lacking. Raises ParityError where an installer fails, and with the first one's reason
    where this machine can have none of them.
    """
    groups = needed(config)
    for group in groups:
        failures = []
        for name in group:
            try:
                _install(name, config)
                break
            except interpreters.UnfitError as error:
                failures.append(error)
                if len(failures) < len(group):
                    _say(f"{error}; another toolchain does, too: {group[len(failures)]}")
        if len(failures) == len(group):
            raise failures[0]
    executors = tool_executors.needed(config)
    for name in executors:
        tool_executors.install(name, _say)
    return bool(groups or executors)


def resolved(name: str, config: Config | None) -> Toolchain:
    """The toolchain of that name, in the project or without one."""
    return toolchain(config, name) if config else resolve(name)


def lines(name: str, config: Config | None) -> Iterator[str]:
    """What there is to say of a toolchain: its state, where it is, and what it is for."""
    chain = resolved(name, config)
    setting = config.toolchains.get(name) if config else None
    if chain.is_own:
        state = "this environment has it"
    elif chain.python and setting is not None and setting.is_environment:
        state = f"by {chain.python}, Python {chain.version}"
    elif chain.python:
        state = _installed(name, config)
    else:
        state = "no: " + chain.why.removeprefix(f"toolchain {name} is not installed: ")
    yield f"{name:<{WIDTH}} {state}"
    if name in BUILT_IN:
        yield f"{'':<{WIDTH}}   {BUILT_IN[name].purpose}"
    if not chain.python and not off_platform(name, setting):
        yield from _interpreter(name, config)


def _installed(name: str, config: Config | None) -> str:
    environment = environments.find(recipe(name, config.toolchains.get(name) if config else None))
    assert environment is not None
    space = size(environments.size(environment.folder))
    return (
        f"installed: {len(environment.packages)} packages, {space}, Python {environment.python_version}, "
        f"by {environment.made_by} in {environment.seconds:.0f} s: {environment.folder}"
    )


def _interpreter(name: str, config: Config | None) -> Iterator[str]:
    """Where the Python is that would make it, or that there is none."""
    try:
        setting = config.toolchains.get(name) if config else None
        if setting is not None and setting.is_environment:
            return
        interpreter = interpreters.find(recipe(name, setting).pythons)
        yield f"{'':<{WIDTH}}   would be made with Python {interpreter.version}: {interpreter.path}"
    except ParityError as error:
        yield f"{'':<{WIDTH}}   {error}"


def _config(optional: bool) -> Config | None:
    """The project's configuration. Raises ConfigError, unless it is optional and there is no project here."""
    try:
        return project.here()
    except ConfigError as error:
        if optional and "no pyproject.toml" in str(error):
            return None
        raise


def _install(text: str, config: Config | None) -> None:
    """Make the toolchain NAME, as the project sets it, or with the version of its converter that is asked for."""
    setting = config.toolchains.get(text) if config else None
    name = text
    if setting is None:
        name, setting = versioned(text)
    chain = resolve(name, setting)
    if chain.python:
        print(f"{name}: {'this environment has it' if chain.is_own else f'it is there: {chain.python}'}")
        return
    reason = off_platform(name, setting)
    if reason:
        raise interpreters.UnfitError(f"{name}: {reason}")
    if setting is not None and setting.is_environment:
        raise ParityError(chain.why)
    environment = environments.install(recipe(name, setting), _say)
    forget()
    print(f"{name}: {environment.folder}")


def _remove(name: str, config: Config | None) -> None:
    gone = environments.remove(name)
    forget()
    if not gone and name not in known(config):
        definition(name)
    for folder in gone:
        print(f"{name}: deleted {folder}")
    if not gone:
        print(f"{name}: nothing of it is here")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
