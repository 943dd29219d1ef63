"""One line of evidence: what the suite and the judge by hand said of one cell. Kept as JSON, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

OWN_ERRORS = ("error", "crash", "timeout")  # of a cell that has a file: the suite could not say anything about it
OUT_OF_TIME = "pytest took longer"  # how the reason of a cell begins that was not reached before the time-out
REFUSED = ("fail", "missing", *OWN_ERRORS)


@dataclass(frozen=True)
class Line:
    """`state` and `reason` are the suite's, `verdict` and `why` the judge's: "" where there is no file.

    `edit` names the fault that was put into the file, "" for the file as the converter made it.
    """

    model: str
    cell: str
    target: str
    precision: str
    state: str
    reason: str
    stage: str
    file: bool
    verdict: str
    why: str
    seconds: float
    held_back: bool = False
    edit: str = ""

    @property
    def outcome(self) -> str:
        """The row of the summary that it belongs to."""
        if self.reason.startswith(OUT_OF_TIME):
            return "out of time"
        if self.state == "no record":
            return "error of our own"
        if not self.file:
            return "unavailable here" if self.state == "unavailable" else "no file"
        refused = self.state in REFUSED
        if self.verdict == "right":
            return "right, refused" if refused else "right, passed"
        if self.verdict == "wrong":
            return "wrong, refused" if refused else "wrong, passed"
        return "undecided by hand, refused" if refused else "undecided by hand, passed"


def write(file: Path, lines: Iterable[Line]) -> None:
    """Add the lines to the file."""
    with file.open("a", encoding="utf-8") as out:
        for line in lines:
            out.write(json.dumps(asdict(line)) + "\n")


def read(files: Iterable[Path]) -> list[Line]:
    """All lines of all files; the last one of a cell (and edit) counts."""
    found: dict[tuple[str, str], Line] = {}
    for file in files:
        for text in file.read_text(encoding="utf-8").splitlines():
            line = Line(**json.loads(text))
            found[line.cell, line.edit] = line
    return list(found.values())
