"""What PyTorch's operators draw at random and decide by data; and what a module does so, seen while it runs.

A run under a dispatch mode sees what any module executes, exportable or not. In a child process only.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.core.decisions import MANY, NO, STEPS, YES, Decision, Family, Turn
from parity.reference import modelling
from parity.reference.following import Followed, Reading, place

_MOST = 4096  # values of a tensor that may be a constant
_WORDS: Mapping[Family, str] = {
    "equal": "eq ne equal logical_not nonzero nonzero_numpy count_nonzero isin",
    "order": "gt ge lt le greater greater_equal less less_equal bucketize searchsorted heaviside threshold hardshrink "
    "softshrink histc",
    "finite": "isnan isinf isfinite isposinf isneginf nan_to_num",
    "sign": "sign sgn signbit copysign",
    "rank": "argmax argmin argsort topk sort kthvalue mode unique unique_dim unique_consecutive _unique _unique2 nms",
    "round": "floor ceil round trunc fix frac",
    "onehot": "one_hot",
}
_COMPARISONS = {name: family for family, names in _WORDS.items() for name in names.split()}
_OF_ZERO = ("logical_not", "nonzero", "nonzero_numpy", "count_nonzero", "heaviside")
_TABLES = ("embedding", "index", "index_select", "gather", "take")
_BOUNDED = ("remainder", "floor_divide", "fmod", "clamp", "clamp_min", "clamp_max", "minimum", "maximum")
_FEW = 4  # distinct values of what is compared with thresholds; more are positions or labels
TINY = 2.0**-14  # fp16 has no smaller normal number; below it a bound is a guard of a division, and stands for zero
HUGE = 6e4  # from here on a constant stands for infinity, which formats write differently
_RANDOM_WORDS = """
    rand randn randint randperm bernoulli multinomial normal poisson binomial rand_like randn_like
    randint_like uniform exponential geometric cauchy log_normal random native_dropout
    _standard_gamma _sample_dirichlet
