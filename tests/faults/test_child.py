"""The three calls as a session makes them: in a child process, with builtins and arrays only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from parity import config
from parity import formats as targets
from parity.cases import golden
from parity.core.plan import Cell
from parity.core.record import build, plain
from parity.core.settings import ModelSpec
from parity.faults.power import CellPower
from parity.judging.limits import resolve
from parity.process.isolate import Children
from parity.reference.messages import Evaluated, TwinRequest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["swap_rgb_bgr", "labels_rotated", "epsilon", "layer_norm_epsilon"]


def test_evaluate_measure_and_explain_answer_through_the_wire() -> None:
    model = config.load(ROOT / "pyproject.toml", targets.facts()).models["skin"]
    assert model.golden is not None
    cases = golden.load(model.golden, model.contract)[::8]
    spec = ModelSpec(str(ROOT), model.factory, dict(model.options), str(model.checkpoint))
    given = {"model": spec, "contract": plain(model.contract), "cases": [dict(c.inputs) for c in cases]}
    with Children(ROOT) as children:
        request = TwinRequest(spec, given["cases"], ["logits"], "fp16")
        twin = children.call("torch", "parity.reference.twin:evaluate", request, Evaluated).outputs

        found = children.call_with("torch", "parity.faults.library:evaluate",
                              {**given, "precision": "fp16", "faults": NAMES, "twin": twin})  # fmt: skip
        assert {f["name"]: f["state"] for f in found["faults"]}["layer_norm_epsilon"] == "inapplicable"
        assert set(found["outputs"]) == {"swap_rgb_bgr", "labels_rotated", "epsilon"}
        rotated = found["outputs"]["labels_rotated"]
        assert np.array_equal(rotated[0]["logits"], np.roll(twin[0]["logits"], 1, -1))

        cell = Cell("skin", "onnx", "fp16")
        limits = {"logits": {m: limit.value for m, limit in resolve((), cell, "logits").items()}}
        power = children.call_with("torch", "parity.faults.measure:measure", {
            **given, "ids": [c.id for c in cases], "labels": [c.label for c in cases], "faults": NAMES,
            "cells": [{"id": cell.id, "precision": "fp16", "twin": twin, "limits": limits}],
        })  # fmt: skip
        counted = build(CellPower, {**power["cells"][0]})
        assert (counted.killed, counted.injected, counted.inapplicable) == (3, 3, 1)

        asked = {**given, "artefact": rotated, "twin": twin, "precision": "fp16", "faults": NAMES}
        diagnosis = children.call_with("torch", "parity.faults.diagnose:explain", asked)
        assert diagnosis["state"] == "explained"
        assert diagnosis["causes"][0]["faults"] == ["labels_rotated"]
