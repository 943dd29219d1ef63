"""Where reports go: whole runs are never lost to narrowed ones, and what cannot be written leaves what was there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import records

from parity import publishing, terminal
from parity.errors import ParityError
from parity.record import RunRecord, read

WHOLE = records.passing()
NARROWED = dataclasses.replace(records.run([records.cell()], "partial"), partial="-k skin-tflite-int8")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_narrowed_run_keeps_the_report_of_the_last_whole_run_until_the_next(tmp_path: Path) -> None:
    html = tmp_path / "reports" / "parity.html"
    _, line = publishing.publish(html, WHOLE, whole=True)
    assert not line
    for _ in range(2):
        publishing.clear(html)
        assert not html.exists(), "a run that dies leaves no verdict of another"
        _, line = publishing.publish(html, NARROWED, whole=False)
        assert line == "the report of the last whole run is kept: parity.whole.html"
        assert read(html.with_suffix(".json")) == NARROWED
        assert read(tmp_path / "reports" / "parity.whole.json") == WHOLE
        assert 'data-verdict="pass"' in (tmp_path / "reports" / "parity.whole.html").read_text(encoding="utf-8")
    publishing.clear(html)
    publishing.publish(html, WHOLE, whole=True)
    assert names(tmp_path / "reports") == ["parity.html", "parity.json", "parity.md"]


def test_an_interrupted_run_after_a_whole_one_keeps_it_and_a_narrowed_one_after_that_too(tmp_path: Path) -> None:
    html = tmp_path / "parity.html"
    publishing.publish(html, WHOLE, whole=True)
    publishing.clear(html)
    publishing.publish(html, records.crashed(), whole=False)  # interrupted: its record has no `partial`
    publishing.clear(html)
    publishing.publish(html, NARROWED, whole=False)
    assert read(tmp_path / "parity.whole.json") == WHOLE


@pytest.mark.parametrize("text", ["", "{", '{"schema": "other"}\n', "\udcff"])
def test_what_is_no_report_of_ours_is_written_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "parity.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    publishing.clear(tmp_path / "parity.html")
    _, line = publishing.publish(tmp_path / "parity.html", NARROWED, whole=False)
    assert not line
    assert names(tmp_path) == ["parity.html", "parity.json", "parity.md"]


def test_a_name_that_says_whole_in_a_narrowed_record_is_no_whole_run(tmp_path: Path) -> None:
    odd = dataclasses.replace(NARROWED, reason='\n "partial": null')
    publishing.publish(tmp_path / "parity.html", odd, whole=False)
    publishing.clear(tmp_path / "parity.html")
    _, line = publishing.publish(tmp_path / "parity.html", NARROWED, whole=False)
    assert not line


def test_a_report_that_cannot_be_written_is_one_line_and_leaves_the_old_one(tmp_path: Path) -> None:
    html = tmp_path / "parity.html"
    publishing.publish(html, WHOLE, whole=True)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    html.with_suffix(".md").unlink()
    html.with_suffix(".md").mkdir()
    (html.with_suffix(".md") / "in the way").touch()
    with pytest.raises(ParityError, match=r"cannot be written") as caught:
        publishing.publish(html, records.crashed(), whole=True)
    assert "\n" not in str(caught.value)
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
    assert (tmp_path / "parity.json").read_bytes() in (before["parity.json"], records_json())


def records_json() -> bytes:
    from parity.record import dumps

    return dumps(records.crashed()).encode()


@pytest.mark.parametrize(
    ("states", "command"),
    [
        (("pass", "unavailable"), ""),
        (("fail", "pass"), "pytest -m parity -k 'test_golden[m0-onnx-fp32]'"),
        (("fail", "crash", "missing"), "pytest -m parity -k 'm0-onnx-fp32 or m1-onnx-fp32 or m2-onnx-fp32'"),
    ],
)
def test_the_terminal_ends_on_the_command_that_runs_again_what_does_not_pass(
    states: tuple[str, ...], command: str
) -> None:
    record: RunRecord = records.run([records.cell(f"m{i}-onnx-fp32", s) for i, s in enumerate(states)])  # type: ignore[arg-type]
    assert terminal.rerun(record) == command
    told = [text for _, text in terminal.lines(record)]
    assert (told[-1] == f"rerun: {command}") == bool(command)


def test_many_failures_name_some_and_say_how_many_more() -> None:
    record = records.run([records.cell(f"m{i}-onnx-fp32", "fail") for i in range(9)])
    assert terminal.rerun(record).endswith("m5-onnx-fp32'   # and 3 more cells, each with its command in the report")
