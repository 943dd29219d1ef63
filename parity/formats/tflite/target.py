"""TFLite: torch.onnx, then onnx2tf to a SavedModel, then TensorFlow's own converter; run by LiteRT.

Exported with every axis fixed: onnx2tf breaks recurrent and attention models whose batch is dynamic. Images are
NHWC on the way in and out, as every TFLite app expects; that layout is declared in the artefact's notes.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.settings import Config, ModelConfig
from parity.formats.lengths import enumerated, named, variants
from parity.formats.onnx.target import FILE as ONNX_FILE
from parity.formats.onnx.target import export_step, origin
from parity.formats.target import Array, Route, Step, Target
from parity.process.child import stage

FILE = "model.tflite"
_CALIBRATION_FILE = "calibration_image_sample_data_20x128x128x3_float32.npy"  # onnx2tf downloads it when absent


class TFLite(Target):
    name: ClassVar[str] = "tflite"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "dynamic", "int8")
    requires: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnx2tf", "tensorflow", "ai_edge_litert")
    extra: ClassVar[str] = "tflite"
    session: ClassVar[str] = "parity.formats.tflite.target:LiteRtSession"
    family: ClassVar[str] = "litert"
    runtime_package: ClassVar[str] = "ai-edge-litert"
    fixed_dims: ClassVar[bool] = True

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        def by_onnx(name: str, unrolled: bool) -> Route:
            saved = Step(
                "savedmodel-unrolled" if unrolled else "savedmodel", "tensorflow",
                "parity.formats.tflite.target:to_saved_model", ("onnx2tf", "tensorflow"), {"unrolled": unrolled},
            )  # fmt: skip
            convert = Step(
                cell.precision, "tensorflow", "parity.formats.tflite.target:convert", ("tensorflow",),
                {"precision": cell.precision}, calibration=cell.precision == "int8",
            )  # fmt: skip
            return Route(name, (export_step(model, dynamic=False), saved, convert))

        # TensorFlow 2.19 segfaults when it quantises the loop of a recurrent layer; without the loop it does not.
        first = origin(model)
        routes = [by_onnx(f"{first}+onnx2tf", False), by_onnx(f"{first}+onnx2tf, loops unrolled", True)]
        python = config.routes.get("litert") if model.reference is None else None
        if cell.precision == "fp32" and python is not None and python.exists():
            step = Step("litert", "litert-torch", "parity.formats.tflite.target:convert_directly",
                        ("litert-torch", "torch"),
                        stage="export", python=str(python))  # fmt: skip
            routes.append(Route("litert-torch", (step,)))
        return routes


# In the child.


def to_saved_model(
    work: str,
    after: str,
    options: Mapping[str, Any],
    contract: Mapping[str, Any],
    example: Mapping[str, Array],
    **_: Any,
) -> dict[str, Any]:
    """onnx2tf to a SavedModel for each enumerated size; the notes are those of the first. `unrolled` writes the steps
    of recurrent layers one after the other instead of as a loop, at the first size only."""
    stage("convert")
    made = {}
    for suffix, inputs in (variants(contract, example) if not options.get("unrolled") else {"": example}).items():
        folder = Path(work, suffix) if suffix else Path(work)
        made[suffix] = _saved_model(
            folder, Path(after, named(ONNX_FILE, suffix)), bool(options.get("unrolled")), inputs
        )
    return made[""] | {"suffixes": list(made)}


def _saved_model(folder: Path, onnx_file: Path, unrolled: bool, example: Mapping[str, Array]) -> dict[str, Any]:
    """One SavedModel, whose signature has the model's own input and output names."""
    import onnx
    import onnx2tf
    import tensorflow as tf

    pictures = [v for v in example.values() if v.ndim == 4]
    rng = np.random.default_rng(0)
    sample = rng.random((20, 128, 128, 3), np.float32) if pictures else np.zeros((20, 128, 128, 3), np.float32)
    np.save(_CALIBRATION_FILE, sample)
    source = "model.onnx"  # a copy in the scratch folder: onnx2tf saves its simplified graph over its input
    shutil.copyfile(onnx_file, source)
    graph = onnx.load(source, load_external_data=False).graph
    if unrolled and not {node.op_type for node in graph.node} & {"GRU", "LSTM", "RNN"}:
        raise ParityError("the model has no recurrent layer to unroll")
    keras_model = onnx2tf.convert(
        input_onnx_file_path=source,
        output_folder_path="converted",
        output_signaturedefs=True,
        keep_shape_absolutely_input_names=[n for n, v in example.items() if v.ndim != 4] or None,
        replace_to_pseudo_operators=["erf"],  # plain LiteRT has no Erf: it would become a Flex operator
        enable_rnn_unroll=unrolled,
        disable_model_save=True,  # its own files have other names and are of no use here
        non_verbose=True,
        verbosity="error",
    )
    graph = onnx.load(source, load_external_data=False).graph
    # onnx2tf builds its Keras model with inputs by name and outputs in the order of the ONNX graph.
    onnx_outputs = [o.name for o in graph.output]
    if len(keras_model.outputs) != len(onnx_outputs):
        raise ParityError(f"onnx2tf made {len(keras_model.outputs)} outputs of {len(onnx_outputs)}")
    by_name = {t.name.split(":")[0]: t for t in keras_model.inputs}
    missing = [name for name in example if name not in by_name]
    if missing:
        raise ParityError(f"onnx2tf lost the input {missing[0]!r}; it has {sorted(by_name)}")
    order = [t.name.split(":")[0] for t in keras_model.inputs]

    def serve(**inputs: Any) -> dict[str, Any]:
        values = keras_model([inputs[name] for name in order], training=False)
        values = values if isinstance(values, (list, tuple)) else [values]
        return {name: tf.identity(v, name=name) for name, v in zip(onnx_outputs, values, strict=True)}

    specs = {name: tf.TensorSpec(by_name[name].shape, by_name[name].dtype, name) for name in example}
    holder = tf.Module()
    holder.keras_model = keras_model
    holder.serve = tf.function(serve)
    signature = holder.serve.get_concrete_function(**specs)
    tf.saved_model.save(holder, str(folder), signatures=signature)
    shapes = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in graph.output}
    return {
        "inputs": {n: _entry(n, list(v.shape), by_name[n].shape.as_list()) for n, v in example.items()},
        "outputs": {
            n: _entry(n, shapes[n], t.shape.as_list()) for n, t in zip(onnx_outputs, keras_model.outputs, strict=True)
        },
        "fixed": {n: list(v.shape) for n, v in example.items()},
    }


