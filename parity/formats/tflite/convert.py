"""The steps that make a TFLite file, in the child: onnx2tf to a SavedModel, TensorFlow's converter; or litert-torch."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from parity.core.errors import ParityError, Unconvertible
from parity.formats.lengths import enumerated, named, variants
from parity.formats.onnx.convert import FILE as ONNX_FILE
from parity.formats.target import Array, version
from parity.formats.tflite import layout
from parity.formats.torch.convert import PROGRAM_FILE
from parity.process import telling
from parity.process.child import stage

FILE = "model.tflite"
_CALIBRATION_FILE = "calibration_image_sample_data_20x128x128x3_float32.npy"  # onnx2tf downloads it when absent


def to_saved_model(
    work: str,
    after: str,
    options: Mapping[str, Any],
    contract: Mapping[str, Any],
    example: Mapping[str, Array],
    **_: Any,
) -> dict[str, Any]:
    """onnx2tf to a SavedModel for each enumerated size; the notes are those of the first. `unrolled` writes the steps
    of recurrent layers one after the other instead of as a loop, at the first size only. With `corrected` false onnx2tf
    does not search for the layouts at which each operator agrees with ONNX Runtime."""
    stage("convert")
    made = {}
    for suffix, inputs in (variants(contract, example) if not options.get("unrolled") else {"": example}).items():
        folder = Path(work, suffix) if suffix else Path(work)
        made[suffix] = _saved_model(folder, Path(after, named(ONNX_FILE, suffix)), options, inputs)
    return made[""] | {"suffixes": list(made)}


def _saved_model(
    folder: Path, onnx_file: Path, options: Mapping[str, Any], example: Mapping[str, Array]
) -> dict[str, Any]:
    """One SavedModel, whose signature has the model's own input and output names."""
    import onnx
    import onnx2tf

    try:
        import tensorflow as tf
    except ModuleNotFoundError:
        brought = f"onnx2tf {version('onnx2tf')} came without TensorFlow, by which this route makes its files"
        raise ParityError(f"{brought}: its releases from 2 on work in another way; choose one of 1.x") from None

    pictures = [v for v in example.values() if v.ndim == 4]
    rng = np.random.default_rng(0)
    sample = rng.random((20, 128, 128, 3), np.float32) if pictures else np.zeros((20, 128, 128, 3), np.float32)
    np.save(_CALIBRATION_FILE, sample)
    source = "model.onnx"  # a copy in the scratch folder: onnx2tf saves its simplified graph over its input
    shutil.copyfile(onnx_file, source)
    graph = onnx.load(source, load_external_data=False).graph
    maps = layout.maps_read(graph)
    plain = [n for n, v in example.items() if v.ndim != 4]
    keras_model = _speaking(
        onnx2tf.convert,
        input_onnx_file_path=source,
        output_folder_path="converted",
        output_signaturedefs=True,
        # Pictures turn channels-last. Other inputs keep torch's layout: as it is (-kat), or turned first thing inside
        # (-kt) where a convolution reads it, whose axes onnx2tf takes for each other where their sizes coincide.
        keep_shape_absolutely_input_names=[n for n in plain if n not in maps] or None,
        keep_ncw_or_nchw_or_ncdhw_input_names=[n for n in plain if n in maps] or None,
        replace_to_pseudo_operators=["erf"],  # plain LiteRT has no Erf: it would become a Flex operator
        enable_rnn_unroll=bool(options.get("unrolled")),
        disable_strict_mode=not options.get("corrected", True),
        disable_model_save=True,  # its own files have other names and are of no use here
        non_verbose=True,
        verbosity="error",
    )
    graph = onnx.shape_inference.infer_shapes(onnx.load(source, load_external_data=False)).graph
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
    # Variables of layers that onnx2tf calls inside of a layer of its own are tracked by nobody else.
    holder.held = list(signature.graph.variables)
    tf.saved_model.save(holder, str(folder), signatures=signature)
    written = layout.maps_written(graph)
    shapes = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in graph.output}
    return {
        "inputs": {n: layout.declared(n, v.shape, by_name[n].shape.as_list(), v.ndim == 4) for n, v in example.items()},
        "outputs": {
            n: layout.declared(n, shapes[n], t.shape.as_list(), n in written)
            for n, t in zip(onnx_outputs, keras_model.outputs, strict=True)
        },
        "fixed": {n: list(v.shape) for n, v in example.items()},
        "layers": {layer.name: name for layer in keras_model.layers if (name := _node_name(layer))},
    }


def _node_name(layer: Any) -> str:
    """The name of the ONNX node that a layer was made for, which onnx2tf hands on with the call; else ""."""
    name = next((str(name) for node in layer.inbound_nodes if (name := node.call_kwargs.get("name"))), "")
    return name.removeprefix("wa") if name.startswith("wa/") else name  # TensorFlow wants no slash first


