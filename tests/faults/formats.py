"""Two linear layers with an activation between them, as a file of each format, made without a converter.

`y = b2 + w2 @ relu(b1 + w1 @ x)` of x [1, 6], with 6 hidden values and 4 outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

RNG = np.random.default_rng(5)
W1, B1 = RNG.standard_normal((6, 6)).astype(np.float32), RNG.standard_normal(6).astype(np.float32)
W2, B2 = RNG.standard_normal((4, 6)).astype(np.float32), RNG.standard_normal(4).astype(np.float32)
X = RNG.standard_normal((8, 1, 6)).astype(np.float32)


def right(x: np.ndarray) -> np.ndarray:
    return np.maximum(x @ W1.T.astype(np.float64) + B1, 0) @ W2.T.astype(np.float64) + B2


def _notes(entry: str, **more: Any) -> dict[str, Any]:
    return {"entry": entry, "inputs": {"x": {"name": "x"}}, "outputs": {"y": {"name": "y"}}, **more}


def onnx(folder: Path) -> dict[str, Any]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1), helper.make_node("Relu", ["h"], ["r"]),
             helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], transB=1)]  # fmt: skip
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, size)) for n, size in (("x", 6), ("y", 4))]
    stored = [numpy_helper.from_array(v, n) for n, v in {"w1": W1, "b1": B1, "w2": W2, "b2": B2}.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    return _notes("m.onnx")


def tflite(folder: Path) -> dict[str, Any]:
    from ai_edge_litert import schema_py_generated as schema

    from parity.formats.tflite import graph as tflite_graph

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description, model.buffers, graph.tensors = 3, b"two layers", [schema.BufferT()], []
    for name, shape, value in (("x", (1, 6), None), ("w1", (6, 6), W1), ("b1", (6,), B1), ("h", (1, 6), None),
                               ("w2", (4, 6), W2), ("b2", (4,), B2), ("y", (1, 4), None)):  # fmt: skip
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), np.array(shape, np.int32), 0, 0
        graph.tensors.append(tensor)
        if value is not None:
            tflite_graph.put(model, tensor, value)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    model.operatorCodes, graph.operators = [code], []
    for inputs, output, activation in (((0, 1, 2), 3, schema.ActivationFunctionType.RELU), ((3, 4, 5), 6, 0)):
        op, options = schema.OperatorT(), schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = activation
        op.inputs, op.outputs, op.opcodeIndex = np.array(inputs, np.int32), np.array([output], np.int32), 0
        op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options
        graph.operators.append(op)
    graph.inputs, graph.outputs, graph.name = np.array([0], np.int32), np.array([6], np.int32), b"main"
    model.subgraphs = [graph]
    (folder / "m.tflite").write_bytes(tflite_graph.pack(model))
    return _notes("m.tflite")


def ncnn(folder: Path) -> dict[str, Any]:
    lines = ["7767517", "4 4", "Input x 0 1 x", "InnerProduct one 1 1 x h 0=6 1=1 2=36", "ReLU act 1 1 h r",
             "InnerProduct two 1 1 r y 0=4 1=1 2=24"]  # fmt: skip
    (folder / "m.param").write_text("\n".join(lines) + "\n")
    parts = [np.zeros(1, np.uint32), W1, B1, np.zeros(1, np.uint32), W2, B2]
    (folder / "m.bin").write_bytes(b"".join(p.tobytes() for p in parts))
    return _notes("m.param", weights="m.bin")


def coreml(folder: Path) -> dict[str, Any]:
    from tests.mil.build import Builder, set_value

    program = Builder(x=X[0])
    for name, value in {"w1": W1, "b1": B1, "w2": W2, "b2": B2}.items():
        set_value(program.op("const", (name, "fp32", value.shape)).attributes["val"], value)
    program.op("linear", ("h", "fp32", (1, 6)), x="x", weight="w1", bias="b1")
    program.op("relu", ("r", "fp32", (1, 6)), x="h")
    program.op("linear", ("y", "fp32", (1, 4)), x="r", weight="w2", bias="b2")
    program.save(folder / "m.mlmodel", "y")
    return _notes("m.mlmodel")


FORMATS = {"onnx": onnx, "tflite": tflite, "ncnn": ncnn, "coreml": coreml}
NEEDS = {"onnx": "onnxruntime", "tflite": "ai_edge_litert", "ncnn": "ncnn", "coreml": "coremltools"}
