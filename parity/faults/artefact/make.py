"""Faulty copies of an exported file, made in a child process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.faults.artefact import benign, structure, weights
from parity.faults.base import FileFault, on_files
from parity.faults.extra import load, said
from parity.formats import get
from parity.formats.draft import NotPossible
from parity.formats.target import load_part
from parity.process.child import stage

FAMILIES = (weights, structure, benign)


def offered(target: str, precision: str, plugins: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The faults of files that are tried on a cell: [{"name", "sentence", "benign"}], in order of registration."""
    load(plugins)
    return [{"name": f.name, "sentence": f.sentence, "benign": f.benign} for f in on_files(target, precision)]


def make(
    draft: str, folder: str, notes: Mapping[str, Any], fault: str, into: str, plugins: Sequence[str] = ()
) -> dict[str, Any]:
    """Write the artefact with a fault into the empty folder `into`: {"state", "reason", "notes"}.

    `draft` is the target's. `state`: made, or inapplicable where the file has no place for the fault or cannot be
    edited, or broken where the
    fault itself fails. `notes` are those that the faulty file is opened with.
    """
    stage("faults")
    load(plugins)
    known = next(f for f in on_files() if f.name == fault)
    return _made(known, draft, folder, notes, Path(into))


def every(
    target: str, precision: str, folder: Path, notes: Mapping[str, Any], work: Path
) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """Each fault, benign changes left out, that an artefact has a place for: its name, folder under `work`, notes.

    Raises RuntimeError where a fault itself fails.
    """
    for fault in on_files(target, precision):
        if fault.benign:
            continue
        place = work / fault.name
        place.mkdir(parents=True)
        made = _made(fault, get(target).draft, str(folder), notes, place)
        if made["state"] == "broken":
            raise RuntimeError(f"{fault.name}: {made['reason']}")
        if made["state"] == "made":
            yield fault.name, place, made["notes"]


def _made(fault: FileFault, draft: str, folder: str, notes: Mapping[str, Any], into: Path) -> dict[str, Any]:
    try:
        opened = load_part(draft)(folder, notes)
    except NotPossible as obstacle:
        return {"state": "inapplicable", "reason": str(obstacle), "notes": {}}
    try:
        found = fault.edit(opened)
        if not found:
            return {"state": "inapplicable", "reason": "nothing in the file for it to act on", "notes": {}}
        opened.save(into)
    except Exception as error:  # a project's own operator may fail in any way
        return {"state": "broken", "reason": said(error), "notes": {}}
    if opened.cut:
        largest = max((p for p in into.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        os.truncate(largest, int(largest.stat().st_size * (1 - opened.cut)))
    return {"state": "made", "reason": "", "notes": opened.notes}