"""
_RANDOM = frozenset(_RANDOM_WORDS.split())
_TRAINING = ("train", "training")
_RATES = ("dropout_p", "dropout")


Implied = tuple[Family, float | Literal["range", "other"] | None]
"""A comparison of a family with one number, with all of 0 to n - 1, with what is computed too (`other`), or (None) with
anything."""


@dataclass
class Behaviour:
    """What a module did in one run: the operators that drew random numbers, those that normalised by the batch at hand,
    and what it decided by; `implied` are comparisons that an operator stands for, and a converter may write out, and
    `written` the calls of such operators, by the family of the comparison.
    `thresholds` are the numbers that it compared with, clipped to or wrapped at. `outcomes` are the ways that decisions
    on the inputs went, by their site: bits of YES, NO and MANY. `turns` are the bounds of its data and the choices
    among them, one a call; `turned` which sides of a bound, or which choices, there were, by the site: two at most."""

    random: list[str] = field(default_factory=list)
    training: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    implied: set[Implied] = field(default_factory=set)
    written: Counter[tuple[Family, str]] = field(default_factory=Counter)
    thresholds: set[float] = field(default_factory=set)
    outcomes: dict[str, int] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    bounds: Counter[float] = field(
        default_factory=Counter
    )  # by which operators on the inputs keep data, ReLU among them
    turned: dict[str, set[int]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)  # of each operator, on what follows from the inputs

    def turn(self, turn: Turn, ways: set[int]) -> None:
        """Note a bound or a choice, and its ways."""
        self.turns.append(turn)
        self.turned[turn.site] = set(sorted(self.turned.get(turn.site, set()) | ways)[:2])

    def decide(self, decision: Decision, outcome: int) -> None:
        """Note a decision, and which way it went."""
        self.decisions.append(decision)
        if decision.site:
            self.outcomes[decision.site] = self.outcomes.get(decision.site, 0) | outcome


def randomness(name: str, argument: Callable[[str], Any]) -> str:
    """`random` where an operator of this name draws random numbers with these arguments, `training` where it normalises
    by the batch at hand, else empty. `argument` gives the value of an argument by its name, None where there is none.
    """
    name = name.removesuffix("_") if not name.startswith("_") else name
    trains = any(argument(flag) is True for flag in _TRAINING)
    if "dropout" in name and name != "native_dropout":
        return "random" if trains and argument("p") != 0 else ""
    if name in ("rrelu", "rrelu_with_noise"):
        return "random" if trains else ""
    if name in _RANDOM:
        return "random" if name != "native_dropout" or argument("train") is not False else ""
    if "batch_norm" in name:
        return "training" if trains or argument("use_input_stats") is True else ""
    rates = [rate for rate in map(argument, _RATES) if isinstance(rate, float) and rate > 0]
    return "random" if rates and (argument("train") is not False) else ""


def comparison(name: str) -> tuple[Family, bool] | None:
    """The family of an operator that compares, and whether it compares with zero by itself; None for any other."""
    bare = name.removesuffix("_")
    family = _COMPARISONS.get(bare)
    return None if family is None else (family, bare in _OF_ZERO)


def is_look_up(name: str) -> bool:
    """Whether an operator looks its first argument up by indices."""
    return name in _TABLES


def behaviour(module: torch.nn.Module, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Behaviour:
    """What a module draws and decides on one case."""
    seen, refused = watched(module, inputs)
    if refused is not None:
        raise refused
    return seen


def watched(module: torch.nn.Module, inputs: Mapping[str, np.ndarray[Any, Any]]) -> tuple[Behaviour, Exception | None]:
    """What a module draws and decides on one case, until it ends or raises."""
    seen = Behaviour()
    try:
        _watch(seen, module, inputs, reading=True)
        return seen, None
    except Exception:  # code that does not take a number of another class than Python's
        seen = Behaviour()
    try:
        _watch(seen, module, inputs, reading=False)
        return seen, None
    except Exception as error:
        return seen, error


def _watch(seen: Behaviour, module: torch.nn.Module, inputs: Mapping[str, np.ndarray[Any, Any]], reading: bool) -> None:
    tensors = [torch.from_numpy(np.array(value)) for value in inputs.values()]
    watch = _Watch(seen, module, tensors)
    numbers = Reading(watch.followed, watch.decides_by_number) if reading else contextlib.nullcontext()
    with modelling.plain_attention(), torch.no_grad(), numbers, watch:
        module(*tensors)


class _Watch(TorchDispatchMode):
    def __init__(self, seen: Behaviour, module: torch.nn.Module, inputs: Sequence[torch.Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen
        self.followed = Followed(inputs)
        self.truths = Followed(())  # what comparisons gave: a branch on one is no other decision
        self.names = {id(part): name for name, part in module.named_modules()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        name = func._schema.name.partition("::")[2]
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | keywords
        kind = randomness(name, given.get)
        if kind:
            (self.seen.random if kind == "random" else self.seen.training).append(f"aten.{name}")
        follows = self.followed.any(args, keywords)
        decisions = self._decisions(name, func._schema, args, given, follows)
        if follows:
            self.seen.calls[name.removesuffix("_")] += 1
            self._bound(name, func._schema, given)
        result = func(*args, **keywords)
        if follows and name in _CHOOSING:
            self._choose(name, given, result)
        if follows and not name.startswith("new_") and not name.endswith("_like"):  # these take no more than a shape
            self.followed.write(func._schema, args, result)
        told = _told(name, func._schema, given, result) if decisions and decisions[0].site else result
        for decision in decisions:
            self.seen.decide(decision, _outcome(told))
            if decision.site and isinstance(result, torch.Tensor) and result.dtype is torch.bool:
                self.truths.add(result)
        return result

    def decides_by_number(self, operator: str, constant: float, outcome: bool) -> None:
        """Note that Python compared a number that was read out of a tensor."""
        family: Family = "equal" if operator in ("eq", "ne") else "order"
        self.seen.thresholds.add(constant)
        site = self._site(f"number.{operator}", (constant,))
        decision = Decision(family, ((constant,),), f"number.{operator}", site=site)
        self.seen.decide(decision, YES if outcome else NO)

    def _site(self, operator: str, constants: Sequence[float]) -> str:
        """What a person is told of a decision; empty where it is compared with what stands for infinity."""
        if any(not abs(constant) < HUGE for constant in constants):
            return ""
        words = f" with {constants[0]:g}" if len(constants) == 1 else ""
        return f"{operator}{words} {place(self.names)}".rstrip()

    def _bound(self, name: str, schema: Any, given: Mapping[str, Any]) -> None:
        """Note the bounds of an operator that keeps its data inside of some."""
        self.seen.bounds.update(_BENT.get(name.removesuffix("_"), ()))
        data, bounds = bounds_of(name, schema, given.get)
        if data not in self.followed and bounds:  # minimum(6, x)
            data, bounds = bounds[0][1], [(bounds[0][0], data)]
        for side, bound in bounds:
            value = self._number(bound)
            self.seen.bounds[math.nan if value is None else value] += 1
            if value is None or abs(value) >= HUGE or 0 < abs(value) < TINY:
                continue
            beyond = data.detach() > value if side == "above" else data.detach() < value
            site = f"aten.{name.removesuffix('_')} {side} {value:g} {place(self.names)}".rstrip()
            self.seen.turn(Turn(value, site), set(map(int, beyond.unique().tolist())))

    def _number(self, bound: Any) -> float | None:
        """The number that a bound is; None where it follows from the inputs, or is none, or several."""
        if isinstance(bound, torch.Tensor):
            few = bound not in self.followed and 0 < bound.numel() <= _MOST
            values = bound.detach().unique() if few else bound.new_empty(2)
            return float(values) if values.numel() == 1 else None
        return float(bound) if isinstance(bound, (int, float)) else None

    def _choose(self, name: str, given: Mapping[str, Any], result: Any) -> None:
        """Note which of its data an operator chooses; no more than two of many choices."""
        indices = result if isinstance(result, torch.Tensor) else result[1]
        axis = given.get("dim", -1 if name in ("topk", "sort") else None)
        if name in ("argmax", "argmin"):
            rows = indices.detach().reshape(-1, 1)
        else:
            rows = indices.detach().movedim(axis if isinstance(axis, int) else -1, -1)
            rows = rows.reshape(-1, rows.shape[-1])
        ways = {zlib.crc32(row.numpy().tobytes()) for row in rows[:_ROWS].unique(dim=0)[:2]}
        self.seen.turn(Turn(None, f"aten.{name} {place(self.names)}".rstrip()), ways)

    def _decisions(self, name: str, schema: Any, args: Any, given: Mapping[str, Any], follows: bool) -> list[Decision]:
        """What an operator decides. `follows`: whether any of its arguments depends on the inputs."""
        seen = self.seen
        compared = comparison(name)
        implied = _implied(name, schema, given)
        if compared is not None and compared[0] in STEPS:  # it counts as one of the module's own
            implied -= {(compared[0], None)}
        seen.implied |= implied
        seen.written.update({(family, name.removesuffix("_")) for family, _ in implied})
        operator = f"aten.{name}"
        if compared is not None or name.removesuffix("_") in _BOUNDED:
            numbers = [np.unique(side).astype(np.float64) for side in _sides(args)]
            seen.thresholds.update(float(value) for side in numbers if side.size <= _FEW for value in side)
        if compared is not None:
            family, with_zero = compared
            bound = bound_of(name, schema, given.get)
            sides = _sides(args) if bound is None else [np.asarray(bound)]
            sides = [np.zeros(1)] if with_zero else sides
            constants = tuple(tuple(map(float, np.unique(side).astype(np.float64))) for side in sides)
            constants = constants if family in ("equal", "order") else ()
            site = self._site(operator, self._constant(args)) if follows and _two_ways(name, args) else ""
            return [Decision(family, constants, operator, site=site)]
        if rounds(name, given.get("dtype"), bool(args) and _is_float(args[0])):
            return [Decision("round", (), operator)]
        if given.get("dtype") is torch.bool and name in ("_to_copy", "to"):
            numeric = follows and isinstance(args[0], torch.Tensor) and args[0].dtype is not torch.bool
            site = self._site("aten.bool", ()) if numeric and args[0] not in self.truths else ""
            return [Decision("equal", ((0.0,),), operator, site=site)]
        if name == "_local_scalar_dense":
            truth = follows and args[0].dtype is torch.bool and args[0] not in self.truths
            site = self._site("branch", ()) if truth else ""
            return [Decision("branch", (), operator, site=site), Decision("loop", (), operator, site=site)]
        if is_look_up(name) and _integers(args[0]):
            return [Decision("table", (), operator)]
        return []

    def _constant(self, operands: Any) -> list[float]:
        """The distinct values, two at most, of the first operand that does not depend on the inputs."""
        for side in operands:
            if isinstance(side, (int, float)):
                return [float(side)]
            if isinstance(side, torch.Tensor) and side not in self.followed and side.numel() <= _MOST:
                return [float(value) for value in np.unique(side.detach().numpy())[:2]]
        return []


_CHOOSING = ("argmax", "argmin", "topk", "sort")
_ROWS = 4096  # of choices, looked at in one call
_BOUNDS: Mapping[str, Mapping[str, str]] = {  # the arguments that bound the data from either side
    "clamp": {"min": "below", "max": "above"},
    "clip": {"min": "below", "max": "above"},
    "clamp_min": {"min": "below"},
    "clamp_max": {"max": "above"},
    "hardtanh": {"min_val": "below", "max_val": "above"},
    "minimum": {"other": "above"},
    "maximum": {"other": "below"},
}
_BENDING = ("leaky_relu", "prelu", "_prelu_kernel", "rrelu_with_noise", "threshold", "elu", "celu", "softplus", "mish",
            "log_sigmoid_forward")  # fmt: skip
_BENT: Mapping[str, Sequence[float]] = {  # what converters may write other operators out in
    "relu": (0.0,),
    **dict.fromkeys(_BENDING, (0.0, 0.0)),
    **dict.fromkeys(("hardswish", "hardsigmoid"), (-3.0, 0.0, 0.0, 1.0, 3.0, 6.0)),
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d"), (math.inf,)),
}


def bounds_of(name: str, schema: Any, argument: Callable[[str], Any]) -> tuple[Any, list[tuple[str, Any]]]:
    """The data of an operator that keeps them inside of bounds, and each bound with its side, `above` or `below`; none
    for any other operator."""
    sides = _BOUNDS.get(name.removesuffix("_"), {})
    defaults = {a.name: a.default_value for a in schema.arguments} if sides else {}
    values = {key: argument(key) if argument(key) is not None else defaults.get(key) for key in sides}
    return argument("self"), [(sides[key], value) for key, value in values.items() if value is not None]


_NO_WAYS = ("searchsorted", "histc", "nonzero", "nonzero_numpy", "count_nonzero", "logical_not")


def _two_ways(name: str, operands: Any) -> bool:
    """Whether a comparison gives yes or no, by what a file may lack: NaN tests are guards."""
    bare = name.removesuffix("_")
    itself = len(operands) > 1 and operands[0] is operands[1]
    return _COMPARISONS[bare] in ("equal", "order", "sign") and bare not in _NO_WAYS and not itself


def _told(name: str, schema: Any, given: Mapping[str, Any], result: Any) -> Any:
    """What of an operator's result has two ways: truth values as they are, any other by the side of its threshold."""
    bare = name.removesuffix("_")
    bound = bound_of(name, schema, given.get)
    if bound is not None:
        data = given["self"]
        return (data.abs() if bare in ("hardshrink", "softshrink") else data) > bound
    if bare in ("sign", "sgn", "bucketize", "copysign"):
        return result > 0
    return result


