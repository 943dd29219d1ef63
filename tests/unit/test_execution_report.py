"""What a report shows of executions beside the host's: their state and their figures beside the host's."""

from __future__ import annotations

from dataclasses import replace

from parity.core.record import CellRecord, Check, Environment, ExecutionRecord, Finding, RunRecord
from parity.judging.gate import settle
from parity.report.executions import execution_views
from parity.report.render import render
from parity.report.summary import markdown


def noise(value: float, case: str = "all", limit: float | None = 3.0) -> Check:
    return Check("golden", case, "logits", "noise_ratio", value, limit, "max", True, source="pyproject.toml:3")


ON_ARM = ExecutionRecord(
    "arm64:cortex-a76", planned=("golden",), measured=("golden",), state="measured", version="1.23.0", precision="fp16",
    emulator="qemu-user 7.2.22, cortex-a76", computed="2026-11-30T22:37:22+00:00 on x86_64", median_ms=207.0,
    checks=(noise(9.59, limit=None), noise(7.0, "a", None)),
    findings=(Finding("logits: noise_ratio 9.59 > 3", "warning"),),
)  # fmt: skip
REFUSED = ExecutionRecord(
    "gpu", state="refused", reason="the accelerator refuses this file: a loop", planned=("golden",)
)


def record(*executions: ExecutionRecord) -> RunRecord:
    cell = CellRecord(
        "skin-onnx-fp16", "skin", "onnx", "fp16", "pass", planned=("golden",), measured=("golden",), planned_cases=1,
        checks=(noise(1.1), noise(1.0, "a")), executions=executions,
    )  # fmt: skip
    return RunRecord("pass", (settle(cell),), Environment("3.11", {}, "linux-x86_64"), reason="1 cell measured")


def test_figures_stand_beside_the_hosts() -> None:
    view = execution_views(record(ON_ARM).cells[0])[0]
    assert [(f.output, f.metric, f.host, f.execution) for f in view.figures] == [("logits", "noise_ratio", 1.1, 9.59)]


def test_the_page_shows_each_execution_with_its_state() -> None:
    page = render(record(ON_ARM, REFUSED))
    for words in ("arm64:cortex-a76 measured", "gpu refused", "the accelerator refuses this file: a loop", "9.59",
                  "qemu-user 7.2.22, cortex-a76", "computed 2026-11-30T22:37:22+00:00 on x86_64",
                  "measured: its figures are told"):  # fmt: skip
        assert words in page, words
    assert "arm64:cortex-a76 measured" in markdown(record(ON_ARM))


def test_a_name_of_an_execution_is_no_markup() -> None:
    hostile = replace(ON_ARM, version="<script>alert(1)</script>", emulator="<b>")
    assert "<script>alert" not in render(record(hostile)) and "<b>, " not in render(record(hostile))


def test_a_page_without_executions_says_nothing_of_them() -> None:
    page = render(record())
    assert "arm64" not in page and "measured: its figures" not in page and "Executors of" not in page


def test_what_a_capsule_brought_back_keeps_its_own_table() -> None:
    brought = ExecutionRecord("coreml-runtime", "ALL", ("golden",), "9.0", "Mac15,3", 0.8, "a1b2c3")
    cell = replace(record(ON_ARM).cells[0], executions=(brought, ON_ARM))
    page = render(replace(record(), cells=(cell,)))
    assert page.count("coreml-runtime") == 1 and "Also executed by" in page and "Executors of" in page
    assert "Also executed by" not in render(record(ON_ARM))
