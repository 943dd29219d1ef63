"""Faulty copies of an exported file, made in a child process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from parity.faults.artefact import benign, structure, weights
from parity.faults.base import FileFault, on_files
from parity.faults.extra import load, said
from parity.faults.messages import FaultyFile, FaultyFileRequest, OfferedFault, OfferedRequest
from parity.formats import get
from parity.formats.draft import NotPossible
from parity.formats.target import load_part
from parity.process.child import stage

FAMILIES = (weights, structure, benign)


def offered(request: OfferedRequest) -> list[OfferedFault]:
    """The faults of files that are tried on a cell, in order of registration."""
    load(request.plugins)
    faults = on_files(request.target, request.precision)
    return [OfferedFault(f.name, f.sentence, f.benign) for f in faults]


def make(request: FaultyFileRequest) -> FaultyFile:
    """Write the artefact with a fault into the empty folder `into`."""
    stage("faults")
    load(request.plugins)
    fault = next(f for f in on_files() if f.name == request.fault)
    return _made(fault, request.draft, request.folder, request.notes, Path(request.into))


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
        if made.state == "broken":
            raise RuntimeError(f"{fault.name}: {made.reason}")
        if made.state == "made":
            yield fault.name, place, made.notes


def _made(fault: FileFault, draft: str, folder: str, notes: Mapping[str, Any], into: Path) -> FaultyFile:
    try:
        opened = load_part(draft)(folder, notes)
    except NotPossible as obstacle:
        return FaultyFile("inapplicable", str(obstacle))
    try:
        found = fault.edit(opened)
        if not found:
            return FaultyFile("inapplicable", "nothing in the file for it to act on")
        opened.save(into)
    except Exception as error:  # a project's own operator may fail in any way
        return FaultyFile("broken", said(error))
    if opened.cut:
        largest = max((p for p in into.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        os.truncate(largest, int(largest.stat().st_size * (1 - opened.cut)))
    return FaultyFile("made", "", opened.notes)
