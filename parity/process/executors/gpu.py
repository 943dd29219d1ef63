"""The executor `gpu`: LiteRT's GPU accelerator and ncnn's Vulkan kernels, on the Vulkan driver that is there.

A machine without a GPU has one in software: Mesa's llvmpipe, or SwiftShader, which Chromium brings. LiteRT's
accelerator is in its wheels from 2.3 on. Where this environment has an older one, `parity tools install gpu` makes an
environment of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from parity.core.errors import ParityError
from parity.process.executors.vulkan_probe import VulkanDevice, VulkanRequest
from parity.process.isolate import Budget, Child, ChildFailure
from parity.process.toolchains import environments
from parity.process.toolchains.definitions import PYTHONS, Recipe
from parity.process.toolchains.environments import Environment, Progress
from parity.store.cache import default_root

INSTALL = "parity tools install gpu"
LITERT = "ai-edge-litert"
FIRST_ACCELERATED = (2, 3)  # the first version of LiteRT whose wheels hold the accelerator
_TEXT = "ai-edge-litert==2.3.0\nnumpy\npsutil\n"
_PROBE_SECONDS = 60.0

LOADERS = ("libvulkan.so.1", "/usr/lib/chromium/libvulkan.so.1")
DRIVER_FOLDERS = ("/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")
SWIFTSHADER = ("/usr/lib/chromium/vk_swiftshader_icd.json", "/usr/lib/chromium-browser/vk_swiftshader_icd.json")
CHOOSING = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")  # the environment variables by which somebody chooses a driver
NO_DRIVER = (
    "no Vulkan driver is here: install mesa-vulkan-drivers and libvulkan1, or chromium for SwiftShader, or name a "
    "driver in VK_DRIVER_FILES"
)


@dataclass(frozen=True)
class Driver:
    """The Vulkan device that files are executed on: its loader, its driver, and the variables that choose it."""

    loader: str
    device: VulkanDevice
    environment: tuple[tuple[str, str], ...]

    @property
    def words(self) -> str:
        """Device and driver for the record."""
        return f"{self.device.name}, {self.device.driver}" + (", software" if self.device.is_software else "")


def driver() -> Driver | None:
    """The driver that is used here: one that VK_DRIVER_FILES names, else the system's first, else SwiftShader."""
    return _driver(tuple(os.environ.get(name, "") for name in CHOOSING))


@lru_cache
def _driver(_: tuple[str, ...]) -> Driver | None:
    for chosen in _choices():
        for loader in LOADERS:
            devices = _devices(VulkanRequest(loader, chosen))
            if devices:
                best = min(devices, key=lambda device: device.is_software)  # a real one before software
                return Driver(loader, best, tuple({**chosen, **_caches()}.items()))
    return None


def _choices() -> Iterator[dict[str, str]]:
    """Variables that name drivers, the first that gives a device is used."""
    if any(os.environ.get(name) for name in CHOOSING):
        yield {}
        return
    if any(any(Path(folder).glob("*.json")) for folder in DRIVER_FOLDERS):
        yield {}
    for file in SWIFTSHADER:
        if Path(file).is_file():
            yield {"VK_DRIVER_FILES": file, "VK_ICD_FILENAMES": file}


def shader_cache() -> Path:
    """The folder in which Mesa keeps compiled shaders between runs."""
    return default_root() / "shaders"


def _caches() -> dict[str, str]:
    return {"MESA_SHADER_CACHE_DIR": str(shader_cache())}


def _devices(request: VulkanRequest) -> list[VulkanDevice]:
    """The devices, asked for in a child: a driver is native code. None where there is no Vulkan."""
    child = Child("vulkan")
    try:
        function = "parity.process.executors.vulkan_probe:devices"
        return child.call(function, request, list[VulkanDevice], budget=Budget(_PROBE_SECONDS))
    except ChildFailure:
        return []
    finally:
        child.close()


def _recipe() -> Recipe:
    return Recipe("gpu", _TEXT, False, PYTHONS, source="LiteRT with its GPU accelerator")


def has_accelerator() -> bool:
    """Whether this environment's own LiteRT has the accelerator."""
    try:
        version = metadata.version(LITERT)
    except metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in version.split(".")[:2]) >= FIRST_ACCELERATED


def environment() -> Environment | None:
    """The environment that was made for the accelerator; None where there is none."""
    return environments.find(_recipe())


def install(say: Progress) -> Environment | None:
    """The environment of the accelerator, made unless this one has it. Raises ParityError."""
    if driver() is None:
        say(f"gpu: {NO_DRIVER}")
    if has_accelerator():
        return None
    return environments.install(_recipe(), say)


def remove() -> list[Path]:
    """Delete the environment. Returns what was deleted."""
    return environments.remove("gpu")


def unavailable(package: str) -> str:
    """Why files of a runtime cannot be executed on a GPU here, with what would change that; "" where they can."""
    if package == LITERT and not has_accelerator() and environment() is None:
        return f"LiteRT's GPU accelerator is in its wheels from 2.3 on: {INSTALL}"
    return "" if driver() is not None else NO_DRIVER


def described() -> str:
    """The state of the executor in words."""
    found = driver()
    if found is None:
        return f"no: {NO_DRIVER}"
    why = unavailable(LITERT)
    return f"{found.words}" + (f"; for TFLite no: {why}" if why else "")


def required(package: str) -> Driver:
    """The driver for files of a runtime. Raises ParityError where there is none."""
    why, found = unavailable(package), driver()
    if why or found is None:
        raise ParityError(why or NO_DRIVER)
    return found