def _entry(name: str, onnx_shape: list[int], tf_shape: list[int | None]) -> dict[str, Any]:
    """How a tensor stands in the TFLite file: pictures and feature maps are channels-last, by this route's rule."""
    if len(onnx_shape) == 4 and tf_shape[1:] == [onnx_shape[2], onnx_shape[3], onnx_shape[1]]:
        return {"name": name, "layout": "NHWC"}
    return {"name": name}


def convert(
    work: str,
    after: str,
    options: Mapping[str, Any],
    contract: Mapping[str, Any],
    calibration: Sequence[Mapping[str, Array]] | None = None,
    **_: Any,
) -> dict[str, Any]:
    """The SavedModel to one .tflite file for each enumerated size: fp32, fp16 weights, dynamic (int8 weights), or int8
    throughout with int8 inputs and outputs. int8 has the first size only, which is that of the calibration data."""
    import json

    stage("convert")
    notes = json.loads(Path(after, "manifest.json").read_text(encoding="utf-8"))["notes"]
    if options["precision"] == "int8" and not calibration:
        raise ParityError("int8 needs calibration data and got none")
    rows = [
        {n: v.transpose(0, 2, 3, 1) if notes["inputs"][n].get("layout") == "NHWC" else v for n, v in row.items()}
        for row in calibration or ()
    ]
    suffixes = [""] if options["precision"] == "int8" else notes["suffixes"]
    for suffix in suffixes:
        content = _tflite(str(Path(after, suffix)) if suffix else after, options["precision"], rows)
        Path(work, named(FILE, suffix)).write_bytes(content)
    found = {"entry": FILE, **{k: notes[k] for k in ("inputs", "outputs", "fixed")}}
    if len(suffixes) > 1:
        found |= {"enumerated": enumerated(contract), "files": [named(FILE, s) for s in suffixes]}
    return found


def _tflite(saved_model: str, precision: str, rows: Sequence[Mapping[str, Array]]) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=["serving_default"])
    if precision != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.representative_dataset = lambda: iter(rows)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def convert_directly(
    work: str, model: Mapping[str, Any], contract: Mapping[str, Any], example: Mapping[str, Array], **_: Any
) -> dict[str, Any]:
    """litert-torch, in its own environment: the module to fp32 TFLite without ONNX. Layouts stay as in PyTorch, and
    the signature's names are args_0 ... and output_0 ..., in the order of the contract."""
    import litert_torch
    import torch

    from parity.reference import modelling

    module = modelling.load(model)
    stage("convert")
    arguments = tuple(torch.from_numpy(np.array(example[spec["name"]])) for spec in contract["inputs"])
    litert_torch.convert(module, arguments).export(str(Path(work, FILE)))
    return {
        "entry": FILE,
        "inputs": {s["name"]: {"name": f"args_{i}"} for i, s in enumerate(contract["inputs"])},
        "outputs": {s["name"]: {"name": f"output_{i}"} for i, s in enumerate(contract["outputs"])},
        "fixed": {n: list(v.shape) for n, v in example.items()},
    }


