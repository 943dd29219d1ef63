"""A TFLite file on LiteRT's GPU accelerator. In the child, which has LiteRT 2.3 or later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.formats import gpu
from parity.formats.target import Array
from parity.formats.tflite import signatures
from parity.formats.tflite.runtime import dequantize, quantize


class LiteRtGpuSession:
    """LiteRT's compiled model on the GPU alone, in its default precision or, as the notes say, in float32.

    Quantised inputs and outputs are converted by the file's own scales. Of an artefact with a file a size, the one
    whose sizes are the inputs' is run. The first inputs are run in float32 too: where no bit differs, the default
    precision computed in float32, whatever the driver claims.
    """

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        gpu.load_vulkan(notes["vulkan"])
        self.fp32 = bool(notes.get("gpu_fp32"))
        self.paths = [Path(folder, name) for name in notes.get("files") or [notes["entry"]]]
        self.notes = notes
        self.files = [_File(path, notes, self.fp32) for path in self.paths]
        self.computes = gpu.FP32 if self.fp32 else ""  # until the first run

    def accelerated(self) -> dict[str, Any]:
        return gpu.said(self.computes, all(file.model.is_fully_accelerated() for file in self.files))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        fits = (file for file in self.files if all(file.shape(n) == v.shape for n, v in inputs.items()))
        chosen = next(fits, self.files[0])
        outputs = chosen.run(inputs)
        if not self.computes:
            in_fp32 = _File(chosen.path, self.notes, fp32=True).run(inputs)
            self.computes = gpu.FP16 if gpu.rounds_otherwise(outputs, in_fp32) else gpu.FP32
        return outputs


class _File:
    """One file, compiled for the GPU. Raises ParityError where the accelerator refuses it."""

    def __init__(self, path: Path, notes: Mapping[str, Any], fp32: bool) -> None:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.gpu_options import GpuOptions
        from ai_edge_litert.hardware_accelerator import HardwareAccelerator
        from ai_edge_litert.options import Options

        self.path = path
        self.inputs, self.outputs, self.signature = _details(path, notes)
        options = Options(hardware_accelerators=HardwareAccelerator.GPU, gpu_options=GpuOptions(enforce_f32=fp32))
        try:
            self.model = CompiledModel.from_file(str(path), options=options)
        except RuntimeError as error:
            lines = [line.strip(" └") for line in str(error).splitlines() if line.strip()]
            raise gpu.refusal(lines[-1] if lines else "without a reason") from None
        if not self.model.is_fully_accelerated():
            raise gpu.refusal("not every operator of it runs on the GPU")

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in self.inputs[name]["shape"])

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        key = self.signature
        fed = {}
        for name, detail in self.inputs.items():
            fed[name] = self.model.create_input_buffer_by_name(key, name)
            fed[name].write(np.ascontiguousarray(quantize(inputs[name], detail)))
        results = {name: self.model.create_output_buffer_by_name(key, name) for name in self.outputs}
        self.model.run_by_name(key, fed, results)
        outputs = {}
        for name, buffer in results.items():
            shape = tuple(int(size) for size in self.outputs[name]["shape"])
            flat = buffer.read(int(np.prod(shape)), np.dtype(self.outputs[name]["dtype"]).type)
            outputs[name] = dequantize(flat.reshape(shape).copy(), self.outputs[name])
        return outputs


def _details(path: Path, notes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Inputs and outputs by name, with shapes, dtypes and quantisation, and the signature they are of; a file without
    signatures is run by the accelerator's own name for its only one."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    signature = signatures.chosen(interpreter.get_signature_list(), notes)
    if signature:
        runner = interpreter.get_signature_runner(signature)
        return dict(runner.get_input_details()), dict(runner.get_output_details()), signature
    inputs = {detail["name"]: detail for detail in interpreter.get_input_details()}
    outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}
    return inputs, outputs, "<placeholder signature>"
