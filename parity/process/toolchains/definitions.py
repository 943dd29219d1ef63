"""The toolchains that this package brings, and what `[tool.parity.toolchains.NAME]` makes of them."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parity.core.errors import ConfigError, ParityError
from parity.core.plan import did_you_mean
from parity.core.settings import ToolchainConfig

_HERE = Path(__file__).parent
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
PYTHONS = ("3.13", "3.12", "3.11", "3.10")
"""Python versions that an environment is tried with where nothing else says one, the first that is found."""
_BESIDE_TORCH = ("numpy", "psutil", "safetensors", "pillow")  # what reads a model and its data
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Definition:
    """A toolchain by name.

    `pythons` are the Python versions that the lock is for, the best first. An environment whose distributions satisfy
    all of `requires` is as good as the locked one; any of several requirements with `|` between them does. `platforms`
    are those that the lock holds files for. `index` is a package index that pip and uv do not ask by themselves.
    `carried` is what parity's own code in a child of it needs, for environments that somebody else's `packages` make
    up. `distribution` is the one whose version NAME==VERSION means, where it has another name.
    """

    name: str
    purpose: str
    pythons: tuple[str, ...]
    requires: tuple[str, ...]
    platforms: tuple[str, ...] = ("linux-x86_64",)
    index: str = ""
    carried: tuple[str, ...] = ("numpy",)
    distribution: str = ""


BUILT_IN: Mapping[str, Definition] = {
    definition.name: definition
    for definition in (
        Definition(
            "onnx2tf",
            "ONNX to TFLite, by TensorFlow",
            pythons=("3.11",),
            requires=("onnx2tf>=1.28,<2", "tensorflow>=2.19 | tensorflow-cpu>=2.19", "onnxsim"),
            platforms=("linux-x86_64", "linux-aarch64", "darwin-arm64"),
            carried=("numpy", "psutil", "onnxsim"),
        ),
        Definition(
            "litert",
            "PyTorch to TFLite, by litert-torch and ai-edge-quantizer",
            pythons=("3.11", "3.12", "3.13", "3.10"),
            requires=("litert-torch>=0.9", "ai-edge-quantizer>=0.9", "torch>=2.6"),
            distribution="litert-torch",
            index=TORCH_INDEX,
            carried=_BESIDE_TORCH,
        ),
        Definition(
            "coremltools",
            "PyTorch to Core ML",
            pythons=("3.11", "3.12", "3.13", "3.10"),
            requires=("coremltools>=9.0", "torch>=2.6"),
            index=TORCH_INDEX,
            carried=_BESIDE_TORCH,
        ),
        Definition(
            "pnnx",
            "TorchScript to NCNN",
            pythons=PYTHONS,
            requires=("pnnx",),
            platforms=("linux-x86_64", "linux-aarch64", "darwin-arm64", "darwin-x86_64"),
        ),
        Definition(
            "coreai",
            "PyTorch to Core AI, and its runtime",
            pythons=("3.11", "3.12", "3.13"),
            requires=("coreai-torch>=0.4", "coreai-core", "torch>=2.6"),
            distribution="coreai-torch",
            index=TORCH_INDEX,
            carried=_BESIDE_TORCH,
        ),
    )
}


@dataclass(frozen=True)
class Recipe:
    """What an environment is made of: a lock (`locked`), or requirements that are resolved when it is made.

    `identity` is the hash of that text, `pythons` the versions it may be made with, or the path of one interpreter.
    With `over`, folders of installed distributions, the environment sees those, and holds only what they lack.
    """

    name: str
    text: str
    locked: bool
    pythons: tuple[str, ...]
    index: str = ""
    source: str = ""
    over: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def definition(name: str) -> Definition:
    """The built-in toolchain of that name. Raises ParityError with a did-you-mean."""
    if name not in BUILT_IN:
        raise ParityError(f"no toolchain {name!r}{did_you_mean(name, BUILT_IN)}; there are: {', '.join(BUILT_IN)}")
    return BUILT_IN[name]


def versioned(text: str) -> tuple[str, ToolchainConfig | None]:
    """The toolchain of "NAME" or "NAME==VERSION", and the setting that asks for that version of its converter.

    Raises ParityError.
    """
    name, equal, version = text.partition("==")
    built_in = definition(name)
    if not equal:
        return name, None
    if not re.fullmatch(r"\d[\w.+!-]*", version):
        raise ParityError(f"{text!r}: {version!r} is no version: write it as in onnx2tf==1.29.20")
    packages = [f"{built_in.distribution or name}=={version}"]
    return name, ToolchainConfig(packages=tuple(packages))


def asked_as(name: str, setting: ToolchainConfig | None) -> str:
    """How `versioned` is told of this toolchain; its name, where the project's own setting says the rest."""
    if setting is None or setting.python or len(setting.packages) != 1 or name not in BUILT_IN:
        return name
    distribution, equal, version = setting.packages[0].partition("==")
    is_version = equal and distribution == (BUILT_IN[name].distribution or name)
    return f"{name}=={version}" if is_version else name


def recipe(name: str, setting: ToolchainConfig | None) -> Recipe:
    """What the environment of a toolchain is made of, under its setting. Raises ConfigError or ParityError."""
    if not _NAME.match(name):
        raise ConfigError(f"toolchain {name!r}: use lower-case letters, digits and underscores")
    built_in = BUILT_IN.get(name)
    setting = setting or ToolchainConfig()
    pythons = built_in.pythons if built_in else PYTHONS
    if setting.packages:  # a version other than the lock's may want another Python
        pythons = tuple(dict.fromkeys((*pythons, *PYTHONS)))
    if setting.python:
        pythons = (setting.python,)
    index = built_in.index if built_in else ""
    if setting.lock is not None:
        return Recipe(name, _read(name, setting.lock), True, pythons, index, str(setting.lock))
    if setting.packages:
        carried = built_in.carried if built_in else ("numpy",)
        text = "\n".join((*setting.packages, *carried)) + "\n"
        return Recipe(name, text, False, pythons, index, ", ".join(setting.packages))
    file = _HERE / f"{definition(name).name}.txt"
    return Recipe(name, _read(name, file), True, pythons, index, f"its lock {file.name}")


def off_platform(name: str, setting: ToolchainConfig | None) -> str:
    """Why the built-in lock is of no use on this machine; "" where it is, or where a setting says another."""
    if name not in BUILT_IN or (setting and (setting.lock or setting.packages)):
        return ""
    here, known = f"{sys.platform}-{platform.machine()}", BUILT_IN[name].platforms
    if here in known:
        return ""
    return f"its lock is for {', '.join(known)}, this is {here}: set packages in [tool.parity.toolchains.{name}]"


def _read(name: str, file: Path) -> str:
    """The text of a lock. Raises ConfigError where it cannot be read, or where a line pins no hash."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"toolchain {name}: lock {file} cannot be read: {why}") from None
    entries = [entry.strip() for entry in text.replace("\\\n", " ").splitlines()]
    entries = [entry for entry in entries if entry and not entry.startswith("#")]
    for entry in entries:
        if "--hash=sha256:" not in entry:
            raise ConfigError(
                f"toolchain {name}: lock {file}: {entry.split(';')[0].strip()!r:.60} has no hash: "
                "write it with uv pip compile --generate-hashes, or use packages instead"
            )
    if not entries:
        raise ConfigError(f"toolchain {name}: lock {file} names no package")
    return text
