"""What a target has to say: by which chains of steps a cell is exported, what runs the result, and what reads it.

A step is one call in a child process that turns the model, or what the step before it made, into files. Each step is
content-addressed by itself, so cells share what they have in common. This module imports no converter and no runtime.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, ClassVar, Protocol

import numpy as np

from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.settings import REFERENCE_KINDS, Config, ModelConfig

Array = np.ndarray[Any, np.dtype[Any]]


NO_CALIBRATION = 'int8 needs calibration data: set calibration = "folder" for this model'
"""A setting that is missing, not something that this machine lacks: such a cell blocks wherever it is planned."""


def narrowed(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs for files of Apple's, which have no int64: such integers as int32."""
    return {name: v.astype(np.int32) if v.dtype == np.int64 else v for name, v in inputs.items()}


THREADS = 4  # of a run as an app has it; measurements have one, so that workers do not fight for cores


@dataclass(frozen=True)
class Step:
    """One converter call. `function` is `module:name`, run in the warm child `family` as

        function(work=folder to fill, after=folder of the step before or None, options=..., model=..., contract=...,
                 example=arrays by input name, calibration=list of such or None) -> notes

    The notes of a route's last step are the artefact's: `entry` (the file to open), `inputs` and `outputs` (contract
    name -> {"name": name in the artefact, "layout": "NHWC" where it differs}), and what the target wants to remember.
    """

    name: str
    family: str
    function: str
    packages: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    calibration: bool = False
    stage: str = "convert"
    toolchain: str = ""  # the toolchain whose interpreter runs it; "" is the session's own


@dataclass(frozen=True)
class Route:
    """A named chain of steps from the PyTorch model to an artefact.

    One that names `operators` is for graphs with any of them: it is passed over where a step notes `operators` of its
    graph and none of these is among them.
    """

    name: str
    steps: tuple[Step, ...]
    operators: tuple[str, ...] = ()


