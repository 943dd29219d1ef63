"""What can become of a saved record between the run and the gate. The record is that of `parity.run/1`.

`base()` is an honest record of two cells. Each edit makes it no longer evidence of a pass, while all that
a naive gate reads in it (the verdict, the states, the `passed` of each check) still says that it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .protocol import Saved

Edit = Callable[[dict[str, Any]], None]


def base() -> str:
    """The JSON of an honest passing record: two cells, two golden cases, one output."""
    cells = []
    for precision in ("fp32", "fp16"):
        checks = [_check("contract", "signature", "present", 1.0, 1.0, "min")]
        for case in ("one", "two"):
            checks += [_check("golden", case, "max_abs", 1e-6, 1e-3, "max"),
                       _check("golden", case, "cosine", 0.9999, 0.99, "min")]  # fmt: skip
        cells.append({
            "id": f"m-onnx-{precision}", "model": "m", "target": "onnx", "precision": precision, "state": "pass",
            "planned": ["contract", "golden"], "measured": ["contract", "golden"], "planned_cases": 2,
            "planned_outputs": ["y"], "required": True, "checks": checks,
        })  # fmt: skip
    environment = {"python": "3.11.0", "packages": {}, "machine": "test", "threads": 1}
    record = {"schema": "parity.run/1", "verdict": "pass", "reason": "2 cells measured and inside their limits",
              "started": "2026-06-01T00:00:00+00:00", "cells": cells, "environment": environment}  # fmt: skip
    return json.dumps(record)


def _check(kind: str, case: str, metric: str, value: float, limit: float, sense: str) -> dict[str, Any]:
    return {"kind": kind, "case": case, "output": "y", "metric": metric, "value": value, "limit": limit,
            "sense": sense, "passed": True}  # fmt: skip


def _edited(edit: Edit) -> Callable[[str], str]:
    def text(given: str) -> str:
        data = json.loads(given)
        edit(data)
        return json.dumps(data)

    return text


def _first(**values: Any) -> Callable[[str], str]:
    """The first golden check of the first cell with other fields."""
    return _edited(lambda d: d["cells"][0]["checks"][1].update(values))


def _cell(**values: Any) -> Callable[[str], str]:
    return _edited(lambda d: d["cells"][0].update(values))


def _drop_checks(keep: Callable[[dict[str, Any]], bool]) -> Callable[[str], str]:
    return _edited(lambda d: d["cells"][0].update(checks=[c for c in d["cells"][0]["checks"] if keep(c)]))


def _waived(value: float = 5.0, **waiver: Any) -> Callable[[str], str]:
    """The first golden check is broken, and a waiver is said to excuse it."""
    told = {"cell": "m-onnx-fp32", "metric": "max_abs", "reason": "accepted", "expires": "2027-01-31", "state": "used",
            "limit": 10.0}  # fmt: skip

    def edit(data: dict[str, Any]) -> None:
        data["cells"][0]["checks"][1]["value"] = value
        data["cells"][0]["state"] = "waived"
        data["waivers"] = [told | waiver]

    return _edited(edit)


def _raw(old: str, new: str) -> Callable[[str], str]:
    def text(given: str) -> str:
        assert old in given
        return given.replace(old, new, 1)

    return text


VALUE = '"value": 1e-06'

CASES = (
    Saved("record-beyond-limit", "A check is beyond its limit; its `passed` says true.", _first(value=5.0)),
    Saved("record-null-value", "A check has no value; its `passed` says true.", _first(value=None)),
    Saved("record-null-limit", "Every limit of a case is gone: the figures are there, nothing judged them.",
          _edited(lambda d: [c.update(limit=None) for c in d["cells"][0]["checks"] if c["case"] == "one"])),
    Saved("record-nonfinite", "A finite value stands beside a count of elements that were not finite.",
          _first(nonfinite=3)),
    Saved("record-nan", "The value is NaN, which is no JSON.", _raw(VALUE, '"value": NaN')),
    Saved("record-inf-limit", "The limit is Infinity, which is no JSON.", _raw('"limit": 0.001', '"limit": Infinity')),
    Saved("record-huge-limit", "The limit is 1e999, which is infinite.", _raw('"limit": 0.001', '"limit": 1e999')),
    Saved("record-text-value", "The value is a text.", _raw(VALUE, '"value": "1e-06"')),
    Saved("record-true-value", "The value is true, which counts as 1.", _raw('"value": 0.9999', '"value": true')),
    Saved("record-twice", "A key stands twice; the second, which most parsers keep, is the good one.",
          _raw(VALUE, '"value": 5.0, ' + VALUE)),
    Saved("record-sense", "The sense of a metric is turned round: at least this much error.",
          _first(sense="min", value=5.0)),
    Saved("record-no-golden", "The golden checks are gone.", _drop_checks(lambda c: c["kind"] != "golden")),
    Saved("record-case-gone", "One of two golden cases is gone.", _drop_checks(lambda c: c["case"] != "two")),
    Saved("record-no-checks", "A cell has no check at all.", _cell(checks=[])),
    Saved("record-output-gone", "One of two planned outputs was never measured.", _cell(planned_outputs=["y", "z"])),
    Saved("record-not-measured", "A planned kind of check did not run to its end.", _cell(measured=["contract"])),
    Saved("record-other-kind", "A kind was planned that nothing measured.",
          _cell(planned=["contract", "golden", "static"], measured=["contract", "golden", "static"])),
    Saved("record-no-plan", "Nothing was planned, and so nothing is missing.",
          _cell(planned=[], measured=[], checks=[], planned_cases=0)),
    Saved("record-no-cells", "A run without cells.", _edited(lambda d: d.update(cells=[]))),
    Saved("record-crash", "A cell crashed; the verdict still says pass.", _cell(state="crash", reason="SIGSEGV")),
    Saved("record-timeout", "A cell ran out of time.", _cell(state="timeout")),
    Saved("record-error", "A cell's export failed, after its checks of an older one.", _cell(state="error")),
    Saved("record-unavailable", "A required cell could not run here.", _cell(state="unavailable", checks=[])),
    Saved("record-all-unavailable", "No cell could run here, and none is required.",
          _edited(lambda d: [c.update(state="unavailable", required=False, checks=[]) for c in d["cells"]])),
    Saved("record-unknown-state", "A cell's state is a word of another tool.", _cell(state="ok")),
    Saved("record-waived", "A cell says that it is waived; no waiver does.",
          _edited(lambda d: (d["cells"][0].update(state="waived"), d["cells"][0]["checks"][1].update(value=5.0)))),
    Saved("waiver-expired", "The waiver had expired when the run was made.", _waived(expires="2026-01-31")),
    Saved("waiver-said-expired", "The record itself calls the waiver expired.", _waived(state="expired")),
    Saved("waiver-other-cell", "The waiver is of another cell.", _waived(cell="m-onnx-fp16")),
    Saved("waiver-other-metric", "The waiver is of another metric.", _waived(metric="cosine")),
    Saved("waiver-exceeded", "The error has outgrown the waiver.", _waived(value=50.0)),
    Saved("waiver-of-nothing", "The waived check has no value.", _waived(value=None)),  # type: ignore[arg-type]
    Saved("waiver-no-date", "The waiver's date is no date.", _waived(expires="never")),
    Saved("record-regressed", "A figure is worse than at the last release.", _edited(lambda d: d.update(
        baseline={"path": "reports/baseline.json", "regressions": [
            {"cell": "m-onnx-fp32", "what": "y max_abs", "before": 1e-7, "now": 1e-6, "state": "regressed"}]}))),
    Saved("record-truncated", "The record ends in the middle: a full disk.", lambda text: text[: len(text) // 2]),
    Saved("record-empty-file", "The record is an empty file.", lambda text: ""),
    Saved("record-empty-object", "The file holds {}.", lambda text: "{}"),
    Saved("record-other-schema", "The record is of another version.", _raw("parity.run/1", "parity.run/0")),
    Saved("record-no-schema", "The record does not say what it is.", _edited(lambda d: d.pop("schema"))),
)  # fmt: skip

HONEST = (
    Saved("record-honest", "The record as the run wrote it.", lambda text: text, honest=True),
    Saved("record-honest-waiver", "A broken check that a waiver in force excuses.", _waived(), honest=True),
)


def naive(text: str) -> bool:
    """A gate as people write it: load the file, look at the verdict and the flags."""
    data = json.loads(text)
    flags = [c["passed"] for cell in data.get("cells", []) for c in cell["checks"]]
    return data.get("verdict", "pass") == "pass" and all(flags)
