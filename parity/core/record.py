"""RunRecord: everything that a run found out, as frozen dataclasses and as plain builtins.

One object feeds every output (HTML, JSON, Markdown, exit code), so they cannot disagree. Numbers leave a worker
through `plain` only: no NumPy scalar, no NaN and no infinity ever reaches a record. Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from parity.core import notebook, strict_json
from parity.core.errors import ParityError
from parity.core.exhibits import Distribution, Exhibit, FaultFate, Spread
from parity.core.kinds import Kind

SCHEMA = "parity.run/1"

State = Literal["pass", "fail", "error", "crash", "timeout", "unavailable", "waived", "missing"]
# Of an execution beside the host: "measured" without a limit that is its own, "refused" where the executor does not
# take the file; "" for those that a capsule brought back.
ExecutionState = Literal[
    "", "pass", "measured", "fail", "error", "crash", "timeout", "unavailable", "refused", "waived", "missing"
]
Verdict = Literal["pass", "fail", "incomplete", "partial"]
Sense = Literal["max", "min"]

STATES: tuple[State, ...] = typing.get_args(State)
VERDICTS: tuple[Verdict, ...] = typing.get_args(Verdict)

WHOLE = ("steps_right",)  # counts whose limit is also the best that they can be
BY_CONTRACT = "the contract"  # source of a limit that says that something declared is so


@dataclass(frozen=True)
class Check:
    """One measurement on one output against one limit, recorded whatever its result.

    `value` is None when nothing finite was measured; `nonfinite` then counts what was found instead. `limit` is
    None for a figure that is recorded and not gated: such a check is never evidence that a cell passed.
    """

    kind: Kind
    case: str
    output: str
    metric: str
    value: float | None
    limit: float | None
    sense: Sense
    passed: bool
    nonfinite: int = 0
    source: str = ""  # who set the limit: "pyproject.toml:31 [tool.parity.limits] fp32", "default for fp32"
    detail: str = ""  # the worst element, or what was expected and what was found
    bound: float | None = None  # of a figure counted on a sample: how bad it may be, one-sided, 95 % confidence
    undecided: float | None = None  # the limit, where the sample is too small to decide it; `limit` is then None

    def share(self) -> float | None:
        """Share of the limit that is used up, 1.0 at the limit; None where that has no meaning.

        For a `max` limit it is value / limit; for a `min` limit of a score that is best at 1 (cosine, top1) it is
        (1 - value) / (1 - limit), else limit / value (decibels).
        """
        if self.value is None or self.limit is None:
            return None
        if self.sense == "max":
            used = self.value / self.limit if self.limit > 0 else float(self.value > self.limit)
        elif 0 <= self.limit < 1 and self.value <= 1.0 + 1e-9:
            used = (1 - self.value) / (1 - self.limit)
        elif self.limit == 1 or self.metric in WHOLE:
            used = float(self.value < self.limit)
        else:
            used = self.limit / self.value if self.value > 0 else math.inf
        return used if math.isfinite(used) else None


@dataclass(frozen=True)
class FileRecord:
    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ArtifactRecord:
    files: tuple[FileRecord, ...] = ()
    key: str = ""  # content address in the cache
    export_seconds: float | None = None
    cached: bool = False
    location: str = ""  # folder that holds the files, relative where it can be


@dataclass(frozen=True)
class RuntimeRecord:
    name: str
    version: str
    median_ms: float | None = None
    executor: str = ""  # which engine really ran: "mil-eval" or "coreml-runtime" for Core ML


@dataclass(frozen=True)
class ExecutionRecord:
    """The cell's artefact executed once more, by something else than the cell's `runtime`.

    One that the run planned has a `state` and holds its own checks. One that a capsule brought back has none: its
    checks are those of the cell whose case begins with `name` and a colon.
    """

    executor: str
    compute_unit: str = ""
    planned: tuple[str, ...] = ()  # kinds of check that it had to measure
    version: str = ""
    machine: str = ""
    median_ms: float | None = None
    capsule: str = ""  # the seal of the capsule
    devices: Mapping[str, int] = field(default_factory=dict)  # operators by preferred device, where Core ML says so
    state: ExecutionState = ""
    reason: str = ""
    stage: str = ""  # where it went wrong: load, run
    required: bool = False  # must be measured on this machine for the verdict to be pass
    measured: tuple[str, ...] = ()  # kinds whose test ran to its end
    native: bool = False  # by a processor of that kind, not by an emulator or a software driver
    emulator: str = ""
    driver: str = ""  # of a GPU, with its version
    precision: str = ""  # what it computes in
    computed: str = ""  # when and where, for outputs that were computed by an earlier run
    seconds: float | None = None
    checks: tuple[Check, ...] = ()
    findings: tuple[Finding, ...] = ()
    log: str = ""  # the end of the child's log, where something went wrong
    rerun: str = ""

    @property
    def name(self) -> str:
        return f"{self.executor} {self.compute_unit}".strip()

    @property
    def from_capsule(self) -> bool:
        return not self.state


@dataclass(frozen=True)
class Power:
    injected: int
    killed: int
    survivors: tuple[str, ...] = ()
    equivalent: int = 0
    fates: tuple[FaultFate, ...] = ()  # every fault that was tried, by name
    kinds: Mapping[str, int] = field(
        default_factory=dict
    )  # faults noticed by each kind of check; `static`: by it alone
    false_alarms: tuple[str, ...] = ()  # benign changes that some check noticed
    spare_cases: tuple[str, ...] = ()  # golden cases that notice nothing which others do not
    loose: tuple[str, ...] = ()  # limits that no fault reached


@dataclass(frozen=True)
class Explanation:
    """A fault that explains an artefact's output, with the share of the error that it explains."""

    fault: str
    explains: float
    sentence: str = ""  # cause and figures
    cause: str = ""  # completes "behaves as if ..."


