"""An ONNX file in the hands of a fault: initialisers, nodes and attributes of the proto. Child only."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from parity.formats.draft import Draft
from parity.formats.graph import Array
from parity.formats.onnx.graph import OnnxArtefact

_SWAPS: Mapping[str, str] = {
    "Relu": "LeakyRelu", "LeakyRelu": "Relu", "Sigmoid": "HardSigmoid", "Tanh": "Softsign", "Erf": "Tanh",
    "HardSigmoid": "Sigmoid", "HardSwish": "Relu", "PRelu": "", "Clip": "Relu", "Gelu": "Relu",
}  # fmt: skip


class OnnxDraft(Draft):
    kernel_sets = ("optimised", "as written")
    threads = True

    def __init__(self, folder: str, notes: Mapping[str, Any]):
        artefact = OnnxArtefact(folder, notes, ())
        super().__init__(folder, notes, artefact.graph)
        self.model = artefact.with_values()

    def store(self, name: str, stored: Array) -> None:
        found = next(i for i in self.model.graph.initializer if i.name == name)
        found.CopyFrom(numpy_helper.from_array(np.asarray(stored, order="C"), name))

    def regrid(self, name: str, factor: float, by: int) -> bool:
        """In the initialiser of the first node that reads the integers; other readers keep theirs."""
        nodes = [n for n in self.model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == name]
        for node in nodes[:1]:
            found = next(i for i in self.model.graph.initializer if i.name == node.input[2 if by else 1])
            values = numpy_helper.to_array(found).copy()
            flat = values.reshape(-1)
            flat[0] = flat[0] + by if by else flat[0] * factor
            fresh = f"{found.name}/edited"
            self.model.graph.initializer.append(numpy_helper.from_array(values, fresh))
            node.input[2 if by else 1] = fresh
        return bool(nodes)

    def change_activation(self, lost: bool) -> bool:
        for node in self.model.graph.node:
            if node.op_type in _SWAPS and (lost or _SWAPS[node.op_type]):
                node.op_type = "Identity" if lost else _SWAPS[node.op_type]
                del node.attribute[:]
                del node.input[1:]
                return True
        return False

    def subtract(self) -> bool:
        stored = {i.name for i in self.model.graph.initializer}
        read = {n.output[0]: n.input[0] for n in self.model.graph.node if n.op_type == "DequantizeLinear"}
        for node in self.model.graph.node:
            if node.op_type == "Add" and not any(read.get(i, i) in stored for i in node.input):
                node.op_type = "Sub"
                return True
        return False

    def exchange_operands(self) -> bool:
        for node in self.model.graph.node:
            if node.op_type in ("Concat", "Sub", "Div") and len(node.input) >= 2 and node.input[0] != node.input[1]:
                node.input[0], node.input[1] = node.input[1], node.input[0]
                return True
        return False

    def pad_at_end(self) -> bool:
        for node in self.model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "pads" and any(attribute.ints):
                    half = len(attribute.ints) // 2
                    low, high = attribute.ints[:half], attribute.ints[half:]
                    attribute.ints[:] = [0] * half + [a + b for a, b in zip(low, high, strict=True)]
                    return True
        return False

    def scale_input(self, factor: float, shift: float) -> bool:
        graph = self.model.graph
        entry = next((i for i in graph.input if i.type.tensor_type.elem_type == onnx.TensorProto.FLOAT), None)
        if entry is None:
            return False
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name == entry.name:
                    node.input[place] = "seeded/input"
        for name, value in (("seeded/factor", factor), ("seeded/shift", shift)):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
        graph.node.insert(0, helper.make_node("Mul", [entry.name, "seeded/factor"], ["seeded/scaled"]))
        graph.node.insert(1, helper.make_node("Add", ["seeded/scaled", "seeded/shift"], ["seeded/input"]))
        return True

    def set_epsilon(self, value: float) -> bool:
        found = [a for node in self.model.graph.node for a in node.attribute if a.name == "epsilon"]
        for attribute in found:
            attribute.f = value
        return bool(found)

    def rewrite(self) -> bool:
        graph = self.model.graph
        kept = {v.name for v in (*graph.input, *graph.output)}
        inner = [n for node in graph.node for n in node.output if n and n not in kept]
        other = {name: f"v{i}" for i, name in enumerate([*inner, *(i.name for i in graph.initializer)])}
        for node in graph.node:
            node.name = ""
            node.input[:] = [other.get(n, n) for n in node.input]
            node.output[:] = [other.get(n, n) for n in node.output]
        tensors = [copy.deepcopy(i) for i in reversed(graph.initializer)]
        del graph.initializer[:]
        for tensor in tensors:
            tensor.name = other.get(tensor.name, tensor.name)
        graph.initializer.extend(tensors)
        return True

    def optimise(self, tool: str) -> bool:
        if tool == "onnxsim":
            try:
                import onnxsim

                self.model, _ = onnxsim.simplify(self.model)
            except Exception:  # not installed, or it refuses the file: ONNX Runtime's fp16 converter leaves it unsorted
                return False
            return True
        import tempfile

        import onnxruntime

        with tempfile.TemporaryDirectory() as folder:
            options = onnxruntime.SessionOptions()
            options.optimized_model_filepath = str(Path(folder, "optimised.onnx"))
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.log_severity_level = 4
            content = self.model.SerializeToString()
            onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            self.model = onnx.load(options.optimized_model_filepath)
        return True

    def save(self, folder: Path) -> None:
        onnx.save(self.model, str(folder / self.notes["entry"]))
