"""The contract that a file states by itself: names, shapes and element types of its inputs, names of its outputs.

Read in a process of its own (`python -m parity.session.signature FILE KIND`), for that takes the file's own runtime,
and kept beside the cache under the file's hash. What a file does not state is asked of the user by name, never guessed.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.core.contract import DTYPES
from parity.core.errors import ParityError

_VERSION = 1  # of what is kept
_TIMEOUT = 300


def read(file: Path, kind: str, root: Path) -> dict[str, Any]:
    """{"inputs": [{"name", "shape", "dtype", "layout"?}], "outputs": [{"name"}]} of `file`, in the order that it has
    them; `kind` is a target, or "reference". A dynamic axis is a name: `batch` in front, else the file's own, else made
    of the input's. Raises ParityError for a file that does not say all of that."""
    from parity.store import atomic
    from parity.store.cache import Store, sha256_tree  # a capsule is run where there is no file lock

    kept = Store.at(None, root).root / "signatures" / f"{sha256_tree(file)}.{kind}.{_VERSION}.json"
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    command = [sys.executable, "-m", "parity.session.signature", str(file.resolve()), kind]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise ParityError(f"{file.name}: its contract could not be read in {_TIMEOUT} s") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        said = lines[-1].strip() if lines else f"exit code {done.returncode}"
        raise ParityError(
            said if said.startswith(file.name) else f"{file.name}: its contract cannot be read: {said:.200}"
        )
    found = named(json.loads(done.stdout), file.name)
    with contextlib.suppress(OSError, ParityError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic.publish({kept: json.dumps(found)})
    return found


def named(described: Mapping[str, Any], file: str) -> dict[str, Any]:
    """What a session's `describe` says as a contract. Raises ParityError where shapes or types are missing."""
    inputs = []
    for entry in described["inputs"]:
        shape, name = entry.get("shape"), entry["name"]
        if not shape:
            raise ParityError(f"{file} does not say the shape of its input {name!r}: declare inputs and outputs")
        dtype = "float32" if entry.get("scale") else entry.get("dtype")
        if dtype not in DTYPES:
            raise ParityError(f"{file}: its input {name!r} is of type {dtype}: declare inputs and outputs")
        dims = [d if isinstance(d, int) and d > 0 else _axis(d, name, i) for i, d in enumerate(shape)]
        layout = {"layout": entry["layout"]} if entry.get("layout") else {}
        inputs.append({"name": name, "shape": dims, "dtype": dtype, **layout})
    if not inputs or not described["outputs"]:
        raise ParityError(f"{file} has {len(inputs)} inputs and {len(described['outputs'])} outputs: declare them")
    return {"inputs": inputs, "outputs": [{"name": o["name"]} for o in described["outputs"]]}


def _axis(stated: Any, name: str, index: int) -> str:
    if index == 0:
        return "batch"
    return stated if isinstance(stated, str) and stated.isidentifier() else f"{name}_{index}"


# In the process of its own.


def describe(file: Path, kind: str) -> dict[str, Any]:
    """What the file's own runtime says of it."""
    if file.suffix == ".pt2":
        return _program(file)
    if kind == "reference" and file.suffix == ".onnx":
        kind = "onnx"
    if kind in ("reference", "torchscript"):
        raise ParityError(f"{file.name}: a TorchScript file does not say the shapes of its inputs: declare inputs and "
                          "outputs")  # fmt: skip
    from parity import formats as targets
    from parity.formats.serve import open_session

    notes: dict[str, Any] = {"entry": file.name, "inputs": {}, "outputs": {}}
    found: dict[str, Any] = open_session(targets.get(kind).session, str(file.parent), notes)["description"]
    if kind == "tflite":  # TFLite is channels-last: a picture is told by its last axis
        for entry in found["inputs"]:
            shape = entry["shape"]
            if len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4):
                entry |= {"layout": "NHWC", "shape": [shape[0], shape[3], shape[1], shape[2]]}
    return found


def _program(file: Path) -> dict[str, Any]:
    """An ExportedProgram: its user inputs in order; outputs by the keys of the dict that it returns, else numbered."""
    from parity.files.torch_archives import open_program

    program: Any = open_program(file)
    given = set(program.graph_signature.user_inputs)
    inputs = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in given:
            value = node.meta["val"]
            shape = [d if isinstance(d, int) else str(d) for d in value.shape]
            inputs.append({"name": node.name, "shape": shape, "dtype": str(value.dtype).removeprefix("torch.")})
    spec = program.call_spec.out_spec
    keys = list(spec.context) if spec.type is dict else None
    count = len(program.graph_signature.user_outputs)
    names = keys or (["output"] if count == 1 else [f"output_{i}" for i in range(count)])
    return {"inputs": inputs, "outputs": [{"name": str(name)} for name in names]}


def main() -> int:
    said, sys.stdout = sys.stdout, io.StringIO()  # runtimes print
    try:
        found = describe(Path(sys.argv[1]), sys.argv[2])
    except ParityError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({side: found[side] for side in ("inputs", "outputs")}), file=said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
