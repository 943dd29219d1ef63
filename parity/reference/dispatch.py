"""The dispatch mode behind a twin: follows which tensors depend on the inputs, and rounds what they go through.

An operator's place is its number in the run with its name, so ranges and rounded weights are found again in the next
case. Where control flow depends on the data, places differ between cases; those operators take the range of their own
result, and `notes` says so.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from parity.reference import grid, operators
from parity.reference.operators import Contraction
from parity.reference.recipes import Recipe

Place = tuple[int, str]
Ranges = dict[Place, tuple[float, float]]
Phase = Literal["plan", "calibrate", "round"]


class Twin(TorchDispatchMode):
    """One recipe applied to one module. `begin` a phase, then run the module under `watching`.

    plan: note which results are read only by an operator that runtimes fuse into the one before; calibrate: note the
    range of every result; round: give the twin's outputs.
    """

    def __init__(self, recipe: Recipe):
        super().__init__()  # type: ignore[no-untyped-call]
        self.recipe = recipe
        self.phase: Phase = "plan"
        self.inside = 0  # depth in layers that the recipe leaves alone
        self._count = 0
        self._fused: set[Place] = set()  # results that are never rounded
        self._unread: set[Place] = set()  # results that no operator reads
        self._norms: dict[Place, tuple[Tensor, Tensor]] = {}  # scale and shift of each batch normalisation
        self._folded: dict[Place, Place] = {}  # convolution -> batch normalisation that goes into its weights
        self.ranges: Ranges = {}
        self._stored: dict[tuple[Place, int], tuple[Tensor, Tensor]] = {}  # a constant, and it as the recipe stores it
        self._moved: set[str] = set()
        self._opaque: set[str] = set()
        self._tape = _Tape()
        self._data: dict[
            int, tuple[StorageWeakRef, float]
        ] = {}  # storages that depend on inputs, and their grid's step

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: skipping it means importing it first, 1.2 s of every child, and nothing is compiled here."""
        return False

    def begin(self, phase: Phase, seed: int = 0) -> None:
        self.phase, self._count, self.inside = phase, 0, 0
        self._generator = torch.Generator().manual_seed(seed)
        self._data, self._tape = {}, _Tape()

    @contextlib.contextmanager
    def watching(self, inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Run the module inside this, on the inputs that it gives."""
        fed = {}
        for number, (name, value) in enumerate(inputs.items()):
            fed[name] = self._settle((-1 - number, name), value) if self.recipe.activations == "int8" else value
            self._tag(fed[name], self._step((-1 - number, name)))
        with torch.no_grad(), self:
            yield fed
        if self.phase == "plan":
            self._fused, self._folded = self._tape.fused()
            self._unread = self._tape.unread()

    def notes(self) -> list[str]:
        found = []
        if self._moved:
            found.append(
                f"control flow depends on the data (first at {min(self._moved)}): ranges there are each case's"
            )
        if self._opaque:
            found.append(f"rounded as one step: {', '.join(sorted(self._opaque))}")
        return found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [*_tensors(args), *_tensors(tuple(kwargs.values()))]
        if not any(self._is_data(t) for t in tensors):
            return func(*args, **kwargs)
        name = operators.name_of(func)
        if operators.splits(name, args, self.recipe.norms == "split"):
            with self:
                result = operators.split(name, self.recipe.activations == "int8")(*args, **kwargs)
                target = operators.written(func, args, kwargs)
                return result if target is None else target.copy_(result)
        if operators.is_move(func, name):
            result = func(*self._filling(name, args), **kwargs)
            sources = [t for t in tensors if self._is_data(t)]
            for tensor in _tensors(result):
                self._tag(tensor, self._step_of(sources[0]))
                self._tape.moved(_key(tensor), [_key(t) for t in sources])
            return result
        place = (self._count, name)
        self._count += 1
        constant = name == "add" and not all(self._is_data(t) for t in tensors)
        kind = "add constant" if constant else operators.kind_of(name, args)
        entry = self._tape.entry(place, kind, map(_key, tensors))
        result = self._compute(place, func, name, args, kwargs)
        target = operators.written(func, args, kwargs)
        if target is not None:
            result = target.copy_(self._settle(place, result))
        else:
            result = self._settled(place, result)
        if name == "cat" and place in self._unread:
            result = self._joined(place, result, *args)
        for tensor in _tensors(result):
            self._tag(tensor, self._step(place))
            self._tape.wrote(_key(tensor), entry)
        return result

    def _settled(self, place: Place, result: Any) -> Any:
        if isinstance(result, Tensor):
            return self._settle(place, result)
        return type(result)(self._settled(place, r) for r in result) if isinstance(result, (tuple, list)) else result

    def _compute(self, place: Place, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rounds = self.phase == "round" and not self.inside
        product = None if kwargs else operators.contraction(func, name, args)
        if product is not None:
            return self._contract(place, product, rounds)
        if name == "native_batch_norm" and not args[5]:
            return self._normalise(place, args, rounds), args[0].new_empty(0), args[0].new_empty(0)
        if operators.is_opaque(name):
            self._opaque.add(name)
        if rounds and self.recipe.plain_means and name == "mean" and not kwargs:
            return operators.plain_mean(*args)
        if rounds:
            target = operators.written(func, args, kwargs)
            args = tuple(a if a is target else self._constant(place, i, a) for i, a in enumerate(args))
        return func(*args, **kwargs)

    def _normalise(self, place: Place, args: tuple[Any, ...], rounds: bool) -> Tensor:
        """Batch normalisation in eval mode; nothing where the convolution before has done it already."""
        if not rounds:
            self._norms[place] = operators.affine(args)
        elif place in self._folded.values():
            return torch.clone(args[0])
        scale, shift = operators.affine(args)
        if rounds:
            scale, shift = self._constant(place, 1, scale), self._constant(place, 2, shift)
        value: Tensor = args[0]
        return value * scale + shift

    def _contract(self, place: Place, product: Contraction, rounds: bool) -> Tensor:
        if rounds and place in self._folded and not self._is_data(product.right):
            product = product.scaled(*self._norms[self._folded[place]])
        left, right, bias = product.left, product.right, product.bias
        if self.phase == "calibrate" and product.kind not in self.recipe.untouched:
            self._entering(place, 0, left)
            self._entering(place, 1, right)
        if not rounds or product.kind in self.recipe.untouched:
            total = product.product(left, right, None)
            return total if bias is None else product.add_bias(total, bias)
        left, right = self._entering(place, 0, left), self._entering(place, 1, right)
        product = replace(product, left=left, right=right)
        kept_left, kept_right = not self._is_data(left), not self._is_data(right)
        weight = right if kept_right else left
        if bias is not None and not self._is_data(bias):
            step = self._step_of(left if kept_right else right)
            bias = self._once(place, 2, bias, lambda: self._bias(product, bias, step, kept_right))
        if kept_left or kept_right:
            small = weight.numel() < self.recipe.small
            left = self._operand(place, 0, product, kept_left, small)
            right = self._operand(place, 1, product, kept_right, small)
        parts = min(self.recipe.parts, product.terms())
        total = product.product(left, right, (0, parts) if parts > 1 else None)
        total = grid.fp16(total) if self.recipe.round_parts else total
        for part in range(1, parts):
            term = product.product(left, right, (part, parts))
            total = grid.fp16(total + grid.fp16(term)) if self.recipe.round_parts else total + term
        return total if bias is None else product.add_bias(total, bias)

    def _entering(self, place: Place, side: int, value: Tensor) -> Tensor:
        """Data that a contraction multiplies, put on a grid where its maker's result is on none.

        Runtimes that quantise only some operators quantise whatever these read. Infinity becomes the end of the grid.
        """
        if not self.recipe.only or self.inside or not self._is_data(value) or self._step_of(value):
            return value
        here = (place[0], f"{place[1]} operand {side}")
        if self.phase == "calibrate":
            self._note_range(here, value)
            return value
        if here not in self.ranges:
            self._moved.add(place[1])
            self.ranges[here] = grid.bounds(value)
        low, high = self.ranges[here]
        rounded = grid.asymmetric8(value.clamp(low, high), low, high)
        self._tag(rounded, grid.step(low, high))
        return rounded

    # Constants.

    def _once(self, place: Place, slot: int, constant: Tensor, make: Any) -> Tensor:
        """`make()`, kept for the next case; made anew where the constant is another there, as a slice of a table is
        that follows the input's length."""
        held = self._stored.get((place, slot))
        if held is None or not torch.equal(held[0], constant):
            held = self._stored[place, slot] = (constant, make())
        return held[1]

    def _operand(self, place: Place, side: int, product: Contraction, constant: bool, small: bool) -> Tensor:
        """One side of a contraction by a constant, as the recipe has it: stored, or rounded on its way in."""
        value = product.right if side else product.left
        if constant:
            return self._once(place, side, value, lambda: self._weight(value, side, product, small))
        if self.recipe.activations == "input8" and not small:
            return grid.asymmetric8(value, *grid.bounds(value))
        return value

    def _weight(self, value: Tensor, side: int, product: Contraction, small: bool) -> Tensor:
        kind, axes = self.recipe.weights, product.right_axes if side else product.left_axes
        if kind == "fp16":
            return grid.stored16(value)
        if kind == "exact" or small:
            return grid.jitter(value, self.recipe.jitter, self._generator) if self.recipe.jitter else value
        if kind == "channel":
            return grid.symmetric8(value.reshape((side and product.grouped) or value.shape), axes).reshape(value.shape)
        if kind == "mixed" and product.kind == "contract":
            return grid.asymmetric8_by_channel(value, axes)
        return grid.asymmetric8(value, *grid.bounds(value))

    def _bias(self, product: Contraction, bias: Tensor, step: float, on_right: bool) -> Tensor:
        """As fp16, or int32 in steps of the input's times the weight's, where the input is on a grid."""
        if self.recipe.weights == "fp16":
            return grid.stored16(bias)
        if self.recipe.activations == "int8" and step and on_right and product.grouped is None:
            steps = grid.scales(product.right, product.right_axes).reshape(-1) * step
            if steps.numel() == bias.numel():
                return (torch.round(bias.reshape(-1) / steps) * steps).reshape(bias.shape)
        return bias

    def _constant(self, place: Place, slot: int, value: Any) -> Any:
        """A constant that an element-wise operator reads, as the recipe stores it."""
        recipe, name = self.recipe, place[1]
        if recipe.weights == "fp16" and isinstance(value, float) and (name in ("mul", "div") or abs(value) > grid.FP16):
            return float(grid.stored16(torch.tensor(value)))
        if not isinstance(value, Tensor) or not value.is_floating_point() or self._is_data(value):
            return value
        if recipe.weights == "fp16":
            return self._once(place, slot, value, lambda: grid.stored16(value))
        tables = recipe.tables if name == "embedding" and value.numel() >= recipe.small else "exact"
        if tables == "symmetric":
            return self._once(place, slot, value, lambda: grid.symmetric8(value, tuple(range(value.dim()))))
        on_grid = recipe.activations == "int8" and self._rounded(place) and value.numel() > 1
        if on_grid or tables == "asymmetric":
            return self._once(place, slot, value, lambda: grid.asymmetric8(value, *grid.bounds(value)))
        return value

    def _filling(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a move, with what it writes as the recipe stores it."""
        if name not in operators.FILLS or self.recipe.weights != "fp16" or self.phase != "round" or self.inside:
            return args
        return (args[0], *(self._filled(value) for value in args[1:]))

    def _filled(self, value: Any) -> Any:
        if isinstance(value, float):
            return float(grid.stored16(torch.tensor(value)))
        if isinstance(value, Tensor) and value.is_floating_point() and not self._is_data(value):
            return grid.stored16(value)
        return value

    # Results.

    def _rounded(self, place: Place) -> bool:
        kind = operators.kind_of(place[1])
        return place not in self._fused and (not self.recipe.only or kind in self.recipe.only or place[0] < 0)

    def _settle(self, place: Place, value: Tensor) -> Tensor:
        """A result as the recipe keeps it."""
        if not value.is_floating_point() or self.inside or self.phase == "plan" or not value.numel():
            return value
        if self.phase == "calibrate":
            self._note_range(place, value)
            return value
        if self.recipe.jitter:
            value = grid.jitter(value, self.recipe.jitter, self._generator)
        if self.recipe.activations == "fp16" and place not in self._fused:
            return grid.fp16(value)
        if self.recipe.activations == "int8" and self._rounded(place):
            if place not in self.ranges:
                self._moved.add(place[1])
                self.ranges[place] = grid.bounds(value)
            if place[1] in operators.SATURATING:
                value = value.clamp(*self._range(place))
            rounded = grid.asymmetric8(value, *self._range(place))
            return torch.where(value.abs() < self._small(place), value, rounded) if place in self._unread else rounded
        return value

    def _joined(self, place: Place, result: Tensor, parts: Sequence[Tensor], dim: int = 0) -> Tensor:
        """A join that no operator reads, with the parts that one grid would lose as they are: scores beside boxes."""
        if self.recipe.activations != "int8" or not self._rounded(place) or self.phase == "plan" or self.inside:
            return result
        places = [(place[0], f"cat part {number}") for number in range(len(parts))]
        if self.phase == "calibrate":
            for here, part in zip(places, parts, strict=True):
                self._widen(here, grid.bounds(part))
            return result
        step = self._step(place)
        lost = [step > grid.width(self.ranges.get(here, (0.0, math.inf))) for here in places]
        pieces = result.split([part.shape[dim] for part in parts], dim)
        return torch.cat([p if gone else r for p, r, gone in zip(parts, pieces, lost, strict=True)], dim)

    def _note_range(self, place: Place, value: Tensor) -> None:
        self._widen(place, grid.bounds(value))
        if place in self._unread:
            for low, high in grid.octaves(value):
                self.ranges[place[0], f"{place[1]} sizes below {high}"] = (low, high)

    def _widen(self, place: Place, bounds: tuple[float, float]) -> None:
        low, high = bounds
        before = self.ranges.get(place, (low, high))
        self.ranges[place] = (min(low, before[0]), max(high, before[1]))

    def _small(self, place: Place) -> float:
        """Below which size the elements of a result that no operator reads stay as they are: far below the others.

        A file may hold such a result as float, or give its parts scales of their own: logits and a mask of -1e9. One
        grid for both would make a floor as high as the logits. A file that has one grid shows it
        (`parity.judging.floor`).
        """
        start = f"{place[1]} sizes below "
        return grid.gap(v for (number, name), v in self.ranges.items() if number == place[0] and name.startswith(start))

    def _range(self, place: Place) -> tuple[float, float]:
        return operators.FIXED_RANGES.get(operators.kind_of(place[1]), self.ranges[place])

    def _step(self, place: Place) -> float:
        on_grid = self.phase == "round" and place in self.ranges and self._rounded(place)
        return grid.step(*self._range(place)) if on_grid else 0.0

    # What depends on the inputs.

    def _is_data(self, tensor: Tensor) -> bool:
        return _key(tensor) in self._data

    def _step_of(self, tensor: Tensor) -> float:
        return self._data[_key(tensor)][1] if self._is_data(tensor) else 0.0

    def _tag(self, tensor: Tensor, step: float) -> None:
        storage = StorageWeakRef(tensor.untyped_storage())  # keeps the key from being used again
        self._data[_key(tensor)] = (storage, step)


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in an operator's arguments or results, which nest lists and tuples only. (torch's own walk over any
    tree took a quarter of a twin's time.)"""
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, (tuple, list)) else []


class _Tape:
    """Who wrote each storage and who read it, over one run."""

    def __init__(self) -> None:
        self.entries: list[tuple[Place, str]] = []
        self.readers: list[set[int]] = []
        self.writer: dict[int, int] = {}

    def entry(self, place: Place, kind: str, reads: Any) -> int:
        number = len(self.entries)
        self.entries.append((place, kind))
        self.readers.append(set())
        for key in reads:
            if key in self.writer:
                self.readers[self.writer[key]].add(number)
        return number

    def wrote(self, key: int, number: int) -> None:
        self.writer[key] = number

    def moved(self, key: int, sources: list[int]) -> None:
        """One source: whoever reads the copy reads the source. More: none of them can be fused with what follows."""
        if len(sources) == 1 and sources[0] in self.writer:
            self.writer[key] = self.writer[sources[0]]
        else:
            for source in sources:
                if source in self.writer:
                    self.readers[self.writer[source]].add(-1)
            self.writer.pop(key, None)

    def unread(self) -> set[Place]:
        """Results that no operator reads: outputs, as they are or moved."""
        return {place for (place, _), readers in zip(self.entries, self.readers, strict=True) if not readers}

    def fused(self) -> tuple[set[Place], dict[Place, Place]]:
        """Results that only a fused operator reads; and convolutions with the normalisation that only they feed."""
        fused, folded = set(), {}
        for (place, kind), readers in zip(self.entries, self.readers, strict=True):
            if len(readers) == 1 and (reader := next(iter(readers))) >= 0:
                after, next_kind = self.entries[reader]
                if (kind, next_kind) in operators.FUSES:
                    fused.add(place)
                    if next_kind == "batch norm":
                        folded[place] = after
        return fused, folded
