"""A TFLite flatbuffer in the hands of a fault: buffers, grids, operators and their options. Child only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from parity.formats.draft import Draft
from parity.formats.graph import Array
from parity.formats.tflite import graph as tflite

_ACTIVATION = schema.ActivationFunctionType
_SWAPS = {"RELU": "RELU6", "RELU6": "RELU", "LOGISTIC": "TANH", "TANH": "LOGISTIC", "HARD_SWISH": "RELU6"}


class TFLiteDraft(Draft):
    """Of an artefact with a file a size, the first file is edited, and stands alone."""

    kernel_sets = ("XNNPACK", "builtin", "reference")
    threads = True

    def __init__(self, folder: str, notes: Mapping[str, Any]):
        artefact = tflite.TFLiteArtefact(folder, notes)
        super().__init__(folder, {k: v for k, v in notes.items() if k != "files"}, artefact.graph)
        self.model = artefact.model
        self.graph_of = self.model.subgraphs[0]
        self.place = {name: i for i, name in enumerate(artefact.names)}

    def store(self, name: str, stored: Array) -> None:
        tflite.put(self.model, self.graph_of.tensors[self.place[name]], np.asarray(stored, order="C"))

    def regrid(self, name: str, factor: float, by: int) -> bool:
        given = self.graph_of.tensors[self.place[name]].quantization
        given.scale, given.zeroPoint = np.array(given.scale, np.float32), np.array(given.zeroPoint, np.int64)
        given.scale[0] *= np.float32(factor)
        given.zeroPoint[0] += by
        return True

    def change_activation(self, lost: bool) -> bool:
        for op in self.graph_of.operators:
            options = op.builtinOptions
            fused = getattr(options, "fusedActivationFunction", 0)
            if fused:
                other = _ACTIVATION.RELU_N1_TO_1 if fused != _ACTIVATION.RELU_N1_TO_1 else _ACTIVATION.RELU6
                options.fusedActivationFunction = _ACTIVATION.NONE if lost else other
                return True
        if lost:
            return False
        for op in self.graph_of.operators:
            kind = tflite.kind(self.model, op)
            if kind in _SWAPS:
                return self._become(op, _SWAPS[kind])
            if kind == "GELU":
                op.builtinOptions.approximate = not op.builtinOptions.approximate
                return True
        return False

    def _become(self, op: Any, name: str) -> bool:
        code = schema.OperatorCodeT()
        number = getattr(schema.BuiltinOperator, name)
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        self.model.operatorCodes.append(code)
        op.opcodeIndex = len(self.model.operatorCodes) - 1
        return True

    def subtract(self) -> bool:
        fixed = {i for n, i in self.place.items() if n in self.graph.constants}
        for op in self.graph_of.operators:
            if tflite.kind(self.model, op) == "ADD" and not fixed & {int(i) for i in op.inputs}:
                options = schema.SubOptionsT()
                options.fusedActivationFunction = op.builtinOptions.fusedActivationFunction
                op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.SubOptions, options
                return self._become(op, "SUB")
        return False

    def exchange_operands(self) -> bool:
        for op in self.graph_of.operators:
            inputs = [int(i) for i in op.inputs]
            wanted = tflite.kind(self.model, op) in ("CONCATENATION", "SUB", "DIV")
            if wanted and len(inputs) >= 2 and inputs[0] != inputs[1]:
                op.inputs = np.array([inputs[1], inputs[0], *inputs[2:]], np.int32)
                return True
        return False

    def pad_at_end(self) -> bool:
        for op in self.graph.operators:
            name = op.inputs[1] if op.kind in ("PAD", "PADV2") else ""
            if name in self.graph.constants:
                pads = self.graph.constants[name].stored.copy()
                pads[:, 1], pads[:, 0] = pads.sum(1), 0
                self.store(name, pads)
                return True
        return False

    def rewrite(self) -> bool:
        ports = {int(i) for i in (*self.graph_of.inputs, *self.graph_of.outputs)}
        for index, tensor in enumerate(self.graph_of.tensors):
            if index not in ports:
                tensor.name = f"v{index}".encode()
        last = len(self.model.buffers)  # the first buffer is the empty one and stays
        self.model.buffers = [self.model.buffers[0], *reversed(self.model.buffers[1:])]
        for holder in (*(t for g in self.model.subgraphs for t in g.tensors), *(self.model.metadata or ())):
            holder.buffer = last - holder.buffer if holder.buffer else 0
        return True

    def save(self, folder: Path) -> None:
        (folder / self.notes["entry"]).write_bytes(tflite.pack(self.model))