@dataclass(frozen=True)
class Divergence:
    """The first step of an artefact that introduces more error than its precision costs, fed with right inputs.

    Errors are rms, as shares of the tensor's own rms. `layer` is the path of the module that the step computes, and
    `source` the line (`file.py:12`) that calls it; `operator` and `tensor` are the artefact's own names for it.
    """

    layer: str
    introduced: float | None  # None: not finite
    source: str = ""
    operator: str = ""
    tensor: str = ""
    propagated: float | None = None  # what its inputs had already, when the artefact ran by itself
    allowed: float | None = None  # what its precision may cost this step
    case: str = ""
    submodel: str = ""  # the file that repeats the step alone, where one was asked for


@dataclass(frozen=True)
class Drift:
    """One point of the drift curve: the error of an intermediate tensor when the artefact runs by itself.

    `floor` is what the precision's twin costs at the same place. Both are rms, as shares of the tensor's own rms.
    """

    layer: str
    error: float | None  # None: not finite
    floor: float
    introduced: float | None = None  # by this step alone, fed with right inputs
    operator: str = ""
    tensor: str = ""


@dataclass(frozen=True)
class LinkRecord:
    """One link of the chain of proof: match, audit, lift, local or range."""

    name: str
    state: Literal["proved", "failed", "not possible"]
    sentence: str = ""  # its figures, its culprits, or why it could not be made


@dataclass(frozen=True)
class ProofRecord:
    """The chain of proof of one artefact, and one line that says what it found."""

    state: Literal["proved", "failed", "not possible"]
    summary: str
    links: tuple[LinkRecord, ...] = ()
    complete: bool = False  # it decides by itself that the file is right: figures of the tail then only warn


