"""Core ML operation by operation, through this project's own evaluator; programs and neural networks. Child only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity import mil
from parity.formats.graph import Array, Grid, Values
from parity.formats.steps import NotPossible, Step, ports
from parity.mil.machine import Call, Run
from parity.mil.nn.network import Network, kind_of
from parity.mil.precision import Precision
from parity.mil.program import Program


class ProgramOperations:
    """One ML Program without control flow."""

    def __init__(self, program: Program, notes: Mapping[str, Any]):
        self.program = program
        self.inputs, self.outputs = ports(notes, "inputs"), ports(notes, "outputs")
        self.grids: Mapping[str, Grid] = {}
        self.operations: list[Call] = []
        self.steps: Sequence[Step] = ()

    def feed(self, case: Mapping[str, Array]) -> Values:
        fed = {p.tensor: _narrow(case[p.name]) for p in self.inputs}
        run, env, block = self.program.prepare(fed)
        self.machine: Run = run
        if not self.operations:
            other = next((s.operator for s in block.steps if not isinstance(s, Call)), None)
            if other is not None:
                raise NotPossible(f"the program has {other} operations")
            self.operations = [s for s in block.steps if isinstance(s, Call)]
            self.steps = [
                Step(i, s.operator, _read(s), tuple(o.name for o in s.outputs)) for i, s in enumerate(self.operations)
            ]
        return {name: value.numpy() for name, value in env.items()}

    def run(self, step: Step, values: Values) -> Values:
        env: dict[str, Any] = {name: _tensor(values[name]) for name in step.reads}
        for _ in self.operations[step.index].execute(self.machine, env):
            pass
        return {name: np.asarray(env[name].numpy()) for name in step.writes if isinstance(env[name], torch.Tensor)}

    def save(self, steps: Sequence[Step], values: Values, folder: str) -> str:
        raise NotPossible("a part of a Core ML program is not saved")


class NetworkLayers:
    """One neural network specification without loops and branches."""

    def __init__(self, network: Network, notes: Mapping[str, Any]):
        self.network, self.precision = network, Precision("program")
        self.inputs, self.outputs = ports(notes, "inputs"), ports(notes, "outputs")
        self.grids: Mapping[str, Grid] = {}
        self.layers = network.layers
        other = next((kind_of(layer) for layer in self.layers if kind_of(layer) in ("loop", "branch")), None)
        if other is not None:
            raise NotPossible(f"the network has {other} layers")
        self.steps: Sequence[Step] = [
            Step(i, kind_of(layer), tuple(dict.fromkeys(layer.input)), tuple(layer.output))
            for i, layer in enumerate(self.layers)
        ]

    def feed(self, case: Mapping[str, Array]) -> Values:
        fed = {p.tensor: _narrow(case[p.name]) for p in self.inputs}
        return {name: value.numpy() for name, value in self.network.prepare(fed, self.precision).items()}

    def run(self, step: Step, values: Values) -> Values:
        env = {name: _tensor(values[name]) for name in step.reads}
        for _ in self.network.layer(self.layers[step.index], env, self.precision):
            pass
        return {name: np.asarray(env[name].numpy()) for name in step.writes}

    def save(self, steps: Sequence[Step], values: Values, folder: str) -> str:
        raise NotPossible("a part of a Core ML network is not saved")


def open_coreml(folder: str, notes: Mapping[str, Any]) -> ProgramOperations | NetworkLayers:
    opened = mil.load(Path(folder, notes["entry"]))
    return NetworkLayers(opened, notes) if isinstance(opened, Network) else ProgramOperations(opened, notes)


def _read(call: Call) -> tuple[str, ...]:
    return tuple(dict.fromkeys(x for a in call.arguments for x in a.sources if isinstance(x, str)))


def _narrow(value: Array) -> Array:
    return value.astype(np.int32) if value.dtype == np.int64 else value


def _tensor(value: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(value))
