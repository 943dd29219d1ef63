"""The oracle or a twin over steps that feed one another, in a child process: each carries its own state."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from parity.cases.sequence import play
from parity.process.child import stage
from parity.reference import modelling, oracle, twin
from parity.reference.recipes import recipe

Case = Mapping[str, np.ndarray[Any, Any]]


def evaluate(
    model: Mapping[str, Any],
    cases: Sequence[Case],
    outputs: list[str],
    carry: Mapping[str, str],
    keep: list[str],
    free: Mapping[str, Any] | None = None,
    precision: str | None = None,
    flavour: str | None = None,
    calibration: Sequence[Case] | None = None,
) -> dict[str, Any]:
    """The outputs `keep` of every step of `cases`, as {"outputs": [{name: float64 array}], "dtype", "note"}.

    Without a precision it is the float64 oracle; with one, the twin that rounds so, its state included.
    """
    stage("sequence")
    if precision is not None:
        chosen = recipe(precision, flavour)
        ranges = twin.kept_ranges(model, chosen, calibration or cases[:1])
        with twin.rounding(modelling.load(model), cases[0], outputs, chosen, calibration, ranges=ranges) as round_:
            rows = play(round_, cases, carry, keep, free)
        return {"outputs": rows, "dtype": "float32", "note": ""}
    module = copy.deepcopy(modelling.load(model)).double()

    def exact(case: dict[str, Any], number: int) -> dict[str, Any]:
        return oracle.run(module, case, outputs, torch.float64)

    with modelling.plain_attention():
        rows = play(exact, cases, carry, keep, free)
    return {"outputs": rows, "dtype": "float64", "note": ""}