@dataclass(frozen=True)
class EventRecord:
    """What an execution of a Core ML file noticed: where a device may compute something else, or nothing sensible."""

    kind: str  # fp16-overflow, fp16-near-overflow, nan, infinite, integer-wrap, index-out-of-range, ...
    operator: str
    output: str  # the value's name in the file
    module: str  # the layer of the model, as well as the file allows
    said: str = ""  # its figures: the peak of an overflow, the share of NaN, the type that was declared
    headroom: float | None = None  # 65504 / peak, of overflows
    case: str = ""  # the first that it happened in
    cases: int = 1  # how many it happened in

    @property
    def sentence(self) -> str:
        near = f" near {self.module}" if self.module else ""
        more = f" and {self.cases - 1} more" if self.cases > 1 else ""
        said = f"{self.kind} in {self.operator} {self.output!r}{near}, case {self.case}{more}"
        return said + (f": {self.said}" if self.said else "")


@dataclass(frozen=True)
class RiskRecord:
    """What a device may do to a Core ML file that is right: events, the room that fp16 leaves, fp16 accumulation."""

    events: tuple[EventRecord, ...] = ()
    peak: float = 0.0  # the largest magnitude stored as fp16 (in neural networks: stored at all)
    headroom: float | None = None  # 65504 / peak
    operator: str = ""
    output: str = ""
    stress_db: Mapping[str, float] = field(default_factory=dict)  # by output: fp16 accumulation against fp16 storage


@dataclass(frozen=True)
class Finding:
    """Something that a person should know about a cell and that does not gate by itself."""

    text: str
    level: Literal["note", "warning"] = "note"


@dataclass(frozen=True)
class ToolchainRecord:
    """The environment that made a cell's file: `lock` is the hash of its lock, "" for the run's own environment."""

    name: str
    lock: str = ""
    python: str = ""

    @property
    def label(self) -> str:
        """As in `onnx2tf fdb8ba4e, Python 3.11`: name, lock, and the Python as far as it matters for what is made."""
        where = self.lock[:8] if self.lock else "of the run's own environment"
        return f"{self.name} {where}, Python {'.'.join(self.python.split('.')[:2])}"


@dataclass(frozen=True)
class CellRecord:
    id: str
    model: str
    target: str
    precision: str
    state: State
    reason: str = ""
    stage: str = ""  # where it went wrong: export, convert, load, run, compare
    planned: tuple[str, ...] = ()  # kinds of check that had to be measured
    measured: tuple[str, ...] = ()  # kinds whose test ran to its end
    planned_cases: int = 0  # golden cases that had to be measured
    telling_cases: int | None = None  # those that count: identical ones once, and constant ones once together
    planned_outputs: tuple[str, ...] = ()  # outputs that had to be measured on each of them
    planned_clips: int = 0  # video clips of which frames had to be measured
    required: bool = False  # must be measured on this machine for the verdict to be pass
    reference: str = ""  # the file that stands for the PyTorch module, where there is no factory: "ONNX file net.onnx"
    route: str = ""
    routes_failed: tuple[str, ...] = ()  # "route: why", for the routes tried before
    artifact: ArtifactRecord | None = None
    toolchain: ToolchainRecord | None = None
    checks: tuple[Check, ...] = ()
    findings: tuple[Finding, ...] = ()
    proof: ProofRecord | None = None
    risk: RiskRecord | None = None
    power: Power | None = None
    diagnosis: tuple[Explanation, ...] = ()
    faults_failed: tuple[str, ...] = ()  # "fault: why", for a project's own that could not be tried in the diagnosis
    first_divergence: Divergence | None = None
    drift: tuple[Drift, ...] = ()  # in the order in which the artefact computes them
    exhibits: tuple[Exhibit, ...] = ()  # the worst cases, to look at
    distributions: tuple[Distribution, ...] = ()
    natural: tuple[Spread, ...] = ()  # what correct exports of this target and precision have
    runtime: RuntimeRecord | None = None
    executions: tuple[ExecutionRecord, ...] = ()  # by other executors, in this run or from capsules
    seconds: float | None = None
    log: str = ""  # the end of the child's log, where something went wrong
    rerun: str = ""  # a command line that repeats this cell

    def __str__(self) -> str:
        return f"{self.id}: {self.state}" + (f": {self.reason}" if self.reason else "")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        sentences = (self.reason, self.proof.summary if self.proof else "")
        return notebook.html(self.id, self.state, sentences, self.checks)


