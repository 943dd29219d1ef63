"""Which interpreter a step runs under: the session's own where it satisfies the toolchain, a named one, or that of an
environment that was made for it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from parity.core.errors import ParityError
from parity.core.settings import ToolchainConfig
from parity.process.toolchains import environments, interpreters
from parity.process.toolchains.definitions import BUILT_IN, asked_as, off_platform, recipe
from parity.process.toolchains.interpreters import Interpreter


@dataclass(frozen=True)
class Toolchain:
    """A toolchain on this machine.

    `python` is its interpreter: this process's own where `is_own`, "" where it is missing; `why` then says so, with the
    command that adds it. `lock` is the hash of its lock; of an environment without one, of the names and versions in
    it; "" of the session's own. `packages` are versions by distribution, those of the session's own left out.
    """

    name: str
    python: str = ""
    lock: str = ""
    version: str = ""
    is_own: bool = False
    why: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, str]:
        """What keys and records say of it."""
        return {"name": self.name, "lock": self.lock, "python": self.version}

    def versions(self, packages: tuple[str, ...]) -> dict[str, str]:
        """The versions of distributions in it, or 'absent'."""
        by_name = {canonicalize_name(name): version for name, version in self.packages.items()}
        return {package: by_name.get(canonicalize_name(package), "absent") for package in packages}


def resolve(name: str, setting: ToolchainConfig | None = None) -> Toolchain:
    """The toolchain of that name under its setting. Starts no process but to ask an interpreter that the setting
    names, once. Raises ParityError where the name or the setting is wrong."""
    if setting is not None and setting.is_environment:
        assert setting.python is not None
        try:
            interpreter = _asked(setting.python)
        except ParityError as error:
            return Toolchain(name, why=f"[tool.parity.toolchains.{name}]: {error}")
        packages = dict(interpreter.packages)
        lock = environments.digest(packages)
        return Toolchain(name, interpreter.path, lock, interpreter.version, packages=packages)
    if setting is None and name not in BUILT_IN:
        return Toolchain(
            name, why=f"no toolchain {name!r} is built in: set packages in [tool.parity.toolchains.{name}]"
        )
    if setting is None and satisfied(name):
        return Toolchain(name, sys.executable, version=platform.python_version(), is_own=True)
    environment = environments.find(recipe(name, setting))
    if environment is None:
        why = off_platform(name, setting) or f"parity tools install {asked_as(name, setting)}"
        return Toolchain(name, why=f"toolchain {name} is not installed: {why}")
    return Toolchain(
        name, environment.python, environment.lock, environment.python_version, packages=environment.packages
    )


def satisfied(name: str) -> bool:
    """Whether the environment of this process has all that the toolchain requires."""
    return name in BUILT_IN and not unsatisfied(name)


def unsatisfied(name: str) -> tuple[str, ...]:
    """What the environment of this process lacks of a built-in toolchain's requirements."""
    lacking = []
    for text in BUILT_IN[name].requires:
        reasons = [_lacking(alternative.strip()) for alternative in text.split("|")]
        if all(reasons):
            lacking.append(next((reason for reason in reasons if ", not " in reason), reasons[0]))
    return tuple(lacking)


def _lacking(text: str) -> str:
    """What this environment lacks of one requirement, with the version that it has instead; "" for nothing."""
    requirement = Requirement(text)
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return text
    return "" if requirement.specifier.contains(version, prereleases=True) else f"{text}, not {version}"


@cache
def _asked(python: str) -> Interpreter:
    return interpreters.ask(python)
