"""ONNX node by node: a session of its own for each, unoptimised, so that nothing is fused across steps. Child only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
from onnx import helper

from parity.formats.graph import Array, Grid, Values
from parity.formats.steps import NotPossible, Step, ports


class OnnxSteps:
    """One .onnx file. Raises NotPossible for files whose nodes have graphs of their own."""

    def __init__(self, folder: str, notes: Mapping[str, Any]):
        model = onnx.load(str(Path(folder, notes["entry"])))
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        nested = sorted({n.op_type for n in model.graph.node if any(a.HasField("g") for a in n.attribute)})
        if nested:
            raise NotPossible(f"the file has sub-graphs ({', '.join(nested)})")
        self.model = model
        self.constants = {i.name: i for i in model.graph.initializer}
        self.nodes = _in_order(model)
        self.inputs, self.outputs = ports(notes, "inputs"), ports(notes, "outputs")
        self.grids: Mapping[str, Grid] = {}
        self.steps: Sequence[Step] = [
            Step(i, n.op_type, tuple(dict.fromkeys(x for x in n.input if x and x not in self.constants)),
                 tuple(x for x in n.output if x))
            for i, n in enumerate(self.nodes)
        ]  # fmt: skip

    def feed(self, case: Mapping[str, Array]) -> Values:
        return {port.tensor: port.feed(case[port.name]) for port in self.inputs}

    def run(self, step: Step, values: Values) -> Values:
        session = open_model(self.part([step], values, step.writes))
        found = session.run(list(step.writes), {name: values[name] for name in step.reads})
        return dict(zip(step.writes, found, strict=True))

    def part(self, steps: Sequence[Step], values: Values, writes: Sequence[str]) -> Any:
        """A model of these steps alone; what they read of others are its inputs."""
        nodes = [self.nodes[s.index] for s in steps]
        inner = {name for s in steps for name in s.writes}
        reads = list(dict.fromkeys(name for s in steps for name in s.reads if name not in inner))
        own = {name for n in nodes for name in n.input} & set(self.constants)
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(values[name].dtype), list(values[name].shape)
            )
            for name in reads
        ]
        graph = helper.make_graph(
            nodes, "part", inputs, [onnx.ValueInfoProto(name=n) for n in writes],
            [self.constants[n] for n in self.constants if n in own],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=self.model.opset_import)
        model.ir_version = self.model.ir_version
        return model

    def save(self, steps: Sequence[Step], values: Values, folder: str) -> str:
        inner = {name for s in steps for name in s.writes}
        used = {name for s in steps for name in s.reads}
        ends = [name for s in steps for name in s.writes if name not in used] or list(steps[-1].writes)
        model = self.part(steps, values, ends)
        session = open_model(model)
        reads = {n: values[n] for s in steps for n in s.reads if n not in inner}
        found = session.run(None, reads)
        del model.graph.output[:]
        model.graph.output.extend(
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape))
            for n, v in zip(ends, found, strict=True)
        )
        onnx.save(model, str(Path(folder, "step.onnx")))
        np.savez(Path(folder, "inputs.npz"), **reads)
        return "step.onnx"


def open_model(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _in_order(model: Any) -> list[Any]:
    """Nodes after those that make what they read: ONNX Runtime's float16 converter appends casts at the end."""
    known = {i.name for i in (*model.graph.initializer, *model.graph.input)} | {""}
    waiting, ordered = list(model.graph.node), list[Any]()
    while waiting:
        ready = [n for n in waiting if set(n.input) <= known]
        if not ready:
            raise NotPossible(f"nothing makes {sorted(set(waiting[0].input) - known)[0]!r}")
        first = ready[0]
        ordered.append(first)
        known |= set(first.output)
        waiting.remove(first)
    return ordered
