"""A file run on one case, by its own runtime and nothing else: output name -> array, or a list in the file's order."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from research.strangers.by_hand.inputs import Array, Case

Runner = Callable[[Case], dict[str, Array] | list[Array]]


def opened(target: str, folder: Path, names: list[str], kernels: str = "") -> Runner:
    """The runner of the one model file in `folder`. `names`: the declared inputs, in order."""
    return OPENERS[target](folder, names, kernels)


def _one(folder: Path, pattern: str) -> Path:
    return next(iter(sorted(folder.rglob(pattern))))


def _onnx(folder: Path, names: list[str], kernels: str) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(_one(folder, "*.onnx")), options, ["CPUExecutionProvider"])
    kinds = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64",
             "tensor(int32)": "int32", "tensor(double)": "float64", "tensor(bool)": "bool"}  # fmt: skip

    def run(case: Case) -> dict[str, Array]:
        feed = {i.name: case[i.name].astype(kinds.get(i.type, case[i.name].dtype)) for i in session.get_inputs()}
        found = [o.name for o in session.get_outputs()]
        return dict(zip(found, session.run(found, feed), strict=True))

    return run


def channels_last(value: Array) -> Array:
    """[n, c, ...] -> [n, ..., c]."""
    return np.moveaxis(value, 1, -1)


def _tflite(folder: Path, names: list[str], kernels: str) -> Runner:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    more = {"experimental_op_resolver_type": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES} if kernels else {}
    interpreter = Interpreter(str(_one(folder, "*.tflite")), num_threads=1, **more)
    interpreter.allocate_tensors()

    def plain(name: str) -> str:
        return name.removeprefix("serving_default_").partition(":")[0]

    def feed(spec: dict[str, Any], value: Array) -> None:
        shape = tuple(int(n) for n in spec["shape"])
        if shape != value.shape and shape == channels_last(value).shape:
            value = channels_last(value)
        if spec["dtype"] in (np.int8, np.uint8):
            scale, zero = spec["quantization"]
            bounds = np.iinfo(spec["dtype"])
            value = np.clip(np.round(value / scale) + zero, bounds.min, bounds.max)
        interpreter.set_tensor(spec["index"], np.ascontiguousarray(value.astype(spec["dtype"])))

    def read(spec: dict[str, Any]) -> Array:
        value = interpreter.get_tensor(spec["index"])
        scale, zero = spec["quantization"]
        quantised = spec["dtype"] in (np.int8, np.uint8) and scale
        return (value.astype(np.float64) - zero) * scale if quantised else value

    def run(case: Case) -> dict[str, Array]:
        inputs = {plain(d["name"]): d for d in interpreter.get_input_details()}
        for place, name in enumerate(names):
            by_place = f"args_{place}"  # litert-torch numbers what it takes and gives
            chosen = next((n for n in (name, by_place) if n in inputs), "") or _nearest(name, inputs, case[name])
            feed(inputs[chosen], case[name])
        interpreter.invoke()
        signature = interpreter.get_signature_list()
        if signature:
            details = interpreter.get_signature_runner(next(iter(signature))).get_output_details()
            if all(re.fullmatch(r"output_\d+", name) for name in details):
                return [read(details[f"output_{place}"]) for place in range(len(details))]
            return {name: read(spec) for name, spec in details.items()}
        return {plain(d["name"]): read(d) for d in interpreter.get_output_details()}

    return run


def _nearest(name: str, inputs: dict[str, dict[str, Any]], value: Array) -> str:
    """The input whose name holds `name`, else the only one of its size."""
    held = [n for n in inputs if name in n or n in name]
    held = held or [n for n, d in inputs.items() if int(np.prod(d["shape"])) == value.size]
    if len(held) != 1:
        raise KeyError(f"{name}: the file has {', '.join(inputs)}")
    return held[0]


def _ncnn(folder: Path, names: list[str], kernels: str) -> Runner:
    import ncnn

    param = _one(folder, "*.param")
    net = ncnn.Net()
    net.opt.num_threads, net.opt.use_vulkan_compute = 1, False
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    if net.load_param(str(param)) or net.load_model(str(_one(folder, "*.bin"))):
        raise RuntimeError("ncnn cannot load it")
    inputs, outputs = (sorted(blobs, key=lambda n: (len(n), n)) for blobs in (net.input_names(), net.output_names()))

    def run(case: Case) -> list[Array]:
        extractor, kept = net.create_extractor(), []
        for blob, name in zip(inputs, names, strict=True):
            row = case[name][0]
            row = np.ascontiguousarray(row.astype(np.int32) if row.dtype.kind in "iub" else row.astype(np.float32))
            kept += [row, ncnn.Mat(row).clone()]
            extractor.input(blob, kept[-1])
        results = []
        for blob in outputs:
            code, mat = extractor.extract(blob)
            if code:
                raise RuntimeError(f"ncnn: code {code} for {blob}")
            results.append(np.array(mat)[None].copy())
        return results

    return run


def _torch(load: Callable[[str], Any], pattern: str) -> Callable[[Path, list[str], str], Runner]:
    def opener(folder: Path, names: list[str], kernels: str) -> Runner:
        module = load(str(_one(folder, pattern)))

        def run(case: Case) -> list[Array]:
            with torch.no_grad():
                result = module(*(torch.from_numpy(np.array(case[name])) for name in names))
            if isinstance(result, dict):
                result = tuple(result.values())
            return [r.detach().numpy() for r in (result if isinstance(result, (tuple, list)) else (result,))]

        return run

    return opener


OPENERS: dict[str, Callable[[Path, list[str], str], Runner]] = {
    "onnx": _onnx,
    "tflite": _tflite,
    "ncnn": _ncnn,
    "torchscript": _torch(torch.jit.load, "*.pt"),
    "exported": _torch(lambda file: torch.export.load(file).module(), "*.pt2"),
}
