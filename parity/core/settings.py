"""What `[tool.parity]` says, as bare frozen dataclasses. `config` reads them; every other room only holds them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from parity.core.contract import Contract
from parity.core.plan import Cell

# Systems that coremltools can be asked to convert for; neural network specs need iOS14 or macOS11 at least.
DEPLOYMENT_TARGETS = tuple(f"iOS{n}" for n in (14, 15, 16, 17, 18)) + tuple(f"macOS{n}" for n in (11, 12, 13, 14, 15))
DEFAULT_TARGETS = ("onnx", "tflite")  # of a project that names none
REFERENCE_KINDS = {
    ".pt2": "ExportedProgram",
    ".pt": "TorchScript",
    ".pth": "TorchScript",
    ".ts": "TorchScript",
    ".jit": "TorchScript",
    ".onnx": "ONNX",
}
REFERENCE_FACTORY = "parity.reference.files:module"
"""What stands where a factory would, for models whose reference is a file."""


@dataclass(frozen=True)
class TargetFacts:
    """What the configuration must know of a target; `formats.facts` says it of each."""

    kernels: tuple[str, ...] = ()  # kernel sets of its runtime that an app may choose, the default first
    toolchains: tuple[str, ...] = ()  # names of the toolchains that its routes use
    executors: tuple[str, ...] = ()  # families of executors that can run its files, beside the host


@dataclass(frozen=True)
class ToolchainConfig:
    """What `[tool.parity.toolchains.NAME]` says instead of the built-in lock.

    `packages` are requirements, or `lock` a file of hash-pinned ones, of an environment that `parity tools install`
    makes; `python` then is the version or interpreter to make it with. `python` alone is the interpreter of an
    environment that somebody else made.
    """

    packages: tuple[str, ...] = ()
    lock: Path | None = None
    python: str | None = None

    @property
    def is_environment(self) -> bool:
        """Whether this names a finished environment."""
        return self.python is not None and not self.packages and self.lock is None


@dataclass(frozen=True)
class TensorName:
    """What one input or output is called in a prebuilt artefact, and in which layout it stands there."""

    name: str
    layout: str | None = None


@dataclass(frozen=True)
class Prebuilt:
    """A file to verify instead of exporting, with the names that differ from the model's."""

    path: Path
    inputs: Mapping[str, TensorName] = field(default_factory=dict)
    outputs: Mapping[str, TensorName] = field(default_factory=dict)
    fixed: bool = False  # it has every dynamic axis at the example's size, and is meant to


@dataclass(frozen=True)
class Properties:
    """How inputs are drawn for a model: how many under the full profile (0: none), by which strategy of its own."""

    examples: int = 20
    strategy: str | None = None


@dataclass(frozen=True)
class Decode:
    """A model that is fed its own output, a token a step. Names are those of its inputs and outputs.

    `token` takes the token, `scores` gives a score for every next one, `position` counts the steps. `prefill` is
    another model of the project, which gives the scores of all steps at once: what decoding must equal. The first
    `prompt` tokens are given also when the model runs freely.
    """

    token: str
    scores: str
    position: str | None = None
    steps: int = 64
    prompt: int = 16
    prefill: str | None = None


@dataclass(frozen=True)
class Playing:
    """Which frames of a clip are measured, and how each is turned before it is preprocessed.

    Every `stride`-th frame, at most `maximum` of them (the profile may take fewer); turned clockwise by `rotate`
    degrees after what the file itself declares; then the square part from the `crop` side, where one is named.
    """

    stride: int = 1
    maximum: int | None = None
    rotate: int = 0
    crop: Literal["center", "top", "bottom"] | None = None


