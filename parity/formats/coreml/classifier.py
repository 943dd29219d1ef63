"""Core ML classifiers: they give a label and a dictionary of probabilities, and their classes stand in the file. In the
child."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.core.errors import ParityError
from parity.formats.target import Array

Label = str | int


def labels(spec: Any) -> list[Label]:
    """The classes of a model's specification, in the order of its probabilities; empty where it is no classifier."""
    if spec.WhichOneof("Type") == "mlProgram":
        blocks = [b for f in spec.mlProgram.functions.values() for b in f.block_specializations.values()]
        return next((_argument(block, op) for block in blocks for op in block.operations if op.type == "classify"), [])
    network = getattr(spec, spec.WhichOneof("Type"))
    kind = network.WhichOneof("ClassLabels") if "ClassLabels" in network.DESCRIPTOR.oneofs_by_name else None
    return list(getattr(network, kind).vector) if kind else []


def _argument(block: Any, operation: Any) -> list[Label]:
    """The `classes` of a `classify`: a list of strings, or a tensor of integers, given there or by a constant."""
    argument = operation.inputs["classes"].arguments[0]
    if argument.WhichOneof("binding") == "value":
        return _values(argument.value)
    constants = (op for op in block.operations if op.type == "const" and op.outputs[0].name == argument.name)
    return next((_values(op.attributes["val"]) for op in constants), [])


def _values(value: Any) -> list[Label]:
    held = value.immediateValue
    if held.WhichOneof("value") == "list":
        return [label for part in held.list.values for label in _values(part)]
    kind = held.tensor.WhichOneof("value")
    return list(getattr(held.tensor, kind).values) if kind else []


def arrays(got: Mapping[str, Any], asked: Mapping[str, Any], order: Sequence[Label], dtype: str) -> dict[str, Array]:
    """Outputs as arrays: probabilities by class as [1, classes] of `dtype`, in the file's `order`. A label has no array
    and is left out. Raises ParityError where `asked`, the outputs of the artefact's notes, names one."""
    named = {entry["name"] for entry in asked.values()}
    found: dict[str, Array] = {}
    for name, value in got.items():
        if isinstance(value, Mapping):
            found[name] = np.array([[value[label] for label in order or value]], dtype)
        elif not isinstance(value, (str, int)):
            found[name] = value
        elif name in named:
            probabilities = ", ".join(n for n, v in got.items() if isinstance(v, Mapping))
            raise ParityError(f"the file's {name!r} is the label of a class, no tensor: name {probabilities} instead")
    return found
