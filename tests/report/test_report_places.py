"""Where reports go: whole runs are never lost to narrowed ones, and what cannot be written leaves what was there."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import records

from parity.cli import main
from parity.core.errors import ParityError
from parity.core.record import RunRecord, read
from parity.report import publishing, terminal
from parity.store import atomic

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


def test_a_whole_run_that_ended_during_a_narrowed_one_is_kept_too(tmp_path: Path) -> None:
    html = tmp_path / "parity.html"
    publishing.clear(html)
    publishing.publish(html, WHOLE, whole=True)  # by another process
    publishing.publish(html, NARROWED, whole=False)
    assert read(tmp_path / "parity.json") == NARROWED
    assert read(tmp_path / "parity.whole.json") == WHOLE


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
    assert (tmp_path / "parity.json").read_bytes() == before["parity.json"]
    assert (tmp_path / "parity.html").read_bytes() == before["parity.html"]


KILLED = """
import os, signal, sys
from pathlib import Path
import records
from parity.report import publishing
html, left, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
real = Path.replace
def replace(self, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return real(self, target)
Path.replace = replace
publishing.clear(html) if what == "clear" else publishing.publish(html, records.crashed(), whole=True)
"""


def killed(html: Path, renames: int, what: str) -> None:
    """A process that is killed in `what` after so many renames."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    done = subprocess.run([sys.executable, "-c", KILLED, str(html), str(renames), what], check=False,
                          env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_between_two_names_is_told_by_whoever_reads_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], renames: int
) -> None:
    html = tmp_path / "parity.html"
    publishing.publish(html, WHOLE, whole=True)
    killed(html, renames, "publish")
    assert read(html.with_suffix(".json")) == WHOLE, "the record comes last"
    main(["gate", str(html.with_suffix(".json"))])
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in told] == [str(html), str(html.with_suffix(".md"))][:renames]
    assert all("made from another record; write it again with: parity report" in line for line in told)
    assert main(["report", str(html.with_suffix(".json"))]) == 0
    capsys.readouterr()
    main(["gate", str(html.with_suffix(".json"))])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_while_a_whole_report_is_put_aside_loses_nothing_of_it(tmp_path: Path, renames: int) -> None:
    html = tmp_path / "parity.html"
    publishing.publish(html, WHOLE, whole=True)
    killed(html, renames, "clear")
    publishing.clear(html)
    publishing.publish(html, NARROWED, whole=False)
    assert names(tmp_path) == [f"parity{w}.{e}" for w, e in product(("", ".whole"), ("html", "json", "md"))]
    assert read(tmp_path / "parity.whole.json") == WHOLE
    assert 'data-verdict="pass"' in (tmp_path / "parity.whole.html").read_text(encoding="utf-8")


def test_page_and_summary_name_the_record_that_they_were_made_from(tmp_path: Path) -> None:
    html = tmp_path / "parity.html"
    publishing.publish(html, WHOLE, whole=True)
    digest = hashlib.sha256(html.with_suffix(".json").read_bytes()).hexdigest()
    assert f"sha256:{digest}" in html.read_text(encoding="utf-8")
    assert html.with_suffix(".md").read_text(encoding="utf-8").endswith(f"\nrecord sha256:{digest}\n")


def test_a_reason_that_looks_like_a_name_of_a_record_is_none(tmp_path: Path) -> None:
    html = tmp_path / "parity.html"
    odd = dataclasses.replace(WHOLE, reason=f"record sha256:{'0' * 64}")
    publishing.publish(html, odd, whole=True)
    text = html.with_suffix(".json").read_text(encoding="utf-8")
    assert publishing.strangers(html.with_suffix(".json"), text) == []
    assert publishing.strangers(html.with_suffix(".json"), text + " ") == [html, html.with_suffix(".md")]


WRITER = """
import dataclasses, sys
from pathlib import Path
import records
from parity.report import publishing
for n in range(25):
    record = dataclasses.replace(records.crashed(), command=f"{sys.argv[2]} {n}")
    publishing.publish(Path(sys.argv[1]), record, whole=True)
"""


def test_two_runs_that_end_at_once_leave_the_report_of_one_of_them(tmp_path: Path) -> None:
    html = tmp_path / "parity.html"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(html), name], env={**os.environ, "PYTHONPATH": path})
               for name in ("one", "two")]  # fmt: skip
    while any(w.poll() is None for w in writers):
        if html.with_suffix(".json").exists():
            with atomic.alone(tmp_path):
                text = html.with_suffix(".json").read_text(encoding="utf-8")
                assert publishing.strangers(html.with_suffix(".json"), text) == []
    assert [w.wait() for w in writers] == [0, 0]
    assert names(tmp_path) == ["parity.html", "parity.json", "parity.md"]


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
