"""Core ML: traced, converted by coremltools, and run by whichever executor this machine has.

Core ML itself predicts only on macOS. Everywhere else the file is executed by this project's own evaluator
(`parity.mil`), which reads the package and computes what the program says; the record names the executor.
"""

from __future__ import annotations

import importlib
import json
import platform
import sys
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from parity.core.plan import Cell
from parity.core.settings import Config, ModelConfig
from parity.formats.coreml import state as coreml_state
from parity.formats.target import Array, Route, Step, Target, narrowed
from parity.formats.torch.target import PROGRAM_FILE, SCRIPT_FILE, export_step, trace_step
from parity.process.child import stage

PACKAGE, SPEC = "model.mlpackage", "model.mlmodel"


class CoreML(Target):
    """ML Programs (.mlpackage)."""

    name: ClassVar[str] = "coreml"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "dynamic")
    requires: ClassVar[tuple[str, ...]] = ("torch", "coremltools")
    extra: ClassVar[str] = "coreml"
    session: ClassVar[str] = "parity.formats.coreml.target:CoreMLSession"
    family: ClassVar[str] = "coreml"
    runtime_package: ClassVar[str] = "coremltools"
    fixed_dims: ClassVar[bool] = True
    enumerates: ClassVar[bool] = True

    def unavailable(self, cell: Cell, model: ModelConfig, python: str | None = None) -> str | None:
        if cell.precision == "int8":
            return "coremltools calibrates int8 activations by running Core ML, on macOS only"
        if model.stateful and cell.precision == "fp32":
            return "Core ML holds states in float16 only: a stateful file has no fp32 precision"
        return super().unavailable(cell, model, python)

    def stored_dtype(self, declared: str) -> str:
        return "int32" if declared == "int64" else declared  # Core ML has no int64 inputs

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        options = {"precision": cell.precision, "backend": "mlprogram", **_system(model)}
        if model.stateful:
            return [coreml_state.route(model, options)]
        step = Step(
            f"mlprogram-{cell.precision}",
            "coremltools",
            "parity.formats.coreml.target:convert",
            ("coremltools",),
            options,
        )
        # Where tracing or its front end fails, the other front end may not; enumerated sizes need the traced module.
        exported = Step(
            f"mlprogram-{cell.precision}-exported", "coremltools", "parity.formats.coreml.target:convert_exported",
            ("coremltools", "torch"), options,
        )  # fmt: skip
        routes = [Route("coremltools", (trace_step(), step))]
        if not model.enumerated:
            routes.append(Route("torch.export+coremltools", (export_step(), exported)))
        return routes


class CoreMLNeuralNetwork(CoreML):
    """Neural network specs (.mlmodel), for older systems. Their fp16 is weight compression after conversion."""

    name: ClassVar[str] = "coreml_nn"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")

    def unavailable(self, cell: Cell, model: ModelConfig, python: str | None = None) -> str | None:
        if cell.precision in ("dynamic", "int8"):
            return f"neural network specs have no {cell.precision} route here; use the coreml target"
        if model.stateful:
            return "neural network specs hold no states; use the coreml target"
        return super().unavailable(cell, model, python)

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        options = {"precision": cell.precision, "backend": "neuralnetwork", **_system(model)}
        name = f"neuralnetwork-{cell.precision}"
        step = Step(name, "coremltools", "parity.formats.coreml.target:convert", ("coremltools",), options)
        return [Route("coremltools", (trace_step(), step))]


def _system(model: ModelConfig) -> dict[str, str]:
    """The deployment target as a step's option; the default is no option, so that its keys stay as they are."""
    return {"deployment_target": model.deployment_target} if model.deployment_target else {}


# In the child.


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
    outputs = [ct.TensorType(name=s["name"]) for s in contract["outputs"]]
    return notes(save(traced, inputs(contract, example), outputs, options, Path(work)), contract, example, options)


def inputs(contract: Mapping[str, Any], example: Mapping[str, Array]) -> list[Any]:
    """What coremltools is told of each declared input."""
    import coremltools as ct

    return [
        ct.TensorType(name=s["name"], shape=_shape(s, example, contract), dtype=_DTYPES[s["dtype"]])
        for s in contract["inputs"]
    ]


def notes(
    file: str, contract: Mapping[str, Any], example: Mapping[str, Array], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The notes of a converted file: its names are the contract's, its sizes the example's or the enumerated ones."""
    axes = contract.get("enumerated", [])
    return {
        "entry": file,
        "inputs": {s["name"]: {"name": s["name"]} for s in contract["inputs"]},
        "outputs": {s["name"]: {"name": s["name"]} for s in contract["outputs"]},
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
    program = torch.export.load(str(Path(after, PROGRAM_FILE))).run_decompositions({})
    outputs = [ct.TensorType(name=s["name"]) for s in contract["outputs"]]
    file = save(program, None, outputs, options, Path(work))
    names = list(program.graph_signature.user_inputs)
    return {
        "entry": file,
        "inputs": {s["name"]: {"name": n} for s, n in zip(contract["inputs"], names, strict=True)},
        "outputs": {s["name"]: {"name": s["name"]} for s in contract["outputs"]},
        "fixed": {n: list(v.shape) for n, v in example.items()},
        "opset_target": system(options),
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


class CoreMLSession:
    """The package, run by Core ML on macOS and by the evaluator elsewhere; `executor` in the description says which."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        self.path, self.notes = Path(folder, notes["entry"]), notes
        self.executor = "coreml-runtime" if platform.system() == "Darwin" else "mil-eval"
        if self.executor == "mil-eval":
            from parity import mil

            self.program: Any = mil.load(self.path)
        else:  # pragma: no cover  (macOS)
            import coremltools as ct

            self.program = ct.models.MLModel(str(self.path), compute_units=ct.ComputeUnit.CPU_ONLY)

    def describe(self) -> dict[str, Any]:
        described = describe(self.path)
        for name, output in self.notes.get("states", {}).items():  # written before a call and read after it
            for side, known in (("inputs", name), ("outputs", output)):
                described[side].append({"name": known, "shape": described["states"][name], "dtype": None})
        return described | {"executor": self.executor}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        fed = narrowed(inputs)
        if self.executor == "mil-eval":
            return coreml_state.execute(self.program, self.notes, fed)
        return coreml_state.predict(self.program, self.notes, fed)  # pragma: no cover  (macOS)


def describe(path: Path) -> dict[str, Any]:
    """Inputs, outputs and operator counts of a saved model, read from its specification."""
    from parity.mil.package import Package

    spec = Package(path).spec
    kinds = {65568: "float32", 65600: "float64", 131104: "int32", 65552: "float16", 131080: "int8"}

    def features(described: Any) -> list[dict[str, Any]]:
        found = []
        for feature in described:
            array = feature.type.multiArrayType
            found.append({
                "name": feature.name, "shape": [int(d) for d in array.shape], "dtype": kinds.get(array.dataType),
                "shapes": [[int(d) for d in s.shape] for s in array.enumeratedShapes.shapes],
            })  # fmt: skip
        return found

    counted: Counter[str] = Counter()
    if spec.WhichOneof("Type") == "mlProgram":
        for function in spec.mlProgram.functions.values():
            for block in function.block_specializations.values():
                counted.update(op.type for op in block.operations if op.type != "const")
    else:
        counted.update(str(layer.WhichOneof("layer")) for layer in spec.neuralNetwork.layers)
    return {
        "inputs": features(spec.description.input),
        "outputs": features(spec.description.output),
        "states": {f.name: [int(d) for d in f.type.stateType.arrayType.shape] for f in spec.description.state},
        "ops": dict(sorted(counted.items())),
    }
