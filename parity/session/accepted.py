"""Sizes that a reference file takes, where nobody said any: its own runtime is asked, in a process of its own.

Nothing is judged at a size that was made up. Sizes of open axes are tried from the usual ones up, all axes alike first,
and the first that gives finite outputs with anything in them is the example's; up to two more are tried beside it.
`python -m parity.session.accepted FILE` reads a contract from standard input.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.contract import Contract, InputSpec, OutputSpec
from parity.core.errors import ParityError
from parity.process import sandbox

# Lengths and sides that models are made for: strides of 32, pictures, samples of 16 kHz and of 22.05 kHz.
USUAL = (7, 12, 16, 19, 24, 32, 48, 64, 76, 80, 96, 112, 128, 160, 192, 224, 256, 299, 320, 384, 400, 448, 480, 512,
         640, 768, 1024, 1280, 1600, 2048, 4096, 8000, 16000, 22050, 32000, 48000)  # fmt: skip
APART = (16, 32, 48, 64, 96, 128, 160, 192, 224, 320)  # where no size fits all axes alike
SECONDS = 60.0  # of trying
LARGEST = 1 << 23  # numbers that all inputs hold together
MORE = 2  # sizes beside the example's


def sizes(file: Path, inputs: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """By open axis of `inputs` (tables of a contract), the sizes that the reference `file` takes; empty where none is
    open.

    Raises ParityError with the runtime's own words where it takes no inputs like these.
    """
    command = [sys.executable, "-m", "parity.session.accepted", str(file.resolve())]
    text = json.dumps(list(inputs))
    try:
        with tempfile.TemporaryDirectory(prefix="parity-") as scratch:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, errors="replace", timeout=5 * SECONDS,
                check=False, env=os.environ | {"TMPDIR": scratch},
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ParityError(f"{file.name}: it did not run in {5 * SECONDS:g} s on drawn inputs") from None
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.strip().splitlines() if line.strip()]
        raise ParityError(lines[-1] if lines else f"{file.name}: running it ended with exit code {done.returncode}")
    return {str(name): list(map(int, given)) for name, given in json.loads(done.stdout).items()}


# In the process of its own.


def taken(run: Callable[[Mapping[str, Any]], Mapping[str, Any]], contract: Contract) -> dict[str, list[int]]:
    """The sizes of each axis of `contract` that is open and not a batch, as `run` accepts drawn inputs of them.

    Raises ParityError where it accepts none, with what it said of the first.
    """
    axes = [name for name in contract.sizes() if name not in contract.dims and not contract.is_batch(name)]
    start, said = time.monotonic(), ""
    for chosen in _attempts(axes):
        why = _refusal(run, contract, {**contract.example(), **chosen})
        said = said or why
        if not why or time.monotonic() - start > SECONDS:
            break
    if why:
        raise ParityError(said)
    found = {axis: [size] for axis, size in chosen.items()}
    for size in _larger(chosen):
        more = {axis: own + size for axis, own in chosen.items()}
        if len(next(iter(found.values()), ())) > MORE or time.monotonic() - start > SECONDS:
            break
        if not _refusal(run, contract, {**contract.example(), **more}):
            for axis in found:
                found[axis].append(more[axis])
    return found


def _attempts(axes: Sequence[str]) -> Iterator[dict[str, int]]:
    """Sizes of all axes, in the order in which they are tried: alike, then, of two or three axes, each by itself."""
    if not axes:
        yield {}
        return
    for size in USUAL:
        yield dict.fromkeys(axes, size)
    if 1 < len(axes) <= 3:
        for each in itertools.product(APART, repeat=len(axes)):
            yield dict(zip(axes, each, strict=True))


def _larger(chosen: Mapping[str, int]) -> Iterator[int]:
    """What is added to the chosen sizes to find more: a little, then what keeps strides of 16, 32 and their own."""
    if chosen:
        yield from dict.fromkeys((5, 12, 16, 32, 64, 96, *sorted(set(chosen.values()))))


def _refusal(run: Callable[[Mapping[str, Any]], Mapping[str, Any]], contract: Contract, dims: Mapping[str, int]) -> str:
    """Why inputs of these sizes say nothing: the runtime's own words, or what it gives; empty where they do."""
    from parity.cases import draw

    numbers = sum(int(np.prod(spec.sized(dims))) for spec in contract.inputs)
    if numbers > LARGEST:
        return f"inputs of {numbers} numbers are too large to try"
    try:
        outputs = run(draw.inputs(contract, dims, 0))
    except Exception as error:  # runtimes raise what they like
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return lines[0][:300]
    if any(not np.size(value) for value in outputs.values()):
        return "it gives outputs with nothing in them"
    if any(np.isnan(value).any() for value in outputs.values() if np.asarray(value).dtype.kind == "f"):
        return "it gives NaN"
    return ""


def ask(file: Path, given: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """`taken` by the runtime of the format that `file` is of."""
    from parity import formats as targets
    from parity.formats.target import load_part

    target = targets.recognised(file)
    if target is None:
        raise ParityError(f"{file.name}: no target reads such files")
    names = {entry["name"]: {"name": entry["name"]} for entry in given}
    notes = {"entry": file.name, "inputs": names, "outputs": {}}
    session = load_part(target.session)(str(file.parent), notes)
    specs = tuple(
        InputSpec(e["name"], tuple(e["shape"]), e["dtype"], tuple(e["range"]) if e.get("range") else None)
        for e in given
    )
    contract = Contract(specs, (OutputSpec("y"),))
    try:
        return taken(session.run, contract)
    except ParityError as why:
        raise ParityError(f"{file.name} itself refuses drawn inputs: {why}") from None


def main() -> int:
    said, sys.stdout = sys.stdout, io.StringIO()  # runtimes print
    given = json.load(sys.stdin)
    sandbox.confine([Path(tempfile.gettempdir())])
    try:
        found = ask(Path(sys.argv[1]), given)
    except ParityError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found), file=said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
