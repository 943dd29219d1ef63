"""The step that makes an NCNN file, in the child: the pnnx binary on a traced module."""

from __future__ import annotations

import importlib.util
import itertools
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.core.errors import ParityError
from parity.formats.ncnn.runtime import operators
from parity.formats.target import Array
from parity.formats.torch.convert import SCRIPT_FILE
from parity.process.child import stage

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"


def convert(
    work: str,
    after: str,
    options: Mapping[str, Any],
    contract: Mapping[str, Any],
    example: Mapping[str, Array],
    **_: Any,
) -> dict[str, Any]:
    """Run the pnnx binary itself: its Python wrapper drops the fp16 flag and does not look at the exit code."""
    stage("convert")
    found = importlib.util.find_spec("pnnx")  # importing it would import torch for nothing
    if found is None or found.origin is None:
        raise ParityError("pnnx is not installed: pip install 'pytest-parity[ncnn]'")
    binary = Path(found.origin).with_name("pnnx")
    local = Path("model.pt")
    local.write_bytes(Path(after, SCRIPT_FILE).read_bytes())
    shapes = ",".join(
        f"[{','.join(map(str, example[s['name']].shape))}]{_CODES[s['dtype']]}" for s in contract["inputs"]
    )
    command = [str(binary), str(local), f"inputshape={shapes}", f"fp16={int(options['half'])}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    print(done.stdout)
    if done.returncode != 0:
        raise ParityError(_why(done.returncode, done.stdout))
    for name in (PARAM, BIN):
        if not Path(name).is_file():
            raise ParityError(f"pnnx reported success and left no {name}")
        Path(name).rename(Path(work, name))
    unknown = sorted(set(operators(Path(work, PARAM))) & {"pnnx.Expression"} | {
        kind for kind in operators(Path(work, PARAM)) if kind.startswith(("pnnx.", "aten::", "nn.", "F.", "torch."))
    })  # fmt: skip
    if unknown:
        raise ParityError(f"pnnx left operators that ncnn does not have: {', '.join(unknown)}")
    # pnnx names inputs in0, in1 ... and outputs out0, out1 ... in the order of the traced module.
    return {
        "entry": PARAM,
        "weights": BIN,
        "half": options["half"],
        "inputs": {s["name"]: {"name": f"in{i}"} for i, s in enumerate(contract["inputs"])},
        "outputs": {s["name"]: {"name": f"out{i}"} for i, s in enumerate(contract["outputs"])},
        "fixed": {n: list(v.shape) for n, v in example.items()},
    }


def _why(code: int, printed: str) -> str:
    """Why pnnx ended: the last error of its output, which is PyTorch's own where the model did not run in it."""
    ended = f"pnnx was ended by {signal.Signals(-code).name}" if code < 0 else f"pnnx ended with code {code}"
    lines = [line.strip() for line in printed.splitlines()]
    errors = [line for line in lines if re.match(r"(\w+Error|what\(\)): ", line)]
    if not errors:
        return ended
    at = [before for before, line in itertools.pairwise(lines) if "<--- HERE" in line]
    return f"{ended}: {errors[-1].rstrip('.'):.300}" + (f", at {at[0]:.100}" if at else "")


_CODES = {
    "float32": "f32",
    "float16": "f16",
    "int64": "i64",
    "int32": "i32",
    "uint8": "u8",
    "int8": "i8",
    "bool": "bool",
}