@dataclass(frozen=True)
class Regression:
    cell: str
    what: str
    before: float | None
    now: float | None
    state: Literal["regressed", "slower", "improved", "incomparable", "changed", "new", "removed"] = "regressed"


@dataclass(frozen=True)
class BaselineRecord:
    path: str | None = None
    regressions: tuple[Regression, ...] = ()


@dataclass(frozen=True)
class WaiverRecord:
    cell: str
    metric: str
    reason: str
    expires: str
    limit: float | None = None
    state: Literal["used", "expired", "unmatched"] = "unmatched"
    source: str = ""


@dataclass(frozen=True)
class Environment:
    python: str
    packages: Mapping[str, str]
    machine: str
    threads: int = 1
    processor: str = ""
    toolchains: Mapping[str, str] = field(default_factory=dict)  # those that the plan's cells can use, by name


@dataclass(frozen=True)
class ShardRecord:
    """Which part of a plan a run measured, and what tells the parts of one plan from those of another."""

    part: int  # from 1
    parts: int
    plan: str  # hash of the whole plan, of how it is split and of the configuration's text
    cells: tuple[str, ...]  # every cell of the whole plan, in its order
    partial: str | None = None  # how the whole plan was narrowed before it was split
    origin: Mapping[str, str] = field(default_factory=dict)  # hashes of all that the whole plan is made from
    models: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # fingerprints of models that it made


@dataclass(frozen=True)
class RunRecord:
    verdict: Verdict
    cells: tuple[CellRecord, ...]
    environment: Environment
    reason: str = ""  # the verdict in one sentence, with what blocks
    started: str = ""  # ISO 8601, UTC
    seconds: float = 0.0
    partial: str | None = None  # how the user narrowed the matrix, or None
    command: str = ""
    config: str = ""  # the file that holds [tool.parity]
    configuration: Mapping[str, str] = field(default_factory=dict)  # hashes of what that says: "limits", "models.skin"
    read: Mapping[str, str] = field(default_factory=dict)  # hashes of the project's files that its models read, by path
    profile: str = "full"
    shard: ShardRecord | None = None  # set while this is one part of several
    waiting: tuple[str, ...] = ()  # cells that only the nightly profile plans
    builds: int = 0  # converter steps really run, over all workers
    waivers: tuple[WaiverRecord, ...] = ()
    baseline: BaselineRecord = field(default_factory=BaselineRecord)
    schema: str = SCHEMA

    @property
    def waivers_that_block(self) -> tuple[WaiverRecord, ...]:
        """Expired ones and those that nothing needs; in a narrowed run, what needs one may not have been measured."""
        return tuple(w for w in self.waivers if w.state == "expired" or (w.state == "unmatched" and not self.partial))

    @property
    def regressions_that_block(self) -> tuple[Regression, ...]:
        """Changes since the baseline that are regressions."""
        return tuple(r for r in self.baseline.regressions if r.state == "regressed")

    def cell(self, id: str) -> CellRecord:
        """The record of the cell `id`; KeyError when the run did not plan it."""
        for c in self.cells:
            if c.id == id:
                return c
        raise KeyError(id)


