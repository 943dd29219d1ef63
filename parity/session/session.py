"""One session: the plan's exports, references, runtimes and cases, each made once and kept. Knows no pytest.

The plugin and the command line both work through this object, so that they cannot differ in what they do.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from parity import reference
from parity.cases import draw, golden, own, video
from parity.cases import sequence as carried
from parity.cases.files import clips, golden_files
from parity.cases.fit import fitted
from parity.core.case import Array, Case, digest
from parity.core.errors import NoTwin, ParityError
from parity.core.plan import Cell
from parity.core.record import ArtifactRecord, build, plain
from parity.core.settings import Config, ModelConfig
from parity.formats.target import versions
from parity.judging import post_processing as posts
from parity.judging.floor import Floor, floors, natural
from parity.process.isolate import Budget, ChildFailure, Children
from parity.session.exports import Artifact, export
from parity.session.runtimes import Runtime
from parity.store.cache import Store, key_of, sha256_file

Progress = Callable[[str, str], None]  # (what, stage)


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

    def once(self, what: str, name: str, make: Callable[[], Any]) -> Any:
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
        if model.reference is not None:
            names = {side: [s.name for s in getattr(model.contract, side)] for side in ("inputs", "outputs")}
            spec |= {"reference": str(model.reference), "options": {"content": self._content(model.reference), **names}}
        return spec | ({"whole_module": True} if model.whole_module else {})

    def _content(self, file: Path) -> list[str]:
        """Hashes of a reference file and of the weights that an ONNX file may have beside it."""
        parts = [file, file.with_name(file.name + ".data")]
        return list(self.once("content", str(file), lambda: [sha256_file(p) for p in parts if p.is_file()]))

    def fingerprint(self, model: ModelConfig) -> dict[str, str]:
        """Hashes of the model's tensors, structure and source; computed by one worker of the run."""

        def make() -> Any:
            try:
                value = self.children.call(
                    "torch", "parity.reference.modelling:fingerprint", {"spec": self.model_spec(model)}, stage="export"
                )
            except ChildFailure as failure:
                return {"failure": _failure(failure)}
            return {"value": value}

        shared = self.once("fingerprint", model.name, lambda: self.store.once(self.run, f"fp {model.name}", make))
        if "failure" in shared:
            raise ChildFailure(**shared["failure"])
        return dict(shared["value"])

    # Cases.

    def golden(self, model: ModelConfig) -> list[Case]:
        """The golden cases: files, then what the project's own function makes. Raises ParityError when there are none:
        nothing measured is not a pass."""

        def make() -> list[Case]:
            if model.golden is None and model.cases is None:
                raise ParityError(f'model {model.name}: no golden data; set golden = "folder" in its table')
            files = golden.load(model.golden, model.contract, classes=True) if model.golden else []
            made = own.cases(model.cases, model.contract, self.config.root) if model.cases else []
            if model.golden and not files and not made:
                raise ParityError(
                    f"model {model.name}: golden folder {model.golden.name!r} holds no picture and no .npz"
                )
            if twice := {c.id for c in files} & {c.id for c in made}:
                raise ParityError(
                    f"model {model.name}: cases {model.cases!r} names {min(twice)!r}, a golden file does too"
                )
            return files + made

        return list(self.once("golden", model.name, make))

    def golden_if_any(self, model: ModelConfig) -> list[Case]:
        """The golden cases; none where the model has neither golden files (a clip is none) nor a function for cases."""
        return self.golden(model) if model.cases or (model.golden and golden_files(model.golden)) else []

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

        return list(self.once(f"video {maximum}", model.name, make))

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

        return list(self.once("calibration", model.name, make))

    def example(self, model: ModelConfig) -> dict[str, Array]:
        return draw.inputs(model.contract, model.contract.example(), self.config.seed)

    # The reference.

    def reference(self, model: ModelConfig, cases: Sequence[Case], what: str) -> Reference:
        """The oracle's outputs for `cases`, from the store where model, source and inputs are the same."""
        return self.once(f"reference {what}", model.name, lambda: self._reference(model, cases, what))  # type: ignore[no-any-return]

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
        Raises NoTwin where the module has none at that precision, ParityError for what went wrong on the way.
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
        """Outputs of the twin that rounds as `flavour` of `precision` does, one row a case. Raises NoTwin."""
        calibration = self.calibration(model) if precision == "int8" and model.calibration is not None else None
        arguments = {"precision": precision, "flavour": flavour}
        spec = {"recipe": arguments, "calibration": digest(calibration) if calibration else None}
        extra = {**arguments, "calibration": [c.inputs for c in calibration] if calibration else None}
        name = f"{what}-{precision}-{flavour}"
        make = partial(self._evaluate, model, cases, "twin", name, spec, extra)
        return self.once(f"twin {name}", model.name, partial(_twin_or_none, make)).outputs  # type: ignore[no-any-return]

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
        call = partial(self.children.call, "torch", f"parity.reference.{kind}:evaluate", arguments, stage=kind)
        return list((_twin_or_none(call) if kind == "twin" else call())["outputs"])

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
        evaluate = partial(self._evaluate, model, cases, "chain", what, spec, extra, keep)
        make = partial(_twin_or_none, evaluate) if precision else evaluate
        return self.once(f"sequence {what}", model.name, make).outputs  # type: ignore[no-any-return]

    def flavour(self, cell: Cell) -> str | None:
        """Which twin stands for a cell: the one nearest to correct exports, where any were measured."""
        measured = natural(cell.target, cell.precision)
        return measured.flavour if measured else None

    # Artefacts.

    def artifact(self, cell: Cell) -> Artifact:
        """The exported artefact of a cell, built by one process of the run. Raises ChildFailure when no route works."""

        def make() -> Any:
            try:
                artifact = export(self, cell)
            except ChildFailure as failure:
                return {"failure": _failure(failure)}
            value = asdict(artifact)
            value["folder"] = str(artifact.folder)
            return {"value": plain(value)}

        shared = self.once("artifact", cell.id, lambda: self.store.once(self.run, f"export {cell}", make))
        if "failure" in shared:
            raise ChildFailure(**shared["failure"])
        value = shared["value"]
        return Artifact(
            Path(value["folder"]), value["notes"], build(ArtifactRecord, value["record"]), value["route"],
            tuple(value["routes_failed"]), tuple(value["findings"]), value["steps_built"],
        )  # fmt: skip

    def runtime(self, cell: Cell) -> Runtime:
        """The cell's artefact, ready to run; exports it first. One a cell and session."""
        return self.once("runtime", cell.id, lambda: Runtime(self, cell, self.artifact(cell)))  # type: ignore[no-any-return]

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


def _twin_or_none(make: Callable[[], Any]) -> Any:
    """What a twin computes. Its own refusal becomes NoTwin; crash, time-out, lack of memory stay what they are."""
    try:
        return make()
    except ChildFailure as failure:
        if failure.state != "error" or failure.reason.startswith("MemoryError"):
            raise
        raise NoTwin(str(failure)) from None


def _failure(failure: ChildFailure) -> dict[str, str]:
    return {"state": failure.state, "stage": failure.stage, "reason": failure.reason, "log": failure.log}
