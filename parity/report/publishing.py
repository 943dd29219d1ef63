"""Where a run's report goes: three files that appear together, and the last whole run's kept beside a narrowed one's.

A narrowed or interrupted run writes to the same place, for that is where people and scripts look. The report of the
whole run that stood there is kept as `parity.whole.html`, `.json` and `.md`, until the next whole run has ended.

The record gets its name last, so where a record stands the rest does too. Page and summary carry the sha256 of the
record that they were made from: whoever reads them later can tell whether they belong to the record beside them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path

from parity.core import strict_json
from parity.core.errors import ParityError
from parity.core.record import SCHEMA, RunRecord, dumps
from parity.store import atomic

KEPT = ".whole"
ELSEWHERE = ".elsewhere"  # beside a record: where later runs have theirs
_HEAD = f'"schema": "{SCHEMA}"'
_WHOLE = '\n "partial": null'  # as `dumps` writes it: one space is the top level, and a string holds no line feed
_MADE_FROM = {
    ".html": re.compile(r'<html [^>]*data-record="([0-9a-f]{64})"'),
    ".md": re.compile(r"^record sha256:([0-9a-f]{64})\n\Z", re.MULTILINE),
}


def digest(text: str) -> str:
    """The name of a record: the sha256 of its `parity.json`."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _files(html: Path, middle: str = "") -> tuple[Path, Path, Path]:
    """Page, summary, record: in the order in which they are written."""
    return tuple(html.with_name(f"{html.stem}{middle}{suffix}") for suffix in (".html", ".md", ".json"))  # type: ignore[return-value]


def clear(html: Path) -> None:
    """Before a run: no report stands, so that a run that dies leaves no verdict of another. A whole run's is kept,
    unless one is kept already: then what stands here came after it and was narrowed."""
    forget_elsewhere(html)
    with contextlib.suppress(OSError), atomic.alone(html.parent):  # a folder that is not there holds no report
        files, kept = _files(html), _files(html, KEPT)
        try:
            text = files[-1].read_text(encoding="utf-8") if not kept[-1].exists() else ""
        except (OSError, UnicodeDecodeError):
            text = ""
        if _WHOLE in text and _HEAD in text:  # the record goes last here too: broken off, it begins again next time
            for path, old in zip(files, kept, strict=True):
                with contextlib.suppress(OSError):
                    path.replace(old)
        else:
            for path in files[::-1]:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def begin(html: Path, record: RunRecord) -> None:
    """Say from the first moment of a run that it began: `record`, in which nothing is measured yet, stands in the place
    of the last run's report until this run ends. Where it cannot be written the end of the run will say why."""
    clear(html)
    with contextlib.suppress(ParityError):
        atomic.publish({html.with_suffix(".json"): dumps(record)})


def note_elsewhere(default: Path, html: Path) -> None:
    """Before a run whose report is `html`: say beside the record that stands in the project's usual place, if one does,
    that a later run has its record elsewhere. A run that reports to the usual place clears what is said there."""
    record, later = default.with_suffix(".json"), html.with_suffix(".json")
    if os.path.abspath(record) == os.path.abspath(later) or not record.exists():
        return
    with contextlib.suppress(OSError), atomic.alone(default.parent):
        name = os.path.relpath(later, record.parent)
        earlier = [other for other in _elsewhere(record) if other != name]
        atomic.write_text(record.with_suffix(ELSEWHERE), json.dumps([*earlier, name]))


def forget_elsewhere(html: Path) -> None:
    """What stands here from now on is newer than all that reported to another place."""
    with contextlib.suppress(OSError):
        html.with_suffix(ELSEWHERE).unlink(missing_ok=True)


def elsewhere(record: Path) -> list[Path]:
    """The records of runs that began after that of `record`, and reported to another place; those that are there."""
    return [path for name in _elsewhere(record) if (path := Path(os.path.normpath(record.parent / name))).is_file()]


def _elsewhere(record: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        names = strict_json.loads(record.with_suffix(ELSEWHERE).read_text(encoding="utf-8"))
        return [str(name) for name in names] if isinstance(names, list) else []
    return []


def withdraw(html: Path) -> None:
    """After a run that had nothing to measure: take the record of its beginning away, and put the report of the last
    whole run back where it was kept."""
    with contextlib.suppress(OSError), atomic.alone(html.parent):
        html.with_suffix(".json").unlink(missing_ok=True)
        for path, kept in zip(_files(html), _files(html, KEPT), strict=True):
            with contextlib.suppress(OSError):
                kept.replace(path)


def publish(html: Path, record: RunRecord, *, whole: bool) -> tuple[list[Path], str]:
    """Write `html` and the .json and .md beside it; (the files, `html` last, and a line for the terminal or nothing).

    `whole`: the run measured all that is planned, as far as it could. Raises ParityError when they cannot be written.
    """
    text = dumps(record)
    if not whole:
        clear(html)  # another run may have ended meanwhile, and have been whole
    written = atomic.publish({**made(html, record, text), html.with_suffix(".json"): text})
    kept = _files(html, KEPT)
    if whole:
        for old in kept[::-1]:
            with contextlib.suppress(OSError):
                old.unlink(missing_ok=True)
    return written[::-1], f"the report of the last whole run is kept: {kept[0].name}" if kept[-1].exists() else ""


def made(html: Path, record: RunRecord, text: str) -> dict[Path, str]:
    """The page `html` and the summary beside it, made from `record`, whose text is `text`."""
    from parity.report import markdown, render

    name = digest(text)
    return {html: render(record, name), html.with_suffix(".md"): markdown(record, name)}


def strangers(path: Path, text: str) -> list[Path]:
    """Pages and summaries beside the record `path`, whose text is `text`, that were made from another record."""
    name, found = digest(text), []
    for suffix, pattern in _MADE_FROM.items():
        beside = path.with_suffix(suffix)
        with contextlib.suppress(OSError):
            told = pattern.search(beside.read_text(encoding="utf-8", errors="replace"))
            found += [beside] if told and told[1] != name else []
    return found
