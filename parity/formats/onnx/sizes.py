"""Whether an exported file keeps its declared axes: it is run at other sizes, beside the module.

What it says of its axes is no evidence: a trace bakes sizes that the module computes into constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.errors import ParityError
from parity.formats.target import Array
from parity.formats.torch.convert import drawn_at

_FAR = 0.05  # of the largest value: far beyond what float32 costs, and what a baked size leaves is beyond that


def try_others(file: Path, module: Any, contract: Mapping[str, Any], example: Mapping[str, Array]) -> None:
    """Run `file` with every declared axis at its size farthest from the example's in its list.

    Raises ParityError where the module takes these sizes and the file does not, or computes something else.
    """
    sizes = {axis: values[-1] for axis, values in contract.get("sizes", {}).items()}
    if not sizes:
        return
    inputs = drawn_at(contract, sizes)
    if all(inputs[name].shape == value.shape for name, value in example.items()):
        return
    wanted = _by_module(module, contract, inputs)
    if wanted is None:
        return
    at = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    baked = f"torch.onnx baked sizes in: at {at}"
    try:
        outputs = _by_file(file, inputs)
    except Exception as error:  # ONNX Runtime's own classes, one for each status
        why = str(error).strip().splitlines()[0]
        raise ParityError(f"{baked} the module runs and the file does not: {why:.200}") from None
    for name, want in wanted.items():
        got = outputs[name]
        if got.shape != want.shape:
            raise ParityError(f"{baked} {name!r} has the shape {list(got.shape)}, the module's {list(want.shape)}")
        if want.dtype.kind == "f" and np.abs(got - want).max(initial=0) > _FAR * np.abs(want).max(initial=0):
            raise ParityError(f"{baked} {name!r} is something else than the module's")


def _by_module(module: Any, contract: Mapping[str, Any], inputs: Mapping[str, Array]) -> dict[str, Array] | None:
    """The module's finite outputs; None where it refuses these inputs itself."""
    import torch

    from parity.reference import modelling

    names = [spec["name"] for spec in contract["outputs"]]
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
    try:
        with torch.no_grad():
            outputs = modelling.forward(module, tensors, names)
    except Exception:  # the model's own, of any kind
        return None
    arrays = {name: value.numpy() for name, value in outputs.items()}
    return arrays if all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f") else None


def _by_file(file: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    results = session.run(names, {name: value for name, value in inputs.items() if name in taken})
    return dict(zip(names, results, strict=True))