def _outcome(result: Any) -> int:
    """The ways that a decision went, by what it gave: truth values, or one."""
    if isinstance(result, torch.Tensor):
        many = MANY if result.numel() > 1 else 0
        return many | (YES if bool(result.any()) else 0) | (0 if bool(result.all()) else NO)
    return YES if result else NO


def _sides(operands: Any) -> list[Any]:
    """What may be the constant of a comparison: the number, or else either tensor."""
    numbers = [np.asarray(a) for a in operands if isinstance(a, (int, float))]
    tensors = [a.detach().numpy() for a in operands if isinstance(a, torch.Tensor) and a.numel() <= _MOST]
    return numbers or tensors


def rounds(name: str, dtype: Any, floating: bool) -> bool:
    """Whether an operator casts real numbers to integers."""
    whole = isinstance(dtype, torch.dtype) and not dtype.is_floating_point and not dtype.is_complex
    return floating and whole and dtype is not torch.bool and name in ("_to_copy", "to")


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _integers(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in (torch.int32, torch.int64)


_FINITE: frozenset[Implied] = frozenset({("finite", None)})
_ZERO: frozenset[Implied] = frozenset({("order", 0.0), ("equal", 0.0), ("equal", 1.0)})
_OTHERS: frozenset[Implied] = frozenset({("order", "other"), ("equal", "other")})
_INFINITE: frozenset[Implied] = frozenset({("equal", HUGE), ("equal", -HUGE)})
_ROUNDING: frozenset[Implied] = frozenset({("round", None), ("sign", None)})
_CHOICE: frozenset[Implied] = frozenset({("rank", None), ("onehot", None)})
_RESAMPLING = ("upsample", "_upsample", "grid_sampler", "affine_grid", "roi_", "deform", "fake_quantize", "quantize")
_COMPARED: tuple[Family, ...] = ("order", "equal")
_SORTING = ("bucketize", "searchsorted", "isin", "histc")  # by numbers of their own
_WRITTEN_OUT: Mapping[str, frozenset[Implied]] = {  # as torch.onnx and coremltools were seen to write these out
    "nan_to_num": _FINITE | _INFINITE | {("order", 0.0)},
    "atan2": _FINITE | {("order", 0.0), ("equal", 0.0)},
    "elu": frozenset({("order", 0.0)}),
    "logsumexp": frozenset({("equal", 0.0)}),
    "scatter": frozenset({("equal", "range"), ("onehot", None)}),  # one_hot(i, n) is i == range(n)
    **dict.fromkeys(_SORTING, _OTHERS | _ZERO),
    "heaviside": _ZERO,
    "sinc": _ZERO | _ROUNDING,
    **dict.fromkeys(("any", "all"), _ZERO),
    **dict.fromkeys(("floor_divide", "remainder", "fmod"), _ZERO | _ROUNDING),
    **dict.fromkeys(("round", "trunc", "fix", "frac", "erf", "gelu", "hardshrink", "softshrink"), _ROUNDING),
    **dict.fromkeys(("sign", "sgn", "signbit", "copysign"), _ZERO | {("sign", None)}),
    **dict.fromkeys(
        (
            "argmax",
            "argmin",
            "topk",
            "sort",
            "max",
            "min",
            "embedding",
            "kthvalue",
            "median",
            "nms",
            "max_pool2d_with_indices",
        ),
        _CHOICE,
    ),
    # a row that is masked throughout
    **dict.fromkeys(("_softmax", "_safe_softmax", "_scaled_dot_product_flash_attention_for_cpu"), _FINITE),
}
_TIMES: Mapping[tuple[Family, str], int] = {  # of a family, that an operator was seen to be written out in
    ("order", "atan2"): 5,
    ("finite", "nan_to_num"): 3,
    **dict.fromkeys(((family, name) for family in _COMPARED for name in ("any", "all")), 1),
    **dict.fromkeys(((family, name) for family in _COMPARED for name in _SORTING), 8),
}
_ONCE = ("sign", "rank", "onehot")
_VARIED = ("max", "min", "max_pool2d_with_indices", "floor_divide", "remainder", "fmod", "div")
_BOUND = {  # operators that go another way beyond a number of theirs, by the argument that gives it
    "softplus": "threshold",
    "threshold": "threshold",
    "hardshrink": "lambd",
    "softshrink": "lambd",
    "huber_loss": "delta",
    "smooth_l1_loss": "beta",
}


def most_of(family: Family, operator: str) -> int:
    """How many comparisons of a family a converter may write one call of an operator out in."""
    if operator.startswith(_RESAMPLING):
        return 6
    return _TIMES.get((family, operator), 1 if family in _ONCE else 2)


def varies(operator: str) -> bool:
    """Whether the arguments of a call say in what it is written out: an index that nobody reads needs no rank."""
    return operator in _VARIED


def bound_of(name: str, schema: Any, argument: Callable[[str], Any]) -> float | None:
    """The number beyond which an operator goes another way, given or by default; None for any other operator."""
    key = _BOUND.get(name.removesuffix("_"))
    if key is None:
        return None
    bound = argument(key)
    if bound is None:
        bound = next((a.default_value for a in schema.arguments if a.name == key), None)
    return float(bound) if isinstance(bound, (int, float)) else None


def _implied(name: str, schema: Any, given: Mapping[str, Any]) -> set[Implied]:
    """The comparisons that an operator stands for, and that converters were seen to write out."""
    bare = name.removesuffix("_")
    implied = set(_WRITTEN_OUT.get(bare, ()))
    if bare.startswith(_RESAMPLING):
        implied |= _ROUNDING
    if (bound := bound_of(name, schema, given.get)) is not None:
        implied |= {("order", bound), ("order", -bound)}
    if bare in _SORTING:
        edges = [given.get(key) for key in ("boundaries", "sorted_sequence", "test_elements")]
        numbers = {float(value) for side in _sides(edges) for value in np.unique(side).astype(np.float64)}
        implied |= {(family, value) for value in numbers for family in _COMPARED}
    if bare == "div" and given.get("rounding_mode"):
        implied |= _ZERO | _ROUNDING
    return implied
