"""A failing input as a script of at most ten lines: plain NumPy, and the runtime that ran the file. Imports neither."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.cases.recipes import Recipe, variable
from parity.contract import Contract

MOST = 10
_CANONICAL = {3: "NCL", 4: "NCHW", 5: "NCDHW"}


def lines(
    target: str,
    session: str,
    folder: Path,
    notes: Mapping[str, Any],
    contract: Contract,
    recipe: Recipe,
    dims: Mapping[str, int],
    output: str,
    index: Sequence[int],
    want: float | None,
) -> list[str]:
    """The script. It prints the artefact's element `index` of `output`, and beside it what the oracle has there."""
    sizes = {**recipe.dims, **dims}
    made = [recipe.inputs[s.name].line(s, s.sized(sizes)) for s in contract.inputs]
    fed = {s.name: _fed(notes["inputs"].get(s.name, {}), s.name, len(s.shape)) for s in contract.inputs}
    names = {n: notes["inputs"].get(n, {}).get("name", n) for n in fed}
    entry = notes["outputs"].get(output, {"name": output})
    run = _RUN.get(target, _by_session)
    body = run(session, folder, notes, {names[n]: v for n, v in fed.items()}, entry["name"])
    back = _back(entry.get("layout"))
    place = f"[{', '.join(map(str, index))}]" if index else ""
    said = "not finite" if want is None else f"{want:.9g}"
    script = ["import numpy as np", *made, *body, f"print(got{back}{place}, 'the float64 oracle:', {said!r})"]
    while len(script) > MOST:  # many inputs: several a line
        script[1:3] = ["; ".join(script[1:3])]
    return script


def _fed(entry: Mapping[str, Any], name: str, rank: int) -> str:
    layout, canonical = entry.get("layout"), _CANONICAL.get(rank, "")
    if not layout or sorted(layout) != sorted(canonical):
        return variable(name)
    return f"{variable(name)}.transpose({', '.join(str(canonical.index(a)) for a in layout)})"


def _back(layout: str | None) -> str:
    canonical = _CANONICAL.get(len(layout or ""), "")
    if not layout or sorted(layout) != sorted(canonical):
        return ""
    return f".transpose({', '.join(str(layout.index(a)) for a in canonical)})"


def _dict(fed: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{n!r}: {v}" for n, v in fed.items()) + "}"


def _onnx(session: str, folder: Path, notes: Mapping[str, Any], fed: Mapping[str, str], output: str) -> list[str]:
    file = str(folder / notes["entry"])
    return ["import onnxruntime", f"got = onnxruntime.InferenceSession({file!r}).run([{output!r}], {_dict(fed)})[0]"]


def _torch_file(load: str) -> Any:
    def run(session: str, folder: Path, notes: Mapping[str, Any], fed: Mapping[str, str], output: str) -> list[str]:
        file, names = str(folder / notes["entry"]), list(notes["outputs"])
        order = [e["name"] for e in notes["inputs"].values()]
        values = ", ".join(f"torch.from_numpy({fed[n]})" for n in order)
        taken = (
            f"list(got.values() if isinstance(got, dict) else got)[{names.index(output)}]" if output in names else "got"
        )
        if len(names) == 1:
            taken = "got"
        return ["import torch", f"got = {load.format(file)}({values})", f"got = {taken}.detach().numpy()"]

    return run


def _coreml(session: str, folder: Path, notes: Mapping[str, Any], fed: Mapping[str, str], output: str) -> list[str]:
    file = str(folder / notes["entry"])
    return ["from parity import mil", f"got = mil.load({file!r}).run({_dict(fed)})[{output!r}]"]


def _ncnn(session: str, folder: Path, notes: Mapping[str, Any], fed: Mapping[str, str], output: str) -> list[str]:
    param = folder / notes["entry"]
    weights = str(folder / notes.get("weights", str(Path(notes["entry"]).with_suffix(".bin"))))
    half = bool(notes.get("half"))
    inputs = "; ".join(f"e.input({n!r}, ncnn.Mat(np.ascontiguousarray({v}[0])).clone())" for n, v in fed.items())
    return [
        "import ncnn",
        "net = ncnn.Net(); o = net.opt; o.use_vulkan_compute = False",
        f"o.use_fp16_packed = o.use_fp16_storage = o.use_fp16_arithmetic = {half}",
        f"net.load_param({str(param)!r}); net.load_model({weights!r}); e = net.create_extractor()",
        inputs,
        f"got = np.array(e.extract({output!r})[1])[None]",
    ]


def _tflite(session: str, folder: Path, notes: Mapping[str, Any], fed: Mapping[str, str], output: str) -> list[str]:
    module, _, name = session.partition(":")  # quantised inputs and outputs are turned there
    kept = {k: notes[k] for k in ("entry", "files", "kernels") if k in notes}
    opened = f"{name}({str(folder)!r}, {kept!r})"
    return [f"from {module} import {name}  # ai_edge_litert's Interpreter, quantised inputs and outputs turned",
            f"got = {opened}.run({_dict(fed)})[{output!r}]"]  # fmt: skip


def _by_session(session: str, folder: Path, notes: Mapping[str, Any], fed: Mapping[str, str], output: str) -> list[str]:
    module, _, name = session.partition(":")
    return [
        f"from {module} import {name}",
        f"got = {name}({str(folder)!r}, {dict(notes)!r}).run({_dict(fed)})[{output!r}]",
    ]


_RUN: Mapping[str, Any] = {
    "onnx": _onnx,
    "tflite": _tflite,
    "coreml": _coreml,
    "coreml_nn": _coreml,
    "ncnn": _ncnn,
    "torchscript": _torch_file("torch.jit.load({!r})"),
    "exported": _torch_file("torch.export.load({!r}).module()"),
}


def element(got: Any, want: Any) -> tuple[tuple[int, ...], float | None]:
    """Where to look: the index of the largest difference, or of one not finite, and the oracle's value there."""
    import numpy as np

    if got is None or got.shape != want.shape or not want.size:
        return (), None
    with np.errstate(invalid="ignore"):
        gap = np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64))
    gap = np.where(np.isfinite(gap), gap, np.inf)
    index = tuple(int(i) for i in np.unravel_index(int(gap.argmax()), gap.shape))
    value = float(want[index])
    return index, value if math.isfinite(value) else None
