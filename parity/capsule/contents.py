"""What is in a capsule and in its outputs, as frozen dataclasses that are read strictly. Pure; NumPy only.

Members of a capsule: `plan.json`; `artifacts/CELL/...`, the files of each cell; `data/MODEL/KIND/CASE/` with arrays
`in.N.npy` and `want.N.npy` (inputs and float64 references in the order of the plan); `twins/CELL/KIND/CASE/N.npy`, what
the precision alone computes. Members of outputs: `run.json` and `outputs/CELL/EXECUTION/KIND/CASE/N.npy`. All arrays
are as they were computed: they are post-processed when they are judged.
"""

from __future__ import annotations

import io
import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from parity import formats as targets
from parity.capsule.archive import Archive
from parity.core import strict_json
from parity.core.case import Array
from parity.core.contract import OutputKind, OutputSpec
from parity.core.errors import ParityError
from parity.core.kinds import KINDS
from parity.core.plan import Cell
from parity.core.record import CellRecord, ExecutionRecord, FileRecord, build, plain
from parity.files import npz
from parity.judging.gate import SET_BY_TEST
from parity.judging.limits import Limit

Batch = Literal["golden", "video"]
BATCHES: tuple[Batch, ...] = typing.get_args(Batch)
PLAN, RUN = "plan.json", "run.json"


def batches(planned: Iterable[str]) -> tuple[Batch, ...]:
    """The sets of cases that the `planned` kinds of check judge, each once."""
    cases = {kind.cases for kind in KINDS if kind.name in planned}
    return tuple(batch for batch in BATCHES if batch in cases)


@dataclass(frozen=True)
class Execution:
    """One way in which an artefact has to be executed."""

    executor: str
    compute_unit: str

    @property
    def name(self) -> str:
        return f"{self.executor} {self.compute_unit}"


def executions(target: str, runtime: str) -> tuple[Execution, ...]:
    """The executions that a cell of `target` needs: those that it asks for, else one by its `runtime` on the CPU. A
    target that is not known here asks for none."""
    asked = targets.get(target).executions if target in targets.names() else ()
    return tuple(Execution(*way) for way in asked or ((runtime, "CPU"),))


@dataclass(frozen=True)
class Bound:
    """A limit in force; None records without gating."""

    value: float | None
    source: str


@dataclass(frozen=True)
class OutputPlan:
    name: str
    kind: OutputKind
    labels: tuple[str, ...]
    limits: Mapping[str, Bound]
    post: str | None = None  # what is done to artefact, reference and twin before they are compared
    match: str | None = None

    @property
    def spec(self) -> OutputSpec:
        return OutputSpec(self.name, self.kind, self.labels, self.post, self.match)

    def in_force(self) -> dict[str, Limit]:
        return {metric: Limit(metric, b.value, b.source) for metric, b in self.limits.items()}


@dataclass(frozen=True)
class CasePlan:
    id: str
    label: int | None = None
    counts: bool = True  # in shares: not one of several that are identical or constant


@dataclass(frozen=True)
class DataPlan:
    """The cases of one model. References are in the order of `outputs`, inputs in that of `inputs`."""

    model: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    golden: tuple[CasePlan, ...]
    video: tuple[CasePlan, ...]
    reference: str  # the dtype that the oracle computed in

    def cases(self, kind: Batch) -> tuple[CasePlan, ...]:
        return self.golden if kind == "golden" else self.video


