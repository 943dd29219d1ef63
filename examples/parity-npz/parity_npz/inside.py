"""What the chain of proof, the first divergence and power look at in an `.npz` file. Imported in child processes only.

A file without these parts is exported, run, measured and reported all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.formats.draft import Draft
from parity.formats.graph import Array, Constant, Graph, Grid, Operator, Run, Slot, Values, feed
from parity.formats.steps import Step, ports


class NpzArtefact:
    """The graph of a file: operators in order, and each constant with its use. `weight` is (outputs, inputs)."""

    kernels = ("numpy",)

    def __init__(self, folder: str, notes: Mapping[str, Any], bounds: Collection[float] = ()):
        with np.load(Path(folder, notes["entry"]), allow_pickle=False) as file:
            self.stored = {name: file[name] for name in file.files}
        inputs, outputs = ports(notes, "inputs"), ports(notes, "outputs")
        layers = sorted({int(name.partition(".")[0]) for name in self.stored})
        operators: list[Operator] = []
        constants: dict[str, Constant] = {}
        data = inputs[0].tensor
        for index, layer in enumerate(layers):
            result = outputs[0].tensor if layer == layers[-1] else f"{layer}.result"
            if f"{layer}.relu" in self.stored:
                operators.append(Operator(index, "Relu", (data,), (result,)))
            else:
                weight, bias = f"{layer}.weight", f"{layer}.bias"
                uses = {
                    weight: Slot(index, "weight", "OI", data=data),
                    bias: Slot(index, "bias", weight=weight, data=data),
                }
                for name, slot in uses.items():
                    constants[name] = Constant(name, self.stored[name], None, (slot,))
                operators.append(Operator(index, "Linear", (data, weight, bias), (result,)))
            data = result
        self.graph = Graph(
            tuple(operators), constants, {}, inputs, outputs, channels_last=False, symmetric_weights=True
        )

    def compute(self, operator: Operator, values: Values, weights: Mapping[str, Array]) -> Array:
        """The result of one operator as the runtime computes it, in float32, with `weights` for its own constants."""
        data = values[operator.inputs[0]]
        if operator.kind == "Relu":
            return np.maximum(data, 0)
        held = (weights.get(name, self.stored[name]) for name in operator.inputs[1:])
        weight, bias = (value.astype(np.float32) for value in held)
        return data @ weight.T + bias

    def _all(self, weights: Mapping[str, Array], watch: Sequence[str]) -> Run:
        def run(case: Values) -> Values:
            values = dict(case)
            for operator in self.graph.operators:
                values[operator.outputs[0]] = self.compute(operator, values, weights)
            return {name: values[name] for name in (*(port.tensor for port in self.graph.outputs), *watch)}

        return run

    def whole(self, kernels: str) -> Run:
        return self._all({}, ())

    def trace(self, case: Values, names: Collection[str] | None = None) -> Values:
        wanted = [name for name in self.graph.activations if names is None or name in names]
        return self._all({}, wanted)(case)

    def lift(self, weights: Mapping[str, Array], watch: Sequence[str] = ()) -> Run:
        return self._all(weights, watch)

    def alone(self, kernels: str, operators: Sequence[Operator]) -> Run:
        return lambda values: {op.outputs[0]: self.compute(op, values, {}) for op in operators}

    def alone_lifted(self, operators: Sequence[Operator]) -> Run:
        return self.alone(self.kernels[0], operators)

    def reread(self) -> bool:
        return False


class NpzSteps:
    """The same file as steps that are run one at a time."""

    def __init__(self, folder: str, notes: Mapping[str, Any]):
        self.artefact = NpzArtefact(folder, notes)
        graph = self.artefact.graph
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.grids: Mapping[str, Grid] = {}  # no tensor is stored as integers
        self.steps = [Step(op.index, op.kind, op.inputs[:1], op.outputs) for op in graph.operators]

    def feed(self, case: Mapping[str, Array]) -> Values:
        return feed(self.artefact.graph, case)

    def run(self, step: Step, values: Values) -> Values:
        operator = self.artefact.graph.operators[step.index]
        return {step.writes[0]: self.artefact.compute(operator, values, {})}

    def save(self, steps: Sequence[Step], values: Values, folder: str) -> str:
        operators = [self.artefact.graph.operators[step.index] for step in steps]
        held = [name for operator in operators for name in operator.inputs[1:]]
        np.savez(Path(folder, "step.npz"), **{name: self.artefact.stored[name] for name in held})
        np.savez(Path(folder, "inputs.npz"), **{operators[0].inputs[0]: values[operators[0].inputs[0]]})
        return "step.npz"


class NpzDraft(Draft):
    """The same file in the hands of a fault. Faults of weights need `store` and `save` alone."""

    def __init__(self, folder: str, notes: Mapping[str, Any]):
        self.artefact = NpzArtefact(folder, notes)
        super().__init__(folder, notes, self.artefact.graph)

    def store(self, name: str, stored: Array) -> None:
        self.artefact.stored[name] = stored

    def change_activation(self, lost: bool) -> bool:
        relus = [name for name in self.artefact.stored if name.endswith(".relu")]
        if not lost or not relus:
            return False
        del self.artefact.stored[relus[0]]
        return True

    def save(self, folder: Path) -> None:
        np.savez(folder / self.notes["entry"], **self.artefact.stored)
