"""`parity release`: the files of a run that passed, copied to a folder of their own with the evidence beside them.

Nothing is taken on trust that can be derived again: verdict and states from the record's own figures, waivers by their
dates, and every file by its sha256, which is taken from the copy. What the files are is told by the record alone; the
record itself is not signed, so keep it where only CI can write.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from parity.commands import gate
from parity.core.errors import ParityError
from parity.core.executors import cell_of
from parity.core.record import CellRecord, Check, FileRecord, RunRecord, WaiverRecord, loads, plain
from parity.core.settings import Config, Waiver
from parity.core.words import plural
from parity.judging import gate as gating
from parity.session import project, standing
from parity.session.artefact_files import check_whole
from parity.store.cache import Store, sha256_file

SCHEMA = "parity.release/1"
MANIFEST = "manifest.json"
_CELL = re.compile(r"[a-z][a-z0-9_]*-[a-z][a-z0-9_]*-[a-z][a-z0-9]*")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def add(commands: Any) -> None:
    command = commands.add_parser(
        "release", help="copy the files of a run that passed, with the evidence", description=__doc__
    )
    command.add_argument("record", type=Path, metavar="FILE.json", help="the parity.json of a run that passed")
    command.add_argument("--to", type=Path, required=True, metavar="DIR", help="the release folder; must not exist")
    command.add_argument(
        "--limits", type=Path, metavar="PYPROJECT",
        help="also judge under the limits and waivers that this pyproject.toml sets now",
    )  # fmt: skip
    command.add_argument("--parity-cache", dest="cache", metavar="URL", help="the cache to use, as for pytest")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    raw = _bytes(options.record)
    try:
        record = loads(raw.decode("utf-8"), str(options.record))
    except UnicodeDecodeError as error:
        raise ParityError(f"{options.record}: not a record ({error})") from None
    check(record, datetime.date.today())
    standing.check(record, options.record, judged_anew=options.limits is not None)
    for path, later in gate.later(options.record):
        if gating.exit_code(later):
            raise ParityError(f"{options.record}: a later run has its record in {path}, and that is {later.verdict}: "
                              "run pytest -m parity again")  # fmt: skip
    if options.limits:
        again = gate.judged(record, options.limits)
        if again.verdict != "pass":
            raise ParityError(f"the limits that {options.limits} sets now do not hold: {again.reason}")
    config = None
    with contextlib.suppress(ParityError):
        config = project.here()
    store = Store.at(options.cache or (config.cache if config else None), config.root if config else Path.cwd())
    shipped = [cell for cell in record.cells if cell.state in ("pass", "waived")]
    sources = {cell.id: sources_of(cell, store, config) for cell in shipped}
    publish(options.to, sources, manifest(record, hashlib.sha256(raw).hexdigest()))
    files = sum(len(found) for found in sources.values())
    left = len(record.cells) - len(shipped)
    rest = f"; {plural(left, 'cell')} could not run and {'is' if left == 1 else 'are'} not released" if left else ""
    print(f"{options.to}: {plural(len(shipped), 'cell')}, {plural(files, 'file')} and {MANIFEST}{rest}")
    return 0


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ParityError(f"{path}: cannot be read ({error.strerror or error})") from None


def check(record: RunRecord, today: datetime.date) -> None:
    """Raise ParityError unless the record is of a whole run that passed, and its figures say so too."""
    if record.verdict != "pass" or record.partial:
        verdict = f"{record.verdict}: {record.reason}" if record.verdict != "pass" else f"narrowed ({record.partial})"
        raise ParityError(f"the verdict of this run is {verdict}; only a whole run that passes is released")
    ids = [cell.id for cell in record.cells]
    for cell in record.cells:
        if not _CELL.fullmatch(cell.id) or cell.id != f"{cell.model}-{cell.target}-{cell.precision}":
            raise ParityError(f"{cell.id!r:.60} is no cell's id: parity did not make this record")
        if ids.count(cell.id) > 1:
            raise ParityError(f"the record holds {cell.id} twice: parity did not make it")
        waived = [w for w in record.waivers if cell_of(w.cell) == cell.id and _holds(w, today)]
        again = gating.settle(cell, [_in_force(waiver) for waiver in waived])
        if again.state != cell.state:
            raise ParityError(f"{cell.id} is recorded as {cell.state}, its figures say {again.state}: {again.reason}")
        if again.checks != cell.checks:
            odd = next(a for a, b in zip(cell.checks, again.checks, strict=True) if a != b)
            raise ParityError(f"{cell.id}: {odd.metric} of case {odd.case!r} is recorded as passed={odd.passed}, "
                              "and its figures say otherwise: the record was changed")  # fmt: skip
    whole = gate.judged(record)
    if whole.verdict != "pass":
        raise ParityError(f"the record says pass, its figures say {whole.verdict}: {whole.reason}")


def _holds(waiver: WaiverRecord, today: datetime.date) -> bool:
    try:
        return waiver.state == "used" and datetime.date.fromisoformat(waiver.expires) >= today
    except ValueError:
        return False


def _in_force(waiver: WaiverRecord) -> Waiver:
    expires = datetime.date.fromisoformat(waiver.expires)
    return Waiver(waiver.cell, waiver.metric, waiver.reason, expires, waiver.limit, waiver.source)


def sources_of(cell: CellRecord, store: Store, config: Config | None) -> list[tuple[Path, FileRecord]]:
    """Where each file of the cell is, and what the record says that it is. Raises ParityError unless they agree."""
    artifact = cell.artifact
    if artifact is None or not artifact.files:
        raise ParityError(f"{cell.id}: the record names no file that was measured")
    for file in artifact.files:
        path = PurePosixPath(file.path)
        plain_name = path.as_posix() == file.path and "\\" not in file.path and "\0" not in file.path
        if not plain_name or path.is_absolute() or ".." in path.parts or not path.parts:
            raise ParityError(f"{cell.id}: {file.path!r:.80} is not a path inside an artefact: the record was changed")
        if not _DIGEST.fullmatch(file.sha256):
            raise ParityError(f"{cell.id}: {file.sha256!r:.80} is no sha256: the record was changed")
    if cell.route != "prebuilt":
        if not _DIGEST.fullmatch(artifact.key) or artifact.location != f"objects/{artifact.key}":
            raise ParityError(f"{cell.id}: {artifact.location!r:.90} is no place in the cache: the record was changed")
        entry = store.get(artifact.key)
        if entry is None:
            raise ParityError(
                f"{cell.id}: the cache {store.root} does not hold {artifact.key[:12]}, or holds it damaged; "
                "run pytest -m parity again, or name the cache with --parity-cache"
            )
        if sorted(entry.files) != sorted((f.path, f.bytes, f.sha256) for f in artifact.files):
            raise ParityError(f"{cell.id}: the files in the cache are not those that the record names")
        folder = entry.folder
    else:  # the project's own files
        folder = (config.root if config else Path.cwd()) / artifact.location
    check_whole(cell.id, cell.target, folder, [file.path for file in artifact.files])
    for file in artifact.files:
        _verify(cell, folder / file.path, file)
    return [(folder / file.path, file) for file in artifact.files]


def _verify(cell: CellRecord, path: Path, file: FileRecord) -> None:
    try:
        same = path.stat().st_size == file.bytes and sha256_file(path) == file.sha256
    except OSError as error:
        raise ParityError(f"{cell.id}: {path}: {error.strerror or error}") from None
    if not same:
        raise ParityError(f"{cell.id}: {path} is not the file that was measured: its sha256 differs")


def manifest(record: RunRecord, digest: str) -> dict[str, Any]:
    """The evidence of a release: what was measured on which file with what, and the worst figure of every limit."""
    cells = [
        {
            "id": cell.id,
            "state": cell.state,
            "reason": cell.reason,
            "route": cell.route,
            "files": [{**plain(f), "path": f"{cell.id}/{f.path}"} for f in cell.artifact.files if cell.artifact],
            "runtime": {"name": cell.runtime.name, "version": cell.runtime.version} if cell.runtime else None,
            "cases": cell.planned_cases,
            "checks": len(cell.checks),
            "worst": [_figure(c) for c in _worst(cell)],
            "power": plain(cell.power),
            "waivers": [plain(w) for w in record.waivers if w.cell == cell.id],
        }
        for cell in record.cells if cell.state in ("pass", "waived") and cell.artifact
    ]  # fmt: skip
    return {
        "schema": SCHEMA,
        "verdict": record.verdict,
        "reason": record.reason,
        "record": {"sha256": digest, "schema": record.schema, "started": record.started, "profile": record.profile},
        "baseline": record.baseline.path,
        "environment": plain(record.environment),
        "cells": cells,
        "not_released": [{"id": c.id, "state": c.state, "reason": c.reason} for c in record.cells
                         if c.state not in ("pass", "waived")],
    }  # fmt: skip


def _worst(cell: CellRecord) -> Iterator[Check]:
    """The check nearest to its limit, or furthest over it, of every metric of every output that has a limit."""
    groups: dict[tuple[str, str, str], list[Check]] = {}
    for c in cell.checks:
        if c.limit is not None and c.value is not None and c.kind != "contract":
            groups.setdefault((c.kind, c.output, c.metric), []).append(c)
    for found in groups.values():
        yield max(found, key=lambda c: (c.value or 0.0) * (1 if c.sense == "max" else -1))


def _figure(c: Check) -> dict[str, Any]:
    names = ("kind", "output", "metric", "case", "value", "limit", "sense", "source")
    return {name: getattr(c, name) for name in names}


def publish(to: Path, sources: dict[str, list[tuple[Path, FileRecord]]], evidence: dict[str, Any]) -> None:
    """Copy the files and write the manifest beside `to`, verify the copies, and rename the whole into place.

    Raises ParityError, and then leaves nothing behind. A folder that exists is never written to.
    """
    if to.exists() or to.is_symlink():
        raise ParityError(f"{to}: exists, and a release is never written over; name a new folder")
    made = _missing_parents(to)
    work = to.parent / f".{to.name}.{uuid.uuid4().hex[:8]}.tmp"
    done = False
    try:
        work.mkdir(parents=True)
        for id, files in sources.items():
            for source, file in files:
                copy = work / id / file.path
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
                if sha256_file(copy) != file.sha256:
                    raise ParityError(f"{id}: {source} changed while it was copied")
        (work / MANIFEST).write_text(json.dumps(evidence, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        work.rename(to)  # fails on a folder that somebody else has filled meanwhile
        done = True
    except OSError as error:
        raise ParityError(f"{to}: cannot be written: {error.strerror or error}") from None
    finally:
        if not done:
            shutil.rmtree(work, ignore_errors=True)
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _missing_parents(path: Path) -> list[Path]:
    """The parents of `path` that do not exist yet, the innermost first."""
    return [parent for parent in path.parents if not parent.exists()]
