"""The steps that make an ONNX file, in the child: torch.onnx, then ONNX Runtime's own quantisers and halving."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.settings import ModelSpec
from parity.formats.lengths import named, variants
from parity.formats.onnx import sizes
from parity.formats.target import Array
from parity.process.child import stage

FILE = "model.onnx"


def export(
    work: str,
    options: Mapping[str, Any],
    model: ModelSpec,
    contract: Mapping[str, Any],
    example: Mapping[str, Array],
    **_: Any,
) -> dict[str, Any]:
    """Trace to ONNX with the TorchScript exporter: the dynamo exporter silently fixes a batch that the example has
    at 1, and silently keeps opset 18 when a conversion below it fails."""
    import onnx
    import torch

    from parity.reference import modelling

    reference = model.reference
    if reference and reference.endswith(".onnx"):
        return _given(Path(reference), Path(work), contract)
    module: Any = modelling.load(model)
    stage("export")
    inputs, outputs = names_of(contract)
    axes: dict[str, dict[int, str]] = {}
    if options["dynamic"]:
        axes = {
            spec["name"]: {i: d for i, d in enumerate(spec["shape"]) if isinstance(d, str)}
            for spec in contract["inputs"]
        }
        leading = {shape[0] for shape in axes.values() if 0 in shape}
        if len(leading) == 1:  # the batch axis runs through to the outputs; other axes are inferred by the exporter
            axes |= {name: {0: leading.copy().pop()} for name in outputs}
    for suffix, values in ({"": example} if options["dynamic"] else variants(contract, example)).items():
        file = str(Path(work, named(FILE, suffix)))
        arguments = tuple(torch.from_numpy(np.array(values[name])) for name in inputs)
        with modelling.plain_attention(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(module, arguments, check_trace=False) if hasattr(module, "by_trace") else module
            torch.onnx.export(
                traced, arguments, file, dynamo=False, opset_version=options["opset"],
                input_names=inputs, output_names=outputs, dynamic_axes=axes, do_constant_folding=True,
            )  # fmt: skip
        onnx.checker.check_model(file, full_check=True)
    if options["dynamic"] and options.get("tried", True):
        sizes.try_others(Path(work, FILE), module, contract, example)
    return notes(inputs, outputs, options["opset"]) | operators(Path(work))


def _given(file: Path, work: Path, contract: Mapping[str, Any]) -> dict[str, Any]:
    """The reference file itself."""
    import onnx

    stage("export")
    onnx.save(onnx.load(str(file)), str(work / FILE))
    return notes(*names_of(contract), opset_of(file)) | operators(work)


def fix_sizes(
    work: str, model: ModelSpec, contract: Mapping[str, Any], example: Mapping[str, Array], **_: Any
) -> dict[str, Any]:
    """The ONNX file that is the reference with every axis fixed, for each enumerated size."""
    import onnx
    from onnxsim import simplify

    assert model.reference is not None
    file = Path(model.reference)
    stage("export")
    loaded = onnx.load(str(file))
    for suffix, inputs in variants(contract, example).items():
        fixed, _ = simplify(loaded, overwrite_input_shapes={n: list(v.shape) for n, v in inputs.items()})
        onnx.save(fixed, str(Path(work, named(FILE, suffix))))
    return notes(*names_of(contract), opset_of(file)) | operators(Path(work))


def notes(inputs: list[str], outputs: list[str], opset: int) -> dict[str, Any]:
    """The notes of a file whose names are the contract's."""
    return {
        "entry": FILE,
        "inputs": {name: {"name": name} for name in inputs},
        "outputs": {name: {"name": name} for name in outputs},
        "opset": opset,
    }


def operators(work: Path) -> dict[str, Any]:
    """The operators of the graph written in `work`, for routes that are for some of them."""
    import onnx

    graph = onnx.load(str(work / FILE), load_external_data=False).graph
    return {"operators": sorted({node.op_type for node in graph.node})}


def names_of(contract: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The declared names of inputs and outputs, in order."""
    return [s["name"] for s in contract["inputs"]], [s["name"] for s in contract["outputs"]]


def opset_of(file: Path) -> int:
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def to_fp16(work: str, after: str, contract: Mapping[str, Any], **_: Any) -> dict[str, Any]:
    """Weights and activations to float16; inputs and outputs stay float32, as apps feed them."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    stage("convert")
    half = convert_float_to_float16(onnx.load(str(Path(after, FILE))), keep_io_types=True)
    onnx.save(half, str(Path(work, FILE)))
    return notes(*names_of(contract), opset_of(Path(work, FILE)))


def to_dynamic(work: str, after: str, contract: Mapping[str, Any], **_: Any) -> dict[str, Any]:
    """Weights to 8 bits, activations quantised at run time. Unsigned weights: the CPU has no signed ConvInteger."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    stage("convert")
    quantize_dynamic(_prepared(after), str(Path(work, FILE)), weight_type=QuantType.QUInt8, per_channel=True)
    return notes(*names_of(contract), opset_of(Path(work, FILE)))


def to_int8(
    work: str,
    after: str,
    contract: Mapping[str, Any],
    calibration: Sequence[Mapping[str, Array]],
    **_: Any,
) -> dict[str, Any]:
    """Full int8 as QDQ: per-channel weights, per-tensor activations with ranges measured on the calibration data."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # its module is untyped
        def __init__(self) -> None:
            self.rows = iter(calibration)

        def get_next(self) -> Mapping[str, Array] | None:
            return next(self.rows, None)

    stage("convert")
    quantize_static(
        _prepared(after, 13), str(Path(work, FILE)), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return notes(*names_of(contract), opset_of(Path(work, FILE)))


def _prepared(after: str, opset: int = 0) -> str:
    """The model with shapes inferred and foldable parts folded, as the quantisers expect it; in the scratch folder.

    Raised to `opset` where it is below: the quantiser writes a scale a channel, which operators know from 13 on, into
    an older file too, and no runtime opens that.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source = str(Path(after, FILE))
    if opset_of(Path(source)) < opset:
        onnx.save(onnx.version_converter.convert_version(onnx.load(source), opset), "raised.onnx")
        source = "raised.onnx"
    quant_pre_process(source, "prepared.onnx", skip_symbolic_shape=True)
    return "prepared.onnx"
