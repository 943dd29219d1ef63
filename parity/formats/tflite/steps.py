"""TFLite operator by operator: a flatbuffer for each, on LiteRT's own kernels without XNNPACK. Child only."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from parity.formats.graph import Array, Values, feed
from parity.formats.steps import NotPossible, Step
from parity.formats.tflite import graph as tflite

NESTED = ("WHILE", "IF", "CALL_ONCE")  # run whole: their sub-graphs are not walked through


class TFLiteSteps:
    """One .tflite file. Raises NotPossible for operators that the plain interpreter lacks."""

    def __init__(self, folder: str, notes: Mapping[str, Any]):
        artefact = tflite.TFLiteArtefact(folder, notes, nested=True)
        self.graph, self.names = artefact.graph, artefact.names
        self.inputs, self.outputs, self.grids = artefact.graph.inputs, artefact.graph.outputs, artefact.graph.grids
        self.model = tflite.parsed(artefact.content)
        self.tensors = self.model.subgraphs[0].tensors
        self.operators = list(self.model.subgraphs[0].operators)
        self.fixed = {i for i, t in enumerate(self.tensors) if tflite.constant(self.model, t) is not None}
        self.where = {name: i for i, name in enumerate(self.names)}
        self.steps: Sequence[Step] = [self._step(i, op) for i, op in enumerate(self.operators)]

    def _step(self, index: int, op: Any) -> Step:
        reads = [self.names[int(i)] for i in op.inputs if i >= 0 and int(i) not in self.fixed]
        writes = tuple(self.names[int(i)] for i in op.outputs)
        return Step(index, tflite.kind(self.model, op), tuple(dict.fromkeys(reads)), writes)

    def feed(self, case: Mapping[str, Array]) -> Values:
        found = feed(self.graph, case)
        for name, value in found.items():
            grid = self.grids.get(name)
            if grid is not None and value.dtype.kind == "f":
                found[name] = grid.nearest(value).astype(tflite.TYPES[self.tensors[self.where[name]].type])
        return found

    def run(self, step: Step, values: Values) -> Values:
        content, places = self.part([step], step.writes)
        return _run(content, places, {name: values[name] for name in step.reads}, step.writes)

    def part(self, steps: Sequence[Step], writes: Sequence[str]) -> tuple[bytes, dict[str, int]]:
        """A file of these steps alone, and the places of their tensors in it."""
        operators = [copy.copy(self.operators[s.index]) for s in steps]
        nested = any(s.kind in NESTED for s in steps)
        used = list(dict.fromkeys(int(i) for op in operators for i in (*op.inputs, *op.outputs) if i >= 0))
        place = {old: new for new, old in enumerate(used)}
        model = schema.ModelT()
        model.version, model.description = self.model.version, b"part"
        model.operatorCodes = self.model.operatorCodes
        model.buffers = list(self.model.buffers) if nested else [schema.BufferT()]
        graph = schema.SubGraphT()
        graph.tensors = []
        for old in used:
            tensor = copy.copy(self.tensors[old])
            if old in self.fixed and not nested:
                model.buffers.append(self.model.buffers[tensor.buffer])
                tensor.buffer = len(model.buffers) - 1
            elif old not in self.fixed:
                tensor.buffer = 0
            graph.tensors.append(tensor)
        for op in operators:
            op.inputs = np.array([place.get(int(i), -1) for i in op.inputs], np.int32)
            op.outputs = np.array([place[int(i)] for i in op.outputs], np.int32)
        inner = {name for s in steps for name in s.writes}
        reads = list(dict.fromkeys(n for s in steps for n in s.reads if n not in inner))
        graph.operators = operators
        graph.inputs = np.array([place[self.where[n]] for n in reads], np.int32)
        graph.outputs = np.array([place[self.where[n]] for n in writes], np.int32)
        model.subgraphs = [graph, *(self.model.subgraphs[1:] if nested else ())]
        model.signatureDefs = []
        return tflite.pack(model), {self.names[old]: new for old, new in place.items()}

    def save(self, steps: Sequence[Step], values: Values, folder: str) -> str:
        inner = {name for s in steps for name in s.writes}
        used = {name for s in steps for name in s.reads}
        ends = [n for s in steps for n in s.writes if n not in used] or list(steps[-1].writes)
        content, places = self.part(steps, ends)
        reads = {n: values[n] for s in steps for n in s.reads if n not in inner}
        _run(content, places, reads, ends)
        Path(folder, "step.tflite").write_bytes(content)
        np.savez(Path(folder, "inputs.npz"), **{n.replace("/", "|"): v for n, v in reads.items()})
        return "step.tflite"


def _run(content: bytes, places: Mapping[str, int], reads: Values, writes: Sequence[str]) -> Values:
    interpreter = tflite.open_content(content, "builtin")
    try:
        for name, value in reads.items():
            interpreter.set_tensor(places[name], np.array(value, order="C"))
        interpreter.invoke()
    except (ValueError, RuntimeError) as error:
        raise NotPossible(f"LiteRT does not run one operator alone: {str(error).splitlines()[0][:160]}") from error
    return {name: interpreter.get_tensor(places[name]).copy() for name in writes}
