"""A failing input as a script of at most ten lines: plain NumPy, and the runtime that ran the file. Imports neither.

Core ML does not run here: its files are run by this project's evaluator. Targets that are not listed in `_RUN`, and
TFLite files without a signature, are run through the class that the suite runs them with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.cases.recipes import Layout, Recipe, variable
from parity.core.contract import Contract

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
    place: str,
    want: str,
    description: Mapping[str, Any] | None = None,
) -> list[str]:
    """The script. It prints the artefact's `output` at `place`, and beside it what the oracle has there, `want`.

    `description`: what the opened file says of itself, as the suite's own session describes it.
    """
    sizes = {**recipe.dims, **dims}
    shapes = {s.name: s.sized(sizes) for s in contract.inputs}
    made = [recipe.inputs[s.name].line(s, shapes[s.name]) for s in contract.inputs]
    names = {n: notes["inputs"].get(n, {}).get("name", n) for n in shapes}
    layouts = recipe.layouts()
    fed = {
        names[n]: _viewed(_fed(notes["inputs"].get(n, {}), n, len(shape)), layouts.get(n, "plain"))
        for n, shape in shapes.items()
    }
    entry = notes["outputs"].get(output, {"name": output})
    integers = {names[s.name] for s in contract.inputs if "int" in s.dtype}
    own = {names[n]: _turned(notes["inputs"].get(n, {}), shape) for n, shape in shapes.items()}
    artefact = _Artefact(session, folder, notes, description or {}, own, integers)
    body = _RUN.get(target, _by_session)(artefact, fed, entry["name"])
    back = _back(entry.get("layout"))
    script = ["import numpy as np", *made, *body, f"print(got{back}{place}, 'the float64 oracle:', {want!r})"]
    while len(script) > MOST:  # many inputs: several a line
        script[1:3] = ["; ".join(script[1:3])]
    return script


@dataclass(frozen=True)
class _Artefact:
    """The file that failed: the shapes of its inputs, and which of them hold integers, by its own names."""

    session: str
    folder: Path
    notes: Mapping[str, Any]
    description: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    integers: Collection[str]

    def path(self, key: str = "entry") -> str:
        return str(self.folder / self.notes[key])


def _viewed(value: str, layout: Layout) -> str:
    """The same elements in another place of memory, where that is what the artefact failed on."""
    if layout == "strided":
        return f"np.repeat({value}, 2, -1)[..., ::2]"
    if layout == "channels_last":
        return f"np.moveaxis(np.ascontiguousarray(np.moveaxis({value}, 1, -1)), -1, 1)"
    return value


def _order(entry: Mapping[str, Any], rank: int) -> list[int]:
    """The axes of an input in the order of the artefact's own layout."""
    layout, canonical = entry.get("layout"), _CANONICAL.get(rank, "")
    if not layout or sorted(layout) != sorted(canonical):
        return list(range(rank))
    return [canonical.index(axis) for axis in layout]


def _turned(entry: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _order(entry, len(shape)))


def _fed(entry: Mapping[str, Any], name: str, rank: int) -> str:
    order = _order(entry, rank)
    if order == sorted(order):
        return variable(name)
    return f"np.ascontiguousarray({variable(name)}.transpose({', '.join(map(str, order))}))"


def _back(layout: str | None) -> str:
    canonical = _CANONICAL.get(len(layout or ""), "")
    if not layout or sorted(layout) != sorted(canonical):
        return ""
    return f".transpose({', '.join(str(layout.index(a)) for a in canonical)})"


def _dict(fed: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{n!r}: {v}" for n, v in fed.items()) + "}"


def _onnx(a: _Artefact, fed: Mapping[str, str], output: str) -> list[str]:
    return [
        "import onnxruntime",
        f"got = onnxruntime.InferenceSession({a.path()!r}).run([{output!r}], {_dict(fed)})[0]",
    ]


def _torch_file(load: str) -> Any:
    def run(a: _Artefact, fed: Mapping[str, str], output: str) -> list[str]:
        names = [e["name"] for e in a.notes["outputs"].values()]
        values = ", ".join(f"torch.from_numpy({fed[e['name']]})" for e in a.notes["inputs"].values())
        lines = ["import torch", f"got = {load.format(a.path())}({values})"]
        if len(names) > 1:
            lines.append(f"got = list(got.values() if isinstance(got, dict) else got)[{names.index(output)}]")
        return [*lines, "got = got.detach().numpy()"]

    return run


def _coreml(a: _Artefact, fed: Mapping[str, str], output: str) -> list[str]:
    if a.notes.get("states"):
        return _by_session(a, fed, output)
    given = {n: f"{v}.astype(np.int32)" if n in a.integers else v for n, v in fed.items()}
    return ["from parity import mil", f"got = mil.load({a.path()!r}).run({_dict(given)})[{output!r}]"]


