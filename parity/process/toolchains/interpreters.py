"""Where a Python of a wanted version is: the running one, on PATH, among pyenv's, or known to uv."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from parity.core.errors import ParityError

_SECONDS = 60.0
_ASK = (
    "import json, sys; from importlib import metadata; "
    "print(json.dumps(['%d.%d.%d' % sys.version_info[:3], sys.prefix, "
    "{d.metadata['Name']: d.version for d in reversed(list(metadata.distributions()))}]))"  # the first is imported
)
_SITE = (
    "import json, site; user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []; "
    "print(json.dumps([*user, *site.getsitepackages()]))"
)


class UnfitError(ParityError):
    """A toolchain that this machine cannot have: it has no Python for it, or is of another platform."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that answered: its executable, its version such as 3.11.7, and the distributions it sees."""

    path: str
    version: str
    packages: tuple[tuple[str, str], ...] = ()

    @property
    def minor(self) -> str:
        """Major and minor version, as in 3.11."""
        return ".".join(self.version.split(".")[:2])


def ask(path: str) -> Interpreter:
    """What the interpreter at `path` is. Raises ParityError with one line where it is none."""
    place = str(Path(path).expanduser())
    try:
        done = subprocess.run([place, "-I", "-c", _ASK], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ParityError(f"{place}: no answer within {_SECONDS:g} s") from None
    except OSError as error:
        raise ParityError(f"{place}: cannot be started: {error.strerror or error}") from None
    try:
        version, _, packages = json.loads(done.stdout)
        return Interpreter(place, str(version), tuple(sorted(packages.items())))
    except (ValueError, TypeError, AttributeError):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        why = lines[-1].strip() if lines else f"it ended with code {done.returncode} and said nothing"
        raise ParityError(f"{place} is no Python that works: {why}"[:300]) from None


def site_folders(path: str) -> tuple[str, ...]:
    """The folders of installed distributions of the interpreter at `path`. Raises ParityError."""
    done = subprocess.run([path, "-c", _SITE], capture_output=True, text=True, timeout=_SECONDS, check=False)
    try:
        return tuple(folder for folder in json.loads(done.stdout) if Path(folder).is_dir())
    except (ValueError, TypeError):
        raise ParityError(f"{path} does not say where its packages are: {done.stderr.strip()[-200:]}") from None


@cache
def uv() -> tuple[str, ...]:
    """The command of a uv that works, on PATH or as a module of this environment; () where there is none."""
    on_path = shutil.which("uv")
    commands: list[tuple[str, ...]] = [(on_path,)] if on_path else []
    if importlib.util.find_spec("uv") is not None:
        commands.append((sys.executable, "-m", "uv"))
    for command in commands:
        try:
            done = subprocess.run([*command, "--version"], capture_output=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return command
    return ()


def find(wanted: Sequence[str], download: bool = False) -> Interpreter:
    """The first of the `wanted` versions (as "3.11", or a path) that is on this machine.

    With `download`, uv may fetch one where none is here. Raises UnfitError that says how to add one, and ParityError
    for a path.
    """
    said: list[str] = []
    for version in wanted:
        for candidate in _candidates(version):
            try:
                interpreter = ask(candidate)
            except ParityError as error:
                said.append(str(error))
                continue
            if not is_version(version) or interpreter.minor == version:
                return interpreter
    if download and uv():
        for version in filter(is_version, wanted):
            _quiet(*uv(), "python", "install", version)
            path = _quiet(*uv(), "python", "find", version)
            if path:
                return ask(path)
    versions = [version for version in wanted if is_version(version)]
    if not versions:
        raise ParityError(said[-1] if said else f"{wanted[0]}: no such file")
    raise UnfitError(
        f"needs Python {' or '.join(versions)}, and none is on PATH, in pyenv or known to uv: "
        f"uv python install {versions[0]}, or pyenv install {versions[0]}"
    )


def is_version(text: str) -> bool:
    """Whether `text` is a Python version, as in "3.11", and no path."""
    return re.fullmatch(r"3\.\d+", text) is not None


def _candidates(version: str) -> Iterator[str]:
    """Executables that may be of that version, the likeliest first. A path stands for itself."""
    if not is_version(version):
        yield version
        return
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        yield getattr(sys, "_base_executable", "") or sys.executable
        yield sys.executable
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield on_path
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    # Of several patch releases the newest: 3.11.10 after 3.11.9.
    for folder in sorted(versions.glob(f"{version}.*"), key=_patch, reverse=True):
        yield str(folder / "bin" / "python")
    if uv():
        path = _quiet(*uv(), "python", "find", "--no-python-downloads", version)
        if path:
            yield path


def _patch(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", folder.name))


def _quiet(*command: str) -> str:
    """The last line that a command prints; "" where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.split("\n") if done.returncode == 0 else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
