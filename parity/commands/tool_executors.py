"""What `parity tools` and `parity doctor` say and do of executors beside the host."""

from __future__ import annotations

from collections.abc import Iterator

from parity.core.executors import ARM64, GPU, family_of
from parity.core.settings import Config
from parity.core.words import size
from parity.process.executors import arm64, gpu
from parity.process.toolchains import environments
from parity.process.toolchains.environments import Progress
from parity.session import engines

NAMES = (ARM64, GPU)
WIDTH = 12
_PURPOSE = {
    ARM64: "the runtimes' kernels for 64-bit Arm, on an emulated core",
    GPU: "LiteRT's GPU accelerator and ncnn's Vulkan kernels, on the Vulkan driver that is here",
}


def lines(name: str) -> Iterator[str]:
    """The state of an executor on this machine, and what it is for."""
    yield f"{name:<{WIDTH}} {_arm64() if name == ARM64 else gpu.described()}"
    yield f"{'':<{WIDTH}}   {_PURPOSE[name]}"


def _arm64() -> str:
    if arm64.is_native():
        return "this machine is one: nothing is emulated"
    installed = arm64.find()
    if installed is None:
        return f"no: {arm64.INSTALL}"
    space = size(environments.size(installed.folder))
    held = ", ".join(f"{name} {version}" for name, version in installed.packages.items())
    return (
        f"installed: {held}, {space}, Python {installed.python}, by {installed.emulator} "
        f"({', '.join(installed.cores)}) in {installed.seconds:.0f} s: {installed.folder}"
    )


def needed(config: Config | None) -> tuple[str, ...]:
    """The executors that the project's cells name, that are not here and that can be installed."""
    models = config.models.values() if config else ()
    named = {family_of(executor) for model in models for each in model.executors.values() for executor in each}
    lacks_arm64 = ARM64 in named and not arm64.is_native() and arm64.find() is None
    lacks_gpu = GPU in named and gpu.INSTALL in gpu.unavailable(gpu.LITERT)
    return (*((ARM64,) if lacks_arm64 else ()), *((GPU,) if lacks_gpu else ()))


def install(name: str, say: Progress) -> None:
    """Make the executor. Raises ParityError."""
    place = arm64.install(say) if name == ARM64 else gpu.install(say)
    engines.forget()
    print(f"{name}: {place.folder if place else 'this environment has it'}")


def remove(name: str) -> None:
    """Delete the executor."""
    gone = arm64.remove() if name == ARM64 else gpu.remove()
    engines.forget()
    for folder in gone:
        print(f"{name}: deleted {folder}")
    if not gone:
        print(f"{name}: nothing of it is here")
