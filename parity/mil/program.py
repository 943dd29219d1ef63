"""A Core ML program as something that can be run, whatever the operating system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.mil.compiler import Compiler, check_supported, inventory
from parity.mil.errors import CorruptPackage, InputError, UnsupportedOperator
from parity.mil.events import Event, Peak
from parity.mil.interface import Feature, declared_type
from parity.mil.machine import UNFIT, Block, Environment, Output, Run, Step, Traced, fetch
from parity.mil.nn.network import Network
from parity.mil.package import Package
from parity.mil.precision import Precision
from parity.mil.state import State
from parity.mil.types import Array, TensorType

Value = Any
"""An output: an array; for a classifier also the label, and a dictionary of probabilities."""


class Program:
    """One function of an ML Program.

    ``inputs``, ``outputs`` and ``states`` are :class:`~parity.mil.interface.Feature` by name; ``operators``
    counts the operators. After a run ``events`` holds what it noticed and ``peak`` the largest magnitude
    stored as fp16. ``replaced`` holds values that take the places of stored constants, by their names.
    """

    def __init__(
        self, package: Package, function: str | None = None, replaced: Mapping[str, Array] | None = None
    ) -> None:
        self._package, self._replaced = package, replaced or {}
        program = package.spec.mlProgram
        description = package.spec.description
        name = function or description.defaultFunctionName or "main"
        if name not in program.functions:
            known = ", ".join(sorted(program.functions))
            raise InputError(f"{package.path.name} has no function {name!r}; it has {known or 'none'}")
        self.function = name
        self._function = program.functions[name]
        if self._function.opset not in self._function.block_specializations:
            raise CorruptPackage(f"function {name!r} has no block for its opset {self._function.opset!r}")
        self.proto: Any = self._function.block_specializations[self._function.opset]
        self.operators: Counter[str] = inventory(self.proto)
        check_supported(self.operators)
        own = [f for f in description.functions if f.name == name]
        self._describe(own[0] if own else description)
        self._compiled: dict[str, Block] = {}
        self.events: list[Event] = []
        self.peak = Peak(0.0, "", "")

    def _describe(self, description: Any) -> None:
        self._types: dict[str, TensorType | None] = {}
        for i in self._function.inputs:
            self._types[i.name] = declared_type(i.type)
        self._state_names = [i.name for i in self._function.inputs if i.type.WhichOneof("type") == "stateType"]
        self.inputs = {f.name: Feature.of(f, self._types.get(f.name)) for f in description.input}
        self.outputs = {f.name: Feature.of(f) for f in description.output}
        self.states = {f.name: Feature.of(f) for f in description.state}
        for name in self._types:
            if name not in self.inputs and name not in self._state_names:
                raise CorruptPackage(f"the interface does not describe the input {name!r}")
        for name in self.inputs:
            if name not in self._types:
                raise CorruptPackage(f"the program does not take the input {name!r} that its interface describes")
        for name in self.outputs:
            if name not in self.proto.outputs:
                raise CorruptPackage(f"the program does not give the output {name!r} that its interface describes")

    def make_state(self) -> State:
        """Fresh states, all zero."""
        values = {}
        for name in self._state_names:
            declared = self._types[name]
            if declared is None:
                raise CorruptPackage(f"state {name!r} is not a tensor")
            kind = torch.float32 if declared.dtype.kind == "float" else torch.int64
            values[name] = torch.zeros(declared.static_shape, dtype=kind)
        return State(values)

    def run(self, inputs: Mapping[str, Any], mode: str = "program", state: State | None = None) -> dict[str, Value]:
        """The outputs for these inputs.

        ``inputs`` are arrays, or pictures (PIL, or uint8 arrays [H, W, 3] in RGB order) for image inputs.
        ``mode`` is one of ``program``, ``fp32``, ``fp64``, ``stress`` (see :mod:`parity.mil.precision`).
        ``state`` is read and updated; without one, states start at zero and are forgotten. Outputs have
        their declared element types; modes that do not round give floating-point outputs as computed. An
        image output is the array [1, C, H, W] that the program computes, before Core ML makes 8-bit pixels
        of it.
        """
        run, env, block = self.prepare(inputs, mode, state)
        for _ in run.block(block, env):
            pass
        return self._finish(run, env, block, state)

    def trace(
        self, inputs: Mapping[str, Any], mode: str = "program", state: State | None = None
    ) -> Iterator[tuple[str, str, Value]]:
        """Every intermediate value, as it is computed: operator, output name, value."""
        run, env, block = self.prepare(inputs, mode, state)
        for operator, name, value in self._watch(run, block, env):
            yield operator, name, value.numpy().copy() if isinstance(value, Tensor) else value
        self._finish(run, env, block, state)

    @staticmethod
    def _watch(run: Run, block: Block, env: Environment) -> Iterator[Traced]:
        yield from run.block(block, env)

    def prepare(
        self, inputs: Mapping[str, Any], mode: str = "program", state: State | None = None
    ) -> tuple[Run, Environment, Block]:
        """A run that has not begun: the machine, its environment with the inputs in place, and the block to execute."""
        precision = Precision(mode)
        held = self.make_state() if state is None else state
        if set(held.values) != set(self._state_names):
            raise InputError("this state belongs to another program")
        run = Run(precision, {k: _in(v, precision) for k, v in held.values.items()})
        if unknown := set(inputs) - set(self.inputs):
            raise InputError(f"there is no input {sorted(unknown)[0]!r}; there are {', '.join(self.inputs)}")
        entry = Step("input", (), "")
        env: Environment = {}
        for name, feature in self.inputs.items():
            array = feature.accept(inputs[name]) if name in inputs else feature.fill()
            env[name] = run.conform(
                _in(torch.from_numpy(_plain(array)), precision), Output(name, self._types[name]), entry, False
            )
        if mode not in self._compiled:
            compiler = Compiler(self._package, precision, self._replaced)
            scope = {name: name for name in self._types}
            try:
                self._compiled[mode] = compiler.block(self.proto, dict(scope), dict(self._types))
            except UNFIT as error:
                raise CorruptPackage(f"the constants of function {self.function!r} do not fit: {error}") from error
        return run, env, self._compiled[mode]

    def _finish(self, run: Run, env: Environment, block: Block, state: State | None) -> dict[str, Value]:
        self.events, self.peak = run.events, run.peak
        if state is not None:
            state.values = dict(run.state)
        results: dict[str, Value] = {}
        for name, source in zip(self.proto.outputs, block.outputs, strict=True):
            value = fetch(source, env)
            results[name] = _out(value, self._output_types().get(name), run.precision)
        return results

    def _output_types(self) -> dict[str, TensorType | None]:
        known = {o.name: declared_type(o.type) for op in self.proto.operations for o in op.outputs}
        return {name: known.get(name, self._types.get(name)) for name in self.proto.outputs}


def _plain(array: Array) -> Array:
    """An array that torch can take: contiguous, native, and of a type it knows."""
    kinds = {"f": array.dtype if array.dtype.itemsize <= 8 else np.float64, "b": np.bool_}
    return np.array(array, dtype=kinds.get(array.dtype.kind, np.int64), order="C")


def _in(value: Tensor, precision: Precision) -> Tensor:
    """A tensor as operators hold values."""
    if value.dtype.is_floating_point:
        return value.to(precision.float_dtype)
    return value if value.dtype == torch.bool else value.to(torch.int64)


def _out(value: Value, declared: TensorType | None, precision: Precision) -> Value:
    """A value as a user wants it: an array of the declared type."""
    if not isinstance(value, Tensor):
        return value
    array: Array = value.numpy()
    if declared is None or (declared.dtype.kind == "float" and not precision.rounds):
        return array.copy()
    with np.errstate(over="ignore"):
        return array.astype(declared.dtype.numpy)


def load(path: str | Path, function: str | None = None) -> Program | Network:
    """Open an ``.mlpackage`` folder, or a bare ``.mlmodel`` file, and one function of it.

    Raises :class:`~parity.mil.errors.CorruptPackage` for a file that no converter wrote, and
    :class:`~parity.mil.errors.UnsupportedOperator`, which names the operator, for one that cannot be
    evaluated.
    """
    package = Package(path)
    kind = package.spec.WhichOneof("Type")
    if kind in ("neuralNetwork", "neuralNetworkClassifier"):
        if function not in (None, Network.function):
            raise InputError(f"{package.path.name} is a neural network: it has no function {function!r}")
        return Network(package)
    if kind != "mlProgram":
        raise UnsupportedOperator(str(kind), "only ML Programs and neural networks are evaluated")
    return Program(package, function)