class LiteRtSession:
    """LiteRT on the CPU with one thread unless the notes say more; quantised inputs and outputs are converted by the
    file's own scales, as an app would do it. Of an artefact with a file a size, the one whose sizes are the inputs' is
    run."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        self.kernels = str(notes.get("kernels") or "XNNPACK")
        names, threads = notes.get("files") or [notes["entry"]], int(notes.get("threads", 1))
        self.files = [_File(Path(folder, name), self.kernels, threads) for name in names]

    def describe(self) -> dict[str, Any]:
        first = self.files[0]
        found: dict[str, Any] = {"inputs": first.specs(first.inputs), "outputs": first.specs(first.outputs),
                                 "ops": operators(first.path), "signature": first.runner is not None}  # fmt: skip
        for spec in found["inputs"]:
            spec["shapes"] = [list(file.shape(spec["name"])) for file in self.files]
        return found | ({"executor": f"{self.kernels} kernels"} if self.kernels != "XNNPACK" else {})

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        fits = (f for f in self.files if all(f.shape(n) == v.shape for n, v in inputs.items() if n in f.inputs))
        return next(fits, self.files[0]).run(inputs)


class _File:
    """One opened .tflite file."""

    def __init__(self, path: Path, kernels: str, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        chosen = {
            "XNNPACK": OpResolverType.AUTO,
            "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "reference": OpResolverType.BUILTIN_REF,
        }[kernels]
        self.path = path
        self.interpreter = Interpreter(str(path), num_threads=threads, experimental_op_resolver_type=chosen)
        self.interpreter.allocate_tensors()
        signatures = self.interpreter.get_signature_list()
        self.runner = self.interpreter.get_signature_runner() if len(signatures) == 1 else None
        if self.runner:
            self.inputs = dict(self.runner.get_input_details())
            self.outputs = dict(self.runner.get_output_details())
        else:
            self.inputs = {d["name"]: d for d in self.interpreter.get_input_details()}
            self.outputs = {d["name"]: d for d in self.interpreter.get_output_details()}

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(s) for s in self.inputs[name]["shape"])

    def specs(self, details: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "shape": [None if s < 0 else int(s) for s in d.get("shape_signature", d["shape"])],
                "dtype": np.dtype(d["dtype"]).name,
                "scale": float(d["quantization"][0]),
                "zero_point": int(d["quantization"][1]),
            }
            for name, d in details.items()
        ]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        fed = {name: quantize(value, self.inputs[name]) for name, value in inputs.items()}
        if self.runner:
            results = self.runner(**fed)
        else:
            for name, value in fed.items():
                self.interpreter.set_tensor(self.inputs[name]["index"], value)
            self.interpreter.invoke()
            results = {n: self.interpreter.get_tensor(d["index"]) for n, d in self.outputs.items()}
        return {name: dequantize(value, self.outputs[name]) for name, value in results.items()}


def quantize(value: Array, detail: Mapping[str, Any]) -> Array:
    """A float array as the file's integer input: round(value / scale) + zero point, clipped. Others pass unchanged."""
    scale, zero = detail["quantization"]
    dtype = np.dtype(detail["dtype"])
    if not scale or dtype.kind not in "iu" or value.dtype.kind != "f":
        return value
    limits = np.iinfo(dtype)
    quantised: Array = np.clip(np.rint(value / np.float32(scale)) + zero, limits.min, limits.max).astype(dtype)
    return quantised


def dequantize(value: Array, detail: Mapping[str, Any]) -> Array:
    scale, zero = detail["quantization"]
    if not scale or value.dtype.kind not in "iu":
        return value
    return ((value.astype(np.float32) - np.float32(zero)) * np.float32(scale)).astype(np.float32)


def operators(path: Path) -> dict[str, int]:
    """How often each operator occurs, over all sub-graphs; custom operators by their own name (Flex ones: FlexErf)."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    codes = []
    for code in model.operatorCodes:
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        custom = number == schema.BuiltinOperator.CUSTOM and code.customCode
        codes.append(custom.decode() if custom else names.get(number, f"operator {number}"))
    counted = Counter(codes[op.opcodeIndex] for graph in model.subgraphs for op in graph.operators or [])
    return dict(sorted(counted.items()))
