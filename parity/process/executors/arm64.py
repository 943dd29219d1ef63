"""The executor `arm64`: the runtimes' kernels for 64-bit Arm.

On an Arm machine they are the host's own. Elsewhere they run from a folder of the user's cache that holds an Arm Python
with the Arm wheels of the host's runtimes, through qemu's user-mode emulator with a named core. `parity tools install
arm64` makes the folder from the packages of Debian or Ubuntu, without root: nothing is installed outside it, the
emulator included. It is whole when `executor.json` is there, and is moved to its place as a whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from parity.core import strict_json
from parity.core.errors import ParityError
from parity.core.executors import CORES, DEFAULT_CORE
from parity.process.executors.arm_probe import Probed
from parity.process.isolate import Budget, Child, ChildFailure
from parity.process.toolchains.environments import Progress, held
from parity.store import atomic
from parity.store.cache import default_root, key_of

INSTALL = "parity tools install arm64"
MARKER = "executor.json"
RUNTIMES = ("onnxruntime", "ai-edge-litert", "ncnn")
BESIDE = ("flatbuffers", "protobuf", "psutil")  # what the runtimes and parity's own code in a child import
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_26", "manylinux_2_27", "manylinux_2_28",
             "manylinux_2_31", "manylinux_2_34")  # fmt: skip
PACKAGES = ("python3", "libpython3-stdlib", "libgomp1", "libstdc++6", "zlib1g")  # of Debian, with what they depend on
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
PROBE_SECONDS = 300.0


@dataclass(frozen=True)
class Installed:
    """The folder of the emulated executor: versions by distribution, and the emulator."""

    folder: Path
    emulator: str  # its version in words, as in "qemu-user 7.2.22"
    python: str  # "3.11"
    packages: Mapping[str, str]
    cores: tuple[str, ...]
    seconds: float

    def interpreter(self, core: str) -> str:
        """The path of the Python that runs on an emulated core."""
        return str(self.folder / "bin" / f"python-{core}")


def is_native() -> bool:
    """Whether this machine is a 64-bit Arm one, so that the host's own runtimes are the executor."""
    return platform.machine().lower() in ("aarch64", "arm64")


def home() -> Path:
    """The folder that holds the executors' folders."""
    return default_root() / "executors"


def find() -> Installed | None:
    """The folder that was made for the versions that the host has now; None where there is none."""
    return _read(home() / f"arm64-{_identity()}")


def unavailable(core: str, runtime: str) -> str:
    """Why files of a runtime cannot be executed on that core here, with the command that adds it; "" where they can."""
    if is_native():
        return "" if core == DEFAULT_CORE else f"this machine is its own Arm core: arm64 alone runs, not {core}"
    installed = find()
    if installed is None:
        return f"executor arm64 is not installed for this environment's runtimes: {INSTALL}"
    if runtime not in installed.packages:
        return f"executor arm64 has no {runtime}: no Arm wheel of its version was there when it was installed"
    if core not in installed.cores:
        return f"{installed.emulator} has no {core}: it has {', '.join(installed.cores)}"
    wrong = probed(core, installed)
    return f"{installed.emulator} computes {core} wrong: {'; '.join(wrong)}"[:300] if wrong else ""


@lru_cache
def _probed(core: str, folder: Path) -> tuple[str, ...]:
    installed = _read(folder)
    assert installed is not None
    file = folder / f"probe-{core}.json"
    with contextlib.suppress(OSError, ValueError):
        return tuple(strict_json.loads(file.read_text(encoding="utf-8"))["wrong"])
    wrong, tried = _try(installed, core)
    if tried:
        with contextlib.suppress(OSError):
            atomic.write_text(file, json.dumps({"wrong": wrong, "tried": tried}, indent=1) + "\n")
    return wrong


def probed(core: str, installed: Installed) -> tuple[str, ...]:
    """What the emulator computes wrong on that core. It is tried once, and the answer kept beside the emulator."""
    return _probed(core, installed.folder)


