"""Where a run's report goes: three files that appear together, and the last whole run's kept beside a narrowed one's.

A narrowed or interrupted run writes to the same place, for that is where people and scripts look. The report of the
whole run that stood there is kept as `parity.whole.html`, `.json` and `.md`, until the next whole run has ended.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from parity import atomic
from parity.record import SCHEMA, RunRecord, dumps

KEPT = ".whole"
_HEAD = f'"schema": "{SCHEMA}"'
_WHOLE = '\n "partial": null'  # as `dumps` writes it: one space is the top level, and a string holds no line feed


def _files(html: Path, middle: str = "") -> tuple[Path, Path, Path]:
    return tuple(html.with_name(f"{html.stem}{middle}{suffix}") for suffix in (".json", ".md", ".html"))  # type: ignore[return-value]


def clear(html: Path) -> None:
    """Before a run: no report stands, so that a run that dies leaves no verdict of another. A whole run's is kept,
    unless one is kept already: then what stands here came after it and was narrowed."""
    record, kept = _files(html)[0], _files(html, KEPT)
    try:
        text = record.read_text(encoding="utf-8") if not kept[0].exists() else ""
    except (OSError, UnicodeDecodeError):
        text = ""
    whole = _WHOLE in text and _HEAD in text
    for path, old in zip(_files(html), kept, strict=True):
        with contextlib.suppress(OSError):
            path.replace(old) if whole else path.unlink(missing_ok=True)


def publish(html: Path, record: RunRecord, *, whole: bool) -> tuple[list[Path], str]:
    """Write `html` and the .json and .md beside it; (the files, a line for the terminal or nothing).

    `whole`: the run measured all that is planned, as far as it could. Raises ParityError when they cannot be written.
    """
    from parity.report import markdown, render

    written = atomic.publish(dict(zip(_files(html), (dumps(record), markdown(record), render(record)), strict=True)))
    kept = _files(html, KEPT)
    if whole:
        for old in kept:
            with contextlib.suppress(OSError):
                old.unlink(missing_ok=True)
    return written, f"the report of the last whole run is kept: {kept[-1].name}" if kept[0].exists() else ""
