"""The files that an artefact or a reference consists of, as its format names them, with their hashes.

A file alone says little where its weights are beside it. So whatever hashes, copies, packs or releases an artefact asks
here which files it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from parity import formats as targets
from parity.core.errors import ParityError
from parity.core.record import FileRecord
from parity.formats.target import Target
from parity.store.cache import sha256_file, sha256_files


def file_records(file: Path, target: Target | None) -> tuple[FileRecord, ...]:
    """Each file that belongs to `file`, of which `target` is the format, by its path from the folder that `file` is in.

    Without a target it is the file alone. Raises ParityError where one is not there or cannot be read.
    """
    try:
        return tuple(_record(part, file.parent) for part in (target.files(file) if target else (file,)))
    except OSError as error:
        raise ParityError(f"{file}: cannot be read: {error.strerror or error}") from None


def _record(file: Path, folder: Path) -> FileRecord:
    return FileRecord(file.relative_to(folder).as_posix(), file.stat().st_size, sha256_file(file))


def content_key(files: Iterable[FileRecord]) -> str:
    """One hash for all of an artefact's files: any byte of any of them changes it."""
    return sha256_files({file.path: file.sha256 for file in files})


def check_whole(cell: str, target: str, folder: Path, paths: Collection[str]) -> None:
    """Raise ParityError where an artefact of `target` in `folder` needs a file that is not among its `paths`.

    An artefact of a target that is not known here is taken as it is.
    """
    if target not in targets.names():
        return
    reader = targets.get(target)
    for path in paths:
        if PurePosixPath(path).suffix not in reader.suffixes:
            continue
        for part in reader.files(folder / path):
            name = part.relative_to(folder).as_posix()
            if name not in paths:
                raise ParityError(
                    f"{cell}: {path} needs {name}, which the record does not name: run pytest -m parity again"
                )
