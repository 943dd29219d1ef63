"""What a Core ML program draws at random and decides by data, blocks of control flow among it. Child only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parity.formats.graph import NotPossible
from parity.formats.survey import MOST, RANDOM, Meaning, Node, Survey, linked, recurrent
from parity.mil.package import Package
from parity.mil.values import decode

_MEANINGS: Mapping[str, Meaning] = {
    **dict.fromkeys(("equal", "not_equal"), "equal"),
    **dict.fromkeys(("greater", "greater_equal", "less", "less_equal"), "order"),
    **dict.fromkeys(("logical_and", "logical_or", "logical_not", "logical_xor"), "boolean"),
    **dict.fromkeys(("expand_dims", "squeeze", "reshape", "identity", "tile"), "same"),
    "shape": "shape",
    "non_zero": "nonzero",
    "sign": "sign",
    **dict.fromkeys(("reduce_argmax", "reduce_argmin", "topk", "argsort", "non_maximum_suppression"), "rank"),
    **dict.fromkeys(("floor", "ceil", "round"), "round"),
    "one_hot": "onehot",
}

_RECURRENT = {"gru": ("sigmoid", "tanh"), "lstm": ("sigmoid", "tanh"), "rnn": ("tanh", "relu")}
"""The activations of PyTorch's recurrent layers."""

_FLOATS = (10, 11, 12)  # of 16, 32 and 64 bits, as MIL numbers its types


def survey(folder: str, notes: Mapping[str, Any]) -> Survey:
    """The survey of an .mlpackage. Raises NotPossible where it holds no program."""
    package = Package(Path(folder, notes["entry"]))
    if package.spec.WhichOneof("Type") != "mlProgram":
        raise NotPossible("a neural network specification, which this reader does not know")
    program = package.spec.mlProgram
    name = package.spec.description.defaultFunctionName or "main"
    function = program.functions[name]
    block = function.block_specializations[function.opset]
    result = Survey([i.name for i in function.inputs])
    read = _Reader(package, result)
    read.types = {i.name: i.type.tensorType.dataType for i in function.inputs}
    read.block(block)
    declared = notes.get("states", {})  # each call is measured with them written before and read after
    result.keep({n: node for n, node in read.writers.items() if n not in declared}, read.reads, block.outputs)
    return result


class _Reader:
    """Fills a survey. Names are unique in a function, blocks included.

    `writers` and `reads` are, by the name of a state, the operator that writes it and the values that are read of it.
    """

    def __init__(self, package: Package, result: Survey):
        self.package, self.survey = package, result
        self.types: dict[str, int] = {}
        self.writers: dict[str, Node] = {}
        self.reads: dict[str, list[str]] = {}
        self.replaced: set[str] = set()  # states that every call has written so far

    def block(self, block: Any, always: bool = True) -> None:
        """`always`: the block is executed in every call."""
        for operation in block.operations:
            self._operation(operation, always)

    def _operation(self, operation: Any, always: bool) -> None:
        kind, outputs = operation.type, tuple(output.name for output in operation.outputs)
        place = outputs[0] if outputs else ""
        self.types.update((output.name, output.type.tensorType.dataType) for output in operation.outputs)
        if kind == "const" or kind.startswith("constexpr_"):
            self._constant(operation, place)
            return
        reads: dict[str, list[str]] = {}
        for key, argument in operation.inputs.items():
            reads[key] = []
            for number, binding in enumerate(argument.arguments):
                if binding.WhichOneof("binding") == "name":
                    reads[key].append(binding.name)
                else:
                    literal = f"{place}/{key}/{number}"
                    self._value(literal, binding.value)
                    reads[key].append(literal)
        order = sorted(reads, key=lambda key: key not in ("x", "data"))  # what a node is about comes first
        inputs = tuple(name for key in order for name in reads[key])
        self._state(kind, reads, outputs, always)
        for block in operation.blocks:
            self.block(block, always=False)
        if operation.blocks:
            self.survey.nodes += self._controlled(operation, reads, outputs, place)
        else:
            meaning = self._meaning(kind, reads)
            self.survey.nodes.append(Node(kind, place, inputs, outputs, meaning, inner=not always))
        if kind in _RECURRENT:
            self.survey.nodes += (replace(part, inner=not always) for part in self._beside(kind, place, reads, outputs))

    def _beside(
        self, kind: str, place: str, reads: Mapping[str, list[str]], outputs: tuple[str, ...]
    ) -> Iterator[Node]:
        """What a recurrent operator's arguments add to what PyTorch's layers compute."""
        keys = ("recurrent_activation", "cell_activation", "activation")
        given = [self._text(name) for key in keys for name in reads.get(key, ())]
        bounds = [self.survey.constants.get(name) for name in reads.get("clip", ())]
        clip = next((float(value) for value in bounds if value is not None), 0.0)
        other = [name for name in given if name and name not in _RECURRENT[kind]]
        yield from recurrent(place, outputs, ("clip", clip), other, self.survey.constants)

    def _state(self, kind: str, reads: Mapping[str, list[str]], outputs: Sequence[str], always: bool) -> None:
        """Note the state that an operator reads or writes. What is read after every call has written it anew carries
        nothing over."""
        name = next(iter(reads.get("input", ())), "")
        if kind == "read_state" and name not in self.replaced:
            self.reads.setdefault(name, []).extend(outputs)
        elif kind == "write_state":
            self.writers.setdefault(name, Node(kind, name, (), ()))
            if always:
                self.replaced.add(name)

    def _controlled(
        self, operation: Any, reads: Mapping[str, list[str]], outputs: tuple[str, ...], place: str
    ) -> Iterator[Node]:
        if operation.type == "cond":
            for block in operation.blocks:
                yield from linked(block.outputs, outputs)
            yield Node("cond", place, tuple(reads.get("pred", ())), outputs, "branch")
            return
        asked, body = operation.blocks
        for block in (asked, body):
            inner = [value.name for value in block.inputs]
            yield from linked(reads.get("loop_vars", ()), inner)
            yield from linked(body.outputs, inner)
        yield from linked(body.outputs, outputs)
        yield Node(operation.type, place, tuple(asked.outputs), (), "loop")

    def _meaning(self, kind: str, reads: Mapping[str, list[str]]) -> Meaning:
        if kind == "cast":
            to = next((self._text(name) for name in reads.get("dtype", ())), "")
            floating = any(self.types.get(name) in _FLOATS for name in reads.get("x", ()))
            if floating and to.startswith(("int", "uint")):
                return "round"
            return "nonzero" if to == "bool" else "same"
        if kind.startswith("gather"):
            table = next(iter(reads.get("x", ())), "")
            constant = self.survey.constants.get(table)
            return "table" if constant is not None and constant.dtype.kind == "i" and constant.ndim else ""
        return _MEANINGS.get(kind) or ("random" if RANDOM.search(kind) else "")

    def _text(self, name: str) -> str:
        value = self.survey.constants.get(name)
        return str(value) if value is not None and value.dtype.kind == "U" else ""

    def _constant(self, operation: Any, name: str) -> None:
        if operation.type == "const" and "val" in operation.attributes:
            self._value(name, operation.attributes["val"])

    def _value(self, name: str, value: Any) -> None:
        if value.type.WhichOneof("type") != "tensorType":
            return
        dimensions = value.type.tensorType.dimensions
        if int(np.prod([d.constant.size for d in dimensions])) <= MOST:
            self.survey.constants[name] = np.asarray(decode(value, self.package))
