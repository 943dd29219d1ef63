"""Operators of a file that are right until their values grow: written-out softmax, sigmoid and tanh that overflow, and
movers of values whose place follows from values. Pure.

    exp(x) / sum(exp(x))            is softmax(x) up to x = 88, and NaN beyond
    exp(x) / (exp(x) + 1)           is sigmoid(x) up to there; 1 / (1 + exp(-x)) is it everywhere
    triu(ones, diagonal=ids @ w)    compares ids @ w with 0

No input of a project need reach such a place, so the operators themselves are counted against the module's calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from parity.core.decisions import Decision
from parity.formats.survey import Computed, Survey
from parity.proof.bends import matches
from parity.proof.explaining import surplus
from parity.reference.decisions import Behaviour

_EXPONENTIAL = ("exp", "exp2", "expm1", "sinh", "cosh")
_CALLS: Mapping[str, int] = {"exp": 1, "exp2": 1, "expm1": 1, "pow": 1, "sinh": 2, "cosh": 2, "tan": 1}

_QUOTIENT = ("div", "divide", "true_divide", "real_div", "realdiv", "floatdiv")
_INVERSE = ("reciprocal", "inverse")
_PRODUCT = ("mul", "multiply")
_DIFFERENCES = ("sub", "subtract", "rsub")
_KEEPS_LARGE = (
    *(*_PRODUCT, *_DIFFERENCES),
    *("add", "add_n", "addn", "sum", "reduce_sum", "reducesum", "mean", "reduce_mean", "reducemean", "cumsum"),
    *("neg", "negative", "log", "log1p", "sqrt", "relu", "abs"),
)
_LARGEST = ("reducemax", "reduce_max", "amax", "max", "reduce_log_sum_exp", "reducelogsumexp", "logsumexp")
_POSITIVE = ("abs", "relu", "square", "sum_square", "reducesumsquare", "pow")

# Movers, with the first of their operands that says where or how much, not what.
_PARAMETERS: Mapping[str, int] = {
    **dict.fromkeys(("trilu", "triu", "tril", "band_part"), 1),
    **dict.fromkeys(("slice", "strided_slice", "stridedslice", "slice_by_index", "slice_by_size", "narrow"), 1),
    **dict.fromkeys(("pad", "padv2", "pad_v2", "constant_pad_nd", "tile", "repeat", "expand", "broadcast_to"), 1),
    "roll": 1,
    **dict.fromkeys(("range", "arange", "linspace", "constantofshape", "zeros", "ones", "full", "fill", "eye"), 0),
}  # fmt: skip
_BY_VALUES = ("_local_scalar_dense", "item", "repeat_interleave", "nonzero", "masked_select", "unique*", "_unique*",
              "lstm*", "gru*", "rnn*", "mkldnn_rnn_layer*", "_pack_padded*", "_pad_packed*")  # fmt: skip
"""Calls of a module after which sizes and places may follow from values."""


def overflows(survey: Survey, own: Behaviour) -> list[Decision]:
    """The exponentials of a file that meet themselves where they have overflowed, beyond those of the module."""
    computing = survey.computing()
    several = [entry for entry in computing if entry.word in _EXPONENTIAL and _meets_itself(entry, computing)]
    explained = sum(count * _CALLS.get(call, 0) for call, count in own.calls.items())
    return surplus(_decisions(several, "NaN where it overflows"), max(len(several) - explained, 0))


def placed_by_values(survey: Survey, own: Behaviour) -> list[Decision]:
    """The operators of a file that move or make values by numbers that follow from values of inputs, where no call of
    the module does so."""
    if any(matches(call, name) for call in own.calls for name in _BY_VALUES):
        return []
    data = survey.data()
    several = []
    for entry in survey.computing():
        first = _PARAMETERS.get(entry.word)
        if first is not None and not data.isdisjoint(entry.node.inputs[first:]):
            several.append(entry)
    return _decisions(several, "placed by values")


def _decisions(several: Sequence[Computed], why: str) -> list[Decision]:
    return [Decision("order", (), entry.node.operator, f"{entry.node.place} ({why})") for entry in several]


def _meets_itself(exponential: Computed, computing: Sequence[Computed]) -> bool:
    """Whether an infinite result would be divided by itself, multiplied by its inverse, or taken from itself."""
    if _is_bounded(exponential, computing):
        return False
    overflow = _Overflow(set(exponential.node.outputs))
    reached = 0
    while overflow.reach > reached:  # nodes stand in any order
        reached = overflow.reach
        for entry in computing:
            if overflow.meets_itself(entry):
                return True
            overflow.spread(entry)
    return False


@dataclass
class _Overflow:
    """How far an overflow goes: `large` are the tensors that are infinite with it, `small` those that are 0 then.

    What else they are computed with is finite. An operator that bounds its data, or mixes it as a product of matrices
    does, ends the way.
    """

    large: set[str]
    small: set[str] = field(default_factory=set)

    @property
    def reach(self) -> int:
        return len(self.large) + len(self.small)

    def meets_itself(self, entry: Computed) -> bool:
        """Whether an operator gives NaN: infinity over infinity, times 0, or less infinity."""
        inputs = entry.node.inputs
        if entry.word in _QUOTIENT:
            return len(inputs) > 1 and set(inputs[:2]) <= self.large
        if entry.word in _PRODUCT:
            return not self.large.isdisjoint(inputs) and not self.small.isdisjoint(inputs)
        return entry.word in _DIFFERENCES and len(self.large.intersection(inputs)) > 1

    def spread(self, entry: Computed) -> None:
        """Take in what an operator computes."""
        if self._is_large(entry):
            self.large.update(entry.node.outputs)
        elif self._is_small(entry):
            self.small.update(entry.node.outputs)

    def _is_large(self, entry: Computed) -> bool:
        if entry.word in _QUOTIENT:
            return entry.node.inputs[0] in self.large
        if self.large.isdisjoint(entry.node.inputs):
            return False
        return entry.word in _KEEPS_LARGE or entry.node.meaning == "same"

    def _is_small(self, entry: Computed) -> bool:
        inputs = entry.node.inputs
        if entry.word in _QUOTIENT:
            return len(inputs) > 1 and inputs[1] in self.large
        if entry.word in _INVERSE:
            return not self.large.isdisjoint(inputs)
        return not self.small.isdisjoint(inputs) and (entry.word in _PRODUCT or entry.node.meaning == "same")


def _is_bounded(exponential: Computed, computing: Sequence[Computed]) -> bool:
    """Whether the exponent cannot be large: `x - max(x)`, or the negative of what has no sign."""
    for maker in _makers(exponential.node.inputs[:1], computing):
        if maker.word in ("sub", "subtract") and any(
            by.word in _LARGEST for by in _makers(maker.node.inputs[1:2], computing)
        ):
            return True
        if maker.word in ("neg", "negative") and any(
            by.word in _POSITIVE for by in _makers(maker.node.inputs[:1], computing)
        ):
            return True
        if maker.word in ("log_softmax", "logsoftmax", "_log_softmax"):
            return True
    return False


def _makers(names: Sequence[str], computing: Sequence[Computed]) -> Iterator[Computed]:
    """What computes these tensors, seen through casts and moves."""
    for entry in computing:
        if not set(names).isdisjoint(entry.node.outputs):
            if entry.node.meaning == "same":
                yield from _makers(entry.node.inputs[:1], computing)
            else:
                yield entry
