"""GitHub annotations: what blocks, shown in a pull request at the line that set the limit. Pure.

The format is that of GitHub's workflow commands, `::error file=...,line=...,title=...::message`, one line each. GitHub
keeps ten errors and ten warnings of a step and drops the rest without a word, so the last of ten says how many follow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from parity.core.record import CellRecord, RunRecord
from parity.judging.gate import by_urgency, tail_warning

MOST = 10
_LENGTH = 4000  # characters of one message; GitHub cuts at 4 KiB
_PLACE = re.compile(r"(?P<file>[^\s:,;]+\.toml):(?P<line>[1-9][0-9]{0,8})\b")


@dataclass(frozen=True)
class Annotation:
    """One remark on a file of the repository, on a line of it where one is known."""

    level: Literal["error", "warning"]
    title: str
    message: str
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        where = {"file": self.file, "line": str(self.line) if self.line and self.file else "", "title": self.title}
        properties = ",".join(f"{name}={_property(value)}" for name, value in where.items() if value)
        return f"::{self.level} {properties}::{_data(self.message[:_LENGTH])}"


def _data(text: str) -> str:
    """Text that stays one line: GitHub reads %25, %0D and %0A back. Other control characters become spaces."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    text = "".join(c if c.isprintable() else " " for c in text)
    return text.encode("utf-8", "replace").decode("utf-8")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def lines(record: RunRecord, folder: str = "") -> list[str]:
    """The workflow commands of a run: errors for what blocks, warnings for findings that say so.

    `folder` is where the project is in its repository, with `/` between names; empty at the top.
    """
    errors = [_of_cell(cell, record) for cell in by_urgency(record.cells) if _blocks(cell)]
    for change in record.regressions_that_block:
        if change.before is not None and change.now is not None:
            text = f"{change.what} regressed since the baseline: {change.before:.4g} -> {change.now:.4g}"
            errors.append(Annotation("error", f"parity: {change.cell}", text, record.baseline.path or ""))
    for waiver in record.waivers_that_block:
        text = f"waiver of {waiver.metric} is {waiver.state} (expires {waiver.expires}): {waiver.reason}"
        errors.append(_at("error", waiver.cell, text, waiver.source, record))
    if not errors and record.verdict in ("fail", "incomplete"):
        errors.append(Annotation("error", f"parity: {record.verdict}", record.reason, record.config))
    warnings = [
        _at("warning", cell.id, finding.text, finding.text, record)
        for cell in record.cells for finding in cell.findings if finding.level == "warning"
    ]  # fmt: skip
    warnings += [_at("warning", cell.id, beyond, "", record) for cell in record.cells if (beyond := tail_warning(cell))]
    kept = [*_first(errors), *_first(warnings)]
    return [str(_moved(a, folder)) for a in kept]


def _blocks(cell: CellRecord) -> bool:
    return cell.state not in ("pass", "waived") and (cell.state != "unavailable" or cell.required)


def _of_cell(cell: CellRecord, record: RunRecord) -> Annotation:
    """The cell at the line that the gate's own sentence names; where it names none, at the configuration file."""
    sources = {check.source for check in cell.checks if check.source}
    named = [source for source in sources if f"limit from {source}" in cell.reason]
    message = f"{cell.state}: {cell.reason}" + (f"\nrerun: {cell.rerun}" if cell.rerun else "")
    return _at("error", cell.id, message, max(named, key=len, default=""), record)


def _at(level: Literal["error", "warning"], cell: str, message: str, source: str, record: RunRecord) -> Annotation:
    place = _PLACE.search(source)
    file, line = (place["file"], int(place["line"])) if place else (record.config, None)
    return Annotation(level, f"parity: {cell}", message, file, line)


def _first(found: Sequence[Annotation]) -> list[Annotation]:
    if len(found) <= MOST:
        return list(found)
    more = len(found) - MOST + 1
    last = Annotation(found[0].level, f"parity: {more} more", f"and {more} more, in parity.json and the report")
    return [*found[: MOST - 1], last]


def _moved(annotation: Annotation, folder: str) -> Annotation:
    """The annotation with its file named from the top of the repository."""
    if not folder or not annotation.file:
        return annotation
    return Annotation(
        annotation.level, annotation.title, annotation.message, f"{folder}/{annotation.file}", annotation.line
    )
