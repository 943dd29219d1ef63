"""A TFLite file, opened by LiteRT on the CPU. In the child."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.formats.labels import appended, every_list, texts_in
from parity.formats.pictures import of_tflite
from parity.formats.target import Array
from parity.formats.tflite import signatures


class LiteRtSession:
    """LiteRT on the CPU with one thread unless the notes say more; quantised inputs and outputs are converted by the
    file's own scales, as an app would do it. Of an artefact with a file a size, the one whose sizes are the inputs' is
    run."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        self.kernels = str(notes.get("kernels") or "XNNPACK")
        names, threads = notes.get("files") or [notes["entry"]], int(notes.get("threads", 1))
        self.files = [_File(Path(folder, name), self.kernels, threads, notes) for name in names]

    def describe(self) -> dict[str, Any]:
        first = self.files[0]
        found: dict[str, Any] = {"inputs": first.specs(first.inputs), "outputs": first.specs(first.outputs),
                                 "ops": operators(first.path), "signature": first.signature}  # fmt: skip
        found["positional"] = {"inputs": first.positional("inputs"), "outputs": first.positional("outputs")}
        found["labels"] = appended(first.path)
        found["label_lists"] = every_list(texts_in(first.path))
        found["picture"] = of_tflite(first.path.read_bytes())
        found["tensor_names"] = {"inputs": first.tensor_names("inputs"), "outputs": first.tensor_names("outputs")}
        others = signatures.others(first.path.read_bytes(), first.signature)
        if others or len(first.signatures) > 1:
            found["unmeasured_signatures"] = others
        for spec in found["inputs"]:
            spec["shapes"] = [list(file.shape(spec["name"])) for file in self.files]
        return found | ({"executor": f"{self.kernels} kernels"} if self.kernels != "XNNPACK" else {})

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        fits = (f for f in self.files if all(f.shape(n) == v.shape for n, v in inputs.items() if n in f.inputs))
        return next(fits, self.files[0]).run(inputs)


class _File:
    """One opened .tflite file."""

    def __init__(self, path: Path, kernels: str, threads: int, notes: Mapping[str, Any]) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        chosen = {
            "XNNPACK": OpResolverType.AUTO,
            "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "reference": OpResolverType.BUILTIN_REF,
        }[kernels]
        self.path = path
        self.interpreter = Interpreter(str(path), num_threads=threads, experimental_op_resolver_type=chosen)
        self.interpreter.allocate_tensors()
        self.signatures = self.interpreter.get_signature_list()
        self.signature = signatures.chosen(self.signatures, notes)
        self.runner = self.interpreter.get_signature_runner(self.signature) if self.signature else None
        if self.runner:
            self.inputs = dict(self.runner.get_input_details())
            self.outputs = dict(self.runner.get_output_details())
        else:
            self.inputs = {d["name"]: d for d in self.interpreter.get_input_details()}
            self.outputs = {d["name"]: d for d in self.interpreter.get_output_details()}

    def positional(self, side: str) -> list[str]:
        """The names of the inputs or outputs, by the index at which the interpreter takes or gives them."""
        details = self.inputs if side == "inputs" else self.outputs
        given = self.interpreter.get_input_details() if side == "inputs" else self.interpreter.get_output_details()
        places = [d["index"] for d in given]
        held = [name for name, detail in details.items() if detail["index"] in places]
        return sorted(held, key=lambda name: places.index(details[name]["index"]))

    def tensor_names(self, side: str) -> dict[str, str]:
        """The names of the tensors themselves, by which apps without signatures take them, by those in the signature.

        A converter writes `serving_default_x:0` for the input x.
        """
        details = self.inputs if side == "inputs" else self.outputs
        given = self.interpreter.get_input_details() if side == "inputs" else self.interpreter.get_output_details()
        texts = {d["index"]: str(d["name"]).partition(":")[0] for d in given}
        if side == "outputs":  # the last layer's name comes behind those of the ones around it
            texts = {index: text.rpartition("/")[2] for index, text in texts.items()}
        texts = {index: text.removeprefix(f"{self.signature}_") for index, text in texts.items()}
        return {name: texts[d["index"]] for name, d in details.items() if d["index"] in texts}

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
    """A float array as the file's integer input: round(value / scale) + zero point, clipped; int64 as the int32 that
    litert-torch makes of it, as an app feeds it. Others pass unchanged."""
    scale, zero = detail["quantization"]
    dtype = np.dtype(detail["dtype"])
    if (value.dtype, dtype) == (np.dtype(np.int64), np.dtype(np.int32)) and not scale:
        return value.astype(dtype)
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


def signature(file: Path) -> dict[str, Any]:
    """What a file states of itself. TFLite is channels-last: a picture is told by its last axis."""
    stated = LiteRtSession(str(file.parent), {"entry": file.name}).describe()
    for entry in stated["inputs"]:
        shape = entry["shape"]
        if len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4):
            entry |= {"layout": "NHWC", "shape": [shape[0], shape[3], shape[1], shape[2]]}
    return stated
