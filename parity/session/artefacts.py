"""From a cell to its exported artefact: the steps of a route, each built once under its content
address."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from parity import formats as targets
from parity.core.case import digest
from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.record import ArtifactRecord, FileRecord, ToolchainRecord, build, plain
from parity.core.settings import ModelConfig
from parity.formats.target import Route, Step, versions
from parity.process.isolate import ChildFailure
from parity.process.steps import StepRequest
from parity.process.toolchains.resolving import Toolchain
from parity.session.artefact_files import content_key, file_records
from parity.session.cases import Cases
from parity.session.memo import remembered
from parity.session.models import Models
from parity.session.resources import Part, Resources
from parity.session.routes import FailedSteps, Passed, StepKey, first_that_works
from parity.session.toolchains import toolchain, usable
from parity.store.cache import Entry, key_of
from parity.store.code_key import code_key

RUN = "parity.process.steps:run"


@dataclass(frozen=True)
class Artifact:
    """An exported file or folder: where it is, what its route noted, and how it came to be."""

    folder: Path
    notes: Mapping[str, Any]
    record: ArtifactRecord
    route: str
    routes_failed: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    steps_built: int = 0
    toolchain: ToolchainRecord | None = None  # of the last step that ran in one

    @property
    def entry(self) -> Path:
        return self.folder / str(self.notes["entry"])


NamedStep = tuple[str, str, dict[str, Any]]  # name, key, specification


class Artefacts(Part):
    """The exported artefacts of a project's cells."""

    def __init__(self, resources: Resources, models: Models, cases: Cases):
        super().__init__(resources)
        self.models, self.cases = models, cases

    @remembered
    def artifact(self, cell: Cell) -> Artifact:
        """The exported artefact of a cell, built by one process of the run.

        Raises ChildFailure when no route works.
        """

        def make() -> Any:
            try:
                artifact = self._export(cell)
            except ChildFailure as failure:
                return {"failure": failure.notes}
            return {"value": plain(asdict(artifact))}

        resources = self.resources
        shared = resources.store.once(resources.run, f"export {cell}", make)
        if "failure" in shared:
            raise ChildFailure(**shared["failure"])
        value = shared["value"]
        return Artifact(
            Path(value["folder"]),
            value["notes"],
            build(ArtifactRecord, value["record"]),
            value["route"],
            tuple(value["routes_failed"]),
            tuple(value["findings"]),
            value["steps_built"],
            build(ToolchainRecord, value["toolchain"]) if value["toolchain"] else None,
        )

    def step_keys(self, cell: Cell, route: Route | None = None) -> list[NamedStep]:
        """(name, key, specification) of each step of a route, by default the cell's first, as they
        would be built now."""
        model, after, result = self.resources.config.models[cell.model], None, []
        route = route or self._routes(cell)[0]
        for number, step in enumerate(route.steps, 1):
            spec = self.step_spec(model, step, after)
            after = key_of(spec)
            result.append((f"{cell.id}~{number}-{step.name}", after, spec))
        return result

    def step_spec(self, model: ModelConfig, step: Step, after: str | None) -> dict[str, Any]:
        """Everything that the result of a step depends on; its key is the hash of that."""
        spec: dict[str, Any] = {
            "step": step.name,
            "function": step.function,
            "options": dict(step.options),
            "code": {name: code_key(name) for name in (RUN, step.function)},
            "packages": self._versions(step),
            **self._interpreter(step),
            "machine": f"{sys.platform}-{platform.machine()}",
            "contract": contract_of(model),
        }
        if after is None:
            spec |= {
                "model": self.models.fingerprint(model),
                "factory": model.factory,
                "factory_options": dict(model.options),
            }
            spec["seed"] = self.resources.config.seed
        else:
            spec["after"] = after
        if step.calibration:
            spec["calibration"] = digest(self.cases.calibration(model))
        return spec

    def _routes(self, cell: Cell) -> Sequence[Route]:
        try:
            return usable(self.resources.config, cell)
        except ParityError as error:
            raise ChildFailure("error", "export", str(error)) from None

    def _export(self, cell: Cell) -> Artifact:
        """The artefact of a cell, exported or as it was given."""
        resources = self.resources
        model = resources.config.models[cell.model]
        if f"{cell.target}-{cell.precision}" in model.artifacts:
            return self._prebuilt(cell, model)
        artifact, failed = first_that_works(
            self._routes(cell),
            cell,
            lambda route: self.export_by(cell, model, route),
            self._failed_steps(),
        )
        artifact = replace(artifact, routes_failed=failed)
        kernels = model.kernels.get(f"{cell.target}-{cell.precision}")
        if kernels:
            artifact = replace(artifact, notes={**artifact.notes, "kernels": kernels})
        return artifact

    def _failed_steps(self) -> FailedSteps:
        resources = self.resources
        budget = resources.children.budget
        return FailedSteps(resources.store, resources.run, budget, resources.rebuild_since)

    def export_by(self, cell: Cell, model: ModelConfig, route: Route) -> Artifact:
        """The artefact by one route.

        Raises StepFailure, also for a step that is known to fail, and Passed for a route that the model has no use for.
        """
        resources, failed_steps = self.resources, self._failed_steps()
        failed_steps.check(
            StepKey.of(step, spec) for step, (_, _, spec) in zip(route.steps, self.step_keys(cell, route), strict=True)
        )
        remote = resources.store.remote
        previous: Entry | None = None
        built, seconds = 0, 0.0
        findings: list[str] = []
        for number, step in enumerate(route.steps, 1):
            resources.progress(cell.id, step.name)  # also while another process builds it
            spec = self.step_spec(model, step, previous.key if previous else None)
            try:
                entry = resources.store.build(
                    spec,
                    f"{cell.id}~{number}-{step.name}",
                    self._builder(cell, model, step, previous, StepKey.of(step, spec)),
                    rebuild_since=resources.rebuild_since,
                )
            except ChildFailure as failure:
                raise failed_steps.noted(StepKey.of(step, spec), failure) from failure
            operators = entry.notes.get("operators")
            if route.operators and operators is not None and not set(route.operators) & set(operators):
                raise Passed(route.name)
            if entry.damaged:
                damaged = f"the cached result of step {step.name!r} was damaged"
                findings.append(f"{damaged} and was built again")
            findings += [n for n in (remote.notices if remote else ()) if n not in findings]
            built += entry.built
            seconds += entry.seconds
            previous = entry
        assert previous is not None
        record = ArtifactRecord(
            files=tuple(FileRecord(p, n, h) for p, n, h in previous.files),
            key=previous.key,
            export_seconds=round(seconds, 3),
            cached=not previous.built,
            location=f"objects/{previous.key}",
        )
        return Artifact(
            previous.folder,
            previous.notes,
            record,
            route.name,
            findings=tuple(findings),
            steps_built=built,
            toolchain=self._toolchain_of(route),
        )

    def _toolchain_of(self, route: Route) -> ToolchainRecord | None:
        """The last toolchain on the route, which decides what the file computes."""
        names = [step.toolchain for step in route.steps if step.toolchain]
        return ToolchainRecord(**self._resolved(names[-1]).identity) if names else None

    def _versions(self, step: Step) -> dict[str, str]:
        """Versions of the step's packages, as installed where the step runs."""
        chain = self._toolchain(step)
        return versions(step.packages) if chain is None else chain.versions(step.packages)

    def _interpreter(self, step: Step) -> dict[str, Any]:
        """What the step's key holds of the Python that runs it."""
        chain = self._toolchain(step)
        if chain is None:
            return {"python": platform.python_version()}
        return {"python": chain.version, "toolchain": chain.identity}

    def _toolchain(self, step: Step) -> Toolchain | None:
        """The toolchain that the step runs in; None for this environment.

        Raises ChildFailure where it is missing.
        """
        if not step.toolchain:
            return None
        chain = self._resolved(step.toolchain)
        if chain.why:
            raise ChildFailure("error", step.stage, chain.why)
        return None if chain.is_own else chain

    @remembered
    def _resolved(self, name: str) -> Toolchain:
        return toolchain(self.resources.config, name)

    def _builder(
        self, cell: Cell, model: ModelConfig, step: Step, previous: Entry | None, key: StepKey
    ) -> Callable[[Path], Mapping[str, Any]]:
        resources = self.resources
        chain = self._toolchain(step)
        python = chain.python if chain else sys.executable

        def on_stage(stage: str) -> None:
            resources.progress(cell.id, stage if stage == step.name else f"{step.name}: {stage}")

        def convert(folder: Path) -> Mapping[str, Any]:
            # Another process may have failed at it while this one waited for the lock.
            self._failed_steps().check([key])
            calibration = self.cases.calibration(model) if step.calibration else None
            request = StepRequest(
                step.function,
                step.stage,
                str(folder),
                str(previous.folder) if previous else None,
                step.options,
                self.models.spec(model),
                contract_of(model),
                self.cases.example(model),
                [c.inputs for c in calibration] if calibration else None,
            )
            notes = resources.children.call(
                step.family,
                RUN,
                request,
                dict[str, Any],
                stage=step.stage,
                python=python,
                on_stage=on_stage,
            )
            entry = notes.get("entry")
            if entry is not None and not (folder / entry).exists():
                reason = f"the converter reported success and left no {entry!r}"
                raise ChildFailure("error", step.stage, reason)
            return notes

        return convert

    def _prebuilt(self, cell: Cell, model: ModelConfig) -> Artifact:
        given = model.artifacts[f"{cell.target}-{cell.precision}"]
        file, root = given.path, self.resources.config.root
        try:
            files = file_records(file, targets.get(cell.target))
        except ParityError as error:
            raise ChildFailure("error", "load", str(error)) from None
        notes: dict[str, Any] = {"entry": file.name}
        if given.fixed:
            sizes = model.contract.example()
            notes["fixed"] = {i.name: list(i.sized(sizes)) for i in model.contract.inputs}
        for side in ("inputs", "outputs"):
            named = getattr(given, side)
            notes[side] = {}
            for spec in getattr(model.contract, side):
                other = named.get(spec.name)
                notes[side][spec.name] = {"name": other.name if other else spec.name}
                if other and other.layout:
                    notes[side][spec.name]["layout"] = other.layout
        folder = file.parent
        record = ArtifactRecord(
            files=files,
            key=content_key(files),
            cached=True,
            location=str(folder.relative_to(root) if file.is_relative_to(root) else folder),
        )
        return Artifact(folder, notes, record, "prebuilt")


def contract_of(model: ModelConfig) -> dict[str, Any]:
    """What an exporter may depend on: golden data and labels change no artefact."""
    contract = model.contract
    described: dict[str, Any] = {
        "inputs": [
            {
                "name": i.name,
                "shape": list(i.shape),
                "dtype": i.dtype,
                "range": plain(i.range),
            }
            for i in contract.inputs
        ],
        "outputs": [{"name": o.name} for o in contract.outputs],
        "sizes": {axis: list(sizes) for axis, sizes in contract.sizes().items()},
    }
    if model.enumerated:
        described["enumerated"] = list(model.enumerated)
    return described
