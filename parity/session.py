"""One session: the plan's exports, references, runtimes and cases, each made once and kept. Knows no pytest.

The plugin and the command line both work through this object, so that they cannot differ in what they do.
"""

from __future__ import annotations

import hashlib
import io
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from parity import posts, proof, reference, targets
from parity.cache import Entry, Store, key_of, sha256_file, sha256_tree
from parity.cases import Array, Case, digest, draw, golden, video
from parity.cases import sequence as carried
from parity.cases.files import clips, golden_files
from parity.cases.fit import fitted
from parity.config import Config, ModelConfig
from parity.errors import ParityError
from parity.faults.causes import Diagnosis
from parity.faults.chain import with_chain
from parity.faults.power import CellPower
from parity.isolate import Budget, ChildFailure, Children
from parity.limits import resolve
from parity.plan import Cell
from parity.record import ArtifactRecord, Explanation, FileRecord, Power, RuntimeRecord, build, plain
from parity.reference.floor import Floor, floors, natural
from parity.routes import first_that_works
from parity.targets.base import Route, Step, version, versions

Progress = Callable[[str, str], None]  # (what, stage)


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

    @property
    def entry(self) -> Path:
        return self.folder / str(self.notes["entry"])


@dataclass(frozen=True)
class Reference:
    """Oracle outputs by case, in the order of the cases: {output: float64 array}."""

    outputs: tuple[Mapping[str, Array], ...]
    dtype: str
    note: str

    def seen(self, model: ModelConfig) -> Reference:
        """The outputs as they are compared."""
        rows = tuple(posts.seen(model.contract.outputs, row) for row in self.outputs)
        return replace(self, outputs=rows)


class Runtime:
    """An artefact opened in a warm child. `run` gives what the artefact computes, under the model's own names."""

    def __init__(self, session: Session, cell: Cell, artifact: Artifact):
        self.session, self.cell, self.artifact = session, cell, artifact
        self.target = targets.get(cell.target)
        self.python = self.target.python(session.config)
        self.description: dict[str, Any] = {}
        self.milliseconds: list[float] = []
        self._handle: int | None = None
        self._pid: int | None = None

    def open(self) -> Runtime:
        """Open the artefact, or open it again when its child is gone. Raises ChildFailure."""
        child = self.session.children.get(self.target.family, self.python)
        if self._handle is None or not child.alive or child.pid != self._pid:
            opened = self._call(
                "open_session",
                {
                    "session": self.target.session,
                    "folder": str(self.artifact.folder),
                    "notes": self.artifact.notes,
                },
                "load",
            )
            self._handle, self.description = opened["handle"], opened["description"]
            self._pid = child.pid
        return self

    def run(
        self, inputs: Sequence[Mapping[str, Array]], layouts: Sequence[Mapping[str, str]] | None = None
    ) -> list[dict[str, Array]]:
        """Outputs of each set of inputs, in order. Raises ChildFailure; never returns fewer than it was given.

        `layouts`: for each set, the inputs that reach the runtime as views of other memory. A crash is repeated once
        with the artefact opened anew, in a fresh child: a handle dies with its child.
        """
        try:
            result = self._run(inputs, layouts)
        except ChildFailure as failure:
            if failure.state != "crash" or failure.stage == "load":
                raise
            result = self._run(inputs, layouts)
        if len(result["outputs"]) != len(inputs):
            raise ParityError(f"{self.cell}: {len(inputs)} cases were run and {len(result['outputs'])} came back")
        self.milliseconds += result["milliseconds"]
        return list(result["outputs"])

    def _run(self, inputs: Sequence[Mapping[str, Array]], layouts: Sequence[Mapping[str, str]] | None) -> Any:
        self.open()
        arguments = {"handle": self._handle, "cases": list(inputs), "layouts": list(layouts) if layouts else None}
        try:
            return self._call("run", arguments, "run", again=False)
        except ChildFailure as failure:
            if failure.state != "error":
                self._handle = None
            raise

    def _call(self, function: str, arguments: Mapping[str, Any], stage: str, again: bool = True) -> Any:
        return self.session.children.call(
            self.target.family,
            f"parity.targets.serve:{function}",
            arguments,
            stage=stage,
            on_stage=lambda s: self.session.progress(self.cell.id, s),
            again=again,
            python=self.python,
        )

    def play(
        self,
        steps: Sequence[Mapping[str, Array]],
        carry: Mapping[str, str],
        keep: Sequence[str],
        free: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Array]]:
        """The outputs `keep` of steps that feed one another. Raises ChildFailure."""
        self.open()
        arguments = {"handle": self._handle, "steps": list(steps), "carry": carry, "keep": list(keep), "free": free}
        return list(self._call("play", arguments, "run", again=False))

    def close(self) -> None:
        child = self.session.children.get(self.target.family, self.python)
        if self._handle is not None and child.alive and child.pid == self._pid:
            self._call("close_session", {"handle": self._handle}, "close")
        self._handle = None

    def record(self) -> RuntimeRecord:
        package = self.target.runtime_package
        median = statistics.median(self.milliseconds) if self.milliseconds else None
        executor = str(self.description.get("executor", ""))
        name = executor if executor == "mil-eval" else package
        known = self.description.get("runtime_version") or version("pytest-parity" if name != package else package)
        return RuntimeRecord(name, known, median, executor)


