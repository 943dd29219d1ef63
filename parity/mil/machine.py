"""Executes compiled blocks: each step's result meets its declared type, events are noted, dead values freed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parity.core.errors import ParityError
from parity.mil import events
from parity.mil.errors import OperatorFailed
from parity.mil.events import FP16_MAX, Event, Peak
from parity.mil.precision import Context, Precision
from parity.mil.registry import Operator
from parity.mil.types import TensorType

ITERATION_LIMIT = 100_000
"""A loop that runs longer is taken for one that never ends."""

UNFIT = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, MemoryError)
"""What torch and Python raise when the operands of a damaged program do not fit its operator."""

Environment = dict[str, Any]
Traced = tuple[str, str, Any]  # operator, output name, value


@dataclass(frozen=True)
class Constant:
    """A value known when the program was compiled, where otherwise the name of a value would stand."""

    value: Any


Source = str | Constant


def fetch(source: Source, env: Environment) -> Any:
    """The value of a name or constant."""
    return source.value if isinstance(source, Constant) else env[source]


@dataclass(frozen=True)
class Output:
    """One declared result; ``type`` is ``None`` for what is not a tensor."""

    name: str
    type: TensorType | None


@dataclass
class Step:
    """One operation. ``dies`` names the values that nothing after it uses."""

    operator: str
    outputs: tuple[Output, ...]
    module: str
    dies: tuple[str, ...] = ()

    def execute(self, run: Run, env: Environment) -> Iterator[Traced]:
        """Put the results into ``env``, yielding what there is to see."""
        raise NotImplementedError

    def bind(self, run: Run, env: Environment, results: Sequence[Any], exact: bool) -> Iterator[Traced]:
        """Store results under the declared names, as their declared types."""
        if len(results) < len(self.outputs):
            raise OperatorFailed(f"{self.operator}: {len(results)} results for {len(self.outputs)} outputs")
        for output, result in zip(self.outputs, results, strict=False):
            value = run.conform(result, output, self, exact)
            env[output.name] = value
            yield self.operator, output.name, value


@dataclass
class Block:
    """Steps, the names they are given and the names or constants they give back."""

    inputs: tuple[str, ...]
    steps: list[Step]
    outputs: tuple[Source, ...]


@dataclass
class Argument:
    """One input of a call: where its values come from and the form that the function wants."""

    name: str
    sources: tuple[Source, ...]
    many: bool
    convert: Callable[[Any], Any]

    def value(self, env: Environment) -> Any:
        """The converted value."""
        values = [fetch(s, env) for s in self.sources]
        return self.convert(values if self.many else values[0])


@dataclass
class Call(Step):
    """An operator of the registry. ``fixed`` holds the arguments that are constant, already converted."""

    function: Operator = field(kw_only=True)
    fixed: dict[str, Any] = field(kw_only=True)
    arguments: tuple[Argument, ...] = field(kw_only=True)
    exact: bool = field(kw_only=True)

    def execute(self, run: Run, env: Environment) -> Iterator[Traced]:
        """Call the function and store its results."""
        try:
            given = {a.name: a.value(env) for a in self.arguments}
            if self.function.wants_context:
                given["ctx"] = run.context(self)
            run.operands = [*self.fixed.values(), *given.values()]
            result = self.function.function(**self.fixed, **given)
            results = result if isinstance(result, tuple) else (result,)
            yield from self.bind(run, env, results, self.exact)
        except ParityError as error:
            raise OperatorFailed(f"{self.operator} {self.outputs[0].name!r}: {error}") from error


@dataclass
class While(Step):
    """``while_loop``: two blocks over the loop variables, a condition and a body."""

    variables: tuple[Source, ...] = field(kw_only=True)
    condition: Block = field(kw_only=True)
    body: Block = field(kw_only=True)

    def execute(self, run: Run, env: Environment) -> Iterator[Traced]:
        """Repeat the body while the condition holds."""
        values = [fetch(v, env) for v in self.variables]
        for _ in range(ITERATION_LIMIT):
            inner = env | dict(zip(self.condition.inputs, values, strict=True))
            yield from run.block(self.condition, inner)
            if not bool(fetch(self.condition.outputs[0], inner)):
                yield from self.bind(run, env, values, exact=False)
                return
            inner = env | dict(zip(self.body.inputs, values, strict=True))
            yield from run.block(self.body, inner)
            values = [fetch(o, inner) for o in self.body.outputs]
        raise OperatorFailed(f"while_loop {self.outputs[0].name!r} did not end in {ITERATION_LIMIT} iterations")


@dataclass
class Cond(Step):
    """``cond``: the first block if the predicate holds, else the second."""

    predicate: Source = field(kw_only=True)
    branches: tuple[Block, Block] = field(kw_only=True)

    def execute(self, run: Run, env: Environment) -> Iterator[Traced]:
        """Run one branch."""
        branch = self.branches[0 if bool(fetch(self.predicate, env)) else 1]
        inner = dict(env)
        yield from run.block(branch, inner)
        yield from self.bind(run, env, [fetch(o, inner) for o in branch.outputs], exact=False)


@dataclass
class ReadState(Step):
    """``read_state``: the value of a state as it is now."""

    state: str = field(kw_only=True)

    def execute(self, run: Run, env: Environment) -> Iterator[Traced]:
        """Take the state; no operator changes a value in place, and a write replaces it."""
        yield from self.bind(run, env, [run.state[self.state]], exact=False)


@dataclass
class WriteState(Step):
    """``write_state``: a new value for a state, kept for the next call."""

    state: str = field(kw_only=True)
    data: Source = field(kw_only=True)

    def execute(self, run: Run, env: Environment) -> Iterator[Traced]:
        """Replace the state's value; its shape stays."""
        value = fetch(self.data, env)
        if value.shape != run.state[self.state].shape:
            raise OperatorFailed(
                f"write_state: shape {list(value.shape)} into state {self.state!r} of shape "
                f"{list(run.state[self.state].shape)}"
            )
        run.state[self.state] = value
        yield self.operator, self.state, value