@dataclass(frozen=True)
class CellPlan:
    id: str
    model: str
    target: str
    precision: str
    planned: tuple[str, ...]  # kinds of check that every execution has to measure
    notes: Mapping[str, Any]  # what the exporter noted: entry, names and layouts
    files: tuple[FileRecord, ...]
    outputs: tuple[OutputPlan, ...]
    executions: tuple[Execution, ...]
    twins: tuple[str, ...] = ()  # outputs that have a noise floor

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The sets of cases that the planned kinds judge."""
        return batches(self.planned)


@dataclass(frozen=True)
class Plan:
    """Everything that has to be executed, and the record that it belongs to."""

    record: str  # SHA-256 of the record's text
    models: tuple[DataPlan, ...]
    cells: tuple[CellPlan, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)  # cells of the record that could not be packed, and why

    def data(self, cell: CellPlan) -> DataPlan:
        return next(d for d in self.models if d.model == cell.model)


@dataclass(frozen=True)
class Executed:
    """What became of one execution of one cell."""

    cell: str
    executor: str
    compute_unit: str
    state: Literal["ok", "error", "crash", "timeout", "unavailable"]
    stage: str = ""
    reason: str = ""
    log: str = ""
    version: str = ""
    milliseconds: float | None = None  # median of one inference
    devices: Mapping[str, int] = field(default_factory=dict)  # operators by the device that Core ML prefers for them


@dataclass(frozen=True)
class RunReport:
    machine: str
    system: str
    python: str
    packages: Mapping[str, str]
    executed: tuple[Executed, ...]


T = TypeVar("T")


def dump(value: Any) -> str:
    return json.dumps(plain(value), indent=1, sort_keys=True, allow_nan=False) + "\n"


def load(archive: Archive, name: str, cls: type[T]) -> T:
    """The dataclass in the member `name`. Raises ParityError."""
    try:
        data = strict_json.loads(archive.read(name))
    except (ValueError, RecursionError):
        raise ParityError(f"{archive.path}: {name} is not JSON") from None
    return build(cls, data, f"{archive.path}: {name}")


def load_plan(archive: Archive) -> Plan:
    """The plan, after everything that it refers to was found to be there. Raises ParityError."""
    plan = load(archive, PLAN, Plan)
    where, models, cells = archive.path, [d.model for d in plan.models], [c.id for c in plan.cells]
    if not cells or len({*cells}) != len(cells) or len({*models}) != len(models):
        raise ParityError(f"{where}: its plan is empty or names a cell or model twice")
    wanted = {PLAN}
    for cell in plan.cells:
        if cell.id != Cell(cell.model, cell.target, cell.precision).id or cell.model not in models:
            raise ParityError(f"{where}: its plan has no data for the cell {cell.id!r:.60}")
        units = [e.name for e in cell.executions]
        if (
            not units
            or len({*units}) != len(units)
            or cell.executions != executions(cell.target, cell.executions[0].executor)
        ):
            raise ParityError(f"{where}: {cell.id} is not planned for every compute unit")
        data = plan.data(cell)
        if tuple(o.name for o in cell.outputs) != data.outputs or not data.outputs or not cell.batches:
            raise ParityError(f"{where}: {cell.id} plans no output or no case")
        for file in cell.files:
            name = f"artifacts/{cell.id}/{file.path}"
            if name not in archive or (archive.size(name), archive.sha256(name)) != (file.bytes, file.sha256):
                raise ParityError(f"{where}: incomplete: {name!r:.120} is not there as planned")
            wanted.add(name)
        if not cell.files:
            raise ParityError(f"{where}: {cell.id} has no file")
        for kind in cell.batches:
            ids = [case.id for case in data.cases(kind)]
            if not ids or len({*ids}) != len(ids):
                raise ParityError(f"{where}: {cell.id} has no {kind} case, or one twice")
            for index in range(len(ids)):
                folder = f"data/{cell.model}/{kind}/{index:05d}"
                wanted |= {f"{folder}/in.{n}.npy" for n in range(len(data.inputs))}
                wanted |= {f"{folder}/want.{n}.npy" for n in range(len(data.outputs))}
                twins = f"twins/{cell.id}/{kind}/{index:05d}"
                wanted |= {f"{twins}/{n}.npy" for n, name in enumerate(data.outputs) if name in cell.twins}
    _same(archive, wanted)
    return plan


def load_run(archive: Archive, plan: Plan) -> RunReport:
    """The report of a run that executed the whole plan, its members all there. Raises ParityError."""
    report = load(archive, RUN, RunReport)
    demanded = [(cell.id, e.executor, e.compute_unit) for cell in plan.cells for e in cell.executions]
    found = [(e.cell, e.executor, e.compute_unit) for e in report.executed]
    if found != demanded:
        lost = [d for d in demanded if d not in found] or [f for f in found if f not in demanded] or demanded
        raise ParityError(
            f"{archive.path}: incomplete: {' '.join(lost[0])} was not executed once, as the capsule plans it"
        )
    wanted, at = {RUN}, 0
    for cell in plan.cells:
        for number in range(len(cell.executions)):
            if report.executed[at].state == "ok":
                wanted |= {output for *_, output in members(plan, cell, number)}
            at += 1
    _same(archive, wanted)
    return report


def _same(archive: Archive, wanted: set[str]) -> None:
    have = set(archive)
    lost, extra = sorted(wanted - have), sorted(have - wanted)
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise ParityError(f"{archive.path}: incomplete: it has no {lost[0]!r:.120}{more}")
    if extra:
        raise ParityError(f"{archive.path}: {extra[0]!r:.120} does not belong into it")


def members(plan: Plan, cell: CellPlan, execution: int) -> Iterator[tuple[Batch, int, int, str]]:
    """(kind, case, output, member) of every array that an execution of a cell gives."""
    data = plan.data(cell)
    for kind in cell.batches:
        for case in range(len(data.cases(kind))):
            for output in range(len(data.outputs)):
                yield kind, case, output, f"outputs/{cell.id}/{execution}/{kind}/{case:05d}/{output}.npy"


def save_array(folder: Path, name: str, value: Array) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(value).reshape(value.shape), allow_pickle=False)
    path.write_bytes(buffer.getvalue())


def load_array(archive: Archive, name: str) -> Array:
    """The array of numbers in a member; its size is checked before anything is made of it. Raises ParityError."""
    try:
        array = npz.array(archive.read(name))
        if array.dtype.kind == "c":
            raise ValueError("complex numbers")
        return array
    except ValueError as error:
        raise ParityError(f"{archive.path}: {name!r} is not an array of numbers ({error})") from None


def changed(cell: CellPlan, data: DataPlan, record: CellRecord) -> str:
    """What of a cell in the record is no longer what the capsule holds; empty when nothing is."""
    if record.artifact is None or tuple(record.artifact.files) != cell.files:
        return "its artefact in the record is another one"
    prefixes = tuple(f"{e.name}: " for e in record.executions)
    for kind in cell.batches:
        checks = [c for c in record.checks if c.kind == kind and not c.case.startswith(prefixes)]
        ids = {c.case for c in checks if c.case != "all"}
        if kind in cell.planned and ids != {case.id for case in data.cases(kind)}:
            return f"the record measured other {kind} cases"
        for output in cell.outputs:
            for check in checks:
                if check.output != output.name or check.source == SET_BY_TEST:
                    continue
                bound = output.limits.get(check.metric)
                if check.limit != (bound.value if bound else None):
                    return f"the limit of {check.metric} was {check.limit} in the record and is another one now"
    return ""


def execution_record(executed: Executed, report: RunReport, cell: CellPlan, seal: str) -> ExecutionRecord:
    return ExecutionRecord(
        executed.executor, executed.compute_unit, cell.planned, executed.version, f"{report.machine}, {report.system}",
        executed.milliseconds, seal, executed.devices,
    )  # fmt: skip
