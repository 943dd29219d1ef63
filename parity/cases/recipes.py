"""Recipes: inputs that a person can read, repeat and shrink. A recipe names a kind, a seed, a magnitude and a memory
layout for each input, and the sizes of the dynamic axes; the elements follow from it.

Each built-in kind is one NumPy expression. It is what is evaluated and what a reproducing snippet prints, so the two
cannot differ. Drawing elements instead would give a few distinct values in a whole picture. NumPy only.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from types import CodeType
from typing import Any, Literal, get_args

import numpy as np

from parity.core import strict_json
from parity.core.case import Array, Case
from parity.core.contract import Contract, InputSpec
from parity.core.errors import ParityError

Layout = Literal["plain", "strided", "channels_last"]
Family = Literal["float", "integer", "mask"]
Extreme = Literal["zeros", "lowest", "highest", "padding", "black", "white"]
Make = Callable[[np.random.Generator, tuple[int, ...], float, float], Array]

# S: shape, N: its elements, L: its last size, lo and hi: the range, rest: the value in the range nearest to 0.
# The simplest stand first: shrinking moves towards them.
EXPRESSIONS: Mapping[Family, Mapping[str, str]] = {
    "float": {
        "constant": "np.full(S, rng.uniform(lo, hi))",
        "impulse": "np.where(np.arange(N).reshape(S) == rng.integers(N), hi, rest)",
        "ramp": "np.linspace(lo, hi, N).reshape(S)",
        "checkerboard": "np.where(np.indices(S).sum(0) % 2, hi, lo)",
        "saturated": "rng.choice([lo, hi], S)",
        "sparse": "np.where(rng.random(S) < 0.05, rng.uniform(lo, hi, S), rest)",
        "uniform": "rng.uniform(lo, hi, S)",
        "normal": "(lo + hi) / 2 + (hi - lo) / 4 * rng.standard_normal(S).clip(-2, 2)",
        # Amplitudes fall as 1 / frequency, as in photographs.
        "natural": "(lo + hi) / 2 + (hi - lo) / 2 * (v := np.fft.ifft2(np.fft.fft2(rng.standard_normal(S)) "
        "/ (0.01 + np.hypot(np.fft.fftfreq(S[-2])[:, None], np.fft.fftfreq(S[-1])))).real) / np.abs(v).max()",
    },
    "integer": {
        "constant": "np.full(S, rng.integers(lo, hi + 1))",
        "ramp": "lo + np.arange(N).reshape(S) % (hi - lo + 1)",
        "saturated": "rng.choice([lo, hi], S)",
        "repeated": "np.resize(rng.integers(lo, hi + 1, 2), S)",
        "uniform": "rng.integers(lo, hi + 1, S)",
    },
    "mask": {  # never all false: a softmax over nothing is not defined
        "all": "np.ones(S)",
        "prefix": "np.arange(L) < rng.integers(1, L + 1, (*S[:-1], 1))",
        "random": "(rng.random(S) < 0.5) | (np.arange(L) == 0)",
    },
}
EXTREMES: tuple[str, ...] = get_args(Extreme)
"""Kinds that are never drawn: `parity.cases.extremes` makes each once, with the level of every channel."""
FLAT = "np.full(S, levels)"
EDGES: Mapping[Family, Mapping[str, str]] = {
    "float": {
        "edge": FLAT,
        "edge_at_one": "np.where(np.arange(N).reshape(S) == rng.integers(N), levels, rest)",
        "around": "levels + (hi - lo) / 2 * rng.uniform(-1, 1, S)",
        "halves": "np.where(np.arange(L) * 2 < L, levels, lo + hi - levels) * np.ones(S)",
    },
    "integer": {
        "edge": FLAT,
        "edge_at_one": "np.where(np.arange(N).reshape(S) == rng.integers(N), levels, rng.integers(lo, hi + 1, S))",
    },
    "mask": {},
}
"""Kinds that are never drawn: at a number that file or module compares with, whole or at one place; numbers around
one; and one level before the middle of the last axis, another behind it."""
SWEEP = "sweep"
NEVER_DRAWN: Mapping[Family, Mapping[str, str]] = {
    **EDGES,
    "integer": {**EDGES["integer"], SWEEP: "np.resize(np.arange(*levels), S)"},
}
"""A sweep holds all integers from its first level up to its second, each once, over and over where there is room."""
_NEVER_DRAWN = tuple({kind for kinds in NEVER_DRAWN.values() for kind in kinds})
ONE_LEVEL = frozenset({*EXTREMES, "edge", "constant", "all"})
"""Kinds in which a normalisation finds nothing but rounding."""
MAGNITUDES: Mapping[float, str] = {1.0: "", 0.1: "small", 1e-4: "tiny", 4.0: "amplified"}
"""The range is shrunk towards, or stretched away from, its value nearest to 0 by this factor. Floats only."""

ELEMENTS = 1 << 22  # of one input; larger sizes are not drawn

_registered: dict[Family, dict[str, tuple[Make, str]]] = {"float": {}, "integer": {}, "mask": {}}


def register_recipe(name: str, make: Make, family: Family = "float") -> None:
    """Add a kind of input that every property test draws: `make(rng, shape, low, high)` gives the array.

    `family`: "float", "integer" (ids, `high` included) or "mask". It must depend on its arguments alone, and be a
    function of a module, for the script of a failing input imports it. Raises ParityError.
    """
    if family not in EXPRESSIONS:
        raise ParityError(f"register_recipe: family {family!r} is none of {', '.join(EXPRESSIONS)}")
    if not name.isidentifier() or name in EXPRESSIONS[family] or name in _registered[family]:
        raise ParityError(f"register_recipe: {name!r} is taken or is no identifier: choose another name")
    if "<" in getattr(make, "__qualname__", "<"):
        raise ParityError(f"register_recipe: {name!r} is a lambda or a local function: give one that can be imported")
    _registered[family][name] = (make, f"{make.__module__}:{make.__qualname__}")


def family(spec: InputSpec) -> Family:
    """What an input holds: a mask (bool, or integers of 0 and 1), integers, or real numbers."""
    kind = np.dtype(spec.dtype).kind
    if kind == "b" or (kind in "iu" and spec.range == (0, 1)):
        return "mask"
    return "integer" if kind in "iu" else "float"


def kinds(spec: InputSpec) -> tuple[str, ...]:
    """The kinds that can fill an input, simplest first, the user's own last."""
    known = [k for k in EXPRESSIONS[family(spec)] if k != "natural" or len(spec.shape) >= 3]
    return (*known, *_registered[family(spec)])


