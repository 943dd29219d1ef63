"""The terminal's last lines: one for what many cells share, and never so many that the verdict scrolls away."""

from __future__ import annotations

from dataclasses import replace

from parity.core.record import CellRecord, Environment, ExecutionRecord, Finding, ProofRecord, RunRecord
from parity.report.terminal import RERUN, WARNINGS, lines, warnings


def record(*findings: tuple[str, tuple[str, ...]]) -> RunRecord:
    cells = tuple(
        CellRecord(id, *id.split("-"), state="pass", findings=tuple(Finding(text, "warning") for text in texts))
        for id, texts in findings
    )
    return RunRecord(verdict="pass", cells=cells, environment=Environment("3.11", {}, "m", 1), started="", seconds=1.0)


def test_a_warning_names_its_cell() -> None:
    assert warnings(record(("a-onnx-fp32", ("loose",)))) == ["warning     a-onnx-fp32: loose"]


def test_cells_that_share_a_warning_share_a_line() -> None:
    many = record(*((f"{m}-onnx-fp16", ("the limit was widened",)) for m in "abcde"), ("f-onnx-fp32", ("other",)))
    assert warnings(many) == [
        "warning     a-onnx-fp16, b-onnx-fp16, c-onnx-fp16 and 2 more: the limit was widened",
        "warning     f-onnx-fp32: other",
    ]


def test_very_many_warnings_are_counted() -> None:
    texts = tuple(f"warning {n}" for n in range(WARNINGS + 5))
    told = warnings(record(("a-onnx-fp32", texts)))
    assert len(told) == WARNINGS + 1
    assert told[-1] == "warning     and 5 more: see the report"


def test_an_execution_warns_under_its_own_name() -> None:
    beyond = ExecutionRecord("arm64:cortex-a76", state="measured", findings=(Finding("noise", "warning"), Finding("n")))
    refused = ExecutionRecord("gpu", state="refused", reason="the accelerator refuses this file")
    cell = CellRecord("a-onnx-fp16", "a", "onnx", "fp16", state="pass", executions=(beyond, refused))
    assert warnings(RunRecord("pass", (cell,), Environment("3.11", {}, "m", 1), "", 1.0)) == [
        "warning     a-onnx-fp16@arm64:cortex-a76: noise",
        "warning     a-onnx-fp16@gpu: the accelerator refuses this file",
    ]


def test_what_the_chain_of_proof_says_is_never_hidden() -> None:
    proof = ProofRecord("failed", "fp32: not faithful: audit: stem.weight")
    cell = replace(failing("a-onnx-fp32"), reason="the file behaves as if BGR", proof=proof)
    assert f"{'':<11} chain of proof: {proof.summary}" in run_of(cell)
    assert not any("chain of proof" in line for line in run_of(replace(cell, reason=f"{proof.summary}; far off")))


def test_a_note_is_no_warning() -> None:
    cell = CellRecord("a-onnx-fp32", "a", "onnx", "fp32", state="pass", findings=(Finding("by the way", "note"),))
    assert warnings(RunRecord("pass", (cell,), Environment("3.11", {}, "m", 1), "", 1.0)) == []


def failing(id: str, *texts: str) -> CellRecord:
    return CellRecord(id, *id.split("-"), state="fail", reason="far off", findings=tuple(Finding(t) for t in texts))


def run_of(*cells: CellRecord) -> list[str]:
    return [text for _, text in lines(RunRecord("fail", cells, Environment("3.11", {}, "m", 1), "", 1.0))]


def test_a_failing_cell_is_told_with_what_explains_it() -> None:
    told = run_of(failing("a-onnx-fp32", "diagnosis: BGR", "by the way", "first divergence: stem", "hint: --fixed"))
    assert told[:4] == ["fail        a-onnx-fp32: far off", *(f"{'':12}{text}" for text in (
        "diagnosis: BGR", "first divergence: stem", "hint: --fixed"))]  # fmt: skip
    assert told[4] == "0 of 1 cell pass, 0 checks, nothing was exported"


def test_of_very_many_failing_cells_the_first_are_explained() -> None:
    told = run_of(*(failing(f"m{n}-onnx-fp32", "diagnosis: BGR") for n in range(RERUN + 3)))
    assert sum("diagnosis" in line for line in told) == RERUN