class Run:
    """One execution of a function: its precision, its state, and what it noticed."""

    def __init__(self, precision: Precision, state: dict[str, Tensor]) -> None:
        self.precision = precision
        self.state = state
        self.events: list[Event] = []
        self.peak = Peak(0.0, "", "")
        self.operands: list[Any] = []  # of the operator whose results are being stored
        self._seen: set[tuple[str, str]] = set()

    def block(self, block: Block, env: Environment) -> Iterator[Traced]:
        """Execute the steps of a block in ``env``."""
        for step in block.steps:
            try:
                yield from step.execute(self, env)
            except UNFIT as error:
                where = step.outputs[0].name if step.outputs else ""
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise OperatorFailed(f"{step.operator} {where!r}: {reason}") from error
            for name in step.dies:
                env.pop(name, None)

    def context(self, step: Step) -> Context:
        """What the operator of a step may use."""
        declared = step.outputs[0].type
        is_fp16 = declared is not None and declared.dtype.name == "fp16"
        return Context(self.precision, is_fp16, partial(self.report, step, step.outputs[0].name))

    def report(self, step: Step, output: str, kind: str, **detail: Any) -> None:
        """Note an event; a loop that meets it again does not repeat it."""
        if (kind, output) not in self._seen:
            self._seen.add((kind, output))
            self.events.append(Event(kind, step.operator, output, step.module, detail))

    def conform(self, value: Any, output: Output, step: Step, exact: bool) -> Any:
        """``value`` as its declared type: rounded, wrapped, and reported where it does not fit."""
        if output.type is None or not isinstance(value, Tensor):
            return value
        dtype = output.type.dtype
        if not output.type.admits(tuple(value.shape)):
            if output.type.shape == () and value.numel() == 1:
                value = value.reshape(())
            else:
                wanted = [n or "?" for n in output.type.shape or ()]
                self.report(step, output.name, events.MISMATCH, declared=wanted, found=list(value.shape))
        if dtype.kind == "float":
            value = value.to(self.precision.float_dtype)
            if exact or not value.numel():
                return value
            return self._as_fp16(value, output, step) if dtype.name == "fp16" else self._as_wide(value, output, step)
        if dtype.kind == "bool":
            return value.bool()
        return value if exact else self._as_integer(value.to(torch.int64), output, step)

    def _as_fp16(self, value: Tensor, output: Output, step: Step) -> Tensor:
        low, high = (float(v) for v in value.aminmax())
        peak = max(-low, high)
        if not math.isfinite(low) or not math.isfinite(high):
            finite = value[torch.isfinite(value)].abs()
            peak = float(finite.max()) if finite.numel() else 0.0
            self._non_finite(value, output, step)
        if peak > self.peak.value:
            self.peak = Peak(peak, step.operator, output.name)
        if peak >= FP16_MAX + 16:  # rounds to infinity
            self.report(step, output.name, events.OVERFLOW, peak=peak, headroom=FP16_MAX / peak)
        elif peak > FP16_MAX / 2:
            self.report(step, output.name, events.NEAR_OVERFLOW, peak=peak, headroom=FP16_MAX / peak)
        return value.half().to(value.dtype) if self.precision.rounds else value

    def _as_wide(self, value: Tensor, output: Output, step: Step) -> Tensor:
        if not math.isfinite(float(value.sum())):
            self._non_finite(value, output, step)
        return value

    def _non_finite(self, value: Tensor, output: Output, step: Step) -> None:
        """Report NaN and infinity that no operand had."""
        flat = [v for o in self.operands for v in (o if isinstance(o, list) else [o])]
        operands = [v for v in flat if isinstance(v, Tensor) and v.dtype.is_floating_point]
        for kind, test in ((events.NAN, torch.isnan), (events.INFINITE, torch.isinf)):
            found = test(value)
            if bool(found.any()) and not any(bool(test(v).any()) for v in operands):
                self.report(step, output.name, kind, share=float(found.float().mean()))

    def _as_integer(self, value: Tensor, output: Output, step: Step) -> Tensor:
        assert output.type is not None
        smallest, largest = output.type.dtype.limits
        if value.numel():
            low, high = (int(v) for v in value.aminmax())
            if low < smallest or high > largest:
                self.report(step, output.name, events.INTEGER_WRAP, lowest=low, highest=high)
                value = (value - smallest) % (largest - smallest + 1) + smallest
        return value
