"""The contract that a file states by itself: names, shapes and element types of its inputs, names of its outputs.

Read in a process of its own (`python -m parity.session.signature FILE KIND`), for that takes the file's own runtime,
and kept beside the cache for this file and the code that read it. What a file does not state is asked of the user by
name, never guessed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.core.contract import DTYPES
from parity.core.errors import ParityError
from parity.process import sandbox

if TYPE_CHECKING:
    from parity.formats.target import Target

DESCRIBE = "parity.session.signature:describe"
_TIMEOUT = 300


HOW = "declare inputs and outputs"


def read(
    file: Path, kind: str, root: Path, declared: Mapping[str, Mapping[str, Any]] | None = None, how: str = HOW
) -> dict[str, Any]:
    """{"inputs": [{"name", "shape", "dtype", "layout"?}], "outputs": [{"name"}]} of `file`, in the order that it has
    them; `kind` is a target, or "reference". A dynamic axis is a name: `batch` in front, else the file's own, else made
    of the input's. `declared` are shapes and types of inputs that the user says, which count more than the file's.
    Raises ParityError for a file that does not say all of that, with `how` the user can say it."""
    from parity.store import atomic
    from parity.store.cache import Store  # a capsule is run where there is no file lock

    kept = Store.at(None, root).root / "signatures" / f"{_key(file, kind)}.json"
    with contextlib.suppress(OSError, ValueError):
        return named(json.loads(kept.read_text(encoding="utf-8")), file.name, declared, how)
    command = [sys.executable, "-m", "parity.session.signature", str(file.resolve()), kind]
    try:
        with tempfile.TemporaryDirectory(prefix="parity-") as scratch:
            env = os.environ | {"TMPDIR": scratch}
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False, env=env
            )
    except subprocess.TimeoutExpired:
        raise ParityError(f"{file.name}: its contract could not be read in {_TIMEOUT} s") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        said = lines[-1].strip() if lines else f"exit code {done.returncode}"
        raise ParityError(
            said if said.startswith(file.name) else f"{file.name}: its contract cannot be read: {said:.200}"
        )
    described = json.loads(done.stdout)
    with contextlib.suppress(OSError, ParityError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic.publish({kept: json.dumps(described)})
    return named(described, file.name, declared, how)


def _key(file: Path, kind: str) -> str:
    """The address of what `kind` reads from a file: it depends on both, and on the code and packages that read."""
    from parity.formats.target import versions
    from parity.session.artefact_files import content_key, file_records
    from parity.store.cache import key_of
    from parity.store.code_key import code_key

    target = _target(file, kind)
    reader = (target.signature or target.session) if target else ""
    spec = {
        "file": content_key(file_records(file, target)),
        "kind": kind,
        "code": {name: code_key(name) for name in (DESCRIBE, reader)},
        "packages": versions(target.packages) if target else {},
    }
    return key_of(spec)


def _target(file: Path, kind: str) -> Target | None:
    """The target whose files `file` is one of; None where none reads it."""
    from parity import formats as targets

    return targets.recognised(file) if kind == "reference" else targets.get(kind)


def named(
    described: Mapping[str, Any], file: str, declared: Mapping[str, Mapping[str, Any]] | None = None, how: str = HOW
) -> dict[str, Any]:
    """What a session's `describe` says as a contract. Raises ParityError where shapes or types are missing."""
    declared = declared or {}
    names = [entry["name"] for entry in described["inputs"]]
    if unknown := [name for name in declared if name not in names]:
        raise ParityError(f"{file} has no input {unknown[0]!r}: it has {', '.join(names)}")
    inputs = [_input({**entry, **declared.get(entry["name"], {})}, file, how) for entry in described["inputs"]]
    if not inputs or not described["outputs"]:
        raise ParityError(f"{file} has {len(inputs)} inputs and {len(described['outputs'])} outputs: {how}")
    return {"inputs": inputs, "outputs": [{"name": o["name"]} for o in described["outputs"]]}


def _input(entry: Mapping[str, Any], file: str, how: str) -> dict[str, Any]:
    shape, name = entry.get("shape"), entry["name"]
    if shape is None:
        raise ParityError(f"{file} does not say the shape of its input {name!r}: {how}")
    dtype = "float32" if entry.get("scale") else entry.get("dtype")
    if dtype not in DTYPES:
        raise ParityError(f"{file}: its input {name!r} is of type {dtype}: {how}")
    dims = [d if isinstance(d, int) and d > 0 else _axis(d, name, i) for i, d in enumerate(shape)]
    more = {key: entry[key] for key in ("layout", "range") if entry.get(key)}
    return {"name": name, "shape": dims, "dtype": dtype, **more}


def _axis(stated: Any, name: str, index: int) -> str:
    if index == 0:
        return "batch"
    return stated if isinstance(stated, str) and stated.isidentifier() else f"{name}_{index}"


# In the process of its own.


def describe(file: Path, kind: str) -> dict[str, Any]:
    """What the file's own runtime says of it."""
    from parity.formats.serve import OpenRequest, open_session
    from parity.formats.target import load_part

    target = _target(file, kind)
    if target is None:
        raise ParityError(
            f"{file.name}: unknown kind of file: no target reads {file.suffix or 'files without a suffix'}"
        )
    if target.signature:
        return dict(load_part(target.signature)(file))
    notes = {"entry": file.name, "inputs": {}, "outputs": {}}
    return dict(open_session(OpenRequest(target.session, str(file.parent), notes)).description)


def main() -> int:
    said, sys.stdout = sys.stdout, io.StringIO()  # runtimes print
    sandbox.confine([Path(tempfile.gettempdir())])
    try:
        found = describe(Path(sys.argv[1]), sys.argv[2])
    except ParityError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({side: found[side] for side in ("inputs", "outputs")}), file=said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
