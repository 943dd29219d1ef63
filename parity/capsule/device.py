"""The child's side of `parity capsule run`: an artefact opened on a chosen compute unit, without its exporter's tools.

It stands between `parity.formats.serve`, which knows names and layouts, and the target's own session, whose
description of a file may need a converter that the machine does not have.
"""

from __future__ import annotations

import contextlib
import importlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.errors import ParityError
from parity.formats.target import Array, lacking


class Device:
    """The session of a target, or Core ML on one compute unit, as `notes["run_by"]` says."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        how = notes["run_by"]
        self.devices: dict[str, int] = {}
        if how["executor"] == "coreml-runtime":
            self.inner: Any = CoreMLDevice(Path(folder, notes["entry"]), how["compute_unit"])
            self.devices = self.inner.devices
        else:
            module, _, name = how["session"].partition(":")
            self.inner = getattr(importlib.import_module(module), name)(folder, notes)

    def describe(self) -> dict[str, Any]:
        return {"devices": self.devices}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict(self.inner.run(inputs))


class CoreMLDevice:
    """Core ML itself. Raises ParityError where it does not run, so that nothing else is ever taken for it."""

    def __init__(self, path: Path, compute_unit: str) -> None:
        reason = lacking("coreml-runtime")
        if reason:
            raise ParityError(reason)
        import coremltools as ct

        units = ct.ComputeUnit[compute_unit]
        self.model = ct.models.MLModel(str(path), compute_units=units)
        self.devices = _preferred(ct, self.model, units)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        fed = {n: v.astype(np.int32) if v.dtype.kind in "iub" else v.astype(np.float32) for n, v in inputs.items()}
        return {n: np.asarray(v) for n, v in self.model.predict(fed).items()}


def _preferred(ct: Any, model: Any, units: Any) -> dict[str, int]:
    """How many operators Core ML prefers to run on which device, by its own compute plan (macOS 14.4 and later).

    A description only: where there is no plan there is no count, and the execution counts as before.
    """
    counted: Counter[str] = Counter()
    with contextlib.suppress(Exception):
        plan = ct.models.compute_plan.MLComputePlan.load_from_path(model.get_compiled_model_path(), units)
        structure = plan.model_structure
        if structure.program is not None:
            for function in structure.program.functions.values():
                for operation in function.block.operations:
                    usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
                    if usage is not None:
                        counted[type(usage.preferred_compute_device).__name__] += 1
        elif structure.neuralnetwork is not None:
            for layer in structure.neuralnetwork.layers:
                usage = plan.get_compute_device_usage_for_neuralnetwork_layer(layer)
                if usage is not None:
                    counted[type(usage.preferred_compute_device).__name__] += 1
    return dict(sorted(counted.items()))
