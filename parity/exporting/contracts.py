"""contract.json: what the files of an export take and give, for whoever feeds or converts them later.

By model: `inputs` (name, shape with named dynamic axes, dtype, range), `outputs` (name, shape, dtype), `sizes` (those
that were tried of each axis, the export example's first), `enumerated` (axes with the only sizes that they may have),
`mode`, and `files`. A dimension of an output that follows no axis of the inputs one to one is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.cases import draw
from parity.core import strict_json
from parity.core.case import Case
from parity.core.contract import DTYPES, Contract, InputSpec, OutputSpec
from parity.core.errors import ParityError
from parity.core.record import plain
from parity.core.settings import ModelConfig
from parity.core.visible import visible
from parity.session.session import Session

FILE = "contract.json"


def describe(session: Session, model: ModelConfig) -> dict[str, Any]:
    """The entry of one model, without its files. Runs the model, once for every axis at another size."""
    contract = model.contract
    shapes = _output_shapes(session, model)
    return {
        "inputs": [
            {"name": i.name, "shape": list(i.shape), "dtype": i.dtype, "range": plain(i.range)} for i in contract.inputs
        ],
        "outputs": [{"name": o.name, "kind": o.kind, **shapes[o.name]} for o in contract.outputs],
        "sizes": {axis: list(sizes) for axis, sizes in contract.sizes().items()},
        "enumerated": {axis: list(contract.sizes()[axis]) for axis in model.enumerated},
        "mode": model.options.get("mode"),
    }


def _output_shapes(session: Session, model: ModelConfig) -> dict[str, dict[str, Any]]:
    contract = model.contract
    example = contract.example()
    changed = {a: next((s for s in sizes if s != sizes[0]), None) for a, sizes in contract.sizes().items()}
    cases = [Case("example", draw.inputs(contract, example, session.config.seed))]
    axes = [axis for axis, size in changed.items() if size is not None]
    cases += [Case(a, draw.inputs(contract, {**example, a: changed[a] or 1}, session.config.seed)) for a in axes]
    rows = session.reference(model, cases).outputs
    found = {}
    for spec in contract.outputs:
        first = rows[0][spec.name]
        shape: list[Any] = list(first.shape)
        for axis, row in zip(axes, rows[1:], strict=True):
            for i, size in enumerate(row[spec.name].shape[: len(shape)]):
                if size != first.shape[i]:
                    follows = first.shape[i] == example[axis] and size == changed[axis] and shape[i] == first.shape[i]
                    shape[i] = axis if follows else None
        found[spec.name] = {"shape": shape, "dtype": "float32" if first.dtype.kind == "f" else str(first.dtype)}
    return found


def read(path: Path, file: Path) -> tuple[Contract, tuple[str, ...], dict[str, Any]]:
    """The contract of an exported `file` in a contract.json, its enumerated axes, and the entry as it stands there.

    Raises ParityError with one line for anything that is not such a contract.

    The entry is the one that lists the file, else the one whose name the file's name starts with, else the only one.
    """
    try:
        data = strict_json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        told = error.strerror if isinstance(error, OSError) else f"not JSON ({str(error).splitlines()[0]:.200})"
        raise ParityError(f"contract {path}: {told}") from None
    if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
        raise ParityError(f"contract {path}: not a table of models, as parity export writes it")
    listed = [n for n, entry in data.items() if isinstance(f := entry.get("files"), list) and file.name in f]
    named = [n for n in sorted(data, key=len, reverse=True) if file.name.startswith(f"{n}.")]
    name = next(iter((*listed, *named, *(data if len(data) == 1 else ()))), None)
    if name is None:
        known = visible(", ".join(data))
        raise ParityError(f"contract {path}: describes {known:.200}, none of which is {file.name}")
    try:
        return (*_contract(data[name]), dict(data[name]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        told = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ParityError(f"contract {path}: {visible(name):.80}: {visible(told):.200}") from None


def _contract(entry: Mapping[str, Any]) -> tuple[Contract, tuple[str, ...]]:
    inputs = []
    for i in entry["inputs"]:
        if i["dtype"] not in DTYPES:
            raise ValueError(f"input {i['name']}: unknown dtype {i['dtype']!r}")
        shape = tuple(i["shape"])
        if not shape or any(not isinstance(d, str) and (type(d) is not int or d < 1) for d in shape):
            raise ValueError(f"input {i['name']}: shape {list(shape)} is not one of sizes and names")
        low_high = i.get("range")
        inputs.append(InputSpec(i["name"], shape, i["dtype"], tuple(low_high) if low_high else None))
    outputs = tuple(OutputSpec(o["name"], o.get("kind", "dense")) for o in entry["outputs"])
    sizes = {axis: tuple(int(s) for s in values) for axis, values in entry.get("sizes", {}).items()}
    enumerated = {axis: tuple(int(s) for s in values) for axis, values in entry.get("enumerated", {}).items()}
    if not inputs or not outputs or any(not v or min(v) < 1 for v in (*sizes.values(), *enumerated.values())):
        raise ValueError("needs inputs, outputs, and sizes of at least 1")
    return Contract(tuple(inputs), outputs, None, {**sizes, **enumerated}), tuple(enumerated)
