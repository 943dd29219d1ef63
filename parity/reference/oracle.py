"""The oracle, in a child process: the untouched module in float64, on the very inputs that the artefact gets."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from parity.core.errors import Disagrees, ParityError
from parity.process.child import stage
from parity.reference import modelling
from parity.reference.messages import Evaluated, OracleRequest

_double: dict[str, tuple[torch.nn.Module, str]] = {}
_KEPT = 4  # power asks for one module after another, each with a fault


def evaluate(request: OracleRequest) -> Evaluated:
    """Outputs of the float64 module for each case.

    Inputs are cast from their stored dtype, so the oracle sees exactly the values that the artefact is given. A module
    that cannot run in float64 runs in float32, and `note` says why.
    """
    stage("oracle")
    cases, outputs = request.cases, request.outputs
    module = modelling.load(request.model)
    key = repr(request.model)
    if key not in _double:
        while len(_double) >= _KEPT:
            del _double[next(iter(_double))]
        _double[key] = _doubled(module, cases[0])
    double, note = _double[key]
    with modelling.plain_attention():
        results = []
        fallen = ""
        for case in cases:
            try:
                results.append(run(double, case, outputs, torch.float64 if not note else torch.float32))
                fallen = fallen or getattr(double, "fallen", "")
            except ParityError:
                raise
            except RuntimeError as error:
                if note or results:
                    raise
                results.append(run(module, case, outputs, torch.float32))  # raises where the case itself is wrong
                lines = str(error).strip().splitlines() or [type(error).__name__]
                note = f"the module cannot run in float64 ({lines[0][:160]})"
                double = module
                _double[key] = (module, note)
    note = note or fallen
    return Evaluated(results, "float32" if note else "float64", note)


def _doubled(module: torch.nn.Module, case: Mapping[str, np.ndarray[Any, Any]]) -> tuple[torch.nn.Module, str]:
    """The module in float64; as it is, with the reason, where it has no such form. A module that executes a file of
    another tool first shows that it does so rightly."""
    if callable(confirm := getattr(module, "confirm", None)):
        try:
            confirm(case)
        except Disagrees as why:
            other: Any = module
            module = other.alternative(str(why))
    try:
        return copy.deepcopy(module).double(), ""
    except RuntimeError as error:
        return module, str(error)


def run(
    module: torch.nn.Module, case: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str], dtype: torch.dtype
) -> dict[str, np.ndarray[Any, Any]]:
    inputs = {k: torch.from_numpy(np.array(v)) for k, v in case.items()}
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    result = modelling.forward(module, inputs, outputs)
    return {k: v.to(torch.float64).numpy() if v.is_floating_point() else v.numpy() for k, v in result.items()}