@dataclass(frozen=True)
class ModelConfig:
    """One model: how to make it, what it promises, and the data that it is checked on. Paths are absolute."""

    name: str
    factory: str  # "package.module:function"; of a model with a `reference`, what opens that
    contract: Contract
    cells: tuple[Cell, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    golden: Path | None = None
    calibration: Path | None = None
    video: Path | None = None
    opset: int | None = None  # of ONNX files; None: as the exporter writes it
    proof: bool = True  # prove files link by link where the target allows it
    artifacts: Mapping[str, Prebuilt] = field(default_factory=dict)
    enumerated: tuple[str, ...] = ()  # axes that take exactly the sizes in `dims`, where a format can say so
    deployment_target: str | None = None  # the oldest system that Core ML files must run on, as in "iOS16"
    kernels: Mapping[str, str] = field(default_factory=dict)  # target-precision -> the kernel set that the app uses
    nightly: frozenset[Cell] = frozenset()  # cells that only the nightly profile plans
    states: Mapping[str, str] = field(default_factory=dict)  # input that is a state -> the output that replaces it
    properties: Properties = field(default_factory=Properties)
    decode: Decode | None = None
    playing: Playing = field(default_factory=Playing)
    references: Path | None = None  # the folder of stored references, which need not exist yet
    stateful: bool = False  # Core ML files keep `states` between calls, instead of taking and giving them
    reference: Path | None = None  # the file that takes the module's place: .pt2, TorchScript, ONNX
    cases: str | None = None  # "module:function" that makes cases beside the golden files
    whole_module: bool = False  # the user vouched for a checkpoint that is a pickled module; no key sets this
    executors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # target-precision -> beside the host
    open_ranges: tuple[str, ...] = ()  # inputs of numbers without a `range` of their own; no key sets this


@dataclass(frozen=True)
class ModelSpec:
    """What a child process needs to make a model's module. Paths are absolute.

    `factory` is called with `options`; `checkpoint` is loaded into what it returns, also where it is a pickled module
    if `whole_module` allows that. `reference` is a file that takes the factory's place.
    """

    root: str
    factory: str
    options: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    reference: str | None = None
    whole_module: bool = False


@dataclass(frozen=True)
class Rule:
    """One limit that somebody set: `scope` is a cascade key, `value` None means "record it, do not gate"."""

    scope: str
    metric: str
    value: float | None
    output: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Waiver:
    """A known excess that a person accepted: `metric` of `cell` may reach `limit` until `expires`."""

    cell: str
    metric: str
    reason: str
    expires: datetime.date
    limit: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Accepted:
    """An operator of a cell's file that nothing in the module explains, and that a person has looked at: `operator` is
    it as the report calls it, until `expires`."""

    cell: str
    operator: str
    reason: str
    expires: datetime.date
    source: str = ""


@dataclass(frozen=True)
class Config:
    """Everything that `[tool.parity]` says. `root` is the folder of the file; relative paths start there."""

    root: Path
    file: Path
    models: Mapping[str, ModelConfig]
    rules: tuple[Rule, ...] = ()
    waive: tuple[Waiver, ...] = ()
    accept: tuple[Accepted, ...] = ()
    require: tuple[str, ...] = ()
    seed: int = 20260101
    timeout: float = 600.0  # seconds that one step of an export, or one batch of cases, may take
    memory: int = 0  # bytes that one child process may hold; 0 for what the machine has to give
    toolchains: Mapping[str, ToolchainConfig] = field(default_factory=dict)  # those that are not as built in
    chosen: Mapping[str, str] = field(
        default_factory=dict
    )  # target -> the toolchain that its routes must use, by option
    cache: str | None = None
    cache_size: int = 10 << 30
    gate_latency: bool = False  # whether a cell that became much slower than in the ledger blocks
    plugins: tuple[str, ...] = ()  # modules of the project's own in which faults are registered, imported in children

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(cell for model in self.models.values() for cell in model.cells)

    @property
    def nightly(self) -> tuple[Cell, ...]:
        """The cells that only the nightly profile plans, in order."""
        return tuple(cell for cell in self.cells if cell in self.models[cell.model].nightly)
