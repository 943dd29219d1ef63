"""Making, finding and removing the environments of toolchains, below `toolchains/` of the user's cache folder.

An environment cannot be moved once it is made, so it is made in its final place, NAME-HASH-PYTHON, and is whole when
its `toolchain.json` is there, which is written last. Whoever makes one holds a lock file beside it. The installer
inherits that lock: where this process is killed and the installer lives on, the next one waits for it, then removes
what it left and begins again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from parity.core import strict_json
from parity.core.errors import ParityError
from parity.process.toolchains import interpreters
from parity.process.toolchains.definitions import Recipe
from parity.process.toolchains.interpreters import Interpreter
from parity.store import atomic
from parity.store.cache import default_root, key_of

MARKER = "toolchain.json"
Progress = Callable[[str], None]
_TELLING = re.compile(r"^(Downloading|Building|Resolved|Prepared|Installed|Installing collected)\b")
_PYTHON = re.compile(r"does not satisfy Python|different python version|requires a different Python", re.IGNORECASE)


@dataclass(frozen=True)
class Environment:
    """An environment that is whole: what it was made of and by, and the version of each distribution in it."""

    folder: Path
    name: str
    lock: str
    python_version: str
    made_by: str
    seconds: float
    packages: Mapping[str, str]

    @property
    def python(self) -> str:
        return str(_python(self.folder))


def home() -> Path:
    """The folder that holds all environments. It is this user's, whatever cache a project names."""
    return default_root() / "toolchains"


def every() -> list[Environment]:
    """The whole environments on this machine, by folder name."""
    folders = sorted(home().iterdir()) if home().is_dir() else []
    return [environment for folder in folders if (environment := _whole(folder)) is not None]


def find(recipe: Recipe) -> Environment | None:
    """The environment that was made of `recipe`; None where there is none, or only part of one."""
    for folder in sorted(home().glob(f"{_stem(recipe)}-*"), reverse=True):
        environment = _whole(folder)
        if environment is not None and _made_with(environment, recipe):
            return environment
    return None


def install(recipe: Recipe, say: Progress, download: bool = True) -> Environment:
    """The environment of `recipe`, made now unless it is there.

    `say` gets a line whenever something goes on. Raises ParityError with one line; then nothing is left.
    """
    there = find(recipe)
    if there is not None:
        return there
    pythons = recipe.pythons
    while True:
        interpreter = _interpreter(recipe.name, pythons, download)
        try:
            return _installed(recipe, interpreter, say)
        except _OtherPythonError as error:
            minor = interpreter.minor
            pythons = pythons[pythons.index(minor) + 1 :] if minor in pythons else ()
            if recipe.locked or not pythons:
                raise
            say(f"{error}; trying another Python")


class _OtherPythonError(ParityError):
    """An installer has said that a package is not for this Python."""


def _installed(recipe: Recipe, interpreter: Interpreter, say: Progress) -> Environment:
    """The environment of `recipe` with this interpreter, made unless another process was quicker."""
    folder = home() / f"{_stem(recipe)}-{interpreter.version}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(folder, recipe.name, say) as lock:
        there = _whole(folder)
        if there is not None:
            return there
        shutil.rmtree(folder, ignore_errors=True)
        try:
            return _make(folder, recipe, interpreter, say, lock)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise ParityError(f"{recipe.name}: {folder}: {error.strerror or error}") from None
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def remove(name: str, keep: Sequence[Path] = ()) -> list[Path]:
    """Delete every environment of that toolchain, whole or not, but those to `keep`. Returns what was deleted."""
    gone = []
    for folder in sorted(home().glob(f"{name}-*")):
        if not folder.is_dir() or folder in keep:
            continue
        with held(folder, name, lambda line: None):
            (folder / MARKER).unlink(missing_ok=True)  # first, so that nobody takes half of it for whole
            shutil.rmtree(folder)
        gone.append(folder)
    return gone


def size(folder: Path) -> int:
    """Bytes of all files below `folder`; those that uv shares with its cache count, too."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def _stem(recipe: Recipe) -> str:
    return f"{recipe.name}-{recipe.identity[:16]}"


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _interpreter(name: str, pythons: Sequence[str], download: bool) -> Interpreter:
    try:
        return interpreters.find(pythons, download)
    except ParityError as error:
        raise type(error)(f"{name}: {error}") from None


def _made_with(environment: Environment, recipe: Recipe) -> bool:
    """Whether the environment's interpreter is of a version that the recipe may be made with."""
    minor = ".".join(environment.python_version.split(".")[:2])
    versions = [version for version in recipe.pythons if interpreters.is_version(version)]
    return not versions or minor in versions


def _whole(folder: Path) -> Environment | None:
    """The environment in `folder`; None where it is not whole, or its interpreter is gone from this machine."""
    if not _python(folder).exists():
        return None
    try:
        said = strict_json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return Environment(folder, **said)
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def held(folder: Path, name: str, say: Progress) -> Iterator[int]:
    """Hold the lock of an environment, as the descriptor of its lock file. Waits for whoever has it, and says so."""
    descriptor = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{name}: another process is at it; waiting")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _make(folder: Path, recipe: Recipe, interpreter: Interpreter, say: Progress, lock: int) -> Environment:
    """Make the environment by uv; by venv and pip where there is none, or where it does not succeed: pip may know
    package indexes that uv was not told of."""
    start, file = time.monotonic(), folder.with_name(f".{folder.name}.txt")
    say(f"{recipe.name}: making {folder} with Python {interpreter.version}, from {recipe.source}")
    try:
        atomic.write_text(file, recipe.text)
        made_by = _filled(folder, recipe, interpreter, file, say, lock)
    finally:
        file.unlink(missing_ok=True)
    packages = dict(interpreters.ask(str(_python(folder))).packages)
    environment = Environment(
        folder,
        recipe.name,
        recipe.identity if recipe.locked else digest(packages),
        interpreter.version,
        made_by,
        round(time.monotonic() - start, 1),
        packages,
    )
    said = {key: value for key, value in asdict(environment).items() if key != "folder"}
    atomic.write_text(folder / MARKER, json.dumps(said, indent=1) + "\n", sync=True)
    say(f"{recipe.name}: ready after {environment.seconds:.0f} s, {len(packages)} packages by {made_by}")
    return environment


