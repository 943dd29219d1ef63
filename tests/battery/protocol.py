"""What a case is, and what a checker has to offer to be asked. Imports NumPy only."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Outputs = Mapping[str, Any]  # one inference: array by output name; None for an output that did not come


class NotApplicable(Exception):
    """The checker has no such question: it is left out of the count, with this reason."""


@dataclass(frozen=True)
class Pair:
    """What an artefact computed (`got`) and what it should have (`want`): a mapping a case, in the order of inputs.

    `names` and `planned` are what the model declares: its outputs, and how many inputs it was given. The checker is
    asked whether everything agrees within `atol + rtol * |want|`.
    """

    id: str
    sentence: str
    got: Sequence[Outputs]
    want: Sequence[Outputs]
    names: tuple[str, ...] = ("y",)
    planned: int = 1
    atol: float = 1e-3
    rtol: float = 0.0
    honest: bool = False


@dataclass(frozen=True)
class Limited:
    """Two arrays and limits by metric name (`cosine`, `max_abs`, `sqnr`, `top1`, `top5`), which a user got wrong.

    `toml` is the same mistake in a configuration file, as the text of a table of limits; empty where a file cannot
    make it. `prepare` registers what the case needs with a checker that can be extended.
    """

    id: str
    sentence: str
    limits: Mapping[str, Any]
    toml: str = ""
    got: Any = field(default_factory=lambda: np.full((4, 3), 5.0))
    want: Any = field(default_factory=lambda: np.eye(4, 3))
    metric: Callable[[Any, Any], Any] | None = None
    honest: bool = False


@dataclass(frozen=True)
class File:
    """An ONNX file that stands for the model y = x @ w + b (two rows), made by `write(path)`."""

    id: str
    sentence: str
    write: Callable[[Any], None]
    honest: bool = False


@dataclass(frozen=True)
class Loss:
    """A way to lose the test whose name contains TARGET: the text of a pytest plugin.

    `broken` says that the measurement, had it been heard, would have been outside its limit.
    """

    id: str
    sentence: str
    plugin: str
    broken: bool = False
    honest: bool = False


@dataclass(frozen=True)
class Saved:
    """What became of a saved record of a run: `edit(text)` gives the text that is judged instead."""

    id: str
    sentence: str
    edit: Callable[[str], str]
    honest: bool = False


Case = Pair | Limited | File | Loss | Saved


class Checker(Protocol):
    """A checker, as the battery asks it. A method that the checker has no answer to raises NotApplicable.

    True means "pass". False, or any other exception, means that it did not pass. `files` and `runs` answer for many
    cases at once, since a process that imports a runtime takes seconds: the ids of those that passed.
    """

    name: str

    def pair(self, case: Pair) -> bool: ...
    def limited(self, case: Limited) -> bool: ...
    def files(self, cases: Sequence[File]) -> set[str]: ...
    def runs(self, cases: Sequence[Loss]) -> set[str]: ...
    def saved(self, case: Saved) -> bool: ...


def each(cases: Sequence[File], passes: Callable[[Path], bool]) -> set[str]:
    """For `Checker.files`: every file written in turn; the ids of those that `passes`. An exception is no pass."""
    found = set()
    for case in cases:
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Exception):
            path = Path(folder, "model.onnx")
            case.write(path)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                if passes(path):
                    found.add(case.id)
    return found


class Base:
    """A checker that answers nothing; adapters override what theirs can answer."""

    name = "?"

    def pair(self, case: Pair) -> bool:
        raise NotApplicable("compares no arrays")

    def limited(self, case: Limited) -> bool:
        raise NotApplicable("has no named limits")

    def files(self, cases: Sequence[File]) -> set[str]:
        raise NotApplicable("runs no files")

    def runs(self, cases: Sequence[Loss]) -> set[str]:
        raise NotApplicable("runs no tests")

    def saved(self, case: Saved) -> bool:
        raise NotApplicable("keeps no record")
