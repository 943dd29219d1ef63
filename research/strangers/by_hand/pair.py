"""python -m research.strangers.by_hand.pair draw FILE CASES < SPEC, or compare FILE OTHER CASES PRECISION.

Two files on the same inputs, each by its own runtime, held against each other. `draw` writes inputs as the file takes
them, where SPEC (JSON: `inputs`, `range`) gives the sizes that the file leaves open.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from research.strangers.by_hand.inputs import Array, Case
from research.strangers.by_hand.verdict import Verdict, aligned, relative

BOUNDS = {"fp32": (1e-4, 1e-2), "fp16": (2e-2, 2e-1)}  # right up to the first, wrong from the second on
CASES = 6
SECOND = 500  # an input with so many values in its last axis, and no others, is taken for a waveform


def interface(file: Path) -> dict[str, tuple[list[Any], str]]:
    """Input name -> shape (integers, or names of open sizes) and dtype."""
    if file.suffix == ".onnx":
        import onnxruntime

        kinds = {"tensor(float)": "float32", "tensor(float16)": "float16"}
        inputs = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).get_inputs()
        return {i.name: (i.shape, kinds.get(i.type) or i.type[len("tensor(") : -1]) for i in inputs}
    if file.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        details = Interpreter(str(file)).get_input_details()
        return {d["name"]: ([int(n) for n in d["shape"]], np.dtype(d["dtype"]).name) for d in details}
    return {}


def draw(file: Path, folder: Path, spec: dict[str, Any]) -> None:
    """`CASES` inputs as .npz: sound for waveforms, integers of the range, else normal values inside it."""
    folder.mkdir(parents=True, exist_ok=True)
    declared, (low, high) = spec["inputs"], spec["range"]
    takes = interface(file) or {name: (shape, "float32") for name, shape in declared.items()}
    for index in range(CASES):
        rng = np.random.default_rng(index)
        case = {}
        for name, (shape, dtype) in takes.items():
            size = declared.get(name, [n if isinstance(n, int) and n > 0 else 1 for n in shape])
            case[name] = _value(size, dtype, low, high, rng)
        np.savez(folder / f"{index:02}.npz", **case)


def _value(size: Any, dtype: str, low: float, high: float, rng: np.random.Generator) -> Array:
    if isinstance(size, int):  # a rate: its one value
        return np.array(size, "int64")
    if "int" in dtype:
        return rng.integers(int(low), int(high) + 1, size).astype(dtype)
    if int(np.prod(size)) == max(size) >= SECOND:
        time = np.arange(max(size)) / 16000
        tones = sum(rng.random() / k * np.sin(2 * np.pi * k * rng.uniform(90, 250) * time) for k in range(1, 8))
        return (0.3 * tones + 0.01 * rng.standard_normal(max(size))).reshape(size).astype(dtype)
    middle, half = (low + high) / 2, (high - low) / 2
    return np.clip(middle + half / 2 * rng.standard_normal(size), low, high).astype(dtype)


def outputs(file: Path, case: Case) -> dict[str, Array]:
    """Every output by name; inputs by name, or by size where the file has other names."""
    return RUNNERS[file.suffix](file, case)


def _onnx(file: Path, case: Case) -> dict[str, Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    halves = {i.name for i in session.get_inputs() if i.type == "tensor(float16)"}
    feed = {i.name: case[i.name] for i in session.get_inputs()}
    feed = {name: value.astype(np.float16) if name in halves else value for name, value in feed.items()}
    return dict(zip(names, session.run(names, feed), strict=True))


def _tflite(file: Path, case: Case) -> dict[str, Array]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=1)
    details = interpreter.get_input_details()
    for detail in details:
        value = case[detail["name"]] if detail["name"] in case else next(iter(case.values()))
        if tuple(detail["shape"]) != value.shape:
            interpreter.resize_tensor_input(detail["index"], value.shape)
    interpreter.allocate_tensors()
    for detail in details:
        value = case[detail["name"]] if detail["name"] in case else next(iter(case.values()))
        interpreter.set_tensor(detail["index"], value.astype(detail["dtype"]))
    interpreter.invoke()
    return {d["name"]: interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()}


def _torchscript(file: Path, case: Case) -> dict[str, Array]:
    import torch

    module = torch.jit.load(str(file))
    with torch.no_grad():
        given = [v.item() if v.ndim == 0 else torch.from_numpy(v) for v in case.values()]
        result = module(*given)
    return {"output": result.detach().numpy()}


RUNNERS: dict[str, Callable[[Path, Case], dict[str, Array]]] = {
    ".onnx": _onnx,
    ".tflite": _tflite,
    ".jit": _torchscript,
}


def compare(file: Path, other: Path, folder: Path, precision: str) -> Verdict:
    """`other` against `file`: outputs by name, or in their order where names differ."""
    if other.suffix not in RUNNERS:
        return Verdict("cannot say", f"{other.suffix} files are not run here")
    with_cases = [dict(np.load(f)) for f in sorted(folder.glob("*.npz"))]
    want = [outputs(file, case) for case in with_cases]
    try:
        got = [outputs(other, case) for case in with_cases]
    except (KeyError, ValueError, RuntimeError) as error:
        return Verdict("cannot say", f"takes other inputs: {str(error)[:200]}")
    worst = 0.0
    for place, name in enumerate(want[0]):
        theirs = name if name in got[0] else list(got[0])[min(place, len(got[0]) - 1)]
        pairs = [(aligned(g[theirs], w[name]), w[name]) for g, w in zip(got, want, strict=True)]
        if not all(shaped for shaped, _ in pairs):
            return Verdict("cannot say", f"{name}: shape {got[0][theirs].shape} for {want[0][name].shape}")
        worst = max(worst, relative([shaped[0] for shaped, _ in pairs], [value for _, value in pairs]))
    near, far = BOUNDS[precision]
    if worst <= near:
        return Verdict("right", f"off by {worst:.3g}", worst)
    return Verdict("wrong" if worst > far else "cannot say", f"off by {worst:.3g}", worst if worst < 1e30 else None)


def main() -> int:
    if sys.argv[1] == "draw":
        draw(Path(sys.argv[2]), Path(sys.argv[3]), json.load(sys.stdin))
        return 0
    print(json.dumps(asdict(compare(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
