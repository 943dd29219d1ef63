"""The calls as a session makes them: in a child process, with requests and answers alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from parity import config
from parity import formats as targets
from parity.cases import golden
from parity.core.plan import Cell
from parity.core.settings import ModelSpec
from parity.faults.causes import Cause, Diagnosis
from parity.faults.messages import CellGate, DiagnosisRequest, MeasuredPower, PowerRequest
from parity.judging.limits import resolve
from parity.process import serialise
from parity.process.isolate import Children
from parity.reference.messages import Evaluated, TwinRequest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["swap_rgb_bgr", "labels_rotated", "epsilon", "layer_norm_epsilon"]


def test_measure_and_explain_answer_through_the_wire() -> None:
    model = config.load(ROOT / "pyproject.toml", targets.facts()).models["skin"]
    assert model.golden is not None
    cases = golden.load(model.golden, model.contract)[::8]
    spec = ModelSpec(str(ROOT), model.factory, dict(model.options), str(model.checkpoint))
    inputs = [c.inputs for c in cases]
    with Children(ROOT) as children:
        request = TwinRequest(spec, inputs, ["logits"], "fp16")
        twin = children.call("torch", "parity.reference.twin:evaluate", request, Evaluated).outputs

        cell = Cell("skin", "onnx", "fp16")
        limits = {"logits": {m: limit.value for m, limit in resolve((), cell, "logits").items()}}
        power = PowerRequest(
            spec,
            model.contract,
            inputs,
            [c.id for c in cases],
            [CellGate(cell.id, "fp16", twin, limits)],
            [c.label for c in cases],
            faults=NAMES,
        )
        measured = children.call("torch", "parity.faults.measure:measure", power, MeasuredPower)
        (counted,) = measured.cells
        assert (counted.killed, counted.injected, counted.inapplicable) == (3, 3, 1)

        rotated = [{"logits": np.roll(row["logits"], 1, -1)} for row in twin]
        asked = DiagnosisRequest(spec, model.contract, inputs, rotated, twin, "fp16", faults=NAMES)
        diagnosis = children.call("torch", "parity.faults.diagnose:explain", asked, Diagnosis)
        assert diagnosis.state == "explained"
        assert diagnosis.causes[0].faults == ("labels_rotated",)


def test_a_cause_keeps_its_values_whatever_they_are() -> None:
    causes = Cause(("a", "b", "c", "d", "e"), (0.5, 3, "x", (1, 2), None), "said", 1.0, 1.0, 2.0)
    diagnosis = Diagnosis("explained", "s", (causes,))
    assert serialise.from_builtins(Diagnosis, serialise.to_builtins(diagnosis)) == diagnosis
