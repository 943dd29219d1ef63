"""The steps that make a Core ML file with coremltools, in the child, and what other modules here need of them."""

from __future__ import annotations

import importlib
import json
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.formats.target import Array
from parity.formats.torch.convert import PROGRAM_FILE, SCRIPT_FILE
from parity.process.child import stage

PACKAGE, SPEC = "model.mlpackage", "model.mlmodel"


def tools() -> Any:
    """coremltools without TensorFlow, which it imports where it can, for models of TensorFlow's: 3 s and 600 MB."""
    if not {"coremltools", "tensorflow"} & sys.modules.keys():
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
        try:
            importlib.import_module("coremltools")
        finally:
            del sys.modules["tensorflow"]
    return importlib.import_module("coremltools")


def convert(
    work: str,
    after: str,
    options: Mapping[str, Any],
    contract: Mapping[str, Any],
    example: Mapping[str, Array],
    **_: Any,
) -> dict[str, Any]:
    """Convert the traced module with its declared names; inputs and outputs stay float32."""
    import torch

    ct = tools()
    stage("convert")
    traced = torch.jit.load(str(Path(after, SCRIPT_FILE)), map_location="cpu")
    outputs = [ct.TensorType(name=name) for name in names(contract, "outputs").values()]
    return notes(save(traced, inputs(contract, example), outputs, options, Path(work)), contract, example, options)


def names(contract: Mapping[str, Any], side: str) -> dict[str, str]:
    """By the contract's names, those in the file: Core ML wants identifiers, without the words of its own language.

    coremltools would rename them by the same rule, some of them together with names of its own, and not say so.
    """
    from coremltools.converters.mil.mil.passes.defs.preprocess import NameSanitizer

    sanitizer = NameSanitizer(prefix="var_")
    declared = dict.fromkeys(s["name"] for key in ("inputs", "outputs") for s in contract[key])
    kept = {name for name in declared if NameSanitizer(prefix="var_").sanitize_name(name) == name}
    for name in kept:  # first, for what is renamed must not take the name of another
        sanitizer.sanitize_name(name)
    renamed = {name: name if name in kept else str(sanitizer.sanitize_name(name)) for name in declared}
    return {s["name"]: renamed[s["name"]] for s in contract[side]}


def inputs(contract: Mapping[str, Any], example: Mapping[str, Array]) -> list[Any]:
    """What coremltools is told of each declared input."""
    import coremltools as ct

    own = names(contract, "inputs")
    return [
        ct.TensorType(name=own[s["name"]], shape=_shape(s, example, contract), dtype=_DTYPES[s["dtype"]])
        for s in contract["inputs"]
    ]


