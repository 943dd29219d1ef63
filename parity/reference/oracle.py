"""The oracle, in a child process: the untouched module in float64, on the very inputs that the artefact gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from parity.core.errors import Disagrees, ParityError
from parity.process.child import stage
from parity.reference import modelling, reads
from parity.reference.exact import Exact
from parity.reference.messages import Evaluated, OracleRequest

_exact: dict[str, Exact] = {}
_KEPT = 4  # power asks for one module after another, each with a fault


@reads.noting
def evaluate(request: OracleRequest) -> Evaluated:
    """Outputs of the float64 module for each case.

    Inputs are cast from their stored dtype, so the oracle sees exactly the values that the artefact is given. A module
    that cannot run in float64 runs in float32, and `note` says why. One that executes a file of another tool first
    shows that it does so rightly.
    """
    stage("oracle")
    key = repr(request.model)
    if key not in _exact:
        while len(_exact) >= _KEPT:
            del _exact[next(iter(_exact))]
        module: Any = modelling.load(request.model)
        if callable(confirm := getattr(module, "confirm", None)):
            try:
                confirm(request.cases[0])
            except Disagrees as why:
                module = module.alternative(str(why))
        _exact[key] = Exact(module)
        if request.model.reference:
            _expect_no_state(_exact[key], request)
    exact = _exact[key]
    with modelling.plain_attention():
        results = [exact.run(case, request.outputs) for case in request.cases]
    return Evaluated(results, "float32" if exact.note else "float64", exact.note)


def _expect_no_state(exact: Exact, request: OracleRequest) -> None:
    """Raise ParityError for a file that gives something else when it is given the same once more: what it gives
    depends on what came before, so that no file can be held against it."""
    first, second = (exact.run(request.cases[0], request.outputs) for _ in range(2))
    changed = [name for name in first if not np.array_equal(first[name], second[name], equal_nan=True)]
    if changed:
        del _exact[repr(request.model)]
        raise ParityError(
            f"{Path(str(request.model.reference)).name} gives another {changed[0]!r} for the same inputs the second "
            "time: it keeps state from call to call, or draws at random, and is no reference: export it with its "
            "state as an input and an output"
        )
