"""The registry of targets: one in each folder here, and classes that a project or an installed extension registers.

No other module lists formats. What the rest of the tree must know of them all is asked of the functions below.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import PurePath

from parity.core import extensions
from parity.core.errors import ParityError
from parity.core.settings import TargetFacts
from parity.formats.target import Target

_registered: dict[str, Target] = {}


def register_target(target: type[Target]) -> type[Target]:
    """Make a target known by its name; usable as a class decorator."""
    _registered[target.name] = target()
    return target


@functools.cache
def _built_in() -> dict[str, Target]:
    """The target classes that the folders' modules `target` define, in their order."""
    made = []
    for folder in pkgutil.iter_modules(__path__):
        if not folder.ispkg:
            continue
        module = importlib.import_module(f"{__name__}.{folder.name}.target")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Target) and value.__module__ == module.__name__:
                made.append(value())
    return {target.name: target for target in sorted(made, key=lambda t: (t.order, t.name))}


def get(name: str) -> Target:
    """The target of that name. Raises ParityError when none has it."""
    if name not in _registered and name not in _built_in():
        extensions.load()
    target = _registered.get(name) or _built_in().get(name)
    if target is None:
        raise ParityError(f"no target {name!r} in this version; there are: {', '.join(names())}")
    return target


def names() -> tuple[str, ...]:
    """Every target that a cell may name: built in, then registered. Raises ConfigError for a broken extension."""
    extensions.load()
    return tuple(dict.fromkeys((*_built_in(), *_registered)))


def every() -> tuple[Target, ...]:
    """The targets of those names, in the same order. Raises ConfigError for a broken extension."""
    return tuple(get(name) for name in names())


def facts() -> dict[str, TargetFacts]:
    """What the configuration must know of each target, by its name."""
    return {target.name: TargetFacts(target.kernels, target.toolchains, target.executors) for target in every()}


def packages() -> tuple[str, ...]:
    """The distributions that make and run files of any target, in order."""
    return tuple(dict.fromkeys(package for target in every() for package in target.packages))


def recognised(file: PurePath) -> Target | None:
    """The target whose files end as this one does; None where no target's do."""
    return next((target for target in every() if file.suffix in target.suffixes), None)


def ordered(found: Iterable[str]) -> tuple[str, ...]:
    """Names of targets for a report: built-in ones in their order, then others, which need not be known here."""
    distinct = dict.fromkeys(found)
    known = [name for name in _built_in() if name in distinct]
    return (*known, *sorted(name for name in distinct if name not in known))
