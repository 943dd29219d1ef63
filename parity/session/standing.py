"""Whether a saved record is still about the project that stands on the disk.

A record says what was measured on files of one day. Where the artefacts, the configuration or what the models read have
changed since, its verdict is of something else, however well it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from parity import config as configuration
from parity.core.errors import ParityError
from parity.core.record import CellRecord, RunRecord
from parity.session import origin
from parity.store.cache import sha256_file

_JUDGED_ANEW = ("limits", "waive")  # what `--limits` reads as it is now
_OF_A_MACHINE = ("cache", "memory", "timeout")  # they move no figure


@dataclass(frozen=True)
class Standing:
    """What differs from the record, each in words, and the files that the record names and that are not here."""

    changed: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def standing(record: RunRecord, place: Path, *, judged_anew: bool = False) -> Standing:
    """How the project that the record at `place` belongs to differs from what was measured.

    The project is that of the record's folder, or else of the current one where it has the record's models.
    `judged_anew` says that limits and waivers of today are in force instead of the recorded ones. Where there is no
    project, all that the record names is absent. Raises ParityError for a configuration that cannot be read.
    """
    file = _project(record, place)
    named = [*_artefacts(record), *((path, digest, "which a model reads") for path, digest in record.read.items())]
    if file is None:
        paths = [record.config or "the project", *(path for path, _, _ in named)]
        return Standing(absent=tuple(dict.fromkeys(paths)))
    changed = list(_configured(record, file, judged_anew))
    absent = []
    for path, digest, role in named:
        now = _digest(file.parent / path)
        if now == digest:
            continue
        if now:
            changed.append(f"{path}, {role}")
        else:
            absent.append(path)
    return Standing(tuple(dict.fromkeys(changed)), tuple(dict.fromkeys(absent)))


def _project(record: RunRecord, place: Path) -> Path | None:
    """The pyproject.toml that a record was made under."""
    around = configuration.find(place.resolve().parent)
    if around is not None:
        return around
    here = configuration.find(Path.cwd().resolve())
    models = {f"models.{cell.model}" for cell in record.cells}
    return here if here is not None and models <= origin.configuration(here).keys() else None


def _configured(record: RunRecord, file: Path, judged_anew: bool) -> Iterator[str]:
    """What [tool.parity] says otherwise than in the run. A record of an earlier version does not tell."""
    if not record.configuration:
        return
    now = origin.configuration(file)
    for key in sorted({*record.configuration, *now}):
        if key in _OF_A_MACHINE or (judged_anew and key in _JUDGED_ANEW):
            continue
        if record.configuration.get(key) == now.get(key):
            continue
        yield f"[tool.parity] {key} in {file.name}"


def _artefacts(record: RunRecord) -> Iterator[tuple[str, str, str]]:
    """(path from the project's folder, SHA-256, role) of the project's own files that were measured."""
    for cell in record.cells:
        if cell.route == "prebuilt" and cell.artifact is not None:
            for part in cell.artifact.files:
                yield Path(cell.artifact.location, part.path).as_posix(), part.sha256, _role(cell)


def _role(cell: CellRecord) -> str:
    return f"the artefact of {cell.id}"


def _digest(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    try:
        return sha256_file(path)
    except OSError:
        return ""


def check(record: RunRecord, place: Path, *, judged_anew: bool = False) -> None:
    """Raise ParityError where the project has changed since the record at `place` was made."""
    if changed := standing(record, place, judged_anew=judged_anew).changed:
        raise ParityError(f"{place}: {words(changed)}")


def words(changed: tuple[str, ...]) -> str:
    """One line about what has changed since a run."""
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"changed since this run: {'; '.join(changed[:3])}{more}: run pytest -m parity again"
