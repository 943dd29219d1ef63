"""The walk through an artefact: every step on what came before it, and on what should have come before it.

A step whose result is its counterpart's starts the next one from that counterpart, so that an error is laid to the
step that makes it. Between counterparts lie tensors that only the artefact has: they go through as they are. Where
nothing on the way from there to an output is right again, the first of them is where the artefact diverges; the walk
is then repeated with that one put right, for what comes after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parity.core.record import Divergence, Drift
from parity.divergence import Bounds
from parity.divergence.blame import blamed, meant, within
from parity.divergence.pair import Pair, Pairing
from parity.divergence.reference import Array, Reference, off
from parity.formats.graph import Values
from parity.formats.steps import Step, Steps, real, stored

ALLOWED: Mapping[str, tuple[float, float]] = {
    "fp32": (8.0, 5e-6),
    "fp16": (6.0, 4e-3),
    "dynamic": (4.0, 0.06),
    "int8": (4.0, 0.06),
}
"""What a step may introduce: so many times what the twin's own step costs, or such a share of its result if that is
more. The share is what runtimes' shortcuts were seen to cost (exponentials and error functions from tables)."""
KEPT = 0.1  # share of an error that is still there: right again is what has lost nearly all of it
AGAIN = 4  # places that are put right in turn, so that the curve goes on behind them
AHEAD = 8  # tensors behind the first one that is wrong, among which a counterpart is looked for
_CONTRACTIONS = ("conv", "gemm", "matmul", "fully_connected", "innerproduct", "linear", "inner_product", "gru", "lstm",
                 "rnn", "attention", "addmm", "bmm", "embed", "gather", "pad")  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One tensor that is its counterpart's. Errors are relative to its rms."""

    step: Step
    tensor: str
    pair: Pair
    introduced: float
    gathered: float
    floor: float


@dataclass
class Astray:
    """A tensor that is no counterpart's. `nearest` is what it may have been meant for."""

    step: Step
    tensor: str
    before: tuple[int, ...]  # the reference's values that it was computed from
    nearest: Pair | None
    came_in: float
    got: Array | None
    ends: bool = False  # what was computed from it is right again


# A divergence, the step that makes it, and the tensor to put right, where it has a counterpart.
Way = tuple[Divergence, Step, "tuple[str, Pair] | None"]