def fillable(spec: InputSpec) -> tuple[str, ...]:
    """The kinds that a recipe may fill an input with, simplest first: extremes, then what is drawn."""
    return (*EXTREMES, *NEVER_DRAWN[family(spec)], *kinds(spec))


def layouts(spec: InputSpec) -> tuple[Layout, ...]:
    return ("plain", "strided", "channels_last") if len(spec.shape) >= 3 else ("plain", "strided")


@dataclass(frozen=True)
class Fill:
    """How one input is filled."""

    kind: str
    seed: int = 0
    magnitude: float = 1.0
    layout: Layout = "plain"
    levels: tuple[float, ...] = ()  # of an extreme: one value, or one for each channel (axis 1)

    def names(self, spec: InputSpec, shape: tuple[int, ...]) -> dict[str, Any]:
        """What the letters of an expression stand for."""
        whole = family(spec) != "float"
        low, high = spec.range or ((0, 1) if whole else (-1.0, 1.0))
        rest = min(max(0.0, low), high)
        if whole:
            low, high, rest = int(low), int(high), int(rest)
        else:
            low, high = rest + self.magnitude * (low - rest), rest + self.magnitude * (high - rest)
        last = shape[-1] if shape else 1
        names = {"S": shape, "N": math.prod(shape), "L": last, "lo": low, "hi": high, "rest": rest}
        return names | {"levels": self._levels(len(shape))}

    def _levels(self, rank: int) -> Any:
        """The levels as nested lists that broadcast along axis 1 of `rank` axes; one level as a number; those of a
        sweep as integers."""
        if self.kind == SWEEP:
            return [int(level) for level in self.levels]
        if len(self.levels) <= 1:
            return next(iter(self.levels), None)
        return np.reshape(self.levels, (-1, *(1,) * (rank - 2))).tolist()

    def expression(self, spec: InputSpec) -> str | None:
        """The NumPy expression of the kind; None for one that was registered."""
        if self.kind in EXTREMES:
            return FLAT
        return NEVER_DRAWN[family(spec)].get(self.kind) or EXPRESSIONS[family(spec)].get(self.kind)

    def array(self, spec: InputSpec, shape: tuple[int, ...]) -> Array:
        """The elements, contiguous, in the input's dtype. Raises ParityError for a kind that nobody registered."""
        names, rng = self.names(spec, shape), np.random.default_rng(self.seed)
        expression = self.expression(spec)
        if expression is not None:
            made = eval(_compiled(expression), {"np": np, "rng": rng, **names})
        elif self.kind in _registered[family(spec)]:
            made = _registered[family(spec)][self.kind][0](rng, shape, names["lo"], names["hi"])
        else:
            raise ParityError(f"recipe kind {self.kind!r} of input {spec.name}: nobody registered it")
        made = np.asarray(made)
        if made.shape != shape:
            raise ParityError(f"recipe kind {self.kind!r} of input {spec.name}: made {made.shape}, asked for {shape}")
        return np.ascontiguousarray(made).astype(spec.dtype)

    def line(self, spec: InputSpec, shape: tuple[int, ...]) -> str:
        """One line of plain NumPy that makes the same elements."""
        expression = self.expression(spec)
        values = {**self.names(spec, shape), "rng": f"np.random.default_rng({self.seed})"}
        if expression is None:
            module, _, name = _registered[family(spec)][self.kind][1].partition(":")
            call = f"__import__({module!r}, fromlist=['_']).{name}(rng, S, lo, hi)"
            expression = call
        if expression.count("rng") > 1:  # one generator, used twice
            values["rng"] = "rng"
            return (
                f"rng = np.random.default_rng({self.seed}); "
                f"{variable(spec.name)} = {_filled(expression, values)}.astype(np.{_dtype(spec)})"
            )
        return f"{variable(spec.name)} = np.asarray({_filled(expression, values)}).astype(np.{_dtype(spec)})"

    def fits(self, spec: InputSpec) -> bool:
        """Whether the levels are finite numbers: one, or one for each channel of an input of four axes; of a sweep, two
        integers in their order."""
        if not self.levels or not all(_is_magnitude(level) for level in self.levels):
            return False
        if self.kind == SWEEP:
            return len(self.levels) == 2 and all(v == int(v) for v in self.levels) and self.levels[0] < self.levels[1]
        return len(self.levels) == 1 or (len(spec.shape) == 4 and spec.shape[1] == len(self.levels))

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {name: value for name, value in vars(self).items() if name != "levels" or value}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Fill:
        """What `plain` gave. Raises TypeError for anything else."""
        return cls(**{**stored, "levels": tuple(stored.get("levels", ()))})

    def __str__(self) -> str:
        words = [MAGNITUDES.get(self.magnitude, f"x{self.magnitude:g}"), self.kind]
        words += [f"{level:g}" for level in self.levels if self.kind in _NEVER_DRAWN]
        words += [self.layout] if self.layout != "plain" else []
        return " ".join(w for w in words if w)


