"""Exit code, JSON, HTML, Markdown, terminal and annotations of one run say the same, whatever the run was."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import replace
from typing import Any

import records
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import cells as sections
from reading import read

from parity.commands.gate import judged
from parity.core.record import BaselineRecord, CellRecord, Regression, RunRecord, dumps, loads
from parity.core.settings import Waiver
from parity.judging import gate
from parity.report import annotations, markdown, render, terminal

TODAY = datetime.date(2026, 6, 1)
FIGURES = st.one_of(st.none(), st.floats(0, 1, allow_nan=False))
STATES = ("missing", "missing", "missing", "error", "crash", "timeout", "unavailable")


@st.composite
def measured(draw: Any, id: str) -> CellRecord:
    """A cell as the tests tell it, before it is judged: any figures, anything lost, any end."""
    found = []
    for case in ("a", "b"):
        if draw(st.integers(0, 9)):
            value = draw(FIGURES)
            found.append(
                records.check("max_abs", value, draw(st.sampled_from([0.5, 0.9, None])), case=case,
                              nonfinite=draw(st.sampled_from([0, 0, 0, 2])), passed=draw(st.booleans()))
            )  # fmt: skip
    planned = ("golden",)
    return records.cell(
        id, "pass", checks=tuple(found), planned=planned, planned_cases=2, planned_outputs=("logits",),
        measured=planned if draw(st.integers(0, 6)) else (), required=draw(st.booleans()), reason="", log="",
    )  # fmt: skip


@st.composite
def runs(draw: Any) -> RunRecord:
    """A run of up to four cells, judged as a session judges it."""
    ids = [f"m{i}-onnx-fp32" for i in range(draw(st.integers(0, 4)))]
    cells = [replace(draw(measured(id)), state=draw(st.sampled_from(STATES))) for id in ids]
    waive = [
        Waiver(id, "max_abs", "accepted", TODAY + datetime.timedelta(draw(st.sampled_from([-1, 30]))), limit, "x:1")
        for id in [*ids, "gone-onnx-fp32"] if (limit := draw(st.sampled_from([None, 0.0, 0.95, 1.0]))) is not None
    ]  # fmt: skip
    done, waivers = gate.apply_waivers(cells, waive, TODAY, ids)
    changes = tuple(
        Regression(id, "size in bytes", 1.0, 2.0, draw(st.sampled_from(["regressed", "improved", "incomparable"])))
        for id in ids if not draw(st.integers(0, 3))
    )  # fmt: skip
    record = records.run(
        done, "incomplete", waivers=waivers, partial=draw(st.sampled_from([None, "-k x"])),
        baseline=BaselineRecord("reports/baseline.json", changes),
    )  # fmt: skip
    return gate.judge(record)


@settings(max_examples=100, deadline=None)
@given(runs())
def test_no_output_says_something_else(record: RunRecord) -> None:
    code, text = gate.exit_code(record), dumps(record)
    assert code == (0 if record.verdict in ("pass", "partial") else 1)

    told = json.loads(text)
    assert told["verdict"] == record.verdict
    again = judged(loads(text))
    assert (again.verdict, gate.exit_code(again)) == (record.verdict, code), "parity gate gives the same answer"
    assert [c.state for c in again.cells] == [c["state"] for c in told["cells"]]

    page, summary = read(render(record)), markdown(record)
    assert page.one("html").attrs["data-verdict"] == record.verdict
    assert summary.splitlines()[0].endswith(f"Parity: {record.verdict}")
    states = {c.id: c.state for c in record.cells}
    assert {id: state for id, state, _ in sections(page)} == states
    for id, state in states.items():
        row = next(line for line in summary.splitlines() if line.startswith(f"| {id.split('-')[0]} |"))
        assert re.search(rf"\b{state}\b", row)

    lines = [line for _, line in terminal.lines(record)]
    assert [line for line in lines if line.startswith("verdict: ")] == [f"verdict: {record.verdict}: {record.reason}"]
    named = {line.split()[1].rstrip(":"): line.split()[0] for line in lines if line.split()[0] in states.values()}
    assert named == {id: state for id, state in states.items() if state != "pass"}

    blocks = bool(page.all("ul", class_="blocks"))
    headings = ("### Blocking", "### Regressed", "### Waivers that do not hold")
    errors = [line for line in annotations.lines(record) if line.startswith("::error")]
    reasons = {blocks, any(h in summary for h in headings)}
    assert bool(errors) == bool(code)
    if record.reason != "no cell was measured":  # the sentence says it, and there is nothing to list
        assert reasons == {bool(code)}, "what blocks is listed where the exit code says that something does"
    if code == 0:
        assert not any(c.state in ("fail", "error", "crash", "timeout", "missing") for c in record.cells)
        assert any(c.state in ("pass", "waived") for c in record.cells)
