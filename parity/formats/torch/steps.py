"""An ExportedProgram node by node. Child only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from parity.formats.graph import Array, Grid, Port, Values
from parity.formats.steps import NotPossible, Step, ports
from parity.formats.torch.runtime import ProgramSession


class ProgramSteps:
    """One .pt2 file."""

    def __init__(self, folder: str, notes: Mapping[str, Any]):
        module = ProgramSession(folder, notes).module
        self.module: fx.GraphModule = module
        nodes = list(module.graph.nodes)
        self.known: dict[fx.Node, Any] = {}
        entries = [n for n in nodes if n.op == "placeholder"]
        given = ports(notes, "inputs")
        if len(entries) != len(given):
            raise NotPossible(f"the program takes {len(entries)} inputs, the contract names {len(given)}")
        self.inputs = tuple(Port(p.name, n.name) for p, n in zip(given, entries, strict=True))
        ends = [a for n in nodes if n.op == "output" for a in fx.node.map_aggregate(n.args, lambda a: a)[0]]
        names = [a.name for a in ends if isinstance(a, fx.Node)]
        self.outputs = tuple(Port(p.name, n) for p, n in zip(ports(notes, "outputs"), names, strict=False))
        self.grids: Mapping[str, Grid] = {}
        self.nodes: list[fx.Node] = []
        for node in nodes:
            if node.op == "get_attr":
                self.known[node] = _attribute(module, str(node.target))
            elif node.op in ("call_function", "call_module", "call_method"):
                self.nodes.append(node)
        self.steps: Sequence[Step] = [
            Step(i, str(n.target), tuple(dict.fromkeys(a.name for a in n.all_input_nodes if a not in self.known)),
                 (n.name,))
            for i, n in enumerate(self.nodes)
        ]  # fmt: skip
        self._others: dict[str, Any] = {}  # results that are no tensors: tuples of them, sizes

    def feed(self, case: Mapping[str, Array]) -> Values:
        return {port.tensor: np.asarray(case[port.name]) for port in self.inputs}

    def run(self, step: Step, values: Values) -> Values:
        node = self.nodes[step.index]

        def value(n: fx.Node) -> Any:
            if n in self.known:
                return self.known[n]
            found = values[n.name]
            return self._others[found.item()] if found.dtype.kind == "U" else torch.from_numpy(np.array(found))

        arguments, keywords = fx.map_arg((node.args, node.kwargs), value)
        with torch.no_grad():
            if node.op == "call_module":
                result = self.module.get_submodule(str(node.target))(*arguments, **keywords)
            elif node.op == "call_method":
                result = getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
            else:
                result = node.target(*arguments, **keywords)  # type: ignore[operator]
        if isinstance(result, torch.Tensor):
            return {node.name: np.asarray(result.numpy())}
        key = f"{node.name}#{len(self._others)}"
        self._others[key] = result
        return {node.name: np.array(key)}

    def save(self, steps: Sequence[Step], values: Values, folder: str) -> str:
        raise NotPossible("a part of an ExportedProgram is not saved")


def _attribute(module: torch.nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value.detach() if isinstance(value, torch.Tensor) else value