def _filled(folder: Path, recipe: Recipe, interpreter: Interpreter, file: Path, say: Progress, lock: int) -> str:
    """Make and fill the environment; returns by what. Raises ParityError."""
    if interpreters.uv() and not recipe.over:  # uv does not see what a .pth file adds
        try:
            _by_uv(folder, recipe, interpreter, file, say, lock)
        except ParityError as error:
            say(f"{error}; trying venv and pip")
            shutil.rmtree(folder, ignore_errors=True)
        else:
            return "uv"
    _by_pip(folder, recipe, interpreter, file, say, lock)
    return "pip"


def _by_uv(folder: Path, recipe: Recipe, interpreter: Interpreter, file: Path, say: Progress, lock: int) -> None:
    uv = interpreters.uv()
    env = dict(os.environ)
    for theirs, ours in _FOR_UV.items():  # whoever told pip where packages are meant it
        if env.get(theirs) and not env.get(ours):
            env[ours] = env[theirs] if ours != "UV_FIND_LINKS" else ",".join(env[theirs].split())
    _run([*uv, "venv", "--quiet", "--python", interpreter.path, str(folder)], recipe.name, say, lock, env)
    command = [*uv, "pip", "install", "--python", str(_python(folder)), *_locked(recipe), "-r", str(file)]
    if recipe.index:
        env["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # the lock's hashes say which file it is
    _with_index(command, "--extra-index-url", recipe, say, lock, env)


_FOR_UV = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
    "PIP_NO_INDEX": "UV_NO_INDEX",
}


def _by_pip(folder: Path, recipe: Recipe, interpreter: Interpreter, file: Path, say: Progress, lock: int) -> None:
    _run([interpreter.path, "-m", "venv", str(folder)], recipe.name, say, lock)
    if recipe.over:
        _lay_over(folder, recipe, interpreter)
    command = [str(_python(folder)), "-m", "pip", "install", "--progress-bar", "off", *_locked(recipe), "-r", str(file)]
    _with_index(command, "--extra-index-url", recipe, say, lock)


def _lay_over(folder: Path, recipe: Recipe, interpreter: Interpreter) -> None:
    """Have a fresh environment see the packages and scripts of the one below, behind its own.

    pip takes those packages for installed, so that it installs what differs, and never touches what is outside.
    """
    lines = "".join(f"import site; site.addsitedir({below!r})\n" for below in recipe.over)
    for site in folder.glob("lib/python*/site-packages"):
        (site / "below.pth").write_text(lines, encoding="utf-8")
    scripts = _python(folder).parent
    for script in Path(interpreter.path).parent.iterdir():
        if not script.name.startswith(("python", "pip", "activate")) and not (scripts / script.name).exists():
            (scripts / script.name).symlink_to(script)


def _locked(recipe: Recipe) -> list[str]:
    """A lock names all that there is to install: nothing is resolved."""
    return ["--require-hashes", "--no-deps"] if recipe.locked else []


def _with_index(
    command: list[str], option: str, recipe: Recipe, say: Progress, lock: int, env: Mapping[str, str] | None = None
) -> None:
    """Run an installer; where it fails, once more with the index of the recipe, which need not be reachable."""
    try:
        _run(command, recipe.name, say, lock, env)
    except ParityError as error:
        if not recipe.index:
            raise
        say(f"{error}; trying with {recipe.index}")
        try:
            _run([*command, option, recipe.index], recipe.name, say, lock, env)
        except ParityError:
            raise error from None  # what the user's own indexes said


def _run(command: Sequence[str], name: str, say: Progress, lock: int, env: Mapping[str, str] | None = None) -> None:
    """Run a command that holds the lock as long as it lives. Raises ParityError with its last telling line."""
    lines: list[str] = []
    # PYTHONPATH would show pip the packages of another environment, as installed already.
    kept = {key: value for key, value in (env or os.environ).items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        pass_fds=[lock], env=kept,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if _TELLING.match(line.strip()):
                    say(f"{name}: {line.strip()[:200]}")
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        why = f"{name}: {_last_telling(lines) or f'{command[0]} ended with code {process.returncode}'}"
        raise _OtherPythonError(why) if any(map(_PYTHON.search, lines)) else ParityError(why)


def _last_telling(lines: Sequence[str]) -> str:
    """The line of an installer's output that says what went wrong: uv's cause, pip's last error, or the last line."""
    said = [line for line in lines if line.strip()]
    for start in ("cause:", "ERROR:", "error:", "Error:"):
        # pip ends with "ERROR: No matching distribution found for X"; uv explains its first line by causes below it.
        telling = [line.strip() for line in said if line.strip().startswith(start)]
        if telling:
            chosen = telling[0] if start == "cause:" else telling[-1]
            return chosen.removeprefix(start).strip()[:400]
    return said[-1].strip()[:400] if said else ""


def digest(packages: Mapping[str, str]) -> str:
    """The hash of the names and versions in an environment that no lock describes: 64 hexadecimal digits."""
    return key_of(dict(packages))
