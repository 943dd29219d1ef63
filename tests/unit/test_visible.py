"""What comes from names, converters and foreign records forges no line and moves no cursor, wherever it is printed."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.cli import main
from parity.core.plan import Cell
from parity.core.record import CellRecord, Check, Environment, Finding, RunRecord, dumps
from parity.core.visible import visible
from parity.report import terminal
from parity.suite.recorder import Recorder

FORGED = "gone\x1b[2J\nverdict: pass: all is well\r\n::error::x\u2028::set-env name=A::b\x00\u202e"
TEXTS = st.text(st.characters(codec=None), max_size=40) | st.just(FORGED)
MARKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e]")


def run(text: str) -> RunRecord:
    cell = CellRecord(text, text, text, text, "crash", reason=text, rerun=text, findings=(Finding(text, "warning"),))
    return RunRecord("fail", (cell,), Environment(text, {text: text}, text), reason=text, command=text)


@given(TEXTS)
def test_each_line_of_the_terminal_stays_one(text: str) -> None:
    for _, line in terminal.lines(run(text)):
        assert not MARKS.search(line)


@given(TEXTS)
def test_each_line_of_a_failing_test_stays_one(text: str) -> None:
    recorder = Recorder(Cell("m", "onnx", "fp32"), "golden")
    recorder.add(Check("golden", text, text, "max_abs", 2.0, 1.0, "max", False, source=text, detail=text))
    recorder.explain(text)
    lines = recorder.verdict(text).split("\n")
    assert len(lines) == 4
    lines += recorder.brief()
    assert not any(MARKS.search(line) for line in lines)


def test_commands_print_a_foreign_record_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, state in zip(paths, ("missing", "crash"), strict=True):
        record = run(FORGED)
        cells = (dataclasses.replace(record.cells[0], state=state),)  # type: ignore[arg-type]
        path.write_text(dumps(dataclasses.replace(record, cells=cells)), encoding="utf-8")
    for command in (["gate", str(paths[0])], ["diff", *map(str, paths)], ["report", "merge", str(paths[0])],
                    ["release", str(paths[0]), "--to", str(tmp_path / "r")]):  # fmt: skip
        assert main(command) == 1
        told = "".join(capsys.readouterr())
        assert not re.search("[\x00-\x09\x0b-\x1f\u2028-\u202e]", told)
        assert not re.search(r"^\s*(::|verdict: pass)", told, re.MULTILINE), command


@given(st.text(st.characters(codec=None)))
def test_plain_text_is_left_as_it_is_and_nothing_is_lost(text: str) -> None:
    assert len(visible(text)) >= len(text)
    assert visible(visible(text)) == visible(text)
    if text.isascii() and text.isprintable():
        assert visible(text) == text
    assert visible(text, lines=True).count("\n") == text.count("\n")


def test_output_that_nobody_takes_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(dumps(run("x")), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, open("/dev/full", "w") as full:
        patch.setattr(sys, "stdout", full)
        assert main(["gate", str(tmp_path / "a.json")]) == 1
        patch.setattr(full, "close", lambda: None)
    note = "note: not here, and so not compared with the record: the project\n"
    assert capsys.readouterr().err == f"{note}parity gate: output: No space left on device\n"


@pytest.mark.parametrize("name", ["record.html", "record.md"])
def test_a_report_is_not_written_over_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    text = dumps(run("x"))
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert main(["report", str(tmp_path / name)]) == 2
    assert "would be written over its record; name another place with --output" in capsys.readouterr().err
    assert [(p.name, p.read_text(encoding="utf-8")) for p in tmp_path.iterdir()] == [(name, text)]
