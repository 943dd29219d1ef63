"""What faults of the file itself add to power: each is put into the cell's own file, which the real runtime runs.

A few golden cases come first. What breaks a check of one of those is noticed; only what does not is run on all of them,
and then proved. The benign changes of files are run on all of them, and every check that they break is a false alarm.
"""

from __future__ import annotations

import contextlib
import filecmp
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity import formats as targets
from parity.core.case import Case, spread
from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.proof import Proof
from parity.core.record import ArtifactRecord
from parity.faults.base import FileFault, Rows
from parity.faults.messages import FaultyFile, FaultyFileRequest, OfferedFault, OfferedRequest
from parity.faults.power import FIRST, CellPower, Gate, Tally
from parity.faults.yardstick import distance
from parity.judging import judge
from parity.judging.gate import passes
from parity.judging.limits import resolve
from parity.judging.registry import METRICS
from parity.process.isolate import ChildFailure
from parity.proof import LIFTED
from parity.proof.messages import ProofRequest
from parity.session.artefacts import Artifact
from parity.session.placement import PRECISIONS, placed
from parity.session.proof import PROVE, proof_of
from parity.session.runtimes import OpenFile

if TYPE_CHECKING:
    from parity.session.session import Session

MAKE = "parity.faults.artefact.make"
SAME = 1e-6  # relative rms: less is what float32 kernels differ by, and the file computes what it did
Chosen = tuple[int, ...]


class Files:
    """The faulty files of one cell. `oracle` and `twin` are outputs on `cases`: golden ones of shapes that it takes."""

    def __init__(self, session: Session, cell: Cell, cases: Sequence[Case], oracle: Rows, twin: Rows | None):
        self.session, self.cell, self.cases, self.oracle = session, cell, cases, oracle
        self.target = targets.get(cell.target)
        self.model, self.artifact = session.config.models[cell.model], session.artifact(cell)
        self.every = tuple(range(len(cases)))
        self.few = tuple(spread(len(cases), FIRST))
        specs = self.model.contract.outputs
        limits = {o.name: resolve(session.config.rules, cell, o.name) for o in specs}
        ids, labels = [c.id for c in cases], [c.label for c in cases]
        self.gate = Gate(self.model.contract, ids, oracle, twin, cell.precision, limits, labels)
        self.tally = Tally(cell.id, cell.precision, self.gate, oracle if twin is None else twin)
        self._right: Rows | None = None
        self._sound: bool | None = None

    def measure(self) -> CellPower:
        """The power of the cell's gate over the faults of its file."""
        request = OfferedRequest(self.cell.target, self.cell.precision, self.session.config.plugins)
        function = f"{MAKE}:offered"
        self._widen()
        offered = self.session.children.call("proof", function, request, list[OfferedFault], stage="faults")
        for one in offered:
            fault = FileFault(one.name, one.sentence, lambda draft: False, benign=one.benign)
            with tempfile.TemporaryDirectory(prefix="fault-", dir=self.session.children.scratch) as folder:
                self._one(fault, folder)
        return self.tally.result()

    def _widen(self) -> None:
        """Take what the right file's own placement of grids costs into the floor, where the suite does so."""
        if self.cell.precision not in PRECISIONS:
            return
        with contextlib.suppress(ParityError):  # the cell's own tests say why it does not run, or is not proved
            with self._opened(str(self.artifact.folder), self.artifact.notes) as run:
                self._right = run(self.every)
            broken = [c for c in self.gate.checks(self._right) if not passes(c)]
            if any(METRICS[c.metric].family == "noise" for c in broken):
                rows = placed(self.session, self.cell, self.cases).outputs
                self.gate.widen([dict(row) for row in rows])

    def _one(self, fault: FileFault, folder: str) -> None:
        self.session.progress(self.cell.id, fault.name)
        try:
            made = self._made(fault, folder)
        except ChildFailure as failure:
            made = FaultyFile("broken", str(failure))
        if made.state == "inapplicable":
            self.tally.without(fault, "inapplicable")
        elif made.state == "broken":
            self.tally.broke(fault, made.reason)
        else:
            try:
                self._judge(fault, folder, made.notes)
            except ChildFailure as failure:  # the runtime refuses the file, or dies of it
                if fault.benign:
                    self.tally.without(fault, "inapplicable")
                else:
                    self.tally.judge(fault, None, (), failure.stage or "run")

    def _judge(self, fault: FileFault, folder: str, notes: Mapping[str, Any]) -> None:
        with self._opened(folder, notes) as run:
            rows = run(self.few)
            if not fault.benign and self.tally.notices(fault, None, rows, self.few):
                return
            rest = tuple(i for i in self.every if i not in self.few)
            found = dict(zip((*self.few, *rest), (*rows, *run(rest)), strict=True))
            rows = [found[i] for i in self.every]
        checks = self.gate.checks(rows)
        if not all(passes(c) for c in checks):
            self.tally.judge(fault, None, checks)
            return
        if not fault.benign and not self._moved(rows):
            self.tally.without(fault, "equivalent")
            return
        links = "" if fault.benign and _same(Path(folder), self.artifact.folder) else self._unproved(folder, notes)
        self.tally.judge(fault, None, checks, "static" if links else "", f"the chain of proof refuses it: {links}")

    # The parts of it.

    def _made(self, fault: FileFault, folder: str) -> FaultyFile:
        request = FaultyFileRequest(
            self.target.draft,
            str(self.artifact.folder),
            self.artifact.notes,
            fault.name,
            folder,
            self.session.config.plugins,
        )
        return self.session.children.call("proof", f"{MAKE}:make", request, FaultyFile, stage="faults")

    @contextlib.contextmanager
    def _opened(self, folder: str, notes: Mapping[str, Any]) -> Iterator[Callable[[Chosen], Rows]]:
        """What runs a file on chosen cases."""
        runtime = OpenFile(self.session, self.cell, Artifact(Path(folder), dict(notes), ArtifactRecord(), "fault"))
        try:
            yield lambda chosen: [dict(row) for row in runtime.run([self.cases[i].inputs for i in chosen])]
        finally:
            with contextlib.suppress(ParityError):
                runtime.close()

    def _moved(self, rows: Rows) -> bool:
        """Whether the outputs are others than the right file's."""
        if self._right is None:
            with self._opened(str(self.artifact.folder), self.artifact.notes) as run:
                self._right = run(self.every)
        return distance(rows, self._right) > SAME

    def _unproved(self, folder: str, notes: Mapping[str, Any]) -> str:
        """The links of the chain of proof that fail for a file; none where they do not all hold for the right file."""
        if not self.target.graph or not self.model.proof:
            return ""
        limits = resolve(self.session.config.rules, self.cell, "")

        def failed(proof: Proof) -> str:
            return ", ".join(c.metric for c in judge.check_proof(proof, limits) if not passes(c))

        try:
            if self._sound is None:
                self._sound = not failed(proof_of(self.session, self.cell, self.cases))
            return failed(self._proof(folder, notes)) if self._sound else ""
        except ParityError as error:
            return "" if self._sound is None else str(error)

    def _calibration(self) -> Sequence[Case]:
        quantised = self.cell.precision == "int8" and self.model.calibration is not None
        return self.session.calibration(self.model) if quantised else ()

    def _proof(self, folder: str, notes: Mapping[str, Any]) -> Proof:
        chosen = spread(len(self.cases), LIFTED)
        request = ProofRequest(
            self.session.model_spec(self.model),
            self.target.graph,
            self.cell.precision,
            folder,
            dict(notes),
            [self.cases[i].inputs for i in chosen],
            [o.name for o in self.model.contract.outputs],
            [c.inputs for c in self._calibration()],
            whole=False,
            wants=[self.oracle[i] for i in chosen],
        )
        return self.session.children.call("proof", PROVE, request, Proof, stage="prove")


