"""`parity capsule make`: what a run measured, packed so that another machine can execute it again.

Artefacts come from the cache by the hash that the record holds, never from a new conversion: what is executed
elsewhere is what was measured here.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity import formats as targets
from parity.capsule.archive import pack
from parity.capsule.contents import (
    PLAN,
    Batch,
    Bound,
    CasePlan,
    CellPlan,
    DataPlan,
    OutputPlan,
    Plan,
    batches,
    changed,
    dump,
    executions,
    save_array,
)
from parity.core.case import Case, telling
from parity.core.errors import NoTwin, ParityError
from parity.core.kinds import KINDS
from parity.core.plan import Cell, choose
from parity.core.record import CellRecord, RunRecord, dumps
from parity.core.settings import ModelConfig
from parity.judging.limits import fallback, resolve
from parity.session.artefact_files import check_whole
from parity.session.evaluations import Reference
from parity.session.profile import FULL, Profile
from parity.session.session import Session
from parity.store.cache import Store, sha256_file


@dataclass(frozen=True)
class Selection:
    """What of a run goes into a capsule: its cases, by the run's profile, and its cells; none named means all."""

    profile: Profile = FULL
    targets: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()

    def takes(self, cell: CellRecord) -> bool:
        of_target = not self.targets or cell.target in self.targets
        return of_target and (not self.cells or cell.id in self.cells)


@dataclass(frozen=True)
class Made:
    """A capsule that was written: its seal, the cells in it, and those that could not be, with the reason."""

    seal: str
    cells: tuple[str, ...]
    left_out: Mapping[str, str]


def make(session: Session, record: RunRecord, output: Path, selection: Selection, *, text: str | None = None) -> Made:
    """Pack the selected cells of `record`, whose file holds `text`, into `output`.

    Raises ParityError when nothing can be packed, or when artefacts, cases or limits are no longer those of the record.
    """
    chosen = _chosen(record, selection)
    with tempfile.TemporaryDirectory(prefix="parity-capsule-") as scratch:
        folder = Path(scratch)
        packer = _Packer(session, selection.profile, folder)
        for cell in chosen:
            packer.add(cell)
        if not packer.cells:
            first = next(iter(packer.left_out.items()), None)
            why = f": {first[0]}: {first[1]}" if first else ""
            raise ParityError(f"no cell of the record can be packed{why}")
        sha = hashlib.sha256((dumps(record) if text is None else text).encode()).hexdigest()
        plan = Plan(sha, tuple(packer.models.values()), tuple(packer.cells), packer.left_out)
        (folder / PLAN).write_text(dump(plan), encoding="utf-8")
        seal = pack(folder, output, "capsule")
    return Made(seal, tuple(c.id for c in packer.cells), packer.left_out)


def _chosen(record: RunRecord, selection: Selection) -> list[CellRecord]:
    for target in selection.targets:
        choose("target", target, sorted({c.target for c in record.cells}))
    for id in selection.cells:
        choose("cell", id, [c.id for c in record.cells])
    return [c for c in record.cells if selection.takes(c)]


