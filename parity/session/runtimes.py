"""An exported file, open: where an artefact runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from types import NoneType
from typing import Any, TypeVar

from parity import formats as targets
from parity.cases.recipes import Layout
from parity.cases.sequence import Free
from parity.core.case import Array
from parity.core.errors import ParityError
from parity.core.executors import HOST
from parity.core.plan import Cell
from parity.core.record import RuntimeRecord
from parity.formats.serve import Opened, OpenRequest, Otherwise, Outputs, PlayRequest, RunRequest
from parity.formats.target import version
from parity.process.isolate import ChildFailure
from parity.session.artefacts import Artifact
from parity.session.resources import Resources
from parity.session.toolchains import python_of

T = TypeVar("T")


def file_of(cell: Cell, artifact: Artifact) -> str:
    """The name under which a run remembers that a file hangs: a faulty one of a cell is another file."""
    return f"{cell} {artifact.entry}"


class OpenFile:
    """An artefact opened in a warm child. `run` gives what the artefact computes, under the model's own names."""

    def __init__(self, resources: Resources, cell: Cell, artifact: Artifact):
        self.resources, self.cell, self.artifact = resources, cell, artifact
        self.target = targets.get(cell.target)
        self.python = python_of(resources.config, self.target)
        self.executor, self.family = HOST, self.target.family
        self.subject = file_of(cell, artifact)  # what the run remembers, should it hang
        self._request = OpenRequest(self.target.session, str(artifact.folder), artifact.notes)
        # A project's own session may need the network or a device; a file that somebody else made is confined all the
        # same. Settled here: a handle is known only to the child that opened the file.
        ours = self.target.session.startswith("parity.")
        self.confined = ours or resources.children.names_foreign(self._request)
        self.description: Mapping[str, Any] = {}
        self.milliseconds: list[float] = []
        self.overwritten: set[str] = set()  # inputs of the model that the file was seen to write into
        self.returned: set[str] = set()  # inputs of the model in whose memory an output was seen to lie
        self._handle: int | None = None
        self._pid: int | None = None

    @property
    def rounding(self) -> tuple[str, str | None] | None:
        """Precision and flavour of the twin that rounds as the executor does, where they are not the cell's own."""
        return None

    def open(self) -> OpenFile:
        """Open the artefact, or open it again when its child is gone. Raises ChildFailure."""
        child = self.resources.children.get(self.family, self.python, self.confined)
        if self._handle is None or not child.alive or child.pid != self._pid:
            opened = self._call("open_session", self._request, Opened, "load")
            self._handle, self.description = opened.handle, opened.description
            self._pid = child.pid
        return self

    def run(
        self, inputs: Sequence[Mapping[str, Array]], layouts: Sequence[Mapping[str, Layout]] | None = None
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
        if len(result.outputs) != len(inputs):
            raise ParityError(f"{self.cell}: {len(inputs)} cases were run and {len(result.outputs)} came back")
        self.milliseconds += result.milliseconds
        self.overwritten.update(result.overwritten)
        self.returned.update(result.returned)
        return [dict(row) for row in result.outputs]

    def _run(
        self,
        inputs: Sequence[Mapping[str, Array]],
        layouts: Sequence[Mapping[str, Layout]] | None,
    ) -> Outputs:
        request = RunRequest(self._opened(), inputs, layouts or None)
        try:
            return self._call("run", request, Outputs, "run", again=False)
        except ChildFailure as failure:
            if failure.state != "error":
                self._handle = None
            raise

    def otherwise(self, inputs: Mapping[str, Array]) -> list[Otherwise]:
        """The ways in which an app may run the file and in which it gives something else. Raises ChildFailure."""
        return self._call("otherwise", RunRequest(self._opened(), [inputs]), list[Otherwise], "run", again=False)

    def _opened(self) -> int:
        """The handle of the open artefact."""
        self.open()
        assert self._handle is not None
        return self._handle

    def _call(self, function: str, request: object, answer: type[T], stage: str, again: bool = True) -> T:
        call = partial(
            self.resources.children.call,
            self.family,
            f"parity.formats.serve:{function}",
            request,
            answer,
            stage=stage,
            on_stage=lambda s: self.resources.progress(self.cell.id, s),
            again=again,
            python=self.python,
            confined=self.confined,
        )
        return self.resources.waiting_once(self.subject, call)

    def play(
        self,
        steps: Sequence[Mapping[str, Array]],
        carry: Mapping[str, str],
        keep: Sequence[str],
        free: Free | None = None,
    ) -> list[dict[str, Array]]:
        """The outputs `keep` of steps that feed one another. Raises ChildFailure."""
        request = PlayRequest(self._opened(), steps, carry, keep, free)
        return self._call("play", request, list[dict[str, Array]], "run", again=False)

    def close(self) -> None:
        child = self.resources.children.get(self.family, self.python, self.confined)
        if self._handle is not None and child.alive and child.pid == self._pid:
            self._call("close_session", self._handle, NoneType, "close")
        self._handle = None

    def record(self) -> RuntimeRecord:
        package = self.target.runtime_package
        median = statistics.median(self.milliseconds) if self.milliseconds else None
        executor = str(self.description.get("executor", ""))
        name = executor if executor == "mil-eval" else package
        known = self.description.get("runtime_version") or version("pytest-parity" if name != package else package)
        return RuntimeRecord(name, known, median, executor)
