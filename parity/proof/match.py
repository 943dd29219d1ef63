"""Which torch tensor belongs in which constant of an artefact: by content, in the layout that the operator prescribes.

Never by searching permutations: that would match a transposed kernel and hide the fault. Pure apart from `source`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from parity.core.proof import Culprit, Link
from parity.formats.graph import Array, Constant, Graph
from parity.judging.floor import FP16_MAX
from parity.proof.source import STACKED, Folding, Source, Term, Weight

CLOSE = 0.05  # an element-wise constant is taken for the torch value that it differs from by less, of its maximum
ALIKE = 0.5  # below this cosine a weight is matched for its shape alone, and the audit will say so
_MANY = 1 << 16  # values of a weight, from which on a sample tells most others apart
_SAMPLE = 4096
_UNLIKE = 0.25  # cosine of a sample below which the whole is not alike either
_TIED = 1e-7  # two cosines that rounding alone may tell apart
_FOLDED = 0.95  # below this cosine a folding other than BatchNorm's is likelier another weight: int8 costs less
_EVIDENT = 1 - 1e-4  # above this cosine a weight is what it is taken for: int8 costs less
_NEAR = 1e-3  # of the largest value: two weights that rounding alone may tell apart
_ORDER = 1e-4  # what graph order counts against content: enough to tell equal weights apart, no more
_NORMS = ("batchnorm", "batchnormalization")
_FORMS: Mapping[str, Callable[[Array], Array]] = {"": lambda v: v, "1/": lambda v: 1 / v, "-": lambda v: -v}


@dataclass(frozen=True)
class Match:
    """What a constant should hold: torch `values` in the constant's own shape, and the torch name. `summed`: what they
    were summed from, in magnitude; None for that of the values themselves."""

    constant: Constant
    name: str
    values: Array
    summed: Array | None
    weight: Weight | None = None
    cosine: float = 1.0

    @property
    def magnitude(self) -> Array:
        """What the values were summed from, of their shape."""
        return np.abs(self.values) if self.summed is None else self.summed

    @property
    def axis(self) -> int | None:
        """The axis of output channels, by which culprits are named."""
        if self.constant.grid is not None and self.constant.grid.per_channel:
            return self.constant.grid.axis
        slot = self.constant.slot("weight", "bias")
        return slot.layout.index("O") if slot and "O" in slot.layout and self.values.ndim == len(slot.layout) else None


def match(graph: Graph, source: Source) -> tuple[dict[str, Match], Link]:
    """A match for every constant that has one, and the link. What has no match does no harm: the lift keeps it as it
    is, and judges it. Weights without a match are named as suspects, until the lift is made: `settled`."""
    matches = _weights(graph, source.weights)
    matches |= _biases(graph, matches)
    terms = source.terms
    if any(op.kind == "MultiHeadAttention" for op in graph.operators):
        terms = [*terms, *_projections(source.weights)]
    matches |= _vanished(graph, terms, matches)
    matches |= _operands(graph, terms, matches)
    used = {m.weight.name for m in matches.values() if m.weight}
    floats = [c for c in graph.constants.values() if c.stored.dtype.kind == "f" or c.grid is not None]
    unmatched = [c for c in floats if c.name not in matches and c.slots]
    culprits = [
        Culprit("tensor", c.name, f"a weight of shape {list(c.stored.shape)} that no torch weight fits")
        for c in unmatched if c.slot("weight")
    ]  # fmt: skip
    figures = {
        "constants": len(floats),
        "matched": len(matches),
        "unmatched": [c.name for c in unmatched],
        "unused": _unused([w.name for w in source.weights if not w.implied], used),
    }
    return matches, Link.judged("match", figures, culprits)


def settled(link: Link, lift: Link) -> Link:
    """The link, once the lift says whether the weights without a match are right.

    They need not be torch tensors: the lift computes with the file's own, and a file that equals the oracle so holds
    the right values, whatever they were made from. Where the lift does not say, no more can be said of them.
    """
    if link.state != "failed" or lift.state == "failed":
        return link
    names = [culprit.name for culprit in link.culprits]
    if lift.state == "proved":
        return Link("match", "proved", {**link.figures, "by_lift": names})
    some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return Link("match", "not possible", link.figures, reason=f"no tensor of the module fits {some}")


def _unused(names: Sequence[str], used: Collection[str]) -> list[str]:
    """The weights that no constant holds. A recurrent layer's are there twice, whole and gate by gate (`name[0]`), of
    which a file uses one: the gates are named, unless the whole is used. So are layers that may be held as one."""
    whole = {name for name in names if f"{name}[0]" in names or STACKED in name}
    held = {part for name in used for part in name.split(STACKED)}
    return [n for n in names if n not in held and n not in whole and n.partition("[")[0] not in held]


def _weights(graph: Graph, weights: Sequence[Weight]) -> dict[str, Match]:
    """Greedy by 1 - cosine, the most alike first; each torch layer is used once. What is like none is no weight of the
    module's, and is matched in the order of the graph: with the first that fits and that no constant has."""
    constants = [(c, slot) for c in graph.constants.values() if (slot := c.slot("weight"))]
    constants.sort(key=lambda pair: pair[1].operator)
    normed = {name for op in graph.operators if op.kind.lower().replace("_", "") in _NORMS for name in op.inputs}
    apart = {op.index for op in graph.operators if normed.intersection(op.outputs)}
    alike, unlike = [], []
    for i, (constant, slot) in enumerate(constants):
        held = _Held(constant, slot.layout, slot.operator in apart)
        for j, weight in enumerate(weights):
            likely = _folded_or_not(held, weight)
            if likely is not None and likely.cosine >= ALIKE:
                place = abs(i / len(constants) - j / len(weights))
                alike.append((1 - likely.cosine + _ORDER * place, i, j, likely))
            elif likely is not None and not weight.implied:
                unlike.append((i, j, likely))
    found: dict[int, _Candidate] = {}
    taken: set[int] = set()
    for _, i, j, likely in sorted(alike, key=lambda pair: pair[:3]):
        if i not in found and j not in taken:
            found[i] = likely
            taken.add(j)
    for again in (False, True):  # a layer that the module calls twice may be stored once
        for i, j, likely in unlike:
            used = {each.weight.name for each in found.values()}
            if i not in found and j not in taken and (again or likely.weight.name not in used):
                found[i] = likely
                taken.add(j)
    for _, i, _, likely in sorted(alike, key=lambda pair: pair[:3]):  # a layer may be stored twice
        if i not in found and likely.cosine >= _EVIDENT:
            found[i] = likely
    return {constants[i][0].name: likely.match(constants[i][0]) for i, likely in found.items()}