def _same(folder: Path, other: Path) -> bool:
    """Whether every file of a folder is the other's, byte by byte: it is only run in another way."""
    files = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
    return all((other / p).is_file() and filecmp.cmp(folder / p, other / p, shallow=False) for p in files)


def with_files(
    session: Session, cell: Cell, cases: Sequence[Case], oracle: Rows, twin: Rows | None, found: CellPower
) -> CellPower:
    """The cell's power with the faults of its file counted; as it was where there is no file to put them into.

    `twin` is None where the model has none.
    """
    try:
        artifact = session.artifact(cell)
    except ParityError:  # the cell's own tests say why there is none
        return found
    fits = list(range(len(cases)))
    if artifact.notes.get("files"):
        fits = _fitting(session, cell, artifact, cases)
    if not fits or not targets.get(cell.target).draft:
        return found
    oracle = [oracle[i] for i in fits]
    twin = None if twin is None else [twin[i] for i in fits]
    return found.joined(Files(session, cell, [cases[i] for i in fits], oracle, twin).measure())


def _fitting(session: Session, cell: Cell, artifact: Artifact, cases: Sequence[Case]) -> list[int]:
    """The cases that the first file takes, of an artefact with a file a size: faults are put into that one."""
    notes = {k: v for k, v in artifact.notes.items() if k != "files"}
    runtime = OpenFile(session, cell, Artifact(artifact.folder, notes, ArtifactRecord(), "fault")).open()
    sizes = {spec["name"]: sorted(spec["shape"]) for spec in runtime.description["inputs"]}
    runtime.close()
    own = {name: entry["name"] for name, entry in notes["inputs"].items()}
    return [i for i, c in enumerate(cases) if all(sorted(v.shape) == sizes[own[n]] for n, v in c.inputs.items())]