@dataclass(frozen=True)
class Found:
    """What the walk found: the first divergence with the step that makes it, and the curve."""

    steps: Steps
    divergence: Divergence | None
    drift: tuple[Drift, ...]
    near: tuple[Step, ...] = ()
    case: Mapping[str, Array] | None = None

    def save(self, folder: str) -> str:
        """The step, what makes its input and what reads its result, as a file that runs; at most three operators."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        assert self.case is not None
        values = self.steps.feed(self.case)
        for step in self.steps.steps:
            if step.index >= self.near[-1].index:
                break
            values |= self.steps.run(step, values)
        return self.steps.save(self.near, values, folder)


def walk(steps: Steps, reference: Reference, case: Mapping[str, Array], bounds: Bounds | None = None) -> Found:
    """Walk until nothing diverges any more, or often enough; the first divergence and the last curve count.

    A first divergence outside `bounds` gives way to the step inside that introduces most.
    """
    right: dict[str, Pair] = {}
    way = _walked(steps, reference, case, right)
    found = way.divergence()
    first = way.bounded(found, bounds) if bounds is not None else found
    for _ in range(AGAIN):
        if found is None or found[2] is None:
            break
        after = _walked(steps, reference, case, right | {found[2][0]: found[2][1]})
        if len(after.points) <= len(way.points) + 1:  # nothing behind it is right now: it was meant for something else
            break
        right[found[2][0]] = found[2][1]
        way, found = after, after.divergence()
    near = neighbours(steps.steps, first[1]) if first else ()
    return Found(steps, first[0] if first else None, way.drift(), near, case)


def _walked(steps: Steps, reference: Reference, case: Mapping[str, Array], right: Mapping[str, Pair]) -> Walk:
    way = Walk(steps, reference, case, right)
    way.walk()
    return way


class Walk:
    """One way through. `right` are tensors that are put right although they are not."""

    def __init__(self, steps: Steps, reference: Reference, case: Mapping[str, Array], right: Mapping[str, Pair]):
        self.steps, self.reference, self.case, self.right = steps, reference, case, right
        self.pairing = Pairing(reference)
        self.folds = True
        self.times, self.share = ALLOWED[reference.precision]
        self.points: dict[str, Point] = {}
        self.astray: dict[str, Astray] = {}
        self.before: dict[str, tuple[int, ...]] = {}  # of tensors without a counterpart
        self.gathered: dict[str, float] = {}

    def walk(self) -> None:
        natural = self.steps.feed(self.case)
        self.folds = not any("batch" in s.kind.lower() and "norm" in s.kind.lower() for s in self.steps.steps)
        put = dict(natural)
        data = {port.tensor for port in self.steps.inputs}
        for port in self.steps.inputs:
            known = (v.number for v in self.reference.values if v.kind == "input" and v.layer == port.name)
            self.before[port.tensor] = tuple(known)
        last = {name: step.index for step in self.steps.steps for name in step.reads}
        for step in self.steps.steps:
            made = self.steps.run(step, put)
            same = all(natural[n] is put[n] for n in step.reads)
            own = made if same else self.steps.run(step, natural)
            natural |= own
            put |= made
            if data & set(step.reads):
                data |= set(step.writes)
                for name in step.writes:
                    self._meet(step, name, made[name], own[name], put)
            for name in [n for n in put if last.get(n, -1) <= step.index]:
                del put[name], natural[name]

    def _meet(self, step: Step, name: str, made: Array, own: Array, put: Values) -> None:
        """Find a result's counterpart, note the errors, and put the counterpart in its place."""
        grid = self.steps.grids.get(name)
        value = real(made, grid)
        before = tuple(dict.fromkeys(n for r in step.reads for n in self._origin(r)))
        came_in = max((self.gathered.get(r, 0.0) for r in step.reads), default=0.0)
        pair = self.right.get(name)
        if pair is None and value.dtype.kind == "f" and value.size > 1:
            pair = self.pairing.find(value, step.kind, [self.reference.values[n] for n in before], self.share)
        if pair is None or (name not in self.right and not pair.relative <= self._allowed(pair)):
            self.before[name], self.gathered[name] = before, came_in
            if value.dtype.kind == "f" and value.size > 1:
                held = sum(a.got is not None for a in self.astray.values())
                self.astray[name] = Astray(step, name, before, pair, came_in, value if held < AHEAD else None)
            return
        truth = pair.arrange(self.reference.array(pair.value.number))
        size = pair.value.rms
        gathered, introduced = off(real(own, grid), truth) / size, off(value, truth) / size
        self._settle(step.reads, introduced * size)
        self.points[name] = Point(step, name, pair, introduced, gathered, pair.value.gathered / size)
        self.gathered[name] = gathered
        put[name] = stored(truth, made, grid)

    def _allowed(self, pair: Pair) -> float:
        return max(self.times * pair.value.added / pair.value.rms, self.share)

    def _origin(self, name: str) -> tuple[int, ...]:
        return (self.points[name].pair.value.number,) if name in self.points else self.before.get(name, ())

    def _settle(self, names: Iterable[str], error: float) -> None:
        """What was computed from these is right: their going astray was the artefact's own way of computing it. Unless
        it only seems right: beside a mask's huge numbers an error is small, and is the one that a tensor had before."""
        waiting = list(names)
        while waiting:
            known = self.astray.get(waiting.pop())
            kept = known is not None and known.nearest is not None and error > KEPT * known.nearest.error
            if known is not None and not known.ends and not kept:
                known.ends, known.got = True, None
                waiting += known.step.reads

    def divergence(self) -> Way | None:
        """The first step on the way to a wrong output behind which nothing is right again; with the tensor to put
        right, where it has a counterpart."""
        waiting = [p.tensor for p in self.steps.outputs if p.tensor in self.astray]
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self.astray or self.astray[name].ends:
                continue
            seen.add(name)
            waiting += self.astray[name].step.reads
        path = sorted((self.astray[name] for name in seen), key=lambda a: a.step.index)
        if not path:
            return None
        first = next((a for a in path if a.before), path[0])  # masks and positions follow from no value of the module's
        contracts = _contracts(first.step)
        layer, source = blamed(self.reference, first.before, first.nearest, first.got, contracts, self.folds)
        near = first if first.nearest else next((a for a in path[:AHEAD] if self._fits(a, first, layer)), first)
        pair = near.nearest or meant(self.reference, first.before, first.got, contracts, self.folds)
        told = Divergence(
            layer, _finite(pair.relative) if pair else None, source, near.step.kind, near.tensor,
            _finite(first.came_in), self._allowed(pair) if pair else self.share,
        )  # fmt: skip
        return told, near.step, (near.tensor, pair) if pair is not None else None

    def bounded(self, found: Way | None, bounds: Bounds) -> Way | None:
        """The divergence where it lies inside `bounds`, else the step inside that is most beyond what it may introduce.

        Where the bounds name nothing of the module, or no step inside can be measured, it stays as it was found.
        """
        inside = within(self.reference.values, bounds)
        if not inside:
            return found
        if found is not None:
            blamed_on = [v for v in inside if (v.layer, v.source) == (found[0].layer, found[0].source)]
            if blamed_on:
                return found
        numbers = {value.number for value in inside}
        nearest = [a for a in self.astray.values() if a.nearest is not None and a.nearest.value.number in numbers]
        measured: list[tuple[float, Step, str, Pair, float]] = [
            (a.nearest.relative, a.step, a.tensor, a.nearest, a.came_in) for a in nearest if a.nearest is not None
        ]
        measured += [
            (p.introduced, p.step, name, p.pair, p.gathered)
            for name, p in self.points.items()
            if p.pair.value.number in numbers
        ]
        if not measured:
            return found
        introduced, step, tensor, pair, gathered = max(measured, key=lambda m: m[0] / self._allowed(m[3]))
        place = inside[0] if bounds.tensors else pair.value
        told = Divergence(
            place.layer, _finite(introduced), place.source, step.kind, tensor, _finite(gathered), self._allowed(pair)
        )
        return told, step, (tensor, pair)

    def _fits(self, one: Astray, first: Astray, layer: str) -> bool:
        """Whether its nearest counterpart is what the layer gives that the first one is inside of."""
        inside = bool(one.before) and set(one.before) <= set(first.before)
        return inside and one.nearest is not None and one.nearest.value.layer == layer

    def drift(self) -> tuple[Drift, ...]:
        return tuple(
            Drift(p.pair.value.layer, _finite(p.gathered), p.floor, _finite(p.introduced), p.step.kind, p.tensor)
            for p in self.points.values()
        )


def neighbours(steps: Sequence[Step], step: Step) -> tuple[Step, ...]:
    """The step, the last one that makes what it reads, and the first that reads what it writes."""
    before = [s for s in steps if s.index < step.index and set(s.writes) & set(step.reads)]
    after = [s for s in steps if s.index > step.index and set(s.reads) & set(step.writes)]
    return (*before[-1:], step, *after[:1])


def _contracts(step: Step) -> bool:
    return any(word in step.kind.lower() for word in _CONTRACTIONS)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
