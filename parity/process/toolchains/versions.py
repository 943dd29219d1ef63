"""Which versions of a distribution a package index offers, and an environment that differs by one of them from
another."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from parity.core.errors import ParityError
from parity.process.toolchains import environments, interpreters
from parity.process.toolchains.definitions import TORCH_INDEX, Recipe
from parity.process.toolchains.environments import Environment, Progress

_SECONDS = 180.0
_LISTED = re.compile(r"^Available versions:\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Base:
    """The environment that stays, but for one package: `name` is its toolchain's, or "project"."""

    name: str
    python: str
    minor: str
    packages: Mapping[str, str]

    def version(self, package: str) -> str:
        """The version of a distribution in it; "" where it has none."""
        return _by_name(self.packages).get(canonicalize_name(package), "")


def base_of(name: str, python: str) -> Base:
    """The environment of the interpreter at `python`. Raises ParityError where that does not work."""
    interpreter = interpreters.ask(python)
    return Base(name, interpreter.path, interpreter.minor, dict(interpreter.packages))


def ordered(texts: Iterable[str]) -> tuple[str, ...]:
    """Releases, oldest first, each once: no pre-releases, and no local builds (2.13.0 stands for 2.13.0+cpu)."""
    versions: set[Version] = set()
    for text in texts:
        try:
            version = Version(text.strip())
        except InvalidVersion:
            continue
        if not version.is_prerelease:
            versions.add(Version(version.public))
    return tuple(str(version) for version in sorted(versions))


def offered(package: str, minor: str) -> tuple[str, ...]:
    """The releases that have a wheel for Python `minor`, oldest first, by the indexes that pip is told of.

    Raises ParityError with pip's reason where there is none.
    """
    said = ""
    for pip in _pips(minor):
        command = [*pip, "index", "versions", package, "--python-version", minor, "--only-binary", ":all:"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            said = said or str(error)
            continue
        listed = _LISTED.search(done.stdout)
        if listed:
            return ordered(listed[1].split(","))
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        if errors:
            raise ParityError(f"{package}: {errors[-1].removeprefix('ERROR:').strip()}")
        said = said or done.stderr.strip()[-200:]
    raise ParityError(f"the versions of {package} cannot be listed, which needs pip: python -m ensurepip ({said})")


def _pips(minor: str) -> Iterator[list[str]]:
    """Commands that may be a pip, the likeliest to work first. Which Python runs it does not matter."""
    yield [sys.executable, "-m", "pip"]
    with contextlib.suppress(ParityError):
        yield [interpreters.find((minor,)).path, "-m", "pip"]
    if interpreters.uv():
        yield [*interpreters.uv(), "tool", "run", "pip"]


def with_version(base: Base, package: str, version: str, say: Progress) -> Environment:
    """`base` with another version of `package`: an environment over it that holds this version, and what it wants
    otherwise than `base` has it. Made once. Raises ParityError where that cannot be installed."""
    local = Version(base.version(package) or "0").local
    wanted = f"{package}=={version}+{local}" if local else f"{package}=={version}"
    about = f"# over {base.python}, which is {environments.digest(base.packages)}"
    index = TORCH_INDEX if local else ""
    source = f"{wanted} over {Path(base.python).parent.parent.name}"
    over = interpreters.site_folders(base.python)
    recipe = Recipe(base.name, f"{about}\n{wanted}\n", False, (base.python,), index, source, over)
    return environments.install(recipe, say)


def moved(base: Base, packages: Mapping[str, str], package: str) -> dict[str, tuple[str, str]]:
    """Distributions other than `package` whose versions differ from those of `base`: before ("" for none) and now."""
    before, now = _by_name(base.packages), _by_name(packages)
    apart = (canonicalize_name(package), "pip", "setuptools", "wheel")
    names = sorted(name for name in now if name not in apart and now[name] != before.get(name))
    return {name: (before.get(name, ""), now[name]) for name in names}


def _by_name(packages: Mapping[str, str]) -> dict[str, str]:
    """Versions by the names that indexes compare: Ai_Edge.Litert is ai-edge-litert."""
    return {canonicalize_name(name): version for name, version in packages.items()}
