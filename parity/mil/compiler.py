"""Turns a function of a program into steps: constants decoded once, arguments converted once, last uses known."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

import parity.mil.ops  # noqa: F401  fills the registry
from parity.mil.errors import CorruptPackage, UnsupportedOperator
from parity.mil.interface import declared_type
from parity.mil.machine import (
    Argument,
    Block,
    Call,
    Cond,
    Constant,
    Output,
    ReadState,
    Run,
    Source,
    Step,
    While,
    WriteState,
)
from parity.mil.package import Package
from parity.mil.precision import Precision
from parity.mil.registry import OPERATORS, REFUSED, STRUCTURAL, Operator
from parity.mil.types import TensorType
from parity.mil.values import decode

WEIGHT_NAME = re.compile(r"^(?:p_|b_)?(.+?)_(?:\w*weight\w*|bias|running_mean|running_var|gamma|beta)(?:_|$)")

Scope = dict[str, Source]  # what each visible name stands for
Types = dict[str, TensorType | None]


def inventory(block: Any) -> Counter[str]:
    """How often each operator occurs in a protobuf block, nested blocks included."""
    count: Counter[str] = Counter()
    for operation in block.operations:
        count[operation.type] += 1
        for nested in operation.blocks:
            count += inventory(nested)
    return count


def check_supported(operators: Counter[str]) -> None:
    """Raise :class:`UnsupportedOperator` for the first operator that cannot be evaluated."""
    for name in operators:
        if name not in OPERATORS and name not in STRUCTURAL:
            raise UnsupportedOperator(name, REFUSED.get(name, "it is not known to this evaluator"))


def _free_names(operation: Any) -> Iterator[str]:
    """The names that an operation uses, in its arguments and in its blocks."""
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "name":
                yield binding.name
    for block in operation.blocks:
        for inner in block.operations:
            yield from _free_names(inner)
        yield from block.outputs


class Compiler:
    """Compiles the blocks of one function for one precision, with ``replaced`` values for constants of these names."""

    def __init__(
        self, package: Package, precision: Precision, replaced: Mapping[str, np.ndarray[Any, Any]] | None = None
    ) -> None:
        self._package = package
        self._precision = precision
        self._replaced = replaced or {}
        self._module = ""

    def block(self, proto: Any, scope: Scope, types: Types) -> Block:
        """A block, given what the names around it stand for. ``scope`` and ``types`` are not changed."""
        scope, types = dict(scope), dict(types)
        inputs = tuple(i.name for i in proto.inputs)
        for i in proto.inputs:
            scope[i.name], types[i.name] = i.name, declared_type(i.type)
        last_use: dict[str, int] = {}
        for position, operation in enumerate(proto.operations):
            last_use |= dict.fromkeys(_free_names(operation), position)
        steps: list[Step] = []
        own: dict[str, int] = dict.fromkeys(inputs, -1)
        kept = set(proto.outputs)
        for position, operation in enumerate(proto.operations):
            step = self._operation(operation, scope, types)
            for output in operation.outputs:
                own[output.name] = position
            if step is not None:
                dead = [n for n in own if last_use.get(n, own[n]) <= position and n not in kept]
                step.dies = tuple(dead)
                for name in dead:
                    del own[name]
                steps.append(step)
        return Block(inputs, steps, tuple(self._source(name, scope) for name in proto.outputs))

    def _operation(self, operation: Any, scope: Scope, types: Types) -> Step | None:
        """The step of an operation; none for what is known already. Its outputs enter ``scope`` and ``types``."""
        kind = operation.type
        outputs = tuple(Output(o.name, declared_type(o.type)) for o in operation.outputs)
        types.update((o.name, o.type) for o in outputs)
        if outputs and outputs[0].name in self._replaced:
            scope[outputs[0].name] = Constant(self._tensor(self._replaced[outputs[0].name]))
            return None
        if kind == "const":
            scope[outputs[0].name] = Constant(self._const(operation, scope))
            return None
        self._module = self._module_of(operation) or self._module
        step = self._structural(operation, outputs, scope, types) or self._call(operation, outputs, scope, types)
        if isinstance(step, Call) and not step.arguments and kind.startswith("constexpr_"):
            env: dict[str, Any] = {}
            for _ in Run(self._precision, {}).block(Block((), [step], ()), env):
                pass
            scope.update((name, Constant(value)) for name, value in env.items())
            return None
        scope.update((o.name, o.name) for o in outputs)
        return step

    def _structural(self, operation: Any, outputs: tuple[Output, ...], scope: Scope, types: Types) -> Step | None:
        common = (operation.type, outputs, self._module)
        blocks = operation.blocks
        if operation.type in ("while_loop", "cond") and len(blocks) != 2:
            raise CorruptPackage(f"{operation.type} has {len(blocks)} blocks, not 2")
        if operation.type == "while_loop":
            condition, body = (self.block(b, scope, types) for b in blocks)
            variables = self._sources(operation, "loop_vars", scope)
            if not len(variables) == len(condition.inputs) == len(body.inputs) == len(body.outputs) == len(outputs):
                raise CorruptPackage("while_loop: its variables do not match its blocks")
            return While(*common, variables=variables, condition=condition, body=body)
        if operation.type == "cond":
            then, otherwise = (self.block(b, scope, types) for b in blocks)
            return Cond(*common, predicate=self._sources(operation, "pred", scope)[0], branches=(then, otherwise))
        if operation.type == "read_state":
            return ReadState(*common, state=self._state(operation, scope))
        if operation.type == "write_state":
            return WriteState(
                *common, state=self._state(operation, scope), data=self._sources(operation, "data", scope)[0]
            )
        return None

    def _state(self, operation: Any, scope: Scope) -> str:
        source = self._sources(operation, "input", scope)[0]
        if isinstance(source, Constant):
            raise CorruptPackage(f"{operation.type} of a constant")
        return source

    def _call(self, operation: Any, outputs: tuple[Output, ...], scope: Scope, types: Types) -> Call:
        name = operation.type
        if name not in OPERATORS:
            raise UnsupportedOperator(name, REFUSED.get(name, "it is not known to this evaluator"))
        function = OPERATORS[name]
        if not outputs:
            raise CorruptPackage(f"operator {name} has no output")
        where = f"operator {name} {outputs[0].name!r}"
        given: dict[str, tuple[Source, ...]] = {key: self._sources(operation, key, scope) for key in operation.inputs}
        for key, value in operation.attributes.items():
            if key != "name":
                given.setdefault(key, (Constant(self._tensor(decode(value, self._package))),))
        if unknown := set(given) - set(function.parameters):
            raise CorruptPackage(f"{where} has no input {sorted(unknown)[0]!r}")
        for key, parameter in function.parameters.items():
            if parameter.required and key not in given:
                raise CorruptPackage(f"{where} lacks its input {key!r}")
        return self._bind(operation, function, outputs, given, types)

    def _bind(
        self,
        operation: Any,
        function: Operator,
        outputs: tuple[Output, ...],
        given: dict[str, tuple[Source, ...]],
        types: Types,
    ) -> Call:
        fixed: dict[str, Any] = {}
        arguments: list[Argument] = []
        for key, sources in given.items():
            parameter = function.parameters[key]
            many = parameter.variadic or len(sources) > 1
            argument = Argument(key, sources, many, parameter.convert)
            if all(isinstance(s, Constant) for s in sources):
                fixed[key] = argument.value({})
            else:
                arguments.append(argument)
        used = [types.get(n) for n in _free_names(operation)]
        floats = {t.dtype.name for t in used if t is not None and t.dtype.kind == "float"}
        kept_type = all(
            o.type is None or o.type.dtype.kind != "float" or {o.type.dtype.name} == floats for o in outputs
        )
        return Call(
            operation.type,
            outputs,
            self._module,
            function=function,
            fixed=fixed,
            arguments=tuple(arguments),
            exact=function.exact and kept_type,
        )

    def _const(self, operation: Any, scope: Scope) -> Any:
        if "val" in operation.attributes:
            return self._tensor(decode(operation.attributes["val"], self._package))
        source = self._sources(operation, "val", scope)[0]
        if not isinstance(source, Constant):
            raise CorruptPackage("a const operation without a constant")
        return source.value

    def _sources(self, operation: Any, key: str, scope: Scope) -> tuple[Source, ...]:
        if key not in operation.inputs or not operation.inputs[key].arguments:
            raise CorruptPackage(f"operator {operation.type} lacks its input {key!r}")
        sources: list[Source] = []
        for binding in operation.inputs[key].arguments:
            if binding.WhichOneof("binding") == "name":
                sources.append(self._source(binding.name, scope))
            else:
                sources.append(Constant(self._tensor(decode(binding.value, self._package))))
        return tuple(sources)

    def _source(self, name: str, scope: Scope) -> Source:
        if name not in scope:
            raise CorruptPackage(f"the value {name!r} is used before anything gives it")
        return scope[name]

    def _tensor(self, constant: Any) -> Any:
        """A decoded constant as operators hold values: every float in one type, every integer as int64."""
        if isinstance(constant, list):
            return [self._tensor(c) for c in constant]
        if not isinstance(constant, np.ndarray):
            return constant
        if constant.dtype.kind == "f":
            return torch.from_numpy(constant.astype(np.float64)).to(self._precision.float_dtype)
        return torch.from_numpy(constant.astype(np.bool_ if constant.dtype.kind == "b" else np.int64))

    @staticmethod
    def _module_of(operation: Any) -> str:
        matches = (WEIGHT_NAME.match(name) for name in _free_names(operation))
        return next((m.group(1) for m in matches if m), "")