def _ncnn(a: _Artefact, fed: Mapping[str, str], output: str) -> list[str]:
    weights = a.path("weights") if "weights" in a.notes else str(Path(a.path()).with_suffix(".bin"))
    inputs = []
    for place, (name, value) in enumerate(fed.items()):  # held by a name: a Mat only borrows an array's memory
        own = f"np.ascontiguousarray({value}[0])" + (".astype(np.int32)" if name in a.integers else "")
        inputs.append(f"m{place} = {own}")
        inputs.append(f"e.input({name!r}, ncnn.Mat(m{place}).clone())")
    return [
        "import ncnn",
        "net = ncnn.Net(); o = net.opt; o.use_vulkan_compute = False",
        f"o.use_fp16_packed = o.use_fp16_storage = o.use_fp16_arithmetic = {bool(a.notes.get('half'))}",
        f"net.load_param({a.path()!r}); net.load_model({weights!r}); e = net.create_extractor()",
        "; ".join(inputs),
        f"got = np.array(e.extract({output!r})[1])[None]",
    ]


def _tflite(a: _Artefact, fed: Mapping[str, str], output: str) -> list[str]:
    if not a.description.get("signature"):
        return _by_session(a, fed, output)
    said = {d["name"]: d for side in ("inputs", "outputs") for d in a.description[side]}
    files = a.notes.get("files") or [a.notes["entry"]]
    fitting = (f for i, f in enumerate(files) if all(_held(said[n], i) == list(s) for n, s in a.shapes.items()))
    path = str(a.folder / next(fitting, files[0]))
    kernels = a.notes.get("kernels") or "XNNPACK"
    chosen = {"builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}.get(kernels, "AUTO")
    given = _dict({n: _quantised(v, said[n]) for n, v in fed.items()})
    scale, zero = said[output].get("scale"), said[output].get("zero_point", 0)
    whole = f"(got.astype(np.float32) - {zero}) * np.float32({scale!r})"
    return [
        "from ai_edge_litert.interpreter import Interpreter, OpResolverType",
        f"run = Interpreter({path!r}, experimental_op_resolver_type=OpResolverType.{chosen}).get_signature_runner()",
        f"got = run(**{given})[{output!r}]",
        *([f"got = {whole}"] if scale else []),
    ]


def _held(described: Mapping[str, Any], place: int) -> list[int] | None:
    """The shape of an input in the file at `place` of an artefact that has a file a size."""
    shapes = described.get("shapes", [])
    return list(shapes[place]) if place < len(shapes) else None


def _quantised(value: str, described: Mapping[str, Any]) -> str:
    dtype = described.get("dtype") or ""
    if not described.get("scale") or not dtype.startswith(("int", "uint")):
        return value
    scaled = f"np.rint({value} / np.float32({described['scale']!r})) + {described['zero_point']}"
    low, high = (0, 255) if dtype == "uint8" else (-128, 127) if dtype == "int8" else (-32768, 32767)
    return f"np.clip({scaled}, {low}, {high}).astype(np.{dtype})"


def _coreai(a: _Artefact, fed: Mapping[str, str], output: str) -> list[str]:
    given = {n: f"NDArray({v}.astype(np.int32))" if n in a.integers else f"NDArray({v})" for n, v in fed.items()}
    return [
        "import asyncio; from coreai.authoring import AIModelAsset; from coreai.runtime import NDArray",
        "async def run(fed):",
        f"    async with AIModelAsset.load({a.path()!r}).executable() as model:",
        "        return {n: v.numpy().copy() for n, v in (await model.load_function('main')(fed)).items()}",
        f"got = asyncio.run(run({_dict(given)}))[{output!r}]",
    ]


def _by_session(a: _Artefact, fed: Mapping[str, str], output: str) -> list[str]:
    module, _, name = a.session.partition(":")
    opened = f"{name}({str(a.folder)!r}, {dict(a.notes)!r})"
    return [f"from {module} import {name}", f"got = {opened}.run({_dict(fed)})[{output!r}]"]


_RUN: Mapping[str, Any] = {
    "onnx": _onnx,
    "tflite": _tflite,
    "coreml": _coreml,
    "coreml_nn": _coreml,
    "ncnn": _ncnn,
    "coreai": _coreai,
    "torchscript": _torch_file("torch.jit.load({!r})"),
    "exported": _torch_file("torch.export.load({!r}).module()"),
}


def element(got: Any, want: Any) -> tuple[str, str]:
    """Where to look, as Python writes it after an array, and what the oracle has there: the element that is furthest
    off, or not finite; the shape or dtype where that differs. Without `got`, the oracle's largest element."""
    import numpy as np

    if not want.size or (got is not None and got.shape != want.shape):
        return ".shape", str(want.shape)
    if got is not None and (got.dtype.kind == "f") != (want.dtype.kind == "f"):
        return ".dtype", str(want.dtype)
    with np.errstate(invalid="ignore"):
        gap = np.abs(np.asarray(want, np.float64) - (0 if got is None else np.asarray(got, np.float64)))
    index = tuple(map(int, np.unravel_index(int(np.where(np.isfinite(gap), gap, np.inf).argmax()), gap.shape)))
    return str(list(index)) if index else "", f"{float(want[index]):.9g}"
