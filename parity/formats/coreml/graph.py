"""Core ML programs in the words of the proof: the constants of an .mlpackage, and the program run with others.

The package is read and executed by this project's own evaluator. What an operator wants in which layout is fixed by
its documentation (apple.github.io/coremltools, MIL operators). A recurrent layer stacks the weights of its gates in an
order of its own, so each gate is a constant by itself. Off macOS no runtime exists, so no operator can be judged alone.
Child only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parity import mil
from parity.formats.coreml.classifier import arrays
from parity.formats.graph import (
    Array,
    Constant,
    Graph,
    Grid,
    NotPossible,
    Operator,
    Port,
    Run,
    Slot,
    Values,
    WholeOnly,
)
from parity.mil.package import Package
from parity.mil.program import Program
from parity.mil.values import decode

_ALONE = "no runtime executes the operators of a Core ML program off macOS, and the evaluator is no witness for itself"
_CONVOLUTIONS = {3: "OIW", 4: "OIHW", 5: "OIDHW"}
_GATES = {"gru": 3, "lstm": 4, "rnn": 1}
_COMPRESSED = {
    "constexpr_lut_to_dense": "palettised weights lie on no grid of even steps",
    "constexpr_sparse_to_dense": "sparse weights have no grid to be audited against",
    "constexpr_lut_to_sparse": "palettised weights lie on no grid of even steps",
    "constexpr_sparse_blockwise_shift_scale": "sparse weights have no grid to be audited against",
}


class CoreMLArtefact(WholeOnly):
    """One ML Program. Raises NotPossible for files that the proof cannot follow."""

    no_operators = _ALONE
    kernels = ("mil-eval",)

    def __init__(self, folder: str, notes: Mapping[str, Any], bounds: Collection[float] = ()):
        self.package = Package(Path(folder, notes["entry"]))
        program = mil.load(self.package.path)
        if not isinstance(program, Program):
            raise NotPossible("a neural network specification, which this reader does not know")
        self.program = program
        self.states: Mapping[str, str] = notes.get("states", {})  # written before a call -> the output read after it
        self.stacked: dict[str, list[str]] = {}  # a recurrent layer's constant -> those of its gates, in its order
        self.graph = self._read(notes)

    def _read(self, notes: Mapping[str, Any]) -> Graph:
        constants: dict[str, Constant] = {}
        slots: dict[str, list[Slot]] = {}
        operators: list[Operator] = []
        for operation in self.program.proto.operations:
            if operation.blocks:
                raise NotPossible(f"the program has a {operation.type}, whose blocks this reader does not follow")
            if operation.type in _COMPRESSED:
                raise NotPossible(f"{operation.outputs[0].name}: {_COMPRESSED[operation.type]}")
            found = self._constant(operation, constants)
            if found is not None:
                constants[found.name] = found
            elif operation.type != "const":
                reads = {key: names for key, value in operation.inputs.items() if (names := _names(value))}
                for name, slot in self._uses(operation, reads, len(operators), constants):
                    slots.setdefault(name, []).append(slot)
                flat = tuple(name for names in reads.values() for name in names)
                writes = tuple(output.name for output in operation.outputs)
                operators.append(Operator(len(operators), operation.type, flat, writes))
        constants = {n: replace(c, slots=tuple(slots.get(n, ()))) for n, c in constants.items()}
        inputs, outputs = (
            tuple(Port(name, entry["name"]) for name, entry in notes[side].items()) for side in ("inputs", "outputs")
        )
        read, written = {*self.program.inputs, *self.program.states}, {*self.program.outputs, *self.states.values()}
        for side, ports, known in (("input", inputs, read), ("output", outputs, written)):
            missing = next((port.tensor for port in ports if port.tensor not in known), None)
            if missing is not None:
                raise NotPossible(f"the file has no {side} {missing!r}")
        return Graph(
            tuple(operators), constants, {}, inputs, outputs, channels_last=False, symmetric_weights=False, flushes=True
        )  # fmt: skip

    def _constant(self, operation: Any, known: Mapping[str, Constant]) -> Constant | None:
        """The constant that an operation stands for: as it is stored, with its grid where it is quantised."""
        name = operation.outputs[0].name if operation.outputs else ""  # a write of a state gives nothing
        if operation.type == "const" and "val" in operation.attributes:
            value = decode(operation.attributes["val"], self.package)
            return Constant(name, value, None) if isinstance(value, np.ndarray) else None
        if operation.type == "constexpr_affine_dequantize":
            parts = {key: np.asarray(decode(value, self.package)) for key, value in operation.attributes.items()
                     if key != "name"}  # fmt: skip
            return _quantised(name, parts["quantized_data"], parts["scale"], parts["zero_point"], int(parts["axis"]))
        if operation.type == "constexpr_blockwise_shift_scale":
            given = {key: self._given(argument, known) for key, argument in operation.inputs.items()}
            data, scale = given["data"], given["scale"]
            axes = [i for i, n in enumerate(scale.shape) if n > 1]
            if len(axes) > 1 or any(scale.shape[i] != data.shape[i] for i in axes):
                raise NotPossible(f"{name}: weights quantised in blocks have more than one scale a channel")
            zero = given.get("offset", np.zeros(scale.shape))
            return _quantised(name, data, scale.reshape(-1), zero.reshape(-1), axes[0] if axes else 0)
        return None

    def _given(self, argument: Any, known: Mapping[str, Constant]) -> Array:
        """A constant argument: bound to an operation that stands for one, or written in place."""
        (binding,) = argument.arguments
        named = binding.WhichOneof("binding") == "name"
        return known[binding.name].stored if named else np.asarray(decode(binding.value, self.package))

    def _uses(
        self, operation: Any, reads: Mapping[str, Sequence[str]], index: int, constants: dict[str, Constant]
    ) -> Iterator[tuple[str, Slot]]:
        """What the constants among an operation's inputs are to it."""
        kind = operation.type
        data = next((n for names in reads.values() for n in names if n not in constants), "")
        if kind in _GATES:
            yield from self._recurrent(reads, _GATES[kind], index, data, constants)
            return
        layouts = {key: self._layout(kind, key, names, reads, constants) for key, names in reads.items()}
        weight = next((reads[key][0] for key, layout in layouts.items() if layout), "")
        for key, names in reads.items():
            for name in names:
                if name not in constants or (constants[name].grid is None and constants[name].stored.dtype.kind != "f"):
                    continue
                if layouts[key]:
                    yield name, Slot(index, "weight", layouts[key], data=data)
                elif key == "bias" and weight:
                    yield name, Slot(index, "bias", "O", weight, data)
                else:
                    yield name, Slot(index, "operand")

    def _layout(
        self, kind: str, key: str, names: Sequence[str], reads: Mapping[str, Sequence[str]],
        constants: Mapping[str, Constant],
    ) -> str:  # fmt: skip
        """The layout of an input that is a weight, empty for all others."""
        stored = constants[names[0]].stored if len(names) == 1 and names[0] in constants else None
        if stored is None or (stored.dtype.kind != "f" and constants[names[0]].grid is None):
            return ""
        if key == "weight" and kind in ("conv", "conv_transpose"):
            layout = _CONVOLUTIONS[stored.ndim]
            return layout if kind == "conv" else layout.replace("OI", "IO")
        if key == "weight" and kind == "linear":
            return "OI"
        if kind == "matmul" and key in ("x", "y") and stored.ndim == 2:
            turned = reads.get(f"transpose_{key}", ())
            second = bool(turned and constants[turned[0]].stored) == (key == "y")
            return "OI" if second else "IO"
        if kind == "gather" and key == "x" and stored.ndim == 2:
            return "VD"
        return ""

    def _recurrent(
        self, reads: Mapping[str, Sequence[str]], gates: int, index: int, data: str, constants: dict[str, Constant]
    ) -> Iterator[tuple[str, Slot]]:
        """Weights and biases gate by gate, each a constant of its own."""
        for key, names in reads.items():
            name = names[0]
            if name not in constants or not key.startswith(("weight", "bias", "input_bias")):
                continue
            stacked = constants[name]
            if stacked.grid is not None:
                raise NotPossible(f"{name}: quantised weights of a recurrent layer")
            parts = self.stacked[name] = [f"{name}[{gate}]" for gate in range(gates)]
            back = "_back" if key.endswith("_back") else ""
            pair = reads.get(f"weight_ih{back}", names)[0]
            for gate, (part, values) in enumerate(zip(parts, np.split(stacked.stored, gates), strict=True)):
                constants[part] = Constant(part, values, None)
                if key.startswith("weight"):
                    yield part, Slot(index, "weight", "OI", data=data)
                else:
                    yield part, Slot(index, "bias", "O", f"{pair}[{gate}]", data)

    # Running.

    def whole(self, kernels: str) -> Run:
        return self._run(self.program, "program", ())

    def lift(self, weights: Mapping[str, Array], watch: Sequence[str] = ()) -> Run:
        """Executed in float64, with no activation rounded."""
        values = dict(weights)
        for name, parts in self.stacked.items():
            if any(part in values for part in parts):
                values[name] = np.concatenate([values.pop(p, self.graph.constants[p].real) for p in parts])
        return self._run(Program(self.package, replaced=values), "fp64", watch)

    def _run(self, program: Program, mode: str, watch: Sequence[str]) -> Run:
        outputs = [port.tensor for port in self.graph.outputs]
        wanted = {*outputs, *watch}

        def run(case: Values) -> Values:
            fed = {name: value.astype(np.int32) if value.dtype == np.int64 else value for name, value in case.items()}
            held = program.make_state()
            for name in self.states:
                held.write(name, fed[name])
            given = {name: value for name, value in fed.items() if name not in self.states}
            found = {name: value for name, value in fed.items() if name in wanted}
            if watch:
                seen = {n: value for _, n, value in program.trace(given, mode, held) if n in wanted}
            else:
                seen = {n: v for n, v in program.run(given, mode, held).items() if n in wanted}
            found |= arrays(seen, {}, (), "float64")
            return found | {output: held.read(name) for name, output in self.states.items()}

        return run


def _quantised(name: str, data: Array, scale: Array, zero: Array, axis: int) -> Constant:
    limits: Any = np.iinfo(data.dtype)
    grid = Grid(scale.astype(np.float64).reshape(-1), zero.astype(np.float64).reshape(-1), axis, limits.min, limits.max)
    return Constant(name, data, grid)


def _names(argument: Any) -> list[str]:
    return [binding.name for binding in argument.arguments if binding.WhichOneof("binding") == "name"]