def _speaking(convert: Callable[..., Any], **options: Any) -> Any:
    """What onnx2tf converts. Where it leaves by sys.exit, the error that it printed before is raised."""
    printed = _Echo(sys.stdout)
    try:
        with contextlib.redirect_stdout(printed):
            return convert(**options)
    except SystemExit as error:
        raise telling.ConverterError(printed.first_error).with_traceback(error.__traceback__) from None
    except ModuleNotFoundError as error:
        package, _, operator = str(error.name).rpartition(".")
        if package != "onnx2tf.ops":
            raise
        why = f"onnx2tf does not know the operator {operator}"
        raise telling.ConverterError(why).with_traceback(error.__traceback__) from None


class _Echo(io.TextIOBase):
    """Writes to `stream`, and keeps the text."""

    def __init__(self, stream: TextIO):
        self.stream, self.text = stream, ""

    def write(self, text: str) -> int:
        self.text += text
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()

    @property
    def first_error(self) -> str:
        """The first line that onnx2tf marked as an error, without its colour; advice follows it."""
        plain = re.sub(r"\x1b\[[0-9;]*m", "", self.text)
        lines = plain.partition("ERROR:")[2].strip().splitlines()
        return f"onnx2tf: {lines[0]}" if lines else "onnx2tf gave up without a word"


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
        folder = str(Path(after, suffix)) if suffix else after
        content = _tflite(folder, options["precision"], rows, notes["layers"])
        if tensor := _unbounded(content):
            raise ParityError(tensor)
        Path(work, named(FILE, suffix)).write_bytes(content)
    found = {"entry": FILE, **{k: notes[k] for k in ("inputs", "outputs", "fixed")}}
    if len(suffixes) > 1:
        found |= {"enumerated": enumerated(contract), "files": [named(FILE, s) for s in suffixes]}
    return found


def _tflite(saved_model: str, precision: str, rows: Sequence[Mapping[str, Array]], layers: Mapping[str, str]) -> bytes:
    """The SavedModel converted. Raises Unconvertible where TFLite itself lacks an operator."""
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=["serving_default"])
    if precision != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.representative_dataset = lambda: iter(rows)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        return bytes(converter.convert())
    except ConverterError as error:
        if lacking := _lacking(str(error), layers):
            raise Unconvertible(lacking) from None
        raise


_LARGEST_STEP = 1e30
"""Above it no activation was measured but the least float32 by which a mask hides positions: LiteRT 2.1 ends in an
abort when it opens a file that multiplies such scales."""


def _unbounded(content: bytes) -> str:
    """Why an int8 file cannot be of use: a tensor of a range that no app has; "" where there is none."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        scale = getattr(tensor.quantization, "scale", None)
        if scale is not None and len(scale) and max(scale) > _LARGEST_STEP:
            name = bytes(tensor.name).decode("utf-8", "replace")
            return (
                f"one step of int8 is {max(scale):.2g} in {name}: it holds the least float32, by which a mask hides "
                "positions, beside scores. Fill the mask with -1e4"
            )
    return ""


def _lacking(message: str, layers: Mapping[str, str]) -> str:
    """What TFLite lacks, by the words of its converter; "" where they say something else."""
    lacking = {}
    for line in message.splitlines():
        operator = re.search(r"'tf\.(\w+)' op is neither a custom op nor a flex op", line)
        if operator is None:
            continue
        layer = re.search(r'"[^"/]+/([^"/]+)/', line)  # "model/LAYER/.../Operator@function"
        place = layers.get(layer[1], layer[1]) if layer else ""
        lacking[f"{operator[1]} in {place}" if place else operator[1]] = True
    if not lacking:
        return ""
    others = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    return f"TFLite itself lacks {', '.join([*lacking][:3])}{others}: only TensorFlow's Flex delegate runs that"


def convert_program(
    work: str, after: str, contract: Mapping[str, Any], example: Mapping[str, Array], **_: Any
) -> dict[str, Any]:
    """litert-torch, in its toolchain: the exported program to fp32 TFLite without ONNX. Layouts stay as in PyTorch, and
    the signature's names are args_0 ... and output_0 ..., in the order of the contract."""
    import litert_torch
    import torch

    stage("convert")
    module = torch.export.load(str(Path(after, PROGRAM_FILE))).module()
    arguments = tuple(torch.from_numpy(np.array(example[spec["name"]])) for spec in contract["inputs"])
    litert_torch.convert(module, arguments).export(str(Path(work, FILE)))
    return {
        "entry": FILE,
        "inputs": {s["name"]: _numbered(i, s["dtype"]) for i, s in enumerate(contract["inputs"])},
        "outputs": {s["name"]: {"name": f"output_{i}"} for i, s in enumerate(contract["outputs"])},
        "fixed": {n: list(v.shape) for n, v in example.items()},
    }


def _numbered(place: int, dtype: str) -> dict[str, str]:
    """The note of an input by litert-torch, which turns int64 into int32."""
    return {"name": f"args_{place}", **({"dtype": "int32"} if dtype == "int64" else {})}
