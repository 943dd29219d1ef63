"""Builds tiny Core ML programs straight from the protobuf schema: no converter, a millisecond each."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import parity.mil
from parity.mil.proto import schema
from parity.mil.types import MIL_TYPES

NUMBERS = {t.name: number for number, t in MIL_TYPES.items()}
ARRAY_TYPES = {"fp16": 65552, "fp32": 65568, "int32": 131104}
FIELDS = {"f": "floats", "i": "ints", "u": "ints", "b": "bools"}


def type_name(array: np.ndarray) -> str:
    """The MIL name of a numpy array's type; int64 and float64 become what Core ML computes in."""
    kind = array.dtype.kind
    if kind == "b":
        return "bool"
    if kind == "f":
        return "fp16" if array.dtype.itemsize == 2 else "fp32"
    return "int32" if array.dtype.itemsize >= 4 else array.dtype.name


def set_tensor_type(proto: Any, dtype: str, shape: Any) -> None:
    """Fill a MIL ``TensorType``; ``None`` for a shape leaves every size open."""
    proto.dataType = NUMBERS[dtype]
    if shape is None:
        proto.dimensions.add().unknown.variadic = True
        return
    proto.rank = len(shape)
    for size in shape:
        proto.dimensions.add().constant.size = size


def set_value(proto: Any, value: Any) -> None:
    """Fill a MIL ``Value`` with a constant held in place."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        proto.type.listType.type.tensorType.dataType = NUMBERS["string"]
        for text in value:
            set_value(proto.immediateValue.list.values.add(), text)
        return
    if isinstance(value, str):
        set_tensor_type(proto.type.tensorType, "string", ())
        proto.immediateValue.tensor.strings.values.append(value)
        return
    array = np.asarray(value)
    dtype = type_name(array)
    set_tensor_type(proto.type.tensorType, dtype, array.shape)
    if dtype in ("fp32", "int32", "bool"):
        field = getattr(proto.immediateValue.tensor, FIELDS[array.dtype.kind])
        field.values.extend(array.reshape(-1).tolist())
    else:
        proto.immediateValue.tensor.bytes.values = array.tobytes()


def add_argument(operation: Any, name: str, value: Any, names: set[str]) -> None:
    """Bind an input of an operation: a name where ``value`` is one, several for a tuple, else a constant."""
    for part in value if isinstance(value, tuple) else (value,):
        binding = operation.inputs[name].arguments.add()
        if isinstance(part, str) and part in names:
            binding.name = part
        else:
            set_value(binding.value, part)


class Builder:
    """A program with one function, built operation by operation."""

    def __init__(self, **inputs: np.ndarray) -> None:
        self.spec = schema("Model_pb2").Model()
        self.spec.specificationVersion = 9
        self.function = self.spec.mlProgram.functions["main"]
        self.function.opset = "CoreML8"
        self.block = self.function.block_specializations["CoreML8"]
        self.names: set[str] = set()
        for name, array in inputs.items():
            self.input(name, type_name(np.asarray(array)), np.shape(array))

    def input(self, name: str, dtype: str, shape: Any) -> None:
        """Declare an input in the program and in the interface."""
        declared = self.function.inputs.add()
        declared.name = name
        set_tensor_type(declared.type.tensorType, dtype, shape)
        described = self.spec.description.input.add()
        described.name = name
        described.type.multiArrayType.dataType = ARRAY_TYPES.get(dtype, ARRAY_TYPES["fp32"])
        described.type.multiArrayType.shape.extend(shape)
        self.names.add(name)

    def op(self, kind: str, *outputs: tuple[str, str, Any], block: Any = None, **arguments: Any) -> Any:
        """Add an operation with outputs (name, type, shape or None) and arguments."""
        operation = (block or self.block).operations.add()
        operation.type = kind
        for key, value in arguments.items():
            if value is not None:
                add_argument(operation, key, value, self.names)
        for name, dtype, shape in outputs:
            output = operation.outputs.add()
            output.name = name
            set_tensor_type(output.type.tensorType, dtype, shape)
            self.names.add(name)
        return operation

    def save(self, path: Path, *outputs: str) -> Path:
        """Name the outputs and write a bare ``.mlmodel``."""
        self.block.outputs[:] = outputs
        del self.spec.description.output[:]
        for name in outputs:
            described = self.spec.description.output.add()
            described.name = name
            described.type.multiArrayType.dataType = ARRAY_TYPES["fp32"]
        path.write_bytes(self.spec.SerializeToString())
        return path

    def load(self, *outputs: str) -> parity.mil.Program:
        """The program, through a file."""
        with tempfile.TemporaryDirectory() as folder:
            return parity.mil.load(self.save(Path(folder) / "model.mlmodel", *outputs))


def evaluate(kind: str, *dtypes: str, run_mode: str = "fp32", **arguments: Any) -> Any:
    """Run one operator: arrays are its inputs, everything else its constants. One result, or a list of them.

    ``dtypes`` are the element types of its outputs, ``fp32`` when not given.
    """
    arrays: dict[str, np.ndarray] = {}
    bound: dict[str, Any] = {}
    for key, value in arguments.items():
        parts = value if isinstance(value, tuple) else (value,)
        fed = all(isinstance(p, np.ndarray) and p.dtype.kind in "fi" for p in parts)
        if fed:
            names = tuple(f"{key}_{i}" for i in range(len(parts)))
            arrays |= dict(zip(names, parts, strict=True))
            bound[key] = names if isinstance(value, tuple) else names[0]
        else:
            bound[key] = value
    builder = Builder(**arrays)
    outputs = [(f"out{i}", dtype, None) for i, dtype in enumerate(dtypes or ("fp32",))]
    builder.op(kind, *outputs, **bound)
    results = builder.load(*(name for name, _, _ in outputs)).run(arrays, run_mode)
    values = [results[name] for name, _, _ in outputs]
    return values[0] if len(values) == 1 else values
