"""Runs for the tests of the ledger, the diff, the release and the annotations: two cells, small and whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from parity.core.record import (
    ArtifactRecord,
    CellRecord,
    Check,
    Environment,
    FileRecord,
    Power,
    RunRecord,
    RuntimeRecord,
)
from parity.judging.gate import judge, settle

CASES = ("a", "b")
FIGURES = (  # metric, worst value, limit, sense
    ("rel_rms", 0.01, 0.25, "max"),
    ("cosine", 0.999, 0.95, "min"),
    ("sqnr", 40.0, 12.0, "min"),
    ("max_abs", 0.1, 1.0, "max"),
)
PACKAGES = {"numpy": "1.26.4", "pillow": "13.0.0", "onnxruntime": "1.23.0", "onnx2tf": "1.29.24", "pytest": "9.2.0"}


def checks() -> tuple[Check, ...]:
    source = "pyproject.toml:31 [tool.parity.limits] int8"
    rows = [
        Check("golden", case, "logits", m, v, limit, sense, True, source=source)  # type: ignore[arg-type]
        for case in CASES
        for m, v, limit, sense in FIGURES
    ]
    rows.append(Check("golden", "all", "logits", "top1", 1.0, 0.9, "min", True, source=source))
    rows.append(Check("golden", "a", "logits", "max_rel", 0.5, None, "max", True))
    rows.append(Check("contract", "signature", "", "present", 1.0, 1.0, "min", True, source="the contract"))
    return tuple(rows)


def cell(id: str = "skin-tflite-int8", **changes: Any) -> CellRecord:
    model, target, precision = id.split("-")
    ms = {"fp32": 40.0}.get(precision, 20.0)
    whole = CellRecord(
        id, model, target, precision, "missing", planned=("contract", "golden"), measured=("contract", "golden"),
        planned_cases=2, planned_outputs=("logits",), route="torch.onnx", checks=checks(), power=Power(40, 38),
        artifact=ArtifactRecord((FileRecord("model.bin", 1_000_000, "0" * 64),), "1" * 64, 1.0, True,
                                "objects/" + "1" * 64),
        runtime=RuntimeRecord("ai-edge-litert", "2.1.0", ms), rerun=f"pytest -m parity -k {id}",
    )  # fmt: skip
    return replace(whole, **changes)


def run(*cells: CellRecord, **changes: Any) -> RunRecord:
    """A judged run; without cells, of the fp32 and the int8 cell of one model."""
    cells = tuple(settle(c) for c in cells or (cell("skin-tflite-fp32"), cell()))
    environment = Environment("3.11.7", PACKAGES, "linux-x86_64")
    whole = RunRecord("incomplete", cells, environment, config="pyproject.toml", started="2026-01-01T00:00:00+00:00")
    return judge(replace(whole, **changes))


def edited(one: CellRecord, matches: Callable[[Check], bool], **changes: Any) -> CellRecord:
    return replace(one, checks=tuple(replace(c, **changes) if matches(c) else c for c in one.checks))


def figure(value: float, metric: str = "rel_rms", case: str = "a", **changes: Any) -> RunRecord:
    """The run with another value of one check of its int8 cell."""
    one = edited(cell(), lambda c: (c.metric, c.case) == (metric, case), value=value, **changes)
    return run(cell("skin-tflite-fp32"), one)