def notes(
    file: str, contract: Mapping[str, Any], example: Mapping[str, Array], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The notes of a converted file: its names are the contract's, its sizes the example's or the enumerated ones."""
    axes = contract.get("enumerated", [])
    return {
        "entry": file,
        **{side: {n: {"name": own} for n, own in names(contract, side).items()} for side in ("inputs", "outputs")},
        "fixed": {n: list(v.shape) for n, v in example.items()},
        **({"enumerated": {axis: contract["sizes"][axis] for axis in axes}} if axes else {}),
        "opset_target": system(options),
    }


def convert_exported(
    work: str,
    after: str,
    options: Mapping[str, Any],
    contract: Mapping[str, Any],
    example: Mapping[str, Array],
    **_: Any,
) -> dict[str, Any]:
    """Convert the exported program at the example's sizes. Its inputs keep the names of the module's arguments, since
    coremltools does not rename them on this route."""
    import torch

    ct = tools()
    stage("convert")
    program = _convertible(torch.export.load(str(Path(after, PROGRAM_FILE))), bool(options.get("decomposed")))
    outputs = [ct.TensorType(name=name) for name in names(contract, "outputs").values()]
    file = save(program, None, outputs, options, Path(work))
    arguments = list(program.graph_signature.user_inputs)
    return {
        "entry": file,
        "inputs": {s["name"]: {"name": n} for s, n in zip(contract["inputs"], arguments, strict=True)},
        "outputs": {n: {"name": own} for n, own in names(contract, "outputs").items()},
        "fixed": {n: list(v.shape) for n, v in example.items()},
        "opset_target": system(options),
    }


def _convertible(program: Any, decomposed: bool) -> Any:
    """The exported program in operators that coremltools converts: each that it lacks is decomposed, where torch can.

    What it has stays whole, so that it makes one operator of Core ML of it; unless all are to be `decomposed`.
    """
    import torch
    from coremltools.converters.mil.frontend.torch.torch_op_registry import is_torch_fx_node_supported

    program = program.run_decompositions({})
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    lacking = {node.target for node in calls if not is_torch_fx_node_supported(node)}
    if not lacking and not decomposed:
        return program
    known = {**torch.export.default_decompositions(), **_on_truths()}
    decompositions = {op: how for op, how in known.items() if decomposed or op in lacking}
    program = program.run_decompositions(decompositions)
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        # It computes nothing, and decompositions leave some. One that is an output has a name to keep.
        if node.target is torch.ops.aten.alias.default and all(user.op != "output" for user in node.users):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _on_truths() -> dict[Any, Callable[..., Any]]:
    """Bitwise operators, which coremltools lacks in part, as the logical ones that they are on booleans."""
    import torch

    aten = torch.ops.aten

    def logical(operator: Callable[..., Any]) -> Callable[..., Any]:
        def on_truths(a: Any, b: Any) -> Any:
            return operator(a, b) if a.dtype == b.dtype == torch.bool else NotImplemented

        return on_truths

    return {
        aten.bitwise_and.Tensor: logical(torch.logical_and),
        aten.bitwise_or.Tensor: logical(torch.logical_or),
        aten.bitwise_xor.Tensor: logical(torch.logical_xor),
    }


_DTYPES = {"float32": np.float32, "float16": np.float16, "int64": np.int32, "int32": np.int32}


def _shape(spec: Mapping[str, Any], example: Mapping[str, Array], contract: Mapping[str, Any]) -> Any:
    """The example's shape, or where an axis is enumerated one shape for each of its sizes, the example's first."""
    import coremltools as ct

    shape = example[spec["name"]].shape
    axes = [i for i, d in enumerate(spec["shape"]) if d in contract.get("enumerated", [])]
    if not axes:
        return shape
    sizes = [contract["sizes"][spec["shape"][i]] for i in axes]
    shapes = [list(shape) for _ in range(max(map(len, sizes)))]
    for axis, values in zip(axes, sizes, strict=True):
        for row, value in zip(shapes, values, strict=True):  # Core ML pairs the enumerated shapes of its inputs
            row[axis] = value
    return ct.EnumeratedShapes(shapes=shapes, default=list(shape))


def system(options: Mapping[str, Any]) -> str:
    """The deployment target to convert for."""
    return str(options.get("deployment_target") or ("iOS16" if options["backend"] == "mlprogram" else "iOS14"))


def save(source: Any, inputs: Any, outputs: Any, options: Mapping[str, Any], folder: Path, **more: Any) -> str:
    """Convert `source` (a traced module or an exported program) as `options` say into a file in `folder`; its name."""
    import coremltools as ct

    program = options["backend"] == "mlprogram"
    arguments: dict[str, Any] = {"convert_to": options["backend"]}
    if program:
        half = options["precision"] == "fp16"
        arguments["compute_precision"] = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
    if program or options.get("deployment_target"):
        arguments["minimum_deployment_target"] = getattr(ct.target, system(options))
    model = ct.convert(source, inputs=inputs, outputs=outputs, **arguments, **more)
    if program and options["precision"] == "dynamic":
        from coremltools.optimize import coreml as optimize

        weights = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", granularity="per_channel")
        model = optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=weights))
    if not program and options["precision"] == "fp16":
        from coremltools.models.neural_network.quantization_utils import quantize_weights

        model = quantize_weights(model, nbits=16)
    file = PACKAGE if program else SPEC
    if isinstance(model, ct.models.MLModel):
        model.save(str(folder / file))
        if program:
            _settle(folder / file)
    else:
        ct.utils.save_spec(model, str(folder / file))
    return file


def _settle(package: Path) -> None:
    """Give the package's items identifiers that follow from their paths: coremltools draws new ones at every save, so
    that the same model would never have the same hash twice."""
    file = package / "Manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    named = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])).upper()
             for old, item in manifest["itemInfoEntries"].items()}  # fmt: skip
    manifest["itemInfoEntries"] = {named[old]: item for old, item in manifest["itemInfoEntries"].items()}
    manifest["rootModelIdentifier"] = named[manifest["rootModelIdentifier"]]
    file.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")