def plain(value: Any) -> Any:
    """`value` as JSON builtins: dataclasses as dicts, tuples as lists, NumPy scalars as numbers, NaN/inf as None."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, int):
        return int(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        number = value.item()
        return plain(float(number) if type(number) is type(value) else number)  # a longdouble stays one
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a record cannot hold {type(value).__name__}: {value!r:.80}")


T = TypeVar("T")


def build(cls: type[T], data: Any, where: str = "") -> T:
    """The dataclass `cls` from builtins, strictly: unknown, missing and ill-typed fields are a ParityError."""
    if not isinstance(data, Mapping):
        raise ParityError(f"{where or 'record'}: expected an object for {cls.__name__}, found {type(data).__name__}")
    known = _fields(typing.cast("Hashable", cls))
    if unknown := data.keys() - known.keys():
        raise ParityError(f"{where or 'record'}: unknown field {min(unknown)!r:.60} in {cls.__name__}")
    values = {}
    for name, (hint, required, simple) in known.items():
        if name in data:
            value = data[name]
            if type(value) not in simple or (type(value) is float and not math.isfinite(value)):
                value = _coerce(hint, value, f"{where}.{name}" if where else name)
            values[name] = value
        elif required:
            raise ParityError(f"{where or 'record'}: {cls.__name__} lacks the field {name!r}")
    return cls(**values)


@cache
def _fields(cls: Hashable) -> dict[str, tuple[Any, bool, frozenset[type]]]:
    """By name: the type of a field, whether it must be given, and the types of values that are taken as they are."""
    hints = typing.get_type_hints(cls)
    return {
        f.name: (hints[f.name], f.default is MISSING and f.default_factory is MISSING, _simple(hints[f.name]))
        for f in fields(cls)  # type: ignore[arg-type]
    }


def _simple(hint: Any) -> frozenset[type]:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return frozenset(kind for kind in (str, int, bool, float, type(None)) if kind in kinds)


_NAMES = {float: "a finite number", int: "a whole number", bool: "true or false", str: "text", tuple: "a list",
          Mapping: "an object"}  # fmt: skip


def _name(hint: Any) -> str:
    origin = typing.get_origin(hint)
    return f"one of {', '.join(typing.get_args(hint))}" if origin is Literal else _NAMES[origin or hint]


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union or origin is types.UnionType:
        if value is None and type(None) in args:
            return None
        kinds = [a for a in args if a is not type(None)]
        for kind in kinds:
            with contextlib.suppress(ParityError):
                return _coerce(kind, value, where)
        return _coerce(kinds[0], value, where)  # it fits none, and the complaint is the first's
    if origin is Literal:
        ok = value in args
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_coerce(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        ok = False
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {str(k): _coerce(args[1], v, f"{where}[{k!r:.40}]") for k, v in value.items()}
        ok = False
    elif is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, where)
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):  # an integer beyond every float
                if math.isfinite(value):
                    return float(value)
        ok = False
    elif hint is int:
        ok = isinstance(value, int) and not isinstance(value, bool)
    elif hint is Any:
        ok = True
    else:
        ok = isinstance(value, hint)
    if not ok:
        raise ParityError(f"{where}: {value!r:.60} is not {_name(hint)}")
    return value


def dumps(record: RunRecord) -> str:
    """The record as JSON text: same record, same bytes; ends on a newline.

    What UTF-8 cannot hold (half a surrogate pair, from a file name that is no text) becomes a question mark.
    """
    text = json.dumps(plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "replace").decode("utf-8")


def loads(text: str, where: str = "record") -> RunRecord:
    """The record of a `parity.json` text. Raises ParityError with one line for anything that is not one."""
    try:
        data = strict_json.loads(text, object_pairs_hook=strict_json.unique)
    except (ValueError, RecursionError) as error:
        raise ParityError(f"{where}: not a JSON record ({error}); write it again with pytest -m parity") from None
    if not isinstance(data, dict) or "schema" not in data:
        raise ParityError(f"{where}: JSON without a schema, and so no parity.json; give the record of a run")
    if data["schema"] != SCHEMA:
        raise ParityError(f"{where}: schema is {data['schema']!r:.60}, this version reads {SCHEMA!r}; read it with the "
                          "version that wrote it, or run pytest -m parity again")  # fmt: skip
    return build(RunRecord, data, where)


def read(path: Path) -> RunRecord:
    """The record in the file `path`. Raises ParityError when it is missing, unreadable or not a record."""
    return loads(text_of(path), str(path))


def text_of(path: Path) -> str:
    """The text of the file `path`, as it stands. Raises ParityError when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParityError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
