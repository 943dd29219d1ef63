"""Cases at the sizes that an export was asked for: recorded sequences have one length, and a file may have another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parity.core.case import Case
from parity.core.contract import Contract


def fitted(cases: Sequence[Case], contract: Contract) -> list[Case]:
    """`cases` with every dynamic axis but the batch at the size of the export example: cut there, or repeated to it."""
    sizes = {name: size for name, size in contract.example().items() if not contract.is_batch(name)}
    made = []
    for case in cases:
        inputs: dict[str, Any] = dict(case.inputs)
        for spec in contract.inputs:
            for axis, dim in enumerate(spec.shape):
                value = inputs[spec.name]
                if dim in sizes and value.shape[axis] != sizes[dim]:
                    inputs[spec.name] = np.take(value, np.arange(sizes[dim]) % value.shape[axis], axis=axis)
        made.append(replace(case, inputs=inputs))
    return made