def _try(installed: Installed, core: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is wrong, and what was tried; nothing was where the emulator did not answer."""
    child = Child("probe", installed.interpreter(core))
    try:
        probe = child.call("parity.process.executors.arm_probe:probe", None, Probed, budget=Budget(PROBE_SECONDS))
    except ChildFailure as failure:
        return (f"the probe ended with {failure.state}: {failure.reason}",), ()
    finally:
        child.close()
    if probe.machine != "aarch64":
        return (f"the machine calls itself {probe.machine}",), probe.tried
    return probe.wrong, probe.tried


def _identity() -> str:
    """What the folder depends on, as 16 hexadecimal digits: versions of the runtimes, and how a folder is made."""
    return key_of({"packages": dict(wanted()), "recipe": 1})[:16]


def wanted() -> tuple[tuple[str, str], ...]:
    """The distributions of the host that the folder repeats, with their versions."""
    pairs = ((name, _version(name)) for name in ("numpy", *RUNTIMES))
    return tuple((name, version) for name, version in pairs if version)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _read(folder: Path) -> Installed | None:
    try:
        noted = strict_json.loads((folder / MARKER).read_text(encoding="utf-8"))
        noted["cores"] = tuple(noted["cores"])
        return Installed(folder, **noted)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def install(say: Progress) -> Installed:
    """The folder, made now unless it is there. Raises ParityError with one line; then nothing is left of it."""
    if is_native():
        raise ParityError("arm64: this machine is one: the host's own runtimes are the executor, nothing is installed")
    folder = home() / f"arm64-{_identity()}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(folder, "arm64", say) as lock:
        there = _read(folder)
        if there is not None:
            return there
        work = Path(tempfile.mkdtemp(prefix=".making-arm64-", dir=folder.parent))
        try:
            noted = _Maker(work, say, lock).make()
            atomic.write_text(work / MARKER, json.dumps(noted, indent=1) + "\n", sync=True)
            work.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)
            work.replace(folder)
        except OSError as error:
            raise ParityError(f"arm64: {error.filename or folder}: {error.strerror or error}") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)
    installed = _read(folder)
    assert installed is not None
    for core in (DEFAULT_CORE, CORES[0]):
        if core in installed.cores:
            wrong = probed(core, installed)
            say(f"arm64: {core}: " + (f"wrong: {'; '.join(wrong)}" if wrong else "every product of the probe is exact"))
    return installed


def remove() -> list[Path]:
    """Delete every folder of the executor. Returns what was deleted."""
    gone = []
    for folder in sorted(home().glob("arm64-*")):
        with held(folder, "arm64", lambda line: None):
            (folder / MARKER).unlink(missing_ok=True)
            shutil.rmtree(folder)
        gone.append(folder)
    _probed.cache_clear()
    return gone


class _Maker:
    """Makes the folder in `work`: an Arm Python, the wheels, the emulator, a launcher for each core."""

    def __init__(self, work: Path, say: Progress, lock: int):
        self.work, self.say, self.lock = work, say, lock
        self.root, self.site, self.scratch = work / "root", work / "site", work / "scratch"
        for folder in (self.root, self.site, self.scratch, work / "bin"):
            folder.mkdir()

    def make(self) -> dict[str, object]:
        """What the marker says of the folder. Raises ParityError and OSError."""
        start = time.monotonic()
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise ParityError(
                    f"arm64: {tool} is not here, and the folder is made from packages of Debian or Ubuntu: "
                    "run it in a container of those, or on an Arm machine"
                )
        self.say("arm64: the emulator")
        emulator = self._emulator()
        self.say("arm64: an Arm Python, from the packages of this distribution")
        python = self._python()
        packages = self._wheels(python)
        shutil.rmtree(self.scratch)
        cores = self._cores(emulator)
        for core in cores:
            self._launcher(core, python)
        version = _output([str(emulator), "--version"]).split()[2]
        seconds = round(time.monotonic() - start, 1)
        self.say(f"arm64: made in {seconds:.0f} s: qemu {version}, Python {python}, {', '.join(packages)}")
        return {
            "emulator": f"qemu-user {version}",
            "python": python,
            "packages": packages,
            "cores": cores,
            "seconds": seconds,
        }

    def _emulator(self) -> Path:
        """qemu's user-mode emulator: the machine's own, else the distribution's, unpacked into the folder."""
        for name in EMULATORS:
            if found := shutil.which(name):
                (self.work / "bin" / "qemu").symlink_to(found)
                return Path(found)
        unpacked = self.scratch / "emulator"
        for package in ("qemu-user-static", "qemu-user"):  # the latter holds the static one since Debian 13
            with contextlib.suppress(ParityError):
                self._run(["apt-get", "download", package], self.scratch)
                self._unpack(f"{package}_*.deb", unpacked)
            for name in EMULATORS:
                if (unpacked / "usr" / "bin" / name).is_file():
                    place = self.work / "bin" / "qemu"
                    shutil.copy2((unpacked / "usr" / "bin" / name).resolve(), place)
                    return place
        raise ParityError("arm64: no qemu-aarch64 on PATH, and apt-get has none: install qemu-user")

    def _python(self) -> str:
        """Unpack the distribution's Python for Arm; returns its minor version. apt works with lists, state and cache of
        its own, so that the machine's architectures and packages stay as they are."""
        apt = self.scratch / "apt"
        for folder in ("lists/partial", "cache/archives/partial", "etc/preferences.d"):
            (apt / folder).mkdir(parents=True)
        (apt / "status").touch()
        options = [
            "-oAPT::Architecture=arm64", "-oAPT::Architectures=arm64", f"-oDir::State={apt}",
            f"-oDir::State::Lists={apt}/lists", f"-oDir::State::status={apt}/status", f"-oDir::Cache={apt}/cache",
            "-oAPT::Sandbox::User=", "-oDebug::NoLocking=1", "-oAPT::Install-Recommends=0",
            "-oAcquire::Languages=none",
        ]  # fmt: skip
        options += _sources(apt)
        self._run(["apt-get", *options, "-qq", "update"], apt)
        self._run(["apt-get", *options, "-qq", "-y", "--download-only", "install", *PACKAGES], apt)
        self._unpack("apt/cache/archives/*.deb", self.root)
        found = sorted(path.name for path in (self.root / "usr" / "bin").glob("python3.*") if path.name[8:].isdigit())
        if not found:
            raise ParityError("arm64: the distribution's packages for Arm hold no Python")
        return found[-1].removeprefix("python")

    def _unpack(self, pattern: str, into: Path) -> None:
        into.mkdir(parents=True, exist_ok=True)
        for package in sorted(self.scratch.glob(pattern)):
            self._run(["dpkg-deb", "-x", str(package), str(into)], self.scratch)

    def _wheels(self, python: str) -> dict[str, str]:
        """The Arm wheels of the host's runtimes into the folder; versions by name. One that has no such wheel is left
        out; NumPy, which is no runtime, may be another version."""
        packages = {}
        for name, version in wanted():
            self.say(f"arm64: {name} {version}")
            try:
                self._pip(python, f"{name}=={version}")
            except ParityError as error:
                self.say(f"arm64: {error}")
                if name != "numpy":
                    continue
                self._pip(python, name)
            packages[name] = version
        for name in BESIDE:
            self._pip(python, f"{name}=={_version(name)}" if name == "protobuf" and _version(name) else name)
        return packages

    def _pip(self, python: str, requirement: str) -> None:
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--no-compile",
            "--disable-pip-version-check", "--target", str(self.site), "--implementation", "cp", "--python-version",
            python, *(word for name in PLATFORMS for word in ("--platform", f"{name}_aarch64")), requirement,
        ]  # fmt: skip
        self._run(command, self.scratch)

    def _cores(self, emulator: Path) -> list[str]:
        offered = _output([str(emulator), "-cpu", "help"]).split()
        return [core for core in CORES if core in offered]

    def _launcher(self, core: str, python: str) -> None:
        """A script that is the Python on that core. With `-0`, `sys.executable` is the script itself, so that what it
        starts runs under the emulator too. A child that has to be confined is confined before the emulator starts:
        the kernel hears no such call through it."""
        script = f"""#!/bin/sh
here=$(cd "$(dirname "$0")/.." && pwd)
export QEMU_LD_PREFIX="$here/root" PYTHONHOME="$here/root/usr"
export PYTHONPATH="$here/site${{PYTHONPATH:+:$PYTHONPATH}}" LD_LIBRARY_PATH=
set -- "$here/bin/qemu" -cpu {core} -0 "$here/bin/python-{core}" "$here/root/usr/bin/python{python}" "$@"
if [ -n "${{PARITY_WRITABLE:-}}" ] && [ -n "${{PARITY_CONFINER:-}}" ]; then
  exec env -u PYTHONHOME PARITY_PYTHONHOME="$PYTHONHOME" "$PARITY_CONFINER" -I -c '
import os, sys
sys.path.insert(0, os.environ["PARITY_CONFINER_PATH"])
from pathlib import Path
from parity.process import sandbox
sandbox.confine(map(Path, os.environ["PARITY_WRITABLE"].split(os.pathsep)))
os.environ["PYTHONHOME"] = os.environ.pop("PARITY_PYTHONHOME")
os.execv(sys.argv[1], sys.argv[1:])
' "$@"
fi
exec "$@"
"""
        file = self.work / "bin" / f"python-{core}"
        file.write_text(script, encoding="utf-8")
        file.chmod(0o755)

    def _run(self, command: Sequence[str], folder: Path) -> None:
        """Run a command that holds the lock as long as it lives. Raises ParityError with its last line."""
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        done = subprocess.run(
            command, cwd=folder, env=kept, text=True, errors="replace", stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, pass_fds=[self.lock], check=False,
        )  # fmt: skip
        if done.returncode != 0:
            lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
            telling = [line for line in lines if line.startswith(("E:", "ERROR:"))] or lines
            raise ParityError(f"arm64: {(telling or [f'{command[0]} ended with code {done.returncode}'])[-1]}"[:400])


def _sources(apt: Path) -> list[str]:
    """apt's options for where Arm packages are: Debian's archives hold every architecture, Ubuntu has another host."""
    release = platform.freedesktop_os_release()
    if release.get("ID") != "ubuntu":
        return []
    name = release["VERSION_CODENAME"]
    lines = [f"deb http://ports.ubuntu.com/ubuntu-ports {name}{part} main universe"
             for part in ("", "-updates", "-security")]  # fmt: skip
    atomic.write_text(apt / "sources.list", "\n".join(lines) + "\n")
    return [f"-oDir::Etc::sourcelist={apt}/sources.list", "-oDir::Etc::sourceparts=-"]


def _output(command: Sequence[str]) -> str:
    """What a command prints. Raises ParityError where it cannot be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ParityError(f"arm64: {command[0]}: {error}") from None