class _Held:
    """A constant that holds a weight: its values, the layout that its operator prescribes, and whether the file has the
    BatchNorm behind that as an operator of its own (`apart`)."""

    def __init__(self, constant: Constant, layout: str, apart: bool):
        self.constant, self.layout, self.apart = constant, layout, apart
        self.real = constant.real
        self.reach = float(np.abs(self.real).max(initial=0))
        self._sample = self.real[_places(self.real.shape)] if self.real.size > _MANY else None

    def unlike(self, values: Array, factor: Array | None = None) -> float | None:
        """The cosine of a sample of `values` with what is stored, where that says that they are another tensor; None
        where they have to be compared as a whole. `factor`: of their shape, what they are multiplied by."""
        if self._sample is None:
            return None
        places = _places(self.real.shape)
        some = values[places] if factor is None else values[places] * factor[places]
        cosine = _cosine(self._sample, some) if self._sample.any() and some.any() else ALIKE
        return cosine if cosine < _UNLIKE else None


@lru_cache(maxsize=64)
def _places(shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Where SAMPLE values spread over a tensor lie: an index for each axis."""
    size = math.prod(shape)
    return np.unravel_index(np.random.default_rng(0).integers(0, size, _SAMPLE), shape)


@dataclass(frozen=True)
class _Candidate:
    """A torch layer in a constant's layout, and how alike the two are."""

    weight: Weight
    layout: str
    values: Array
    cosine: float
    distance: float

    def match(self, constant: Constant) -> Match:
        summed = self.weight.summed
        if summed is not None:
            summed = arrange(self.weight, summed, self.layout, self.values.shape)
        return Match(constant, self.weight.name, self.values, summed, self.weight, self.cosine)


def _folded_or_not(held: _Held, weight: Weight) -> _Candidate | None:
    """A layer as what a constant may hold: with the BatchNorm behind it folded in, unless without it is nearer. None
    where its shape does not fit. Where BatchNorm is one factor for all channels, cosines are the same; where neither is
    alike, the graph tells, by whether the file has the BatchNorm as an operator."""
    found = [_candidate(held, each) for each in (weight, weight.unfolded) if each]
    if found[0] is None:
        return None
    best = _of_two(found[0], found[-1], held.real, held.apart) if found[-1] is not None else found[0]
    near = best.distance <= _NEAR * held.reach
    if (best.cosine > _EVIDENT and near) or not weight.foldings:
        return best
    for folding in weight.foldings:
        other = _with_folding(held, weight, folding) if folding.factor.size > 1 else None
        if other is None or other.cosine <= _FOLDED:
            continue
        as_alike = abs(other.cosine - best.cosine) <= _TIED  # of one factor for all channels cosines say nothing
        if other.cosine > best.cosine + _TIED or (as_alike and other.distance * 2 < best.distance):
            best = other
    return best


def _with_folding(held: _Held, weight: Weight, folding: Folding) -> _Candidate | None:
    """The layer with a folding applied; None where a sample of it shows that it is no such thing."""
    plain = weight.unfolded or weight
    whole = np.broadcast_to(folding.factor, plain.values.shape)
    values, factor = (arrange(plain, v, held.layout, held.real.shape) for v in (plain.values, whole))
    if values is None or factor is None or held.unlike(values, factor) is not None:
        return None
    return _candidate(held, weight.folded(folding))


def _candidate(held: _Held, weight: Weight) -> _Candidate | None:
    """Compared as the constant stores it: a layer scale of 1e-6 leaves fp16 little but the sign of a weight."""
    real = held.real
    values = arrange(weight, weight.values, held.layout, real.shape)
    if values is None:
        return None
    if (cosine := held.unlike(values)) is not None:
        return _Candidate(weight, held.layout, values, cosine, np.inf)
    stored = values
    if held.constant.stored.dtype == np.float16:
        with np.errstate(over="ignore"):
            stored = np.nan_to_num(values.astype(np.float16).astype(np.float64), posinf=FP16_MAX, neginf=-FP16_MAX)
    return _Candidate(weight, held.layout, values, _cosine(real, stored), float(np.abs(real - stored).max(initial=0)))


def _of_two(folded: _Candidate, plain: _Candidate, real: Array, apart: bool) -> _Candidate:
    if folded is plain:
        return folded
    if max(folded.cosine, plain.cosine) < ALIKE:
        return plain if apart else folded
    if abs(plain.cosine - folded.cosine) > _TIED:
        return max(folded, plain, key=lambda candidate: candidate.cosine)
    if max(plain.distance * 2, _NEAR * float(np.abs(real).max(initial=0))) < folded.distance:
        return plain
    both = (*folded.weight.biases, plain.weight.bias, *plain.weight.biases)  # the weight does not tell, the bias may
    return replace(folded, weight=replace(folded.weight, biases=both))


def arrange(weight: Weight, values: Array, layout: str, shape: tuple[int, ...]) -> Array | None:
    """`values` of a torch weight in an operator's layout and shape, None where they cannot be the same tensor."""
    if layout == "VD" or weight.kind == "table":
        arranged = values if layout == "VD" and weight.kind == "table" else None
    elif weight.kind == "transposed":  # torch [in, out, ...]
        arranged = _transposed(values, layout)
    elif weight.kind == "matmul":  # torch [..., in, out]
        if values.ndim > 2:  # a product for each row of a batch, which is no layer of one weight
            arranged = {"IO": values, "OI": np.swapaxes(values, -1, -2)}.get(layout)
        else:
            arranged = _ordered(values.T, layout)
    else:
        arranged = _ordered(values, layout)
    if arranged is None or [n for n in arranged.shape if n > 1] != [n for n in shape if n > 1]:
        return None
    return arranged.reshape(shape)


def _transposed(values: Array, layout: str) -> Array | None:
    """A transposed convolution's weight [in, out, ...] in an operator's layout."""
    turned = np.swapaxes(values, 0, 1)
    if layout == "OHWI":
        return np.moveaxis(turned, 1, -1)
    if layout.startswith("IO") and len(layout) > 2:
        return values
    return turned if layout.startswith("OI") and len(layout) > 2 else None


def _ordered(values: Array, layout: str) -> Array | None:
    """A weight [out, in, ...] in an operator's layout."""
    if layout == "1HWO":
        return np.moveaxis(values[:, 0], 0, -1) if values.ndim > 2 and values.shape[1] == 1 else None
    if layout in ("OHWI", "OI"):
        return np.moveaxis(values, 1, -1)
    if layout in ("OIW", "OIHW", "OIDHW"):
        return values
    if layout == "IO":
        return values.T if values.ndim == 2 else None
    if layout == "DHWIO":
        return np.moveaxis(values, (0, 1), (-1, -2)) if values.ndim == 5 else None
    return None


def _biases(graph: Graph, weights: Mapping[str, Match]) -> dict[str, Match]:
    """A bias belongs to the layer of its weight; of a shared one, to the first."""
    found = {}
    for constant in graph.constants.values():
        slot = constant.slot("bias")
        layer = weights[slot.weight].weight if slot and slot.weight in weights else None
        if layer is not None and layer.bias.values.size == constant.stored.size:
            bias = _likeliest(constant.real.reshape(-1), layer)
            shape = constant.stored.shape
            found[constant.name] = Match(
                constant, bias.name, bias.values.reshape(shape), bias.magnitude.reshape(shape), layer
            )
    return found


def _likeliest(real: Array, layer: Weight) -> Term:
    """The layer's own bias, unless a constant that follows, added in, explains what is stored and the own does not."""

    def distance(term: Term) -> float:
        values = term.values.reshape(-1)
        if values.size != real.size:
            return float("inf")
        power = float(values @ values)
        factor = float(real @ values) / power if power else 1.0
        if factor <= 0:
            return float("inf")
        return float(np.abs(real - factor * values).max() / (np.abs(real).max() or 1.0))

    others = (*layer.biases, *(folding.bias for folding in layer.foldings))
    best = min((layer.bias, *others), key=distance)
    return best if distance(best) < CLOSE <= distance(layer.bias) else layer.bias


def _operands(graph: Graph, terms: Sequence[Term], taken: Mapping[str, Match]) -> dict[str, Match]:
    """Constants of element-wise operators: a torch term, its reciprocal or its negative, whichever is nearest."""
    found = {}
    forms = [(form, term) for term in terms for form in _FORMS]
    for constant in graph.constants.values():
        if constant.name in taken or not constant.slots or constant.slot("weight") or constant.real.dtype.kind != "f":
            continue
        if constant.grid is None and constant.stored.dtype.kind != "f":
            continue
        if _masks(graph, constant):
            continue
        real = constant.real
        reach = float(np.abs(real).max(initial=0)) or 1.0
        best: Match | None = None
        nearest = CLOSE
        for form, term in forms:
            values = placed(term.values, real.shape, graph.channels_last)
            if values is None or (form == "1/" and not values.all()):
                continue
            values = _FORMS[form](values)
            if values.any() != real.any():  # zero is near every small number, and none of them
                continue
            distance = float(np.abs(values - real).max(initial=0)) / reach
            if distance < nearest:
                nearest = distance
                magnitude = placed(term.magnitude, real.shape, graph.channels_last)
                assert magnitude is not None
                magnitude = np.abs(values) if form == "1/" else np.maximum(magnitude, np.abs(values))
                best = Match(constant, form + term.name, values, magnitude)
        if best is not None:
            found[constant.name] = best
    return found


def _vanished(graph: Graph, terms: Sequence[Term], taken: Mapping[str, Match]) -> dict[str, Match]:
    """Constants that are zero for the grid of what stands beside them: a class token of 1e-6 that is joined to patches
    is less than half of their step. Each is the first term of its rank and shape that is, in the order of the graph."""
    found: dict[str, Match] = {}
    used = {each.name for each in taken.values()}
    places = {name: (op.index, i) for op in reversed(graph.operators) for i, name in enumerate(op.inputs)}
    for name in sorted(graph.constants.keys() & places.keys(), key=places.__getitem__):
        constant = graph.constants[name]
        if name in taken or constant.grid is None or constant.real.size < 2 or constant.real.any():
            continue
        if not shares_grid(graph, constant):
            continue
        half = constant.grid.step(constant.real.ndim) / 2
        for term in terms:
            if term.name in used or term.values.ndim != constant.real.ndim:
                continue
            values = placed(term.values, constant.real.shape, graph.channels_last)
            if values is None or np.any(np.abs(values) > half):
                continue
            found[name] = Match(constant, term.name, values, np.abs(values))
            used.add(term.name)
            break
    return found


def shares_grid(graph: Graph, constant: Constant) -> bool:
    """Whether a constant has the grid of what its operator reads or writes, as the bounds of a clamp have: it is
    rounded as finely as that allows."""
    grid = constant.grid
    operators = {slot.operator for slot in constant.slots if slot.role == "operand"}
    beside = {name for op in graph.operators if op.index in operators for name in (*op.inputs, *op.outputs)}
    return grid is not None and any(grid.same(other) for name in beside if (other := graph.grids.get(name)) is not None)


def _projections(weights: Sequence[Weight]) -> Iterator[Term]:
    """What a fused attention layer holds: whole projections, or query, key and value as thirds of one."""
    for weight in weights:
        if weight.kind != "linear":
            continue
        for term in (Term(weight.name, weight.values, weight.magnitude), weight.bias):
            yield term
            if len(term.values) % 3 == 0:
                cut = zip(np.split(term.values, 3), np.split(term.magnitude, 3), "qkv", strict=True)
                yield from (Term(f"{term.name} {letter}", v, m) for v, m, letter in cut)


_SELECTING = ("Where", "SELECT", "SELECT_V2")


def _masks(graph: Graph, constant: Constant) -> bool:
    """Whether a constant is what a mask adds where it is open or closed: 0 or minus infinity, no value of torch."""
    kinds = {op.kind for op in graph.operators if op.index in {slot.operator for slot in constant.slots}}
    real = constant.real
    return kinds <= set(_SELECTING) and bool(np.all((real == 0) | np.isinf(real)))


def placed(values: Array, shape: tuple[int, ...], channels_last: bool) -> Array | None:
    """A torch constant in an artefact's shape: feature maps turned channels-last where the format has them so."""
    if values.size != int(np.prod(shape)):
        return None
    if (
        channels_last
        and len(shape) == values.ndim
        and (values.ndim == 4 or (values.ndim == 3 and values.shape != shape))
    ):
        values = np.moveaxis(values, 1, -1)
    return values.reshape(shape) if [n for n in values.shape if n > 1] == [n for n in shape if n > 1] else None


def _cosine(a: Array, b: Array) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / length if length else 0.0
