"""A file opened by an executor beside the host, and the memo of what deterministic ones computed.

An emulator or a software driver gives the same bits for the same file, inputs, versions and settings. Its outputs are
kept in the store by all of those, and the record says when and where they were computed.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity.cases.recipes import Layout
from parity.core.case import Array, Case, digest
from parity.core.errors import ParityError
from parity.core.executors import execution_id
from parity.core.plan import Cell
from parity.core.record import ExecutionRecord
from parity.formats.serve import OpenRequest
from parity.session import rows
from parity.session.artefacts import Artifact
from parity.session.engines import SESSION, Engine
from parity.session.resources import Resources
from parity.session.runtimes import OpenFile
from parity.store.code_key import code_key


class ExecutedFile(OpenFile):
    """An artefact opened by an executor. What deterministic software computed once is read from the store."""

    def __init__(self, resources: Resources, cell: Cell, artifact: Artifact, engine: Engine):
        super().__init__(resources, cell, artifact)
        self.engine, self.executor = engine, engine.executor
        self.python, self.family = engine.python, engine.family
        self.subject = f"{self.subject}@{engine.executor}"
        self._request = OpenRequest(SESSION, str(artifact.folder), {**artifact.notes, **engine.notes})
        self.computed, self.computes_now = "", False
        for folder in engine.writable:
            folder.mkdir(parents=True, exist_ok=True)
            resources.children.allow(folder)

    def open(self) -> ExecutedFile:
        """Open the artefact. Raises ParityError where the executor cannot be had here, ChildFailure where it fails."""
        if self.engine.unavailable:
            raise ParityError(self.engine.unavailable)
        super().open()
        return self

    def run(
        self, inputs: Sequence[Mapping[str, Array]], layouts: Sequence[Mapping[str, Layout]] | None = None
    ) -> list[dict[str, Array]]:
        """Outputs of each set of inputs, in order. Raises ChildFailure."""
        if not self.engine.is_software or layouts or self.engine.unavailable:
            return self._computed(inputs, layouts)

        def compute(folder: Path) -> Mapping[str, Any]:
            before = len(self.milliseconds)
            results = self._computed(inputs)
            rows.write(folder / "outputs.npz", results)
            return {
                "milliseconds": self.milliseconds[before:],
                "description": dict(self.description),
                "computed": _now(),
            }

        resources = self.resources
        entry = resources.store.build(
            self._specification(inputs),
            f"{execution_id(self.cell.id, self.executor)}~outputs",
            compute,
            rebuild_since=resources.rebuild_since,
        )
        if entry.built:
            self.computes_now = True
        else:
            self.milliseconds += entry.notes["milliseconds"]
            self.description = entry.notes["description"]
            self.computed = str(entry.notes["computed"])
        return rows.read(entry.folder / "outputs.npz", len(inputs))

    def _computed(
        self, inputs: Sequence[Mapping[str, Array]], layouts: Sequence[Mapping[str, Layout]] | None = None
    ) -> list[dict[str, Array]]:
        """Outputs that are computed now; then the session knows more of itself."""
        results = super().run(inputs, layouts)
        self.description = self._call("described", self._opened(), dict[str, Any], "run", again=False)
        return results

    @property
    def rounding(self) -> tuple[str, str | None] | None:
        """Precision and flavour of the twin that rounds as the executor does, where it is not the cell's: an fp32 file
        on a GPU that computes in fp16."""
        if self.description.get("computes") == "fp16" and self.cell.precision in ("fp32", "fp16"):
            return "fp16", str(self.description.get("flavour") or "compute")
        return None

    def _specification(self, inputs: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
        """Everything that the outputs depend on."""
        codes = ("parity.formats.serve:run", SESSION, self.engine.session)
        return {
            "executes": self.executor,
            "files": sorted([file.path, file.sha256] for file in self.artifact.record.files),
            "notes": {**self.artifact.notes, **self.engine.notes},
            "inputs": digest([Case("", dict(each)) for each in inputs]),
            "engine": dict(self.engine.identity),
            "code": {name: code_key(name) for name in codes},
        }

    def execution(self) -> ExecutionRecord:
        """What the record says of how the file was executed, without its checks."""
        record = ExecutionRecord(
            self.executor,
            version=str(self.description.get("runtime_version", "")),
            machine=str(self.description.get("machine", "")),
            native=self.engine.native,
            emulator=self.engine.emulator,
            driver=self.engine.driver,
            precision=str(self.description.get("computes") or self.cell.precision),
            computed="" if self.computes_now else self.computed,
        )
        runtime = self.record()
        return replace(record, median_ms=runtime.median_ms)


def _now() -> str:
    moment = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return f"{moment} on {platform.machine()}"
