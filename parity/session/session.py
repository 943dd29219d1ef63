"""One session: the parts that make a plan's artefacts, references, runtimes and cases.

The plugin and the command line both work through this object, so that they cannot differ in what
they do. Knows no pytest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from parity.core.plan import Cell
from parity.core.settings import Config
from parity.process.isolate import Budget, ChildFailure
from parity.session.artefacts import Artefacts, Artifact
from parity.session.cases import Cases
from parity.session.engines import engine
from parity.session.evaluations import Evaluations
from parity.session.executed import ExecutedFile
from parity.session.memo import remembered
from parity.session.models import Models
from parity.session.resources import Progress, Resources
from parity.session.runtimes import OpenFile
from parity.store.cache import Store


class Session(Resources):
    """Everything that one process of one run makes, by the parts that make it."""

    submodels: Path | None = None  # where the step at which a file diverges is saved, if wanted

    def __init__(
        self,
        config: Config,
        run: str,
        *,
        store: Store | None = None,
        budget: Budget | None = None,
        rebuild_since: float | None = None,
        progress: Progress = lambda subject, stage: None,
    ):
        super().__init__(
            config,
            run,
            store=store,
            budget=budget,
            rebuild_since=rebuild_since,
            progress=progress,
        )
        cases = Cases(self)
        self.golden = cases.golden
        self.golden_if_any = cases.golden_if_any
        self.video = cases.video
        self.first_frame = cases.first_frame
        self.calibration = cases.calibration
        self.quantising = cases.quantising
        self.example = cases.example

        models = Models(self, cases)
        self.model_spec = models.spec
        self.fingerprint = models.fingerprint
        self.model_findings = models.findings
        self.changed_reads = models.changed
        self.note_reads = models.note_reads

        evaluations = Evaluations(self, models, cases)
        self.reference = evaluations.reference
        self.twin = evaluations.twin
        self.floors = evaluations.floors
        self.tie_breakers = evaluations.tie_breakers
        self.plain = evaluations.plain
        self.runs_plainly = evaluations.runs_plainly
        self.flavour = evaluations.flavour
        self.evaluated = evaluations.evaluated
        self.sequence = evaluations.sequence

        artefacts = Artefacts(self, models, cases)
        self.artifact = artefacts.artifact
        self.step_keys = artefacts.step_keys

    def close(self) -> None:
        self.children.close()

    @remembered
    def runtime(self, cell: Cell) -> Runtime:
        """The cell's artefact, ready to run; exports it first. One a cell and session."""
        return Runtime(self, cell, self.artifact(cell))

    @remembered
    def executed(self, cell: Cell, executor: str) -> ExecutedRuntime:
        """The cell's artefact, ready to be run by an executor beside the host; exports it first."""
        return ExecutedRuntime(self, cell, self.artifact(cell), engine(executor, cell.target))

    def made(self, cell: Cell) -> dict[str, Any]:
        """What was made of a cell so far, for its record: route, artifact, runtime, steps built."""
        model = self.config.models[cell.model]
        artifact = self.memo.made(self.artifact, cell)
        runtime = self.memo.made(self.runtime, cell)
        details: dict[str, Any] = {}
        if artifact is not None:
            details = {
                "route": artifact.route,
                "routes_failed": artifact.routes_failed,
                "artifact": artifact.record,
                "toolchain": artifact.toolchain,
                "steps_built": artifact.steps_built,
                "rebuilt": (*artifact.findings, *self.model_findings(model)),
            }
        failure = self.memo.failed(self.artifact, cell)
        if isinstance(failure, ChildFailure):
            details["routes_failed"] = failure.routes_failed
        if runtime is not None:
            details["runtime"] = runtime.record()
        return details

    def made_by(self, cell: Cell, executor: str) -> dict[str, Any]:
        """What was made of an execution so far, for its record."""
        executed = self.memo.made(self.executed, cell, executor)
        if executed is None:
            return {}
        of_file = {key: value for key, value in self.made(cell).items() if key != "runtime"}
        return {**of_file, "execution": executed.execution()}


class Runtime(OpenFile):
    """A cell's artefact, opened by a session: a test of the suite has the whole session from it."""

    def __init__(self, session: Session, cell: Cell, artifact: Artifact):
        super().__init__(session, cell, artifact)
        self.session = session


class ExecutedRuntime(ExecutedFile, Runtime):
    """A cell's artefact, opened by an executor beside the host, with the whole session."""
