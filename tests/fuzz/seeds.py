"""Makes the good files that fuzzing damages: `python -m tests.fuzz.seeds` writes them anew into `corpus/`.

They are committed, so that a run needs no converter. Each is as small as its format allows. Files whose name begins
with `found-` are not made here: fuzzing found them, and every run reads them again.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from parity.cases.recipes import Fill, Recipe

CORPUS = Path(__file__).parent / "corpus"
W = np.array([[3, 0, 0], [0, 3, 0], [0, 0, 3], [-3, -3, -3]], np.float32)
B = np.array([0.1, 0.2, 0.3, 0.4], np.float32)

CONFIGURATION = '''
[tool.parity]
targets = ["onnx", "tflite"]
precisions = ["fp32", "fp16", "int8"]
require = ["onnx"]
seed = 7
timeout = 60
memory = "2GiB"
cache = ".cache"

[tool.parity.models.tiny]
factory = "tinynet:tiny"
options = { width = 4, deep = [1, 2, { a = "b" }] }
inputs = [{ name = "x", shape = ["batch", 3], dtype = "float32", range = [-1, 1] }]
outputs = [{ name = "y", kind = "logits", labels = ["a", "b", "c", "d"] }]
dims = { batch = [1, 2, 3] }
preprocess = { mean = [0.5, 0.5, 0.5], std = [1, 1, 1], scale = 255, color = "RGB", resize = "bilinear", size = [8, 8] }
cells = ["onnx-fp32", "tflite-int8"]
kernels = { "tflite-int8" = "builtin" }
nightly = ["onnx-fp32"]
properties = { examples = 3 }
opset = 17

[tool.parity.limits]
fp32 = { cosine = 0.99, noise_ratio = false }
"tiny-tflite-int8".y = { max_abs = 0.5 }

[[tool.parity.waive]]
cell = "tiny-tflite-int8"
metric = "max_abs"
limit = 0.05
reason = """accepted
in #41"""
expires = 2027-01-31
'''


def configuration() -> bytes:
    return CONFIGURATION.encode()


def records() -> dict[str, bytes]:
    """A failing record, the two shards of a plan, and a ledger."""
    from parity.core.record import dumps
    from parity.judging import baseline
    from tests.unit.ledgers import figure
    from tests.unit.test_shards import shard

    failing = figure(0.9)
    return {
        "record.json": dumps(failing).encode(),
        "shard.json": dumps(shard(1, 2)).encode(),
        "other.json": dumps(shard(2, 2)).encode(),
        "ledger.json": baseline.save(failing).encode(),
    }


def manifest() -> bytes:
    from parity.store.cache import key_of

    value: dict[str, Any] = {
        "key": "cc1e27c1cb6e2c0bd9d2b1b6b9a2fb0d31a3e8a3b7e6ef6a6de2b1b6b9a2fb0d", "name": "tiny-onnx-fp32~1-export",
        "files": [["weights.bin", 7, "9a9c9ae3ccdcf4e3b6bb4ca4d1eb5a8e3b6b9b65b4a2b4f1a1d0cf0a6a1d4c3e"]],
        "notes": {"entry": "weights.bin"}, "seconds": 0.5, "spec": {"step": "export"},
    }  # fmt: skip
    value["files"][0][2] = hashlib.sha256(b"weights").hexdigest()
    value["sha256"] = key_of(value)
    return json.dumps(value, indent=1).encode()


def recipe() -> bytes:
    return Recipe({"x": Fill("uniform", 3, 0.1, "strided"), "m": Fill("ramp")},
                  {"batch": 2, "n": 7}).json().encode()  # fmt: skip


def contract() -> bytes:
    return json.dumps({"tiny": {
        "inputs": [{"name": "x", "shape": ["batch", 3], "dtype": "float32", "range": [-1, 1]}],
        "outputs": [{"name": "y", "kind": "logits", "shape": ["batch", 4], "dtype": "float32"}],
        "sizes": {"batch": [1, 2]}, "enumerated": {}, "mode": None, "files": ["tiny.fp16.onnx"],
    }}, indent=1).encode()  # fmt: skip


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    held = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(held, **arrays)
    return held.getvalue()


def references() -> dict[str, bytes]:
    arrays = npz(True, **{"0/y": np.ones((1, 4)), "1/y": np.zeros((1, 4))})
    index = {"schema": "parity.references/1", "made_from": {"weights": "0"}, "cases": {"a": "0", "b": "1"},
             "arrays": hashlib.sha256(arrays).hexdigest()}  # fmt: skip
    return {"references.json": json.dumps(index).encode(), "references.npz": arrays, "arrays.npz": arrays}


def picture(kind: str) -> bytes:
    held = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(held, kind)
    return held.getvalue()


def video(suffix: str, codec: str) -> bytes:
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"clip{suffix}")
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 8, (16, 16))
        for level in (0, 90, 200):
            writer.write(np.full((16, 16, 3), level, np.uint8))
        writer.release()
        return path.read_bytes()


def checkpoints() -> dict[str, bytes]:
    import torch
    from safetensors.numpy import save

    held = io.BytesIO()
    torch.save({"weight": torch.from_numpy(W), "bias": torch.from_numpy(B)}, held)
    return {
        "checkpoint.npz": npz(weight=W, bias=B),
        "checkpoint.safetensors": save({"weight": W, "bias": B}),
        "checkpoint.pt": held.getvalue(),
    }


def capsule() -> bytes:
    from tests.unit.test_capsule import Bundle

    with tempfile.TemporaryDirectory() as folder:
        return Bundle(Path(folder)).capsule.read_bytes()


def shared() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("manifest.json", "deep/weights.bin"):
            info = tarfile.TarInfo(name)
            info.size = 7
            tar.addfile(info, io.BytesIO(b"weights"))
    return held.getvalue()


def ncnn() -> dict[str, bytes]:
    param = "7767517\n2 2\nInput x 0 1 x\nInnerProduct fc 1 1 x y 0=4 1=1 2=12\n"
    return {"net.param": param.encode(), "weights.bin": b"\0\0\0\0" + W.tobytes() + B.tobytes()}


def package() -> dict[str, bytes]:
    """A Core ML package whose weight matrix lies in weight.bin, and its parts once more to be damaged."""
    from tests.mil.build import Builder

    builder = Builder(x=np.zeros((1, 3), np.float32))
    builder.op("linear", ("y", "fp32", (1, 4)), x="x", weight=W, bias=B)
    const = builder.block.operations[0].inputs["weight"].arguments[0].value
    const.ClearField("immediateValue")
    const.blobFileValue.fileName = "@model_path/weights/weight.bin"
    const.blobFileValue.offset = 64
    with tempfile.TemporaryDirectory() as folder:
        specification = builder.save(Path(folder, "m"), "y").read_bytes()
    head = struct.pack("<II", 1, 2).ljust(64, b"\0")
    blob = struct.pack("<IIQQQ", 0xDEADBEEF, 2, W.nbytes, 128, 0).ljust(64, b"\0")
    weights = head + blob + W.tobytes()
    listed = json.dumps({
        "fileFormatVersion": "1.0.0", "rootModelIdentifier": "1",
        "itemInfoEntries": {"1": {"path": "com.apple.CoreML/model.mlmodel", "name": "model.mlmodel",
                                  "author": "com.apple.CoreML", "description": ""}},
    }).encode()  # fmt: skip
    inside = "package/m.mlpackage/Data/com.apple.CoreML"
    return {
        "package/model.mlmodel": specification, f"{inside}/model.mlmodel": specification,
        "package/weight.bin": weights, f"{inside}/weights/weight.bin": weights,
        "package/Manifest.json": listed, "package/m.mlpackage/Manifest.json": listed,
    }  # fmt: skip


def artefacts() -> dict[str, bytes]:
    """The linear model y = W x + b in the formats whose runtimes are native code."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)], "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(W, "w"), numpy_helper.from_array(B, "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return {"artefact.onnx": model.SerializeToString(), "artefact.tflite": _tflite()}


def _tflite() -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, shape: list[int], buffer: int) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.buffer, made.type = name, shape, buffer, schema.TensorType.FLOAT32
        return made

    def buffer(data: bytes = b"") -> Any:
        made = schema.BufferT()
        made.data = np.frombuffer(data, np.uint8) if data else None
        return made

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = 0, [0, 1, 2], [3]
    op.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    op.builtinOptions = schema.FullyConnectedOptionsT()
    graph = schema.SubGraphT()
    graph.tensors = [tensor("x", [1, 3], 0), tensor("w", [4, 3], 1), tensor("b", [4], 2), tensor("y", [1, 4], 0)]
    graph.inputs, graph.outputs, graph.operators, graph.name = [0], [3], [op], "main"
    model = schema.ModelT()
    model.version, model.description = 3, "tiny"
    model.subgraphs, model.operatorCodes = [graph], [code]
    model.buffers = [buffer(), buffer(W.tobytes()), buffer(B.tobytes())]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def everything() -> dict[str, bytes]:
    return {
        "configuration.toml": configuration(), **records(), "manifest.json": manifest(), "recipe.json": recipe(),
        "contract.json": contract(), **references(),
        "golden.npz": npz(x=np.ones((1, 3), np.float32), m=np.ones((1, 2), np.int32), label=1),
        "picture.png": picture("png"), "picture.jpg": picture("jpeg"),
        "video.mp4": video(".mp4", "mp4v"), "video.avi": video(".avi", "MJPG"),
        **checkpoints(), "capsule.parity": capsule(), "shared.tar": shared(), **ncnn(), **package(), **artefacts(),
    }  # fmt: skip


def main() -> None:
    made = everything()
    for name, data in made.items():
        path = CORPUS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    print(f"{len(made)} files, {sum(map(len, made.values())):,} bytes in {CORPUS}")


if __name__ == "__main__":
    main()