@cache
def _compiled(expression: str) -> CodeType:
    return compile(expression, "<recipe>", "eval")


def _filled(expression: str, values: Mapping[str, Any]) -> str:
    return re.sub(r"\b(S|N|L|lo|hi|rest|rng|levels)\b", lambda found: str(values[found[0]]), expression)


def _dtype(spec: InputSpec) -> str:
    return "bool_" if spec.dtype == "bool" else spec.dtype


def variable(name: str) -> str:
    """A Python name for an input."""
    word = re.sub(r"\W", "_", name)
    return word if word.isidentifier() and word not in ("np", "rng", "v") else f"x_{word}"


def viewed(value: Array, layout: Layout) -> Array:
    """The same elements in another place of memory: a runtime that reads memory instead of the view is wrong."""
    if layout == "strided" and value.ndim:
        room = np.full((*value.shape[:-1], 2 * value.shape[-1]), 77, value.dtype)
        room[..., ::2] = value
        return room[..., ::2]
    if layout == "channels_last" and value.ndim >= 3:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(value, 1, -1)), -1, 1)
    return value


@dataclass(frozen=True)
class Recipe:
    """One set of inputs: sizes of the dynamic axes, and a fill for each input."""

    inputs: Mapping[str, Fill]
    dims: Mapping[str, int] = field(default_factory=dict)

    def arrays(self, contract: Contract, dims: Mapping[str, int] | None = None) -> dict[str, Array]:
        """The inputs; `dims` overrides the recipe's own sizes, for a file that has fixed ones."""
        sizes = {**self.dims, **(dims or {})}
        return {s.name: self.inputs[s.name].array(s, s.sized(sizes)) for s in contract.inputs}

    def case(self, contract: Contract, dims: Mapping[str, int] | None = None) -> Case:
        return Case(self.id, self.arrays(contract, dims))

    @property
    def flat(self) -> bool:
        """Whether every input is of one level, as of an extreme, an edge, or a constant that was drawn."""
        return all(fill.kind in ONE_LEVEL for fill in self.inputs.values())

    @property
    def on_edge(self) -> bool:
        """Whether an input lies at a number that file or module decides by."""
        return any(fill.kind in kinds for fill in self.inputs.values() for kinds in EDGES.values())

    def layouts(self) -> dict[str, Layout]:
        return {name: fill.layout for name, fill in self.inputs.items() if fill.layout != "plain"}

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.json().encode()).hexdigest()[:8]

    @cached_property
    def id(self) -> str:
        """What a reader sees: `natural batch=2 ~3fa9c1d2`; unique by its last word."""
        fills = list(self.inputs.items())
        said = str(fills[0][1]) if len(fills) == 1 else ", ".join(f"{n} {f}" for n, f in fills)
        sizes = "".join(f" {n}={s}" for n, s in self.dims.items())
        return f"{said}{sizes} ~{self.digest}"

    def weight(self, contract: Contract) -> tuple[Any, ...]:
        """Smaller is simpler: fewer elements, then simpler fills."""
        elements = sum(math.prod(s.sized(self.dims)) for s in contract.inputs)
        ranks = [fillable(s).index(self.inputs[s.name].kind) for s in contract.inputs]
        fills = self.inputs.values()
        odd = sum(f.layout != "plain" for f in fills) + sum(f.magnitude != 1.0 for f in fills)
        return elements, odd, sum(ranks), sum(f.seed for f in fills)

    def json(self) -> str:
        fills = {name: fill.plain() for name, fill in self.inputs.items()}
        return json.dumps({"inputs": fills, "dims": self.dims}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str, contract: Contract) -> Recipe:
        """The recipe in a JSON text. Raises ParityError where it does not fit the contract."""
        try:
            data = strict_json.loads(text)
            inputs = {str(n): Fill.of(f) for n, f in data["inputs"].items()}
            dims = dict(data["dims"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ParityError(f"not a recipe ({error!s:.200})") from None
        sizes = contract.sizes()
        if set(inputs) != {s.name for s in contract.inputs} or set(dims) != set(sizes):
            raise ParityError("the recipe is for other inputs or axes than the model's")
        if any(type(n) is not int or n < 1 for n in dims.values()):
            raise ParityError("the recipe's sizes are not whole numbers of at least 1")
        for spec in contract.inputs:
            fill = inputs[spec.name]
            if fill.kind not in fillable(spec) or fill.layout not in layouts(spec):
                raise ParityError(
                    f"the recipe fills {spec.name} with {fill.kind!r:.40} {fill.layout!r:.40}, which is unknown"
                )
            if type(fill.seed) is not int or fill.seed < 0 or not _is_magnitude(fill.magnitude):
                raise ParityError(f"the recipe's seed or magnitude of {spec.name} is no sensible number")
            if (fill.kind in (*EXTREMES, *_NEVER_DRAWN)) != fill.fits(spec):
                raise ParityError(f"the recipe's levels of {spec.name} are not a number, or one for each channel")
            declared = math.prod(spec.sized({name: max(known) for name, known in sizes.items()}))
            if math.prod(spec.sized(dims)) > max(ELEMENTS, declared):
                raise ParityError(f"the recipe makes {spec.name} larger than any declared size")
        return cls(inputs, dims)


def _is_magnitude(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30
