"""What an executor is on this machine: the interpreter and the session that open a file, and what the record says.

The host is none of them. Each is looked for once in a process.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from parity import formats as targets
from parity.core.executors import ARM64, core_of, family_of
from parity.formats.elsewhere import EXECUTED_BY
from parity.formats.target import Target, version
from parity.process.executors import arm64, gpu
from parity.store.cache import default_root

SESSION = "parity.formats.elsewhere:Elsewhere"


@dataclass(frozen=True)
class Engine:
    """An executor for the files of one target. `unavailable` says why there is none here, and what would add it.

    `identity` is all that the bits of its outputs depend on beside the file, the inputs and our own code.
    """

    executor: str
    python: str = sys.executable
    session: str = ""  # the part that opens files
    package: str = ""  # the distribution that executes them
    options: Mapping[str, Any] = field(default_factory=dict)  # added to the artefact's notes
    environment: Mapping[str, str] = field(default_factory=dict)
    native: bool = False
    emulator: str = ""
    driver: str = ""
    writable: tuple[Path, ...] = ()  # folders that its child process may write to
    identity: Mapping[str, Any] = field(default_factory=dict)
    unavailable: str = ""

    @property
    def family(self) -> str:
        """The name of its child process."""
        return f"{self.executor} {self.package}"

    @property
    def is_software(self) -> bool:
        """Whether it is deterministic software, whose outputs may be kept by content."""
        return bool(self.identity)

    @property
    def notes(self) -> dict[str, Any]:
        """What the artefact's notes need so that `SESSION` opens it."""
        how = {
            "session": self.session,
            "package": self.package,
            "options": dict(self.options),
            "environment": dict(self.environment),
        }
        return {EXECUTED_BY: how}


def engine(executor: str, target: str) -> Engine:
    """The executor of that full name for files of a target, found once in a process."""
    return _engine(executor, target, default_root())


def forget() -> None:
    """Have executors looked for again, after one was made or removed."""
    _engine.cache_clear()


@lru_cache
def _engine(executor: str, target_name: str, _: Path) -> Engine:
    target = targets.get(target_name)
    if family_of(executor) == ARM64:
        return _arm64(executor, target)
    return _gpu(executor, target)


def _gpu(executor: str, target: Target) -> Engine:
    package = target.runtime_package
    why = gpu.unavailable(package)
    if why:
        return Engine(executor, unavailable=why)
    driver = gpu.required(package)
    of_its_own = gpu.environment() if package == gpu.LITERT and not gpu.has_accelerator() else None
    versions = of_its_own.packages if of_its_own else {package: version(package)}
    is_software = driver.device.is_software
    return Engine(
        executor,
        python=of_its_own.python if of_its_own else sys.executable,
        session=target.on_gpu,
        package=package,
        options={"vulkan": driver.loader, "gpu_fp32": executor == "gpu:fp32"},
        environment=dict(driver.environment),
        writable=(gpu.shader_cache(),),
        native=not is_software,
        driver=driver.words,
        identity={"driver": driver.words, "package": versions.get(package, "")} if is_software else {},
    )


def _arm64(executor: str, target: Target) -> Engine:
    core, package = core_of(executor), target.runtime_package
    why = arm64.unavailable(core, package)
    if why:
        return Engine(executor, unavailable=why)
    if arm64.is_native():
        return Engine(executor, session=target.session, package=package, native=True)
    installed = arm64.find()
    assert installed is not None
    return Engine(
        executor,
        python=installed.interpreter(core),
        session=target.session,
        package=package,
        emulator=f"{installed.emulator}, {core}",
        identity={
            "emulator": installed.emulator,
            "core": core,
            "package": version(package),
            "numpy": installed.packages["numpy"],
            "python": installed.python,
        },
    )
