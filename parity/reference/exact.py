"""A module as the measure of all others: in float64, or in float32 where it has no such form. In a child only.

Masks filled with `finfo(dtype).min`, and files that another tool executes, run in float32 alone. The first call says
which it is; all that follow are of the same kind. A module that runs in float64 may still give NaN there where float32
gives numbers, as where such a mask is cast to float32 and hides a whole row: for that case float32 is the measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from parity.core.errors import ParityError
from parity.reference import modelling
from parity.reference.copying import copied

Case = Mapping[str, np.ndarray[Any, Any]]
Rows = dict[str, np.ndarray[Any, Any]]

ONLY_IN_FLOAT32 = "on some inputs the module gives NaN or infinity in float64 and numbers in float32, which count there"


class Exact:
    """One module at the best precision that it runs in. `note` says why that is not float64; empty where it is."""

    def __init__(self, module: torch.nn.Module):
        self._single = module
        self.module, self.dtype, self.note = module, torch.float64, ""
        self._ran = False
        try:
            self.module = copied(module).double()
        except RuntimeError as error:
            self._narrow(str(error))

    def run(self, case: Case, outputs: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs of one case, float64 arrays where they are real.

        Raises what the module raises, and ParityError where it has no such outputs.
        """
        try:
            rows = run(self.module, case, outputs, self.dtype)
        except ParityError:
            raise
        except RuntimeError as error:
            if self._ran or self.note:
                raise
            rows = run(self._single, case, outputs, torch.float32)  # raises where the case itself is wrong
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._narrow(f"the module cannot run in float64 ({lines[0][:160]})")
        if self.dtype == torch.float64:
            rows = self._defined(rows, case, outputs)
        self._ran = True
        self.note = self.note or getattr(self.module, "fallen", "")
        return rows

    def _defined(self, rows: Rows, case: Case, outputs: Sequence[str]) -> Rows:
        """The rows, or those in float32 where these have numbers in place of NaN or infinity."""
        undefined = {name: ~np.isfinite(row) for name, row in rows.items() if row.dtype.kind == "f"}
        if not any(mask.any() for mask in undefined.values()):
            return rows
        try:
            single = run(self._single, case, outputs, torch.float32)
        except RuntimeError:
            return rows
        alike = all(single[name].shape == row.shape for name, row in rows.items())
        if not alike or not any(np.isfinite(single[name][mask]).any() for name, mask in undefined.items()):
            return rows
        self.note = ONLY_IN_FLOAT32
        return single

    def _narrow(self, why: str) -> None:
        self.module, self.dtype, self.note = self._single, torch.float32, why


def run(
    module: torch.nn.Module, case: Case, outputs: Sequence[str], dtype: torch.dtype
) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of a module on one case whose real inputs are cast to `dtype`; real outputs are float64."""
    inputs = {k: torch.from_numpy(np.array(v)) for k, v in case.items()}
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    result = modelling.forward(module, inputs, outputs)
    return {k: v.to(torch.float64).numpy() if v.is_floating_point() else v.numpy() for k, v in result.items()}
