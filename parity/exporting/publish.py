"""The files of an export under their published names, with manifest.json, export_results.json and contract.json.

Everything is made in a folder beside the target and moved into place. The old manifest goes first and the new one comes
last: a reader of a manifest finds every file that it lists, and a failed export leaves nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity import formats as targets
from parity.core.plan import Cell
from parity.exporting import contracts
from parity.session.artefacts import Artifact
from parity.store import atomic
from parity.store.cache import sha256_file

MANIFEST, RESULTS = "manifest.json", "export_results.json"


def copy(artifact: Artifact, cell: Cell, name: str, folder: Path) -> list[dict[str, Any]]:
    """Copy an artefact's files into `folder` under `name`; their manifest entries."""
    target = targets.get(cell.target)
    mark = "" if cell.precision == target.unmarked else f".{cell.precision}"
    places = target.published(name + mark, artifact.notes, [file.path for file in artifact.record.files])
    return [
        entry for source, place in places.items() for entry in _place(artifact.folder / source, folder, Path(place))
    ]


def _place(source: Path, folder: Path, target: Path) -> list[dict[str, Any]]:
    destination = folder / target
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination)
    else:
        shutil.copyfile(source, destination)
    return entries(destination, folder)


def entries(path: Path, folder: Path) -> list[dict[str, Any]]:
    """The manifest entries of a file, or of a package's files; paths are relative to `folder`."""
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    return [
        {"path": f.relative_to(folder).as_posix(), "bytes": f.stat().st_size, "sha256": sha256_file(f)} for f in files
    ]


def publish(
    staging: Path, output: Path, results: Sequence[Mapping[str, Any]], described: Mapping[str, Mapping[str, Any]]
) -> None:
    """Move what was made from `staging` into `output`. Does nothing when nothing was made."""
    files = [entry for result in results for entry in result["files"]]
    if not files:
        return
    contract = {
        name: {**entry, "files": sorted({top(f["path"]) for r in results if r["model"] == name for f in r["files"]})}
        for name, entry in described.items()
    }
    documents = {
        contracts.FILE: contract,
        RESULTS: {"results": list(results)},
        MANIFEST: {"artifacts": files},
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / MANIFEST).unlink(missing_ok=True)
    for made in sorted(staging.iterdir()):
        if made.is_dir() and made.suffix == "":
            (output / made.name).mkdir(exist_ok=True)
            for inner in made.iterdir():
                inner.replace(output / made.name / inner.name)
            continue
        final = output / made.name
        if final.is_dir():
            shutil.rmtree(final)
        made.replace(final)
    for name, value in documents.items():
        atomic.write_text(output / name, json.dumps(value, indent=1, allow_nan=False) + "\n")


def top(path: str) -> str:
    """The name of a file, or of the package that it is in."""
    first, _, rest = path.partition("/")
    package = bool(rest) and Path(first).suffix != ""  # a plain folder, as of NCNN's pairs, is none
    return first if package else path