class Target:
    """One kind of artefact: all that the suite must know of it before anything runs, with its parts by name.

    A part is a "module:name" text, imported where it is used, mostly in a child process, so that planning imports no
    converter and no runtime. "" says that the format has no such part: what needs it is left out, with that reason.
    """

    # What makes and runs its files.
    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    requires: ClassVar[tuple[str, ...]]  # modules that export and runtime import here; toolchains hold the rest
    extra: ClassVar[str]  # the extra of this package that brings them
    session: ClassVar[str]  # part: the class of the Session, opened in the child `family`
    family: ClassVar[str]
    runtime_package: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()  # distributions whose versions decide what its files compute
    order: ClassVar[int] = 1000  # its place among the targets in reports and messages, the least first
    fixed_dims: ClassVar[bool] = False  # the route exports every dynamic axis at the example's size
    enumerates: ClassVar[bool] = False  # but one file can hold several sizes of an axis that the model enumerates
    starts_from: ClassVar[tuple[str, ...]] = ("ExportedProgram", "TorchScript", "ONNX")  # besides a module
    toolchain: ClassVar[str] = ""  # the toolchain that exports and runs, where the runtime needs one
    toolchains: ClassVar[tuple[str, ...]] = ()  # all that its routes name, for [tool.parity.toolchains]

    # Its files, and the choices that an app has with them.
    suffixes: ClassVar[tuple[str, ...]] = ()  # `parity verify` knows a file of this format by them
    unmarked: ClassVar[str] = ""  # the precision that published files do not carry in their name
    kernels: ClassVar[tuple[str, ...]] = ()  # kernel sets of the runtime that an app may choose, the default first
    delegate: ClassVar[str] = ""  # operators whose names begin so need a delegate of that name, linked by the app
    backend: ClassVar[str] = ""  # the word of `parity export --backend` for it
    executors: ClassVar[tuple[str, ...]] = ()  # families of executors that can run its files, beside the host
    on_gpu: ClassVar[str] = ""  # part: the class of the Session that runs its files on a GPU
    executions: ClassVar[tuple[tuple[str, str], ...]] = ()  # (executor, compute unit) of each run that a capsule asks
    # for; none: once, by its runtime on the CPU

    # Its other parts.
    signature: ClassVar[str] = ""  # (file) -> inputs and outputs that it states; else as the session describes it
    graph: ClassVar[str] = ""  # (folder, notes, bounds) -> graph.Artefact: the chain of proof
    survey: ClassVar[str] = ""  # (folder, notes) -> survey.Survey: what it draws at random and decides by data
    constants: ClassVar[str] = ""  # (folder, notes) -> survey.Survey with all constants: files that no chain follows
    steps: ClassVar[str] = ""  # (folder, notes) -> steps.Steps: the first divergence
    draft: ClassVar[str] = ""  # (folder, notes) -> draft.Draft: faults in the file, for power
    script: ClassVar[str] = ""  # snippet.Writer: a failing input as a script; else through the session
    lowering: ClassVar[str] = ""  # a module with `lower` and `risk`: execution with no activation rounded
    from_file: ClassVar[str] = ""  # converts a file that PyTorch wrote, without the module that it came from

    @property
    def distribution(self) -> str:
        """The requirement that brings its runtime."""
        return f"pytest-parity[{self.extra}]"

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        """The chains to try for a cell, best first. Those whose toolchains are not here are passed over."""
        raise NotImplementedError

    def several_sizes(self, model: ModelConfig) -> bool:
        """Whether a file of the model is to be tried at other sizes than the example's."""
        return bool(model.contract.sizes()) and (not self.fixed_dims or bool(model.enumerated))

    def files(self, path: Path) -> tuple[Path, ...]:
        """Every file that belongs to the artefact at `path`: itself and what it reads from beside it, or all that a
        folder holds, hidden files apart. Whoever hashes, copies or packs an artefact asks here.

        Raises ParityError where the artefact names a file that is not there, or that is none of its own.
        """
        if not path.is_dir():
            return (path,)
        inner = (file for file in path.rglob("*") if file.is_file())
        visible = (file for file in inner if not any(p.startswith(".") for p in file.relative_to(path).parts))
        return tuple(sorted(visible))

    def published(self, name: str, notes: Mapping[str, Any], files: Sequence[str]) -> dict[str, str]:
        """Where `parity export` puts the `files` of an artefact: path in the output folder by path in the artefact.

        `name` is the model's, with the precision where it is marked.
        """
        entry = str(notes["entry"])
        others = [file for file in files if file.partition("/")[0] != entry]  # a package is copied whole
        return {entry: name + PurePath(entry).suffix, **{file: file for file in others}}

    def stored_dtype(self, declared: str) -> str:
        """The element type that a declared input has in this target's files."""
        return declared

    def unavailable(self, cell: Cell, model: ModelConfig, python: str | None = None) -> str | None:
        """Why this cell cannot be measured on this machine, with what would change that; None when it can.

        `python` is the interpreter of its toolchain, where it has one: what is installed there shows when it runs.
        """
        if cell.precision not in self.precisions:
            return f"{self.name} has no {cell.precision} route"
        missing = [name for name in self.requires if not installed(name)] if python in (None, sys.executable) else []
        if missing:
            add = f"parity tools install {self.toolchain}" if self.toolchain else f"pip install '{self.distribution}'"
            return f"{', '.join(missing)} not installed: {add}"
        if cell.precision == "int8" and model.calibration is None:
            return NO_CALIBRATION
        return None

    def cannot_start_from(self, model: ModelConfig) -> str | None:
        """Why this target's files cannot be made from the model's reference file; None where they can."""
        kind = REFERENCE_KINDS.get(model.reference.suffix) if model.reference else None
        if kind is None or kind in self.starts_from:
            return None
        return f"{self.name} files are not made from {kind} files: give the factory, or the finished file in artifacts"


class Session(Protocol):
    """An opened artefact, in the child. `run` takes and gives arrays under the artefact's own names and layouts."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None: ...

    def describe(self) -> dict[str, Any]:
        """{"inputs": [{"name", "shape", "dtype"}], "outputs": [...], "ops": {operator: count}, ...}; a dynamic axis is
        None or a name in `shape`."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...


def load_part(text: str) -> Any:
    """What a "module:name" text names. Imports the module."""
    module, _, name = text.partition(":")
    return getattr(importlib.import_module(module), name)


def lacking(capability: str) -> str | None:
    """Why this machine lacks a capability that a test `needs`; None where it has it. Raises ParityError."""
    if capability == "coreml-runtime":
        if platform.system() != "Darwin":
            return f"Core ML predicts only on macOS; this is {platform.system()}"
        return None if installed("coremltools") else "coremltools not installed: pip install 'pytest-parity[coreml]'"
    raise ParityError(f"needs({capability!r}): unknown capability; known: coreml-runtime")


def installed(module: str) -> bool:
    """Whether `module` can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The installed versions of distributions; also called in children that have another environment."""
    return {package: version(package) for package in packages}


def version(package: str) -> str:
    """The installed version of a distribution, or 'absent'. Imports nothing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