class Session:
    """Everything that one process of one run makes. `run` names the run, shared by all its processes."""

    def __init__(
        self,
        config: Config,
        run: str,
        *,
        store: Store | None = None,
        budget: Budget | None = None,
        rebuild_since: float | None = None,
        progress: Progress = lambda what, stage: None,
    ):
        self.config, self.run, self.rebuild_since, self.progress = config, run, rebuild_since, progress
        self.store = store or Store.at(config.cache, config.root)
        self.children = Children(config.root, budget or Budget(config.timeout, config.memory))
        self._made: dict[tuple[str, str], Any] = {}
        self.submodels: Path | None = None  # where the step at which a file diverges is saved, if it is wanted

    def close(self) -> None:
        self.children.close()

    def _once(self, what: str, name: str, make: Callable[[], Any]) -> Any:
        """Made once in this process; a failure is remembered and raised again."""
        key = (what, name)
        if key not in self._made:
            try:
                self._made[key] = make()
            except ParityError as error:
                self._made[key] = error
        if isinstance(self._made[key], ParityError):
            raise self._made[key]
        return self._made[key]

    # The model.

    def model_spec(self, model: ModelConfig) -> dict[str, Any]:
        """What a child needs to make the module."""
        spec: dict[str, Any] = {
            "root": str(self.config.root),
            "factory": model.factory,
            "options": dict(model.options),
            "checkpoint": str(model.checkpoint) if model.checkpoint else None,
        }
        return spec | ({"whole_module": True} if model.whole_module else {})

    def fingerprint(self, model: ModelConfig) -> dict[str, str]:
        """Hashes of the model's tensors, structure and source; computed by one worker of the run."""

        def make() -> Any:
            try:
                value = self.children.call(
                    "torch", "parity.modelling:fingerprint", {"spec": self.model_spec(model)}, stage="export"
                )
            except ChildFailure as failure:
                return {"failure": _failure(failure)}
            return {"value": value}

        shared = self._once("fingerprint", model.name, lambda: self.store.once(self.run, f"fp {model.name}", make))
        if "failure" in shared:
            raise ChildFailure(**shared["failure"])
        return dict(shared["value"])

    # Cases.

    def golden(self, model: ModelConfig) -> list[Case]:
        """The golden cases. Raises ParityError when there are none: nothing measured is not a pass."""

        def make() -> list[Case]:
            if model.golden is None:
                raise ParityError(f'model {model.name}: no golden data; set golden = "folder" in its table')
            cases = golden.load(model.golden, model.contract, classes=True)
            if not cases:
                raise ParityError(
                    f"model {model.name}: golden folder {model.golden.name!r} holds no picture and no .npz"
                )
            return cases

        return list(self._once("golden", model.name, make))

    def golden_if_any(self, model: ModelConfig) -> list[Case]:
        """The golden cases; none where the model has no golden files (a clip among them is no case)."""
        return self.golden(model) if model.golden is not None and golden_files(model.golden) else []

    def video(self, model: ModelConfig, maximum: int | None) -> list[tuple[str, list[Case]]]:
        """(clip name, its frames as cases) of every clip, decoded in a child; at most `maximum` frames a clip."""
        how = model.playing
        most = min((n for n in (maximum, how.maximum) if n is not None), default=None)

        def make() -> list[tuple[str, list[Case]]]:
            found = []
            for path in clips(model):
                self.progress(model.name, f"decoding {path.name}")
                arguments = {"path": str(path), "stride": how.stride, "maximum": most}
                decoded = self.children.call("video", "parity.cases.video:decode", arguments, stage="decode")
                found.append((path.name, video.cases(path.name, decoded, model.contract, how.rotate, how.crop)))
            return found

        return list(self._once(f"video {maximum}", model.name, make))

    def first_frame(self, model: ModelConfig) -> tuple[Array, str]:
        """The first frame of the model's first clip, turned and cropped as declared, and the clip's name."""
        path = clips(model)[0]
        arguments = {"path": str(path), "maximum": 1}
        decoded = self.children.call("video", "parity.cases.video:decode", arguments, stage="decode")
        return video.upright(decoded["frames"][0], model.playing.rotate, model.playing.crop), path.name

    def calibration(self, model: ModelConfig) -> list[Case]:
        def make() -> list[Case]:
            if model.calibration is None:
                raise ParityError(f'model {model.name}: int8 needs calibration data; set calibration = "folder"')
            cases = golden.load(model.calibration, model.contract)
            if not cases:
                raise ParityError(f"model {model.name}: calibration folder {model.calibration.name!r} is empty")
            return fitted(cases, model.contract)  # a quantiser runs the file that it makes, at that file's sizes

        return list(self._once("calibration", model.name, make))

    def example(self, model: ModelConfig) -> dict[str, Array]:
        return draw.inputs(model.contract, model.contract.example(), self.config.seed)

    # The reference.

    def reference(self, model: ModelConfig, cases: Sequence[Case], what: str) -> Reference:
        """The oracle's outputs for `cases`, from the store where model, source and inputs are the same."""
        return self._once(f"reference {what}", model.name, lambda: self._reference(model, cases, what))  # type: ignore[no-any-return]

    def _reference(self, model: ModelConfig, cases: Sequence[Case], what: str) -> Reference:
        return self._evaluate(model, cases, "oracle", what, {}, {})

    def _evaluate(
        self,
        model: ModelConfig,
        cases: Sequence[Case],
        kind: str,
        what: str,
        own: Mapping[str, Any],
        arguments: Mapping[str, Any],
        keep: Sequence[str] | None = None,
    ) -> Reference:
        """Outputs of `parity.reference.KIND:evaluate` on `cases`, made once for the same model, source and inputs.

        `own`: what else they depend on. `arguments`: what else the function takes. `keep`: the outputs that it gives.
        """
        outputs = [o.name for o in model.contract.outputs]
        spec = {
            "evaluates": kind,
            "model": self.fingerprint(model),
            "cases": digest(cases),
            "outputs": outputs,
            "code": {path.name: sha256_file(path) for path in sorted(Path(reference.__file__).parent.glob("*.py"))},
            "packages": versions(("torch", "numpy")),
            **own,
        }

        def evaluate(folder: Path) -> Mapping[str, Any]:
            self.progress(model.name, f"{kind}, {len(cases)} {what} cases")
            given = {"model": self.model_spec(model), "cases": [c.inputs for c in cases], "outputs": outputs}
            result = self.children.call(
                "torch", f"parity.reference.{kind}:evaluate", {**given, **arguments}, stage=kind
            )
            arrays = {f"{i}/{n}": v for i, row in enumerate(result["outputs"]) for n, v in row.items()}
            np.savez(folder / "outputs.npz", **arrays)
            return {"dtype": result["dtype"], "note": result["note"], "cases": len(cases)}

        entry = self.store.build(spec, f"{model.name}~{kind}-{what}".replace("/", "_"), evaluate)
        with np.load(io.BytesIO((entry.folder / "outputs.npz").read_bytes()), allow_pickle=False) as archive:
            rows = tuple({n: archive[f"{i}/{n}"] for n in keep or outputs} for i in range(len(cases)))
        return Reference(rows, entry.notes["dtype"], entry.notes["note"])

    def floors(self, cell: Cell, cases: Sequence[Case], oracle: Reference, what: str) -> dict[str, Floor]:
        """The noise floor of each output of real numbers: what the cell's precision alone costs on `cases`.

        `oracle`: its outputs as they are compared.
        Raises ParityError where the module has no twin at that precision.
        """
        model = self.config.models[cell.model]
        measured = natural(cell.target, cell.precision)
        flavour = measured.flavour if measured else None
        rows = self.twin(model, cases, what, cell.precision, flavour)
        specs = model.contract.outputs
        seen = [posts.seen(specs, row, want) for row, want in zip(rows, oracle.outputs, strict=True)]
        return floors(oracle.outputs, seen, cell.precision, specs)

    def twin(
        self, model: ModelConfig, cases: Sequence[Case], what: str, precision: str, flavour: str | None
    ) -> tuple[Mapping[str, Array], ...]:
        """Outputs of the twin that rounds as `flavour` of `precision` does, one row a case."""
        calibration = self.calibration(model) if precision == "int8" and model.calibration is not None else None
        arguments = {"precision": precision, "flavour": flavour}
        spec = {"recipe": arguments, "calibration": digest(calibration) if calibration else None}
        extra = {**arguments, "calibration": [c.inputs for c in calibration] if calibration else None}
        name = f"{what}-{precision}-{flavour}"
        evaluated = self._once(
            f"twin {name}", model.name, lambda: self._evaluate(model, cases, "twin", name, spec, extra)
        )
        return evaluated.outputs  # type: ignore[no-any-return]

    def evaluated(
        self,
        model: ModelConfig,
        cases: Sequence[Case],
        kind: str,
        stored: bool,
        precision: str = "",
        flavour: str | None = None,
    ) -> Sequence[Mapping[str, Array]]:
        """Outputs of oracle or twin on drawn cases: from the store where all targets draw the same, else just made."""
        if stored and kind == "twin":
            return self.twin(model, cases, f"drawn {digest(cases)[:12]}", precision, flavour)
        if stored:
            return self.reference(model, cases, f"drawn {digest(cases)[:12]}").outputs
        arguments: dict[str, Any] = {
            "model": self.model_spec(model),
            "cases": [c.inputs for c in cases],
            "outputs": [o.name for o in model.contract.outputs],
        }
        if kind == "twin":
            quantised = precision == "int8" and model.calibration is not None
            calibration = [c.inputs for c in self.calibration(model)] if quantised else None
            arguments |= {"precision": precision, "flavour": flavour, "calibration": calibration}
        result = self.children.call("torch", f"parity.reference.{kind}:evaluate", arguments, stage=kind)
        return list(result["outputs"])

    def sequence(
        self,
        model: ModelConfig,
        steps: Sequence[Mapping[str, Array]],
        keep: Sequence[str],
        free: Mapping[str, Any] | None = None,
        precision: str | None = None,
        flavour: str | None = None,
    ) -> Sequence[Mapping[str, Array]]:
        """The outputs `keep` of steps that feed one another, by the oracle, or by the twin of a precision."""
        quantised = precision == "int8" and model.calibration is not None
        calibration = self.calibration(model) if quantised else None
        own = {
            "carry": dict(model.states),
            "keep": list(keep),
            "free": free,
            "precision": precision,
            "flavour": flavour,
        }
        loop = sha256_file(Path(carried.__file__))
        spec = {**own, "calibration": digest(calibration) if calibration else None, "loop": loop}
        extra = {**own, "calibration": [c.inputs for c in calibration] if calibration else None}
        cases = [Case(f"step {n}", step) for n, step in enumerate(steps)]
        what = f"steps {key_of(spec)[:12]} {digest(cases)[:12]}"
        evaluated = self._once(
            f"sequence {what}", model.name, lambda: self._evaluate(model, cases, "chain", what, spec, extra, keep)
        )
        return evaluated.outputs  # type: ignore[no-any-return]

    def flavour(self, cell: Cell) -> str | None:
        """Which twin stands for a cell: the one nearest to correct exports, where any were measured."""
        measured = natural(cell.target, cell.precision)
        return measured.flavour if measured else None

    def diagnosis(
        self, cell: Cell, cases: Sequence[Case], got: Sequence[Mapping[str, Array]], what: str
    ) -> tuple[str, tuple[Explanation, ...]]:
        """What explains a failing artefact's outputs: a sentence, and the faults that do, best first; never a guess."""
        model, measured = self.config.models[cell.model], natural(cell.target, cell.precision)
        flavour = measured.flavour if measured else None
        quantised = cell.precision == "int8" and model.calibration is not None
        self.progress(cell.id, "diagnosis")
        found = self.children.call(
            "torch",
            "parity.faults.diagnose:explain",
            {
                "model": self.model_spec(model),
                "contract": plain(model.contract),
                "cases": [c.inputs for c in cases],
                "artefact": list(got),
                "twin": list(self.twin(model, cases, what, cell.precision, flavour)),
                "precision": cell.precision,
                "limits": dict(measured.limits) if measured else None,
                "sources": self._sources(model, cases),
                "flavour": flavour,
                "calibration": [c.inputs for c in self.calibration(model)] if quantised else [],
            },
            stage="diagnosis",
        )
        explained = build(Diagnosis, found)
        return explained.sentence, explained.explanations()

    def power(self, model: ModelConfig, cells: Sequence[Cell], cases: Sequence[Case], what: str) -> dict[str, Power]:
        """For each cell, how many of the library's faults its limits would notice; measured once a run and model."""

        def make() -> Any:
            asked = []
            for cell in cells:
                measured = natural(cell.target, cell.precision)
                limits = {}
                for spec in model.contract.outputs:
                    found = resolve(self.config.rules, cell, spec.name)
                    limits[spec.name] = {n: lim.value for n, lim in found.items()}
                rows = self.twin(model, cases, what, cell.precision, measured.flavour if measured else None)
                asked.append({"id": cell.id, "precision": cell.precision, "twin": list(rows), "limits": limits})
            self.progress(model.name, f"injecting faults into {len(asked)} cells")
            arguments = {
                "model": self.model_spec(model),
                "contract": plain(model.contract),
                "cases": [c.inputs for c in cases],
                "ids": [c.id for c in cases],
                "cells": asked,
                "labels": [c.label for c in cases],
                "sources": self._sources(model, cases),
            }
            result = self.children.call("torch", "parity.faults.measure:measure", arguments, stage="faults")
            powers = {c["cell"]: build(CellPower, c) for c in result["cells"]}
            return {c.id: plain(with_chain(self, c, cases, powers[c.id]).summary()) for c in cells}

        shared = self._once("power", model.name, lambda: self.store.once(self.run, f"power {model.name}", make))
        return {id: build(Power, value) for id, value in shared.items()}

    def _sources(self, model: ModelConfig, cases: Sequence[Case]) -> list[str] | None:
        """The encoded pictures behind the cases, where every case is one."""
        if model.golden is None or not model.golden.is_dir():
            return None
        files = {p.relative_to(model.golden).with_suffix("").as_posix(): str(p) for p in golden_files(model.golden)}
        found = [files.get(case.id, "") for case in cases]
        return found if all(found) and not any(f.endswith(".npz") for f in found) else None

    def proof(self, cell: Cell, cases: Sequence[Case]) -> dict[str, Any]:
        """The chain of proof of the cell's artefact on golden `cases`, made once for the same file, model and cases."""
        model, artifact = self.config.models[cell.model], self.artifact(cell)
        spec = {
            "proof": {path.name: sha256_file(path) for path in sorted(Path(proof.__file__).parent.glob("*.py"))},
            "artifact": artifact.record.key,
            "kernels": artifact.notes.get("kernels"),
            "model": self.fingerprint(model),
            "cases": digest(cases),
            "packages": versions(("torch", "numpy", "onnxruntime", "ai-edge-litert")),
        }

        def prove(folder: Path) -> Mapping[str, Any]:
            self.progress(cell.id, "prove")
            arguments = {
                "model": self.model_spec(model),
                "target": cell.target,
                "precision": cell.precision,
                "folder": str(artifact.folder),
                "notes": artifact.notes,
                "cases": [c.inputs for c in cases],
                "outputs": [o.name for o in model.contract.outputs],
            }
            return dict(self.children.call("proof", "parity.proof:prove", arguments, stage="prove"))

        return dict(self.store.build(spec, f"{cell.id}~proof", prove).notes)

    # Artefacts.

    def artifact(self, cell: Cell) -> Artifact:
        """The exported artefact of a cell, built by one process of the run. Raises ChildFailure when no route works."""

        def make() -> Any:
            try:
                artifact = self._export(cell)
            except ChildFailure as failure:
                return {"failure": _failure(failure)}
            value = asdict(artifact)
            value["folder"] = str(artifact.folder)
            return {"value": plain(value)}

        shared = self._once("artifact", cell.id, lambda: self.store.once(self.run, f"export {cell}", make))
        if "failure" in shared:
            raise ChildFailure(**shared["failure"])
        value = shared["value"]
        return Artifact(
            Path(value["folder"]), value["notes"], build(ArtifactRecord, value["record"]), value["route"],
            tuple(value["routes_failed"]), tuple(value["findings"]), value["steps_built"],
        )  # fmt: skip

    def _export(self, cell: Cell) -> Artifact:
        model = self.config.models[cell.model]
        prebuilt = model.artifacts.get(f"{cell.target}-{cell.precision}")
        if prebuilt:
            return self._prebuilt(cell, model)
        options = targets.get(cell.target).routes(cell, model, self.config)
        artifact = first_that_works(self, cell, model, options, lambda route: self._export_by(cell, model, route))
        kernels = model.kernels.get(f"{cell.target}-{cell.precision}")
        return replace(artifact, notes={**artifact.notes, "kernels": kernels}) if kernels else artifact

    def _export_by(self, cell: Cell, model: ModelConfig, route: Route) -> Artifact:
        previous: Entry | None = None
        built, seconds, findings = 0, 0.0, []
        for number, step in enumerate(route.steps, 1):
            name = f"{cell.id}~{number}-{step.name}"
            self.progress(cell.id, step.name)  # also while another process builds it
            spec = self.step_spec(model, step, previous.key if previous else None)
            entry = self.store.build(
                spec, name, self._builder(cell, model, step, previous), rebuild_since=self.rebuild_since
            )
            if entry.damaged:
                findings.append(f"the cached result of step {step.name!r} was damaged and was built again")
            findings += [n for n in (self.store.remote.notices if self.store.remote else ()) if n not in findings]
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
        return Artifact(previous.folder, previous.notes, record, route.name, (), tuple(findings), built)

    def step_spec(self, model: ModelConfig, step: Step, after: str | None) -> dict[str, Any]:
        """Everything that the result of a step depends on: the specification that its key is the hash of."""
        spec: dict[str, Any] = {
            "step": step.name,
            "function": step.function,
            "options": dict(step.options),
            "code": _code(step.function.partition(":")[0]),
            "packages": self._versions(step),
            "python": platform.python_version(),
            "machine": f"{sys.platform}-{platform.machine()}",
            "contract": _contract(model),
        }
        if after is None:
            spec |= {
                "model": self.fingerprint(model),
                "factory": model.factory,
                "factory_options": dict(model.options),
            }
            spec["seed"] = self.config.seed
        else:
            spec["after"] = after
        if step.calibration:
            spec["calibration"] = digest(self.calibration(model))
        return spec

    def _versions(self, step: Step) -> dict[str, str]:
        """Versions of the step's packages, as installed where the step runs."""
        if step.python is None:
            return versions(step.packages)
        arguments = {"packages": list(step.packages)}
        return self._once("versions", step.name, lambda: self.children.call(  # type: ignore[no-any-return]
            step.family, "parity.targets.base:versions", arguments, python=step.python, stage="export"
        ))  # fmt: skip

    def _builder(
        self, cell: Cell, model: ModelConfig, step: Step, previous: Entry | None
    ) -> Callable[[Path], Mapping[str, Any]]:
        def convert(folder: Path) -> Mapping[str, Any]:
            arguments = {
                "work": str(folder),
                "after": str(previous.folder) if previous else None,
                "options": dict(step.options),
                "model": self.model_spec(model),
                "contract": _contract(model),
                "example": self.example(model),
                "calibration": [c.inputs for c in self.calibration(model)] if step.calibration else None,
            }
            notes: dict[str, Any] = self.children.call(
                step.family,
                "parity.steps:run",
                {"function": step.function, "start": step.stage, "arguments": arguments},
                stage=step.stage,
                python=step.python or sys.executable,
                on_stage=lambda s: self.progress(cell.id, f"{step.name}: {s}" if s != step.name else s),
            )
            entry = notes.get("entry")
            if entry is not None and not (folder / entry).exists():
                raise ChildFailure("error", step.stage, f"the converter reported success and left no {entry!r}")
            return notes

        return convert

    def _prebuilt(self, cell: Cell, model: ModelConfig) -> Artifact:
        given = model.artifacts[f"{cell.target}-{cell.precision}"]
        file = given.path
        files = [file] if file.is_file() else sorted(f for f in file.rglob("*") if f.is_file())
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
        record = ArtifactRecord(
            files=tuple(
                FileRecord(f.relative_to(file.parent).as_posix(), f.stat().st_size, sha256_file(f)) for f in files
            ),
            key=sha256_tree(file),
            cached=True,
            location=str(
                file.parent.relative_to(self.config.root) if file.is_relative_to(self.config.root) else file.parent
            ),
        )
        return Artifact(file.parent, notes, record, "prebuilt")

    def runtime(self, cell: Cell) -> Runtime:
        """The cell's artefact, ready to run; exports it first. One a cell and session."""
        return self._once("runtime", cell.id, lambda: Runtime(self, cell, self.artifact(cell)))  # type: ignore[no-any-return]

    def made(self, cell: Cell) -> dict[str, Any]:
        """What this session knows of a cell so far, for its record: route, artifact, runtime, steps built."""
        artifact, runtime = self._made.get(("artifact", cell.id)), self._made.get(("runtime", cell.id))
        found: dict[str, Any] = {}
        if isinstance(artifact, dict) and "value" in artifact:
            value = artifact["value"]
            found = {"route": value["route"], "routes_failed": value["routes_failed"],
                     "artifact": value["record"], "steps_built": value["steps_built"],
                     "rebuilt": value["findings"]}  # fmt: skip
        if isinstance(runtime, Runtime):
            found["runtime"] = runtime.record()
        return found

    # Explaining.

    def step_keys(self, cell: Cell) -> list[tuple[str, str, dict[str, Any]]]:
        """(name, key, specification) of each step of the first route, as they would be built now."""
        model, after, result = self.config.models[cell.model], None, []
        for number, step in enumerate(targets.get(cell.target).routes(cell, model, self.config)[0].steps, 1):
            spec = self.step_spec(model, step, after)
            after = key_of(spec)
            result.append((f"{cell.id}~{number}-{step.name}", after, spec))
        return result


def _failure(failure: ChildFailure) -> dict[str, str]:
    return {"state": failure.state, "stage": failure.stage, "reason": failure.reason, "log": failure.log}


def _contract(model: ModelConfig) -> dict[str, Any]:
    """What an exporter may depend on: names, shapes, dtypes; golden data and labels change no artefact."""
    contract = model.contract
    return {
        "inputs": [
            {"name": i.name, "shape": list(i.shape), "dtype": i.dtype, "range": plain(i.range)} for i in contract.inputs
        ],
        "outputs": [{"name": o.name} for o in contract.outputs],
        "sizes": {k: list(v) for k, v in contract.sizes().items()},
        **({"enumerated": list(model.enumerated)} if model.enumerated else {}),
    }


def _code(module: str) -> str:
    """The hash of a step's own source, so that a change of ours builds again."""
    import importlib.util

    found = importlib.util.find_spec(module)
    if found is None or not found.origin:
        return "unknown"
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()


__all__ = ["Artifact", "Progress", "Reference", "Runtime", "Session"]
