"""In which environment a package is that a cell's result may depend on."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from parity import formats as targets
from parity.core.errors import ConfigError, ParityError
from parity.core.plan import Cell, choose, did_you_mean
from parity.core.settings import Config
from parity.process.toolchains import environments, versions
from parity.process.toolchains.definitions import BUILT_IN, off_platform, recipe
from parity.process.toolchains.versions import Base
from parity.session.toolchains import forget, toolchain

HERE = "here"
"""The name, beside those of toolchains, of the environment that the command runs in."""


@dataclass(frozen=True)
class Place:
    """The environment that holds a package: that of the toolchain `chain`, or with "" the command's own, so that a
    whole run goes under another version."""

    base: Base
    chain: str = ""

    @property
    def words(self) -> str:
        return f"the toolchain {self.chain}" if self.chain else "this environment"


def place_of(config: Config, cell: Cell, package: str, asked: str, say: Callable[[str], None]) -> Place:
    """Where the package is: in the toolchain or place that was `asked` for, else in the toolchain whose converter it
    is, else here, else in a toolchain that holds it. Makes that toolchain where it is missing.

    Raises ConfigError or ParityError.
    """
    chains = targets.get(cell.target).toolchains
    if asked:
        name = choose("toolchain", asked, (HERE, *chains))
    else:
        name = next((name for name in chains if canonicalize_name(package) == _converter(name)), "")
    if name and name != HERE:
        return _of_chain(config, name, say)
    here = versions.base_of("project", sys.executable)
    if here.version(package):
        return Place(here)
    if name == HERE:
        raise ConfigError(f"--package {package}: {cell.id} runs in this environment, which does not have it")
    holding = next((name for name in chains if _holds(config, name, package)), None)
    if holding is not None:
        return _of_chain(config, holding, say)
    names = dict.fromkeys((*map(canonicalize_name, here.packages), *map(_converter, chains)))
    raise ConfigError(
        f"--package {package}: neither this environment nor a toolchain of {cell.target} "
        f"({', '.join(chains) or 'it has none'}) holds it{did_you_mean(canonicalize_name(package), names)}"
    )


def usual(every: tuple[str, ...], package: str, place: Place) -> tuple[str, ...]:
    """Those of `every` release that the toolchain's route takes; all of them where it says nothing of the package."""
    built_in = BUILT_IN.get(place.chain)
    for requirement in map(Requirement, built_in.requires if built_in else ()):
        if canonicalize_name(requirement.name) == canonicalize_name(package):
            return tuple(version for version in every if requirement.specifier.contains(version)) or every
    return every


def _converter(name: str) -> str:
    """The distribution that a toolchain is there for."""
    built_in = BUILT_IN.get(name)
    return canonicalize_name(built_in.distribution or name) if built_in else canonicalize_name(name)


def _holds(config: Config, name: str, package: str) -> bool:
    """Whether the toolchain's environment has the package; its lock, where it is not here."""
    chain = toolchain(config, name)
    if chain.python and not chain.is_own:
        return chain.versions((package,))[package] != "absent"
    text = recipe(name, config.toolchains.get(name)).text
    entries = re.findall(r"^([A-Za-z0-9][\w.-]*)", text, re.MULTILINE)
    return canonicalize_name(package) in map(canonicalize_name, entries)


def _of_chain(config: Config, name: str, say: Callable[[str], None]) -> Place:
    """The toolchain's environment, made first where it is not here."""
    chain = toolchain(config, name)
    if not chain.python:
        setting = config.toolchains.get(name)
        reason = off_platform(name, setting)
        if setting is not None and setting.is_environment:
            reason = chain.why
        if reason:
            raise ParityError(f"{name}: {reason}")
        environments.install(recipe(name, setting), say)
        forget()
        chain = toolchain(config, name)
    return Place(versions.base_of(name, chain.python), name)
