"""What each precision does to a model's numbers, as data. Imports neither torch nor a converter.

A recipe says how weights are stored, where activations are rounded and in which order sums are taken. A flavour is a
recipe's name: one precision has several, because runtimes differ in what they round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from parity.errors import ParityError


@dataclass(frozen=True)
class Recipe:
    """How one flavour of one precision rounds.

    `weights`: constants that contractions (convolution, linear, matmul) read: as they are, to fp16, or to int8 per
    output channel (symmetric), or per tensor (asymmetric, 8 bits). Where `weights` is fp16, all other constants are
    too. `activations`: what an operator computes: as it is, to fp16, or to int8 per tensor with calibrated ranges;
    "input8" rounds only what enters a contraction, by each tensor's own range, as hybrid kernels do.
    `parts`: in how many partial sums a contraction is taken; `round_parts` rounds each of them to fp16.
    `norms` "whole" keeps a normalisation, GELU or softmax as one operator, "split" rounds each of its steps.
    `only`: where not empty, the only kinds of operator whose results are rounded.
    `jitter`: every operator's result is off by up to that many units in its last place (2**-23), at random.
    `small`: contractions whose weights have fewer elements stay as they are. `untouched`: recurrent layers, by class,
    that stay as they are.
    """

    weights: Literal["exact", "fp16", "channel", "tensor"] = "exact"
    activations: Literal["exact", "fp16", "input8", "int8"] = "exact"
    parts: int = 1
    round_parts: bool = False
    norms: Literal["whole", "split"] = "whole"
    only: frozenset[str] = frozenset()
    jitter: float = 0.0
    small: int = 0
    untouched: frozenset[str] = frozenset()


# The operators that ONNX Runtime's static quantisation rounds, by the names of their ATen counterparts.
ORT_INT8 = frozenset(
    ("conv", "contract", "add", "mul", "sigmoid", "relu", "clamp", "hardtanh", "leaky_relu", "softmax", "mean", "avg_pool2d",
     "adaptive_avg_pool2d", "cat", "norm", "upsample", "where", "embedding", "index")
)  # fmt: skip

RECIPES: Mapping[str, Mapping[str, Recipe]] = {
    "fp32": {
        "order": Recipe(parts=2),
        "order8": Recipe(parts=8),
        "half": Recipe(parts=2, jitter=0.5),
        "half8": Recipe(parts=8, jitter=0.5),
        "jitter": Recipe(parts=2, jitter=1.0),
    },
    "fp16": {
        "storage": Recipe(weights="fp16"),
        "compute": Recipe(weights="fp16", activations="fp16"),
        "accumulate": Recipe(weights="fp16", activations="fp16", parts=16, round_parts=True),
    },
    "dynamic": {
        "weights": Recipe(weights="channel"),
        "hybrid": Recipe(weights="channel", activations="input8", small=1024),
        "tensor": Recipe(weights="tensor", activations="input8", untouched=frozenset(("GRU", "RNN"))),
    },
    "int8": {
        "whole": Recipe(weights="channel", activations="int8"),
        "split": Recipe(weights="channel", activations="int8", norms="split"),
        "ort": Recipe(
            weights="channel", activations="int8", only=ORT_INT8, untouched=frozenset(("GRU", "LSTM", "RNN"))
        ),
    },
}
"""By precision and flavour; the first flavour of a precision is its default."""


def recipe(precision: str, flavour: str | None = None) -> Recipe:
    """The recipe of a flavour, or a precision's default. Raises ParityError for a name that is not there."""
    if precision not in RECIPES:
        raise ParityError(f"no twin for precision {precision!r}; there are: {', '.join(RECIPES)}")
    known = RECIPES[precision]
    if flavour is not None and flavour not in known:
        raise ParityError(f"no flavour {flavour!r} of {precision}; there are: {', '.join(known)}")
    return known[flavour or next(iter(known))]
