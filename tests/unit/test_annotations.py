"""GitHub annotations: what blocks, at the line that set the limit, whatever the text in it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.core.record import BaselineRecord, Finding, Regression, WaiverRecord
from parity.pytest_plugin.control import Control
from parity.report.annotations import MOST, Annotation, lines
from tests.unit.ledgers import cell, edited, figure, run

INT8 = "skin-tflite-int8"
COMMAND = re.compile(r"::(error|warning) (?:(?:file|line|title)=[^,:\r\n]*,?)+::[^\r\n]*")


def parsed(line: str) -> tuple[str, dict[str, str], str]:
    """As GitHub's runner reads a workflow command."""
    assert COMMAND.fullmatch(line), line
    level, properties, message = re.fullmatch(r"::(\w+) (.*?)::(.*)", line, re.S).groups()  # type: ignore[union-attr]

    def read(text: str) -> str:
        for code, sign in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
            text = text.replace(code, sign)
        return text

    return level, {k: read(v) for k, _, v in (p.partition("=") for p in properties.split(","))}, read(message)


def test_a_failing_cell_points_at_the_line_of_its_limit() -> None:
    (line,) = lines(figure(0.9))
    level, where, message = parsed(line)
    assert (level, where) == ("error", {"file": "pyproject.toml", "line": "31", "title": f"parity: {INT8}"})
    assert message.startswith("fail: logits: rel_rms 0.9 > 0.25 (case a), limit from pyproject.toml:31 ")
    assert message.endswith(f"\nrerun: pytest -m parity -k {INT8}")
    assert "%0A" in line


def test_the_line_is_that_of_the_check_that_the_sentence_names() -> None:
    one = edited(cell(), lambda c: c.metric == "cosine", value=0.9, source="pyproject.toml:40 [x] a")
    one = edited(one, lambda c: c.metric == "rel_rms", value=0.9, source="pyproject.toml:50 [x] b")
    (line,) = lines(run(one))
    assert parsed(line)[1]["line"] == "50", "rel_rms is furthest over"


def test_where_no_line_is_known_the_file_is_named() -> None:
    default = edited(cell(), lambda c: c.metric == "rel_rms", value=0.9, source="built-in default for int8")
    for record in (run(default), run(cell(state="crash", reason="SIGSEGV")), run(cell(measured=()))):
        (line,) = lines(record)
        assert parsed(line)[1] == {"file": "pyproject.toml", "title": f"parity: {INT8}"}


def test_a_pass_says_nothing() -> None:
    assert lines(run()) == []
    assert lines(run(cell(), cell("skin-coreml-fp16", state="unavailable"))) == []


def test_a_required_cell_that_cannot_run_is_an_error() -> None:
    record = run(cell(), cell("skin-coreml-fp16", state="unavailable", reason="needs macOS", required=True))
    (line,) = lines(record)
    assert parsed(line)[0] == "error" and "needs macOS" in line


def test_a_run_without_any_cell_is_an_error() -> None:
    record = replace(run(), cells=(), verdict="incomplete", reason="no cell was measured")  # type: ignore[arg-type]
    assert parsed(lines(record)[0])[2] == "no cell was measured"


def test_warnings_of_findings_and_no_notes() -> None:
    widened = Finding("the limit of cosine of logits was widened ..., set by pyproject.toml:77 [x] int8", "warning")
    record = run(cell(findings=(widened, Finding("a note"), Finding("uses Flex", "warning"))))
    first, second = (parsed(line) for line in lines(record))
    assert (first[0], first[1]["line"]) == ("warning", "77")
    assert second[0] == "warning" and "line" not in second[1]


def test_regressions_and_waivers_that_do_not_hold() -> None:
    regressed = Regression(INT8, "size in bytes", 10.0, 20.0)
    gone = WaiverRecord(INT8, "cosine", "old", "2025-01-01", None, "expired", "pyproject.toml:60 [[x]]")
    fine = replace(gone, state="used")
    record = run(cell(), baseline=BaselineRecord("reports/baseline.json", (regressed,)), waivers=(gone, fine))
    first, second = (parsed(line) for line in lines(record))
    assert first[1]["file"] == "reports/baseline.json" and "10 -> 20" in first[2]
    assert second[1]["line"] == "60" and "expired" in second[2]
    assert len(lines(run(cell(), baseline=BaselineRecord("b", (replace(regressed, state="incomparable"),))))) == 0


def test_ten_of_many_and_the_last_says_how_many_follow() -> None:
    cells = [cell(f"m{i}-onnx-fp32", state="crash", reason="x") for i in range(25)]
    found = lines(run(*cells))
    assert len(found) == MOST
    assert parsed(found[-1])[2].startswith("and 16 more")
    assert len(lines(run(*cells[:10]))) == 10 and "more" not in lines(run(*cells[:10]))[-1]


def test_a_project_in_a_folder_of_its_repository() -> None:
    (line,) = lines(figure(0.9), "apps/vision")
    assert parsed(line)[1]["file"] == "apps/vision/pyproject.toml"


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_no_text_leaves_its_line_or_its_field(title: str, message: str, file: str) -> None:
    line = str(Annotation("error", f"t{title}", message, f"f{file}", 3))
    assert "\n" not in line and "\r" not in line and len(line.splitlines()) == 1
    line.encode("utf-8")
    level, where, text = parsed(line)
    assert level == "error" and set(where) == {"file", "line", "title"} and where["line"] == "3"
    if title.isprintable() and message.isprintable() and file.isprintable():
        assert (where["title"], where["file"], text) == (f"t{title}", f"f{file}", message)


@pytest.mark.parametrize("text", ["100%", "%0A", "%25", "%3A", "a:b,c", "%2C%0D"])
def test_text_reads_back_as_it_was(text: str) -> None:
    level, where, message = parsed(str(Annotation("warning", text, text, text)))
    assert (level, where, message) == ("warning", {"file": text, "title": text}, text)


@pytest.mark.parametrize("text", ["::error::x", "a\r\n::set-env name=X::y", "100%", "%0A", "a:b,c", "\u2028::error::"])
def test_hostile_text_of_a_cell_stays_text(text: str) -> None:
    found = lines(run(cell(state="error", reason=text, rerun=text)))
    assert len(found) == 1 and COMMAND.fullmatch(found[0])
    assert len(found[0].splitlines()) == 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"GITHUB_ACTIONS": "false"}, None),
        ({"GITHUB_ACTIONS": "true"}, "pyproject.toml"),
        ({"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": "{root}"}, "pyproject.toml"),
        ({"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": "{above}"}, "app/pyproject.toml"),
        ({"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": "/elsewhere"}, "pyproject.toml"),
    ],
)
def test_only_on_a_runner_and_from_its_workspace(tmp_path: Path, environ: dict[str, str], expected: Any) -> None:
    root = tmp_path / "app"
    root.mkdir()
    environ = {k: v.format(root=root, above=tmp_path) for k, v in environ.items()}
    control: Any = SimpleNamespace(record=figure(0.9), options={}, config=SimpleNamespace(root=root))
    found = Control.annotation_lines(control, environ)
    assert [parsed(line)[1]["file"] for line in found] == ([expected] if expected else [])
