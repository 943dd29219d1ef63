"""A Core ML program in the hands of a fault: constants of the weight file and of the specification, and operations.

Read through Core ML's own schema (`parity.mil.package`), with no coremltools. Weights that the program makes from
compressed ones when it is loaded are left alone. Child only.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.formats.draft import Draft
from parity.formats.graph import Array, Constant, Graph, NotPossible, Operator, Port, Slot
from parity.mil.package import Package
from parity.mil.types import TensorType

_WEIGHTS = {"conv": ("weight", "OI", "bias"), "conv_transpose": ("weight", "IO", "bias"),
            "linear": ("weight", "OI", "bias"), "matmul": ("y", "IO", ""), "gather": ("x", "VD", "")}  # fmt: skip
_SPACE = {3: "W", 4: "HW", 5: "DHW"}
_SWAPS = {"relu": "silu", "relu6": "relu", "silu": "sigmoid", "sigmoid": "tanh", "tanh": "sigmoid", "gelu": "silu",
          "erf": "tanh", "sigmoid_hard": "sigmoid", "softplus": "relu", "leaky_relu": "relu",
          "clip": "relu"}  # fmt: skip
_FIELDS = {"fp32": "floats", "fp16": "bytes"}


class CoreMLDraft(Draft):
    """One package whose specification is a program. Raises NotPossible for a neural network."""

    def __init__(self, folder: str, notes: Mapping[str, Any]):
        self.package = Package(Path(folder, notes["entry"]))
        self.spec = copy.deepcopy(self.package.spec)
        if self.spec.WhichOneof("Type") != "mlProgram":
            raise NotPossible("the file is a neural network, not a program")
        function = self.spec.mlProgram.functions["main"]
        self.operations = list(function.block_specializations[function.opset].operations)
        self.held = {op.outputs[0].name: op.attributes["val"] for op in self.operations if op.type == "const"}
        self.patches: dict[tuple[str, int], bytes] = {}  # (weight file, first byte) -> what stands there instead
        super().__init__(folder, notes, self._read(notes))

    def _read(self, notes: Mapping[str, Any]) -> Graph:
        slots: dict[str, list[Slot]] = {}
        operators: list[Operator] = []
        for op in self.operations:
            if op.type == "const":
                continue
            index, (weight, layout, bias) = len(operators), _WEIGHTS.get(op.type, ("", "", ""))
            named = {parameter: [a.name for a in given.arguments] for parameter, given in op.inputs.items()}
            for parameter, names in named.items():
                for name in names:
                    if name not in self.held or not self._floats(name):
                        continue
                    if parameter == weight:
                        slot = Slot(index, "weight", self._layout(op, name, layout))
                    elif parameter == bias and named[weight][0] in self.held:
                        slot = Slot(index, "bias", "O", named[weight][0])
                    else:
                        slot = Slot(index, "operand")
                    slots.setdefault(name, []).append(slot)
            reads = [n for names in named.values() for n in names if n]
            operators.append(Operator(index, op.type, tuple(reads), tuple(o.name for o in op.outputs)))
        constants = {n: Constant(n, self._stored(n), None, tuple(found)) for n, found in slots.items()}
        inputs, outputs = (
            tuple(Port(name, entry["name"]) for name, entry in notes[side].items()) for side in ("inputs", "outputs")
        )
        return Graph(tuple(operators), constants, {}, inputs, outputs, channels_last=False, symmetric_weights=False)

    def _floats(self, name: str) -> bool:
        return TensorType.of(self.held[name].type.tensorType).dtype.name in _FIELDS

    def _layout(self, op: Any, name: str, layout: str) -> str:
        rank = len(self._type(name).static_shape)
        if op.type == "matmul":
            other = op.inputs["transpose_y"].arguments if "transpose_y" in op.inputs else ()
            turned = [self.held[a.name].immediateValue.tensor.bools.values[0] for a in other if a.name in self.held]
            layout = "OI" if any(turned) else "IO"
        return layout + _SPACE.get(rank, "") if op.type.startswith("conv") else layout

    def _type(self, name: str) -> TensorType:
        return TensorType.of(self.held[name].type.tensorType)

    def _stored(self, name: str) -> Array:
        value, declared = self.held[name], self._type(name)
        shape, count = declared.static_shape, int(np.prod(declared.static_shape))
        if value.WhichOneof("value") == "blobFileValue":
            file = self.package.weight_file(value.blobFileValue.fileName)
            return file.read(value.blobFileValue.offset, declared.dtype, count).reshape(shape)
        tensor = value.immediateValue.tensor
        if tensor.WhichOneof("value") == "bytes":
            return declared.dtype.unpack(tensor.bytes.values, count).reshape(shape)
        return np.array(tensor.floats.values, np.float32).reshape(shape)

    def store(self, name: str, stored: Array) -> None:
        value = self.held[name]
        raw = np.ascontiguousarray(stored).tobytes()
        if value.WhichOneof("value") == "blobFileValue":
            place = value.blobFileValue
            blob = self.package.weight_file(place.fileName).blobs[place.offset]
            self.patches[place.fileName, blob.data] = raw
        elif value.immediateValue.tensor.WhichOneof("value") == "bytes":
            value.immediateValue.tensor.bytes.values = raw
        else:
            value.immediateValue.tensor.floats.values[:] = stored.reshape(-1).tolist()

    # The graph.

    def change_activation(self, lost: bool) -> bool:
        for op in self.operations:
            if op.type in _SWAPS:
                op.type = "identity" if lost else _SWAPS[op.type]
                for name in [n for n in op.inputs if n != "x"]:
                    del op.inputs[name]
                return True
        return False

    def subtract(self) -> bool:
        for op in self.operations:
            if op.type == "add" and not any(op.inputs[n].arguments[0].name in self.held for n in ("x", "y")):
                op.type = "sub"
                return True
        return False

    def exchange_operands(self) -> bool:
        for op in self.operations:
            if op.type == "concat" and len(op.inputs["values"].arguments) > 1:
                return _exchange(*op.inputs["values"].arguments[:2])
            if op.type in ("sub", "real_div"):
                return _exchange(op.inputs["x"], op.inputs["y"])
        return False

    def pad_at_end(self) -> bool:
        for op in self.operations:
            kind = self._immediate(op, "pad_type")
            pad = self._immediate(op, "pad")
            if kind is None or pad is None or list(kind.strings.values) != ["custom"] or not any(pad.ints.values):
                continue
            pads = list(pad.ints.values)
            pad.ints.values[:] = [n for a, b in zip(pads[::2], pads[1::2], strict=True) for n in (0, a + b)]
            return True
        return False

    def set_epsilon(self, value: float) -> bool:
        found = {op.inputs["epsilon"].arguments[0].name for op in self.operations if "epsilon" in op.inputs}
        places = [n for n in found if n in self.held and self._floats(n)]
        for name in places:
            self.store(name, np.full_like(self._stored(name), value))
        return bool(places)

    def _immediate(self, op: Any, parameter: str) -> Any:
        """The constant's value in the specification that an operation reads; None where there is none."""
        if parameter not in op.inputs or op.inputs[parameter].arguments[0].name not in self.held:
            return None
        return self.held[op.inputs[parameter].arguments[0].name].immediateValue.tensor

    def rewrite(self) -> bool:
        kept = {feature.name for feature in (*self.spec.description.input, *self.spec.description.output)}
        function = self.spec.mlProgram.functions["main"]
        kept |= {entry.name for entry in function.inputs} | set(function.block_specializations[function.opset].outputs)
        made = [o for op in self.operations for o in op.outputs if o.name not in kept]
        other = {o.name: f"v{i}" for i, o in enumerate(made)}
        for output in made:
            output.name = other[output.name]
        for op in self.operations:
            for given in op.inputs.values():
                for argument in given.arguments:
                    argument.name = other.get(argument.name, argument.name)
        return not any(op.blocks for op in self.operations)  # what a nested block reads would keep its old name

    def save(self, folder: Path) -> None:
        package = folder / self.notes["entry"]
        specification = package
        if self.package.path.is_dir():
            shutil.copytree(self.package.path, package)
            specification = package / self.package._specification.relative_to(self.package.path.resolve())
        specification.write_bytes(self.spec.SerializeToString())
        for (name, start), raw in self.patches.items():
            file = specification.parent / name.removeprefix("@model_path/")
            with file.open("r+b") as out:
                out.seek(start)
                out.write(raw)


def _exchange(one: Any, two: Any) -> bool:
    held = copy.deepcopy(one)
    one.CopyFrom(two)
    two.CopyFrom(held)
    return True
