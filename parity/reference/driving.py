"""Inputs that drive a module to what no draw reaches: the largest and least values of its layers and outputs, and
choices that no measured input made. Found by gradients, inside the declared ranges. In a child process only.

A random input meets a thousand weights with as many signs as not, and their sum stays small; one that is aligned with
them reaches ten times as much. A bound, a table or a softmax of the file may end in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from parity.core.case import Array, spread
from parity.process.child import stage
from parity.reference import modelling, reads
from parity.reference.following import place
from parity.reference.messages import Driven, DrivingRequest

PLACES = 6  # layers and outputs together, outputs first
MOST_OUTPUTS = 3
CHOICES = 8  # classes that no measured input chose
MOST_CLASSES = 256  # of a choice; more are positions
STEPS = (1.0, 1.0, 0.25)  # shares of the range that an element moves by, along the sign of its gradient
OPERATIONS = 6e11  # of all steps of a model; a larger one is driven to fewer places

_MIXING_WORDS = """
    linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul __matmul__ __rmatmul__ bmm
    mm mv addmm addmv baddbmm addbmm einsum tensordot dot inner bilinear prod cumsum cumprod lstm gru rnn_tanh rnn_relu
    scaled_dot_product_attention multi_head_attention_forward
"""
_MIXING = frozenset(_MIXING_WORDS.split())
_BOUNDING = frozenset(
    ["clamp", "clip", "clamp_min", "clamp_max", "hardtanh", "relu6", "minimum", "maximum", "min", "max"]
)
_CHOOSING = frozenset(["argmax", "argmin", "topk", "max", "min"])

Inputs = Mapping[str, torch.Tensor]
Value = Callable[["_Run"], torch.Tensor | None]
"""The number that an input is to make large; None where the run had no such place."""


@dataclass(frozen=True)
class _Choice:
    """A choice among the last axis of `scores`, (rows, classes): the `count` highest of each row. `taken`: which."""

    scores: torch.Tensor
    count: int
    taken: frozenset[int]
    where: str


@dataclass
class _Run:
    """What one run of the module showed: the results that mix many numbers, what was given to bounds, by their places,
    the choices, and the outputs."""

    mixed: list[tuple[str, torch.Tensor]] = field(default_factory=list)
    bounded: list[tuple[str, torch.Tensor]] = field(default_factory=list)
    choices: list[_Choice] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)


@reads.noting
def drive(request: DrivingRequest) -> Driven:
    """The driven inputs, each with what it is driven to; none for a module that has no gradients or is too large."""
    stage("driving")
    module = modelling.load(request.model)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    driver = _Driver(module, request.ranges, request.places)
    try:
        with modelling.plain_attention():
            return driver.drive(request.bases, request.measured)
    except Exception as error:  # the project's own code, which may not take what has a gradient
        lines = str(error).strip().splitlines() or [""]
        return Driven((), (), f"{type(error).__name__}: {lines[0]:.160}")


class _Driver:
    def __init__(self, module: torch.nn.Module, ranges: Mapping[str, tuple[float, float]], places: Sequence[str]):
        self.module, self.ranges, self.places = module, ranges, places
        self.names = {id(part): name for name, part in module.named_modules()}
        self.rows: list[Mapping[str, Array]] = []
        self.words: list[str] = []

    def drive(self, bases: Sequence[Mapping[str, Array]], measured: Sequence[Mapping[str, Array]]) -> Driven:
        starts = [self._tensors(base) for base in bases]
        operations = FlopCounterMode(display=False)
        with operations, torch.no_grad():
            self._run(self._leaves(starts[0]))
        # A gradient costs twice what the outputs do.
        left = math.floor(OPERATIONS / max(3 * (len(STEPS) + 1) * operations.get_total_flops(), 1))
        if left == 0:
            return Driven((), (), "it is too large")
        with torch.enable_grad():
            runs = [self._run({n: t * 1 for n, t in self._leaves(start).items()}) for start in starts]
        if not any(value.requires_grad for run in runs for value in _values(run)):
            return Driven((), (), "it has no gradients")
        for start, value, word in self._goals(starts, runs):
            if left > 0:
                left -= 1
                self._keep(*self._climbed(start, value), word)
        if runs[0].choices and left > 0 and not self.places:
            self._choose(starts, runs, measured, left)
        return Driven(self.rows, self.words, "")

    def _tensors(self, base: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        """An input as tensors, what is driven inside its range."""
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in base.items()}
        return {n: t.clamp(*self.ranges[n]) if n in self.ranges else t for n, t in tensors.items()}

    def _run(self, inputs: Inputs) -> _Run:
        run = _Run()
        with _Watch(run, self.names, self.places):
            result = self.module(*inputs.values())
        run.outputs = list(_floats(result))
        return run

    def _goals(self, starts: Sequence[Inputs], runs: Sequence[_Run]) -> Iterator[tuple[Inputs, Value, str]]:
        """For each place the start that is highest there, the element to raise, and what a reader is told; and the
        same downwards."""
        for kind, number in self._places(runs[0]):
            for sign, word in ((1, "highest"), (-1, "lowest")):
                ends = [_end(_at(run, kind, number), sign) for run in runs]
                best = max(range(len(ends)), key=lambda n: ends[n][0])
                if math.isfinite(ends[best][0]):
                    where = f"output {number}" if kind == "outputs" else _listed(runs[best], kind)[number][0]
                    yield starts[best], _element(kind, number, ends[best][1], sign), f"{word} {where}"

    def _places(self, run: _Run) -> list[tuple[str, int]]:
        if self.places:
            return [("bounded", number) for number in spread(len(run.bounded), PLACES)]
        outputs = list(range(len(run.outputs)))[:MOST_OUTPUTS]
        places: list[tuple[str, int]] = [("outputs", number) for number in outputs]
        return places + [("mixed", number) for number in spread(len(run.mixed), PLACES - len(places))]

    def _climbed(self, start: Inputs, value: Value, shares: Sequence[float] = STEPS) -> tuple[Inputs, float, float]:
        """The input with the highest value on the way up from `start`, that value, and the one at the start."""
        best, (first, slopes) = start, self._slopes(start, value)
        highest = first
        for share in shares:
            moved = self._moved(best, slopes, share)
            reached, further = self._slopes(moved, value)
            if reached > highest:
                best, highest, slopes = moved, reached, further
        return best, highest, first

    def _slopes(self, inputs: Inputs, value: Value) -> tuple[float, dict[str, torch.Tensor]]:
        """The value of an input, minus infinity where there is none, and the gradient by the name of what is driven."""
        leaves = self._leaves(inputs)
        with torch.enable_grad():  # a module may write into its inputs, and none into a leaf
            reached = value(self._run({n: t * 1 if t.requires_grad else t for n, t in leaves.items()}))
        if reached is None or not bool(torch.isfinite(reached)):
            return -math.inf, {}
        if not reached.requires_grad:
            return float(reached), {}
        slopes = torch.autograd.grad(reached, [leaves[name] for name in self.ranges], allow_unused=True)
        return float(reached), {n: s for n, s in zip(self.ranges, slopes, strict=True) if s is not None}

    def _leaves(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """The inputs, each a copy; those that are driven have a gradient."""
        return {n: t.detach().clone().requires_grad_(n in self.ranges) for n, t in inputs.items()}

    def _moved(self, inputs: Inputs, slopes: Mapping[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
        """The input, each element moved by a share of its range along the sign of its slope."""
        moved = dict(inputs)
        for name, slope in slopes.items():
            low, high = self.ranges[name]
            moved[name] = (inputs[name] + share * (high - low) * slope.nan_to_num().sign()).clamp(low, high)
        return moved

    def _keep(self, inputs: Inputs, reached: float, before: float, words: str) -> None:
        """Keep an input that is further than where it began, once."""
        row = {name: tensor.detach().numpy() for name, tensor in inputs.items()}
        same = (all(np.array_equal(row[name], kept[name]) for name in row) for kept in self.rows)
        if reached > before and not any(same):
            self.rows.append(row)
            self.words.append(words)

    def _choose(
        self, starts: Sequence[Inputs], runs: Sequence[_Run], measured: Sequence[Mapping[str, Array]], left: int
    ) -> None:
        """Inputs that make choices which no measured input makes."""
        taken = [set(choice.taken) for choice in runs[0].choices]
        for row in measured:
            with torch.no_grad():
                run = self._run({name: torch.from_numpy(np.array(value)) for name, value in row.items()})
            for number, choice in enumerate(run.choices[: len(taken)]):
                taken[number] |= choice.taken
        open_ = [
            (number, item)
            for number, choice in enumerate(runs[0].choices)
            for item in sorted(set(range(choice.scores.shape[-1])) - taken[number])
            if choice.scores.shape[-1] <= MOST_CLASSES
        ]
        for place_ in spread(len(open_), min(CHOICES, left)):
            number, item = open_[place_]
            self._raise(starts[0], number, item, runs[0].choices[number].where)

    def _raise(self, start: Inputs, number: int, item: int, where: str) -> None:
        """Raise the score of a class, then its margin over what is chosen instead; keep an input that chooses it."""
        margin, score = _margin(number, item), _score(number, item)
        if self._slopes(start, margin)[0] > 0:
            return
        inputs, _, _ = self._climbed(start, score, STEPS[:1])
        if self._slopes(inputs, margin)[0] <= 0:
            inputs, _, _ = self._climbed(inputs, margin)
        reached, _ = self._slopes(inputs, margin)
        self._keep(inputs, reached, 0.0, f"choice {item} of {where}")


class _Watch(TorchFunctionMode):
    def __init__(self, run: _Run, names: Mapping[int, str], places: Sequence[str]):
        super().__init__()
        self.run, self.names, self.places = run, names, places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.places and name.rstrip("_") in _BOUNDING and place(self.names) in self.places:
            where = f"{name.strip('_')} {place(self.names)}"
            self.run.bounded += [(where, given * 1) for given in args if _is_float(given)]  # it may be written in place
        result = func(*args, **keywords)
        if name in _MIXING:
            tensor = next(_floats(result), None)
            if tensor is not None:
                self.run.mixed.append((f"{name.strip('_')} {place(self.names)}".rstrip(), tensor))
        elif name in _CHOOSING:
            choice = _choice(name, args, keywords, result, self.names)
            if choice is not None:
                self.run.choices.append(choice)
        return result


def _choice(
    name: str, args: Sequence[Any], keywords: Mapping[str, Any], result: Any, names: Mapping[int, str]
) -> _Choice | None:
    """What an operator chose among the numbers along one axis; None for one that takes the extreme of a whole tensor,
    or of two."""
    positional = list(args[1:])
    count = 1
    if name == "topk":
        count = keywords["k"] if "k" in keywords else positional.pop(0)
    scores = args[0] if args else keywords.get("input")
    axis = keywords.get("dim", positional[0] if positional else (-1 if name == "topk" else None))
    indices = result if isinstance(result, torch.Tensor) else result[1]
    if not isinstance(axis, int) or not isinstance(scores, torch.Tensor) or indices.dtype is not torch.int64:
        return None
    if not scores.is_floating_point() or scores.ndim == 0:
        return None
    lowest = name in ("argmin", "min") or (name == "topk" and keywords.get("largest") is False)
    classes = scores.shape[axis]
    rows = scores.movedim(axis, -1).reshape(-1, classes)
    taken = frozenset(int(item) for item in indices.unique().tolist())
    return _Choice(-rows if lowest else rows, int(count), taken, f"{name} {place(names)}".rstrip())


def _floats(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _floats(part)
    elif _is_float(value) and value.numel():
        yield value


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _values(run: _Run) -> list[torch.Tensor]:
    listed = (tensor for _, tensor in (*run.mixed, *run.bounded))
    return [*run.outputs, *listed, *(choice.scores for choice in run.choices)]


def _at(run: _Run, kind: str, number: int) -> torch.Tensor | None:
    tensors = run.outputs if kind == "outputs" else [tensor for _, tensor in _listed(run, kind)]
    return tensors[number] if number < len(tensors) else None


def _listed(run: _Run, kind: str) -> list[tuple[str, torch.Tensor]]:
    return run.bounded if kind == "bounded" else run.mixed


def _end(tensor: torch.Tensor | None, sign: int) -> tuple[float, int]:
    """The highest element times `sign`, and where it is among all."""
    if tensor is None:
        return -math.inf, 0
    values = (sign * tensor.detach()).reshape(-1).nan_to_num(-math.inf, -math.inf, -math.inf)
    index = int(values.argmax())
    return float(values[index]), index


def _element(kind: str, number: int, index: int, sign: int) -> Value:
    def value(run: _Run) -> torch.Tensor | None:
        tensor = _at(run, kind, number)
        return None if tensor is None or index >= tensor.numel() else sign * tensor.reshape(-1)[index]

    return value


def _score(number: int, item: int) -> Value:
    """The highest score of a class in any row."""

    def value(run: _Run) -> torch.Tensor | None:
        return run.choices[number].scores[:, item].max() if number < len(run.choices) else None

    return value


def _margin(number: int, item: int) -> Value:
    """By how much, in the row where it is most, the score of a class is above the first that is not chosen with it."""

    def value(run: _Run) -> torch.Tensor | None:
        if number >= len(run.choices):
            return None
        choice = run.choices[number]
        others = torch.cat([choice.scores[:, :item], choice.scores[:, item + 1 :]], dim=1)
        if others.shape[1] < choice.count:
            return None
        return (choice.scores[:, item] - others.topk(choice.count, dim=1).values[:, -1]).max()

    return value
