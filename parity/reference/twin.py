"""Twins, in a child process: what the untouched module gives when every number is rounded as a precision rounds it.

The module runs as it is; a dispatch mode sees each ATen operator that it comes down to, on whatever Python path, and
rounds constants and results as the recipe says. Attention, recurrent and normalisation layers come down to products,
sums and element-wise operators here, because fused paths are off. What depends on no input is a constant to a
converter too, so it is computed exactly and rounded only where an operator on data reads it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity.core.case import Case as Kept
from parity.core.case import digest
from parity.core.errors import ParityError
from parity.core.settings import ModelSpec
from parity.process.child import stage
from parity.reference import modelling, reads
from parity.reference.copying import copied
from parity.reference.dispatch import Ranges, Twin
from parity.reference.messages import Evaluated, TwinRequest
from parity.reference.recipes import Recipe, recipe

Case = Mapping[str, np.ndarray[Any, Any]]


@reads.noting
def evaluate(request: TwinRequest) -> Evaluated:
    """Outputs of the twin for each case.

    Raises ParityError for an unknown precision or flavour, or where the module does not run.
    """
    stage("twin")
    chosen = recipe(request.precision, request.flavour)
    module = modelling.load(request.model)
    ranges = kept_ranges(request.model, chosen, request.calibration or request.cases)
    rows, notes = run(module, request.cases, request.outputs, chosen, request.calibration, ranges)
    return Evaluated(rows, "float32", "; ".join(notes))


def run(
    module: nn.Module,
    cases: Sequence[Case],
    outputs: Sequence[str],
    chosen: Recipe,
    calibration: Sequence[Case] | None = None,
    ranges: Ranges | None = None,
) -> tuple[list[dict[str, np.ndarray[Any, Any]]], list[str]]:
    """The twin's outputs by case, and what a reader should know of how they were made. `module` is left as it was.

    `ranges`: as for `rounding`.
    """
    if not cases:
        raise ParityError("a twin needs at least one case")
    if reason := getattr(module, "no_twin", ""):
        raise ParityError(f"no twin: {reason}")
    notes: list[str] = []
    if chosen.activations == "int8" and not calibration:
        notes.append("no calibration data: the ranges are those of the cases themselves")
    with rounding(module, cases[0], outputs, chosen, calibration or cases, notes, ranges) as forward:
        rows = [forward(case, number) for number, case in enumerate(cases)]
    return rows, notes


@contextlib.contextmanager
def rounding(
    module: nn.Module,
    first: Case,
    outputs: Sequence[str],
    chosen: Recipe,
    calibration: Sequence[Case] | None,
    notes: list[str] | None = None,
    ranges: Ranges | None = None,
) -> Iterator[Callable[[Case, int], dict[str, np.ndarray[Any, Any]]]]:
    """The twin of a module as a function of a case and its number. `calibration` gives int8 its ranges; without it
    they are those of `first`. What a reader should know is appended to `notes`. `ranges`, where given, are taken as
    they are; empty, they are filled for the next time."""
    notes = [] if notes is None else notes
    double = copied(module).eval()
    if any(p.is_floating_point() and p.dtype != torch.float32 for p in double.parameters()):
        double = double.float()
        notes.append("the module's own parameters are not float32; the twin runs in float32")
    twin = Twin(chosen)
    hooks = mark_recurrent(double, twin)
    try:
        with plain_kernels():
            twin.begin("plan")
            _forward(double, twin, first, outputs)
            if ranges:
                twin.ranges.update(ranges)
            elif chosen.activations == "int8":
                for case in calibration or [first]:
                    twin.begin("calibrate")
                    _forward(double, twin, case, outputs)
                if ranges is not None:
                    ranges.update(twin.ranges)

            def forward(case: Case, number: int) -> dict[str, np.ndarray[Any, Any]]:
                twin.begin("round", number)
                return {k: _numpy(v) for k, v in _forward(double, twin, case, outputs).items()}

            yield forward
            notes += twin.notes()
    finally:
        for hook in hooks:
            hook.remove()


_ranges: dict[str, Ranges] = {}


def kept_ranges(model: ModelSpec, chosen: Recipe, calibration: Sequence[Case]) -> Ranges:
    """The ranges of one model, recipe and calibration, kept for the life of the child; empty until they are measured.
    Running the calibration cases takes longer than most calls have cases of their own."""
    key = repr((model, chosen, digest([Kept("", case) for case in calibration])))
    return _ranges.setdefault(key, {})


def _forward(module: nn.Module, twin: Twin, case: Case, outputs: Sequence[str]) -> dict[str, Tensor]:
    inputs = {k: torch.from_numpy(np.array(v)) for k, v in case.items()}
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    with twin.watching(inputs) as fed:
        return modelling.forward(module, fed, outputs)


def _numpy(value: Tensor) -> np.ndarray[Any, Any]:
    return np.asarray((value.to(torch.float64) if value.is_floating_point() else value).numpy())


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """No fused attention and no oneDNN: they hide operators, or sum in an order that depends on the machine."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # leaving the flags as they were warns about TF32 on other hardware
        stack.enter_context(modelling.plain_attention())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


def mark_recurrent(module: nn.Module, twin: Twin) -> list[Any]:
    """Hooks on the copy that tell the twin when a recurrent layer runs, for recipes that leave its inside alone."""

    def enter(*_: Any) -> None:
        twin.inside += 1

    def leave(*_: Any) -> None:
        twin.inside -= 1

    layers = [part for part in module.modules() if type(part).__name__ in twin.recipe.untouched]
    return [part.register_forward_pre_hook(enter) for part in layers] + [
        part.register_forward_hook(leave) for part in layers
    ]
