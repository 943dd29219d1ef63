"""The step that makes a float TFLite file smaller by ai-edge-quantizer, in the child of its toolchain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.core.errors import ParityError
from parity.formats.target import Array
from parity.formats.tflite.convert import FILE
from parity.process.child import stage


def quantise(
    work: str,
    after: str,
    options: Mapping[str, Any],
    calibration: Sequence[Mapping[str, Array]] | None = None,
    **_: Any,
) -> dict[str, Any]:
    """The float file with fp16 weights, with int8 weights (`dynamic`), or with int8 throughout, inputs and outputs too.

    The notes are those of the float file.
    """
    from ai_edge_quantizer import quantizer

    stage("convert")
    notes: dict[str, Any] = json.loads(Path(after, "manifest.json").read_text(encoding="utf-8"))["notes"]
    source, ranges = str(Path(after, FILE)), None
    recipe = _recipe(options["precision"])
    if options["precision"] == "int8":
        if not calibration:
            raise ParityError("int8 needs calibration data and got none")
        names = {name: entry["name"] for name, entry in notes["inputs"].items()}
        ranges = _ranges(source, recipe, [{names[n]: v for n, v in row.items()} for row in calibration])
    worker = quantizer.Quantizer(source)
    worker.load_quantization_recipe(recipe)
    made = worker.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    Path(work, FILE).write_bytes(made.quantized_model)
    return notes


def _recipe(precision: str) -> Any:
    """The quantiser's recipe for every operator that it supports."""
    from ai_edge_quantizer import qtyping, recipe, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    if precision == "dynamic":
        return recipe.dynamic_wi8_afp32()
    if precision == "int8":
        return recipe.static_wi8_ai8()
    manager = recipe_manager.RecipeManager()
    half = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    manager.add_quantization_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, half, AlgorithmName.FLOAT_CASTING)
    return manager.get_quantization_recipe()


def _ranges(source: str, recipe: Any, rows: Sequence[Mapping[str, Array]]) -> Any:
    """The least and the greatest value of each tensor over all rows.

    The quantiser's default is a moving average of the ranges of single rows, which clips what lies outside it: 17 to
    44 % of the values of this project's example models.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    seen = calibrator.Calibrator(source, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    (signature,) = seen.get_signature_list()
    # litert-torch turns int64 inputs into int32, and the calibrator hands on what it is given.
    inputs = Interpreter(source).get_signature_runner(signature).get_input_details()
    typed = [{name: value.astype(inputs[name]["dtype"]) for name, value in row.items()} for row in rows]
    seen.calibrate({signature: typed}, manager)
    return seen.get_model_qsvs()
