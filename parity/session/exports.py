"""From a cell to its exported artefact: the steps of a route, each built once under its content address."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity import formats as targets
from parity.core.case import digest
from parity.core.plan import Cell
from parity.core.record import ArtifactRecord, FileRecord, plain
from parity.core.settings import ModelConfig
from parity.formats.target import Route, Step, versions
from parity.process.isolate import ChildFailure
from parity.session.routes import first_that_works
from parity.store.cache import Entry, key_of, sha256_file, sha256_tree

if TYPE_CHECKING:
    from parity.session.session import Session


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


def export(session: Session, cell: Cell) -> Artifact:
    """The artefact of a cell, exported or as it was given. Raises ChildFailure where no route works."""
    model = session.config.models[cell.model]
    prebuilt = model.artifacts.get(f"{cell.target}-{cell.precision}")
    if prebuilt:
        return _prebuilt(session, cell, model)
    options = targets.get(cell.target).routes(cell, model, session.config)
    artifact = first_that_works(
        session,
        cell,
        options,
        lambda route: _export_by(session, cell, model, route),
        lambda route: step_keys(session, cell, route)[-1][1],
    )
    kernels = model.kernels.get(f"{cell.target}-{cell.precision}")
    return replace(artifact, notes={**artifact.notes, "kernels": kernels}) if kernels else artifact


def _export_by(session: Session, cell: Cell, model: ModelConfig, route: Route) -> Artifact:
    previous: Entry | None = None
    built, seconds, findings = 0, 0.0, []
    for number, step in enumerate(route.steps, 1):
        name = f"{cell.id}~{number}-{step.name}"
        session.progress(cell.id, step.name)  # also while another process builds it
        spec = step_spec(session, model, step, previous.key if previous else None)
        entry = session.store.build(
            spec, name, _builder(session, cell, model, step, previous), rebuild_since=session.rebuild_since
        )
        if entry.damaged:
            findings.append(f"the cached result of step {step.name!r} was damaged and was built again")
        findings += [n for n in (session.store.remote.notices if session.store.remote else ()) if n not in findings]
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


def step_spec(session: Session, model: ModelConfig, step: Step, after: str | None) -> dict[str, Any]:
    """Everything that the result of a step depends on: the specification that its key is the hash of."""
    spec: dict[str, Any] = {
        "step": step.name,
        "function": step.function,
        "options": dict(step.options),
        "code": source_hash(step.function),
        "packages": _versions(session, step),
        "python": platform.python_version(),
        "machine": f"{sys.platform}-{platform.machine()}",
        "contract": _contract(model),
    }
    if after is None:
        spec |= {
            "model": session.fingerprint(model),
            "factory": model.factory,
            "factory_options": dict(model.options),
        }
        spec["seed"] = session.config.seed
    else:
        spec["after"] = after
    if step.calibration:
        spec["calibration"] = digest(session.calibration(model))
    return spec


def step_keys(session: Session, cell: Cell, route: Route | None = None) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, key, specification) of each step of a route, by default the cell's first, as they would be built now."""
    model, after, result = session.config.models[cell.model], None, []
    route = route or targets.get(cell.target).routes(cell, model, session.config)[0]
    for number, step in enumerate(route.steps, 1):
        spec = step_spec(session, model, step, after)
        after = key_of(spec)
        result.append((f"{cell.id}~{number}-{step.name}", after, spec))
    return result


def _versions(session: Session, step: Step) -> dict[str, str]:
    """Versions of the step's packages, as installed where the step runs."""
    if step.python is None:
        return versions(step.packages)
    arguments = {"packages": list(step.packages)}
    return session.once("versions", step.name, lambda: session.children.call(  # type: ignore[no-any-return]
        step.family, "parity.formats.target:versions", arguments, python=step.python, stage="export"
    ))  # fmt: skip


def _builder(
    session: Session, cell: Cell, model: ModelConfig, step: Step, previous: Entry | None
) -> Callable[[Path], Mapping[str, Any]]:
    def convert(folder: Path) -> Mapping[str, Any]:
        arguments = {
            "work": str(folder),
            "after": str(previous.folder) if previous else None,
            "options": dict(step.options),
            "model": session.model_spec(model),
            "contract": _contract(model),
            "example": session.example(model),
            "calibration": [c.inputs for c in session.calibration(model)] if step.calibration else None,
        }
        notes: dict[str, Any] = session.children.call(
            step.family,
            "parity.process.steps:run",
            {"function": step.function, "start": step.stage, "arguments": arguments},
            stage=step.stage,
            python=step.python or sys.executable,
            on_stage=lambda s: session.progress(cell.id, f"{step.name}: {s}" if s != step.name else s),
        )
        entry = notes.get("entry")
        if entry is not None and not (folder / entry).exists():
            raise ChildFailure("error", step.stage, f"the converter reported success and left no {entry!r}")
        return notes

    return convert


def _prebuilt(session: Session, cell: Cell, model: ModelConfig) -> Artifact:
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
        files=tuple(FileRecord(f.relative_to(file.parent).as_posix(), f.stat().st_size, sha256_file(f)) for f in files),
        key=sha256_tree(file),
        cached=True,
        location=str(
            file.parent.relative_to(session.config.root) if file.is_relative_to(session.config.root) else file.parent
        ),
    )
    return Artifact(file.parent, notes, record, "prebuilt")


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


def source_hash(function: str) -> str:
    """The hash of the module of a "module:name" text, so that a change of it builds again."""
    import importlib.util

    found = importlib.util.find_spec(function.partition(":")[0])
    if found is None or not found.origin:
        return "unknown"
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()
