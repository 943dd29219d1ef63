"""What each precision does to a model's numbers, as data. Imports neither torch nor a converter.

A recipe says how weights are stored, where activations are rounded and in which order sums are taken. A flavour is a
recipe's name: one precision has several, because runtimes differ in what they round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from parity.core.errors import ParityError


@dataclass(frozen=True)
class Recipe:
    """How one flavour of one precision rounds.

    `weights`: constants that contractions (convolution, linear, matmul) read: as they are, to fp16, or to int8 per
    output channel (symmetric), or to 8 bits per tensor (asymmetric); "mixed" is per tensor for convolutions and per
    channel (asymmetric) for products. Where it is fp16, all other constants are too. `activations`: what an operator
    computes: as it is, to fp16, or to int8 per tensor with calibrated ranges; "input8" rounds only what enters a
    contraction, by each tensor's own range, as hybrid kernels do. `parts`: in how many interleaved partial sums a
    contraction is taken; `round_parts` rounds each to fp16. `norms` "split" rounds each step of a normalisation,
    "whole" only its result. `only`: where not empty, the only kinds of operator whose results are rounded. `jitter`:
    every result is off by up to that many units of 2**-23 of itself, at random. `plain_means`: a mean adds its
    elements one after another in float32, as ONNX Runtime's GlobalAveragePool does: of 12,544 equal ones it is off
    by 2e-5. `tables`: what embeddings look up, to 8 bits with one scale, where that is not "exact". `small`: weights of
    contractions and tables with fewer elements stay as they are, and so do the recurrent layers and kinds of
    contraction in `untouched`.
    """

    weights: Literal["exact", "fp16", "channel", "tensor", "mixed"] = "exact"
    activations: Literal["exact", "fp16", "input8", "int8"] = "exact"
    parts: int = 1
    round_parts: bool = False
    norms: Literal["whole", "split"] = "whole"
    only: frozenset[str] = frozenset()
    jitter: float = 0.0
    plain_means: bool = False
    small: int = 0
    tables: Literal["exact", "symmetric", "asymmetric"] = "exact"
    untouched: frozenset[str] = frozenset()


# The operators that ONNX Runtime's static quantisation rounds, by the names of their ATen counterparts.
ORT_INT8 = frozenset(
    ("conv", "transposed", "contract", "add", "mul", "sigmoid", "relu", "clamp", "leaky_relu", "softmax", "mean", "cat",
     "avg_pool2d", "adaptive_avg_pool2d", "norm", "upsample", "where", "embedding", "index")
)  # fmt: skip
_RECURRENT = frozenset(("GRU", "LSTM", "RNN"))

RECIPES: Mapping[str, Mapping[str, Recipe]] = {
    "fp32": {
        "order": Recipe(parts=3),
        "jitter": Recipe(parts=3, jitter=1.0),
        "plain means": Recipe(parts=3, plain_means=True),
    },
    "fp16": {
        "storage": Recipe(weights="fp16"),
        "compute": Recipe(weights="fp16", activations="fp16"),
        "accumulate": Recipe(weights="fp16", activations="fp16", parts=16, round_parts=True),
    },
    "dynamic": {
        "hybrid": Recipe(
            weights="channel", activations="input8", tables="symmetric", small=1024, untouched=frozenset(("conv3d",))
        ),
        "weights": Recipe(weights="channel"),
        "tensor": Recipe(weights="tensor", activations="input8", tables="asymmetric"),
        "ort": Recipe(
            weights="mixed",
            activations="input8",
            tables="asymmetric",
            untouched=frozenset(("transposed", "GRU", "RNN")),
        ),
    },
    "int8": {
        "split": Recipe(weights="channel", activations="int8", norms="split"),
        "whole": Recipe(weights="channel", activations="int8"),
        "ort": Recipe(weights="channel", activations="int8", only=ORT_INT8, untouched=_RECURRENT),
    },
}
"""By precision and flavour; the first flavour of a precision is its default."""


TIES = "ties"
TIE_BREAKERS: Mapping[str, Recipe] = {
    "fp32": Recipe(jitter=4.0),
    "fp16": Recipe(jitter=2.0**13),
    "dynamic": Recipe(jitter=2.0**16),
    "int8": Recipe(jitter=2.0**16),
}
"""By precision, the flavour `TIES`: nothing is rounded, and every result is moved at random by up to two units of the
precision. Where such a twin decides otherwise than the oracle, it decides between equals. It is no floor of noise."""


def recipe(precision: str, flavour: str | None = None) -> Recipe:
    """The recipe of a flavour, or a precision's default. Raises ParityError for a name that is not there."""
    if precision not in RECIPES:
        raise ParityError(f"no twin for precision {precision!r}; there are: {', '.join(RECIPES)}")
    if flavour == TIES:
        return TIE_BREAKERS[precision]
    known = RECIPES[precision]
    if flavour is not None and flavour not in known:
        raise ParityError(f"no flavour {flavour!r} of {precision}; there are: {', '.join(known)}")
    return known[flavour or next(iter(known))]