class _Packer:
    def __init__(self, session: Session, profile: Profile, folder: Path):
        self.session, self.profile, self.folder = session, profile, folder
        self.models: dict[str, DataPlan] = {}
        self.cells: list[CellPlan] = []
        self.left_out: dict[str, str] = {}
        self._held: dict[tuple[str, Batch], tuple[list[Case], Reference]] = {}

    def add(self, record: CellRecord) -> None:
        """Pack one cell, or note why it cannot be."""
        planned = tuple(kind.name for kind in KINDS if kind.in_capsule and kind.name in record.planned)
        if record.artifact is None or not record.artifact.files:
            self.left_out[record.id] = f"it has no artefact: {record.state}" + (
                f", {record.reason}" if record.reason else ""
            )
            return
        if not planned:
            self.left_out[record.id] = "the run measured no case of it"
            return
        model = self.session.config.models.get(record.model)
        if model is None:
            raise ParityError(f"{record.id}: the project has no model {record.model!r} any more")
        cell = Cell(record.model, record.target, record.precision)
        notes = self._artifact(cell, record)
        data = self._data(model, planned)
        executed_by = executions(cell.target, targets.get(cell.target).runtime_package)
        bare = CellPlan(record.id, *cell_parts(cell), planned, notes, record.artifact.files, (), executed_by)
        floored: set[str] = set()
        for kind in bare.batches:
            found = self._twins(cell, kind)
            if isinstance(found, str):
                self.left_out[record.id] = found
                return
            floored |= found
        outputs = tuple(
            OutputPlan(o.name, o.kind, o.labels, self._limits(cell, o.name, o.name in floored), o.post, o.match)
            for o in model.contract.outputs
        )
        ready = CellPlan(
            record.id, *cell_parts(cell), planned, notes, record.artifact.files, outputs, executed_by,
            tuple(o.name for o in outputs if o.name in floored),
        )  # fmt: skip
        why = changed(ready, data, record)
        if why:
            raise ParityError(f"{record.id}: {why}: the record is stale, run pytest -m parity again")
        self.cells.append(ready)

    def _limits(self, cell: Cell, output: str, floored: bool) -> dict[str, Bound]:
        limits = resolve(self.session.config.rules, cell, output)
        if not floored:
            limits.setdefault("rel_rms", fallback(cell.precision))
        return {metric: Bound(limit.value, limit.source) for metric, limit in sorted(limits.items())}

    def _artifact(self, cell: Cell, record: CellRecord) -> dict[str, Any]:
        """Copy the files that the record names, verified; returns the exporter's notes."""
        assert record.artifact is not None
        entry = self.session.store.get(record.artifact.key)
        if entry is not None:
            source, notes = entry.folder, dict(entry.notes)
        elif f"{cell.target}-{cell.precision}" in self.session.config.models[cell.model].artifacts:
            given = self.session.artifact(cell)
            source, notes = given.folder, dict(given.notes)
        else:
            raise ParityError(
                f"{cell}: its artefact {record.artifact.key[:12]} is not in the cache {self._cache()}, or damaged: "
                f"run pytest -m parity again, or name the cache with --parity-cache"
            )
        check_whole(cell.id, cell.target, source, [file.path for file in record.artifact.files])
        for file in record.artifact.files:
            path = source / file.path
            if not path.is_file() or path.stat().st_size != file.bytes or sha256_file(path) != file.sha256:
                raise ParityError(
                    f"{cell}: {file.path} is not the file that the record names: run pytest -m parity again"
                )
            to = self.folder / "artifacts" / cell.id / file.path
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())
        return notes

    def _cache(self) -> str:
        store: Store = self.session.store
        return store.root.name

    def _cases(self, model: ModelConfig, kind: Batch) -> tuple[list[Case], Reference]:
        """The cases of the run's profile and their references, as the tests had them."""
        key = (model.name, kind)
        if key not in self._held:
            if kind == "golden":
                cases = self.profile.golden(self.session.golden(model))
            else:
                clips = self.session.video(model, self.profile.frames)
                cases = [case for _, frames in clips for case in frames]
            self._held[key] = cases, self.session.reference(model, cases)
        return self._held[key]

    def _data(self, model: ModelConfig, planned: Sequence[str]) -> DataPlan:
        """Cases and references of a model, packed once for all its cells."""
        if model.name in self.models:
            return self.models[model.name]
        inputs = tuple(i.name for i in model.contract.inputs)
        outputs = tuple(o.name for o in model.contract.outputs)
        lists: dict[Batch, tuple[CasePlan, ...]] = {"golden": (), "video": ()}
        dtype = ""
        for kind in batches(planned):
            cases, oracle = self._cases(model, kind)
            dtype = oracle.dtype
            counted = telling(cases)
            lists[kind] = tuple(CasePlan(c.id, c.label, i in counted) for i, c in enumerate(cases))
            for i, (case, want) in enumerate(zip(cases, oracle.outputs, strict=True)):
                at = f"data/{model.name}/{kind}/{i:05d}"
                for n, name in enumerate(inputs):
                    save_array(self.folder, f"{at}/in.{n}.npy", case.inputs[name])
                for n, name in enumerate(outputs):
                    save_array(self.folder, f"{at}/want.{n}.npy", want[name])
        self.models[model.name] = DataPlan(model.name, inputs, outputs, lists["golden"], lists["video"], dtype)
        return self.models[model.name]

    def _twins(self, cell: Cell, kind: Batch) -> set[str] | str:
        """Pack what the precision alone computes; the outputs that have it, or why the cell cannot be judged."""
        model = self.session.config.models[cell.model]
        cases, oracle = self._cases(model, kind)
        try:
            floors = self.session.floors(cell, cases, oracle.post_processed(model))
        except NoTwin:
            return set()  # judged by relative error, as in the run
        rows = self.session.twin(model, cases, cell.precision, self.session.flavour(cell))
        for n, spec in enumerate(model.contract.outputs):
            floor = floors.get(spec.name)
            if floor is None:
                continue
            if floor.reason:
                return f"nothing can be judged against its noise floor: {floor.reason}"
            for i, row in enumerate(rows):
                save_array(self.folder, f"twins/{cell.id}/{kind}/{i:05d}/{n}.npy", np.asarray(row[spec.name]))
        return set(floors)


def cell_parts(cell: Cell) -> tuple[str, str, str]:
    return cell.model, cell.target, cell.precision
