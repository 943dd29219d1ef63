"""What stands after a run that did not end in a report, and waivers: the record, pytest and `parity gate` agree."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from parity.core.record import read
from parity.report import publishing
from tests.plugin.tiny_project import Project

pytest_plugins = ["pytester"]

WAIVER = """
[[tool.parity.waive]]
cell = "tiny-plain-fp32"
metric = "{metric}"
reason = "accepted"
expires = 2999-01-31
"""


def gate(project: Project) -> tuple[int, str]:
    """Exit code and text of `parity gate reports/parity.json`."""
    command = [sys.executable, "-m", "parity.cli", "gate", "reports/parity.json"]
    done = subprocess.run(command, cwd=project.path, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def left_by_a_run_that_passed(project: Project) -> None:
    """Leave the report of a whole run that passed, as yesterday's run does."""
    assert project.run().code == 0
    assert gate(project)[0] == 0


def again(project: Project, *args: str) -> pytest.RunResult:
    """Another run, over the report that stands."""
    given = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", f"--parity-cache={project.cache}"]
    return project.pytester.runpytest_subprocess(*given, *args)


def test_a_waiver_in_force_passes_for_pytest_and_gate_alike(project: Project) -> None:
    project.add(
        "pyproject.toml",
        '[tool.parity.limits."tiny-plain-fp32"]\nmax_abs = 1e-30\n' + WAIVER.format(metric="max_abs"),
    )
    run = project.run()
    assert run.record is not None and run.record.verdict == "pass", run.text
    assert {c.id: c.state for c in run.record.cells}["tiny-plain-fp32"] == "waived"
    assert run.code == 0 and "waived" in run.text
    assert gate(project)[0] == 0


def test_a_waiver_excuses_its_own_metric_only(project: Project) -> None:
    project.add(
        "pyproject.toml",
        '[tool.parity.limits."tiny-plain-fp32"]\nmean_abs = 1e-30\nmax_abs = 1e-30\n' + WAIVER.format(metric="max_abs"),
    )
    run = project.run()
    assert run.record is not None and run.record.verdict == "fail" and run.code == 1
    assert "mean_abs" in run.text


def test_a_refused_configuration_leaves_no_verdict_of_another(project: Project) -> None:
    left_by_a_run_that_passed(project)
    project.set("no_such_key", "1")
    assert int(again(project, "-m", "parity").ret) == 4
    code, text = gate(project)
    assert code != 0, text
    assert read(project.path / "reports" / "parity.whole.json").verdict == "pass"


def test_a_run_without_a_report_leaves_no_verdict_of_another(project: Project) -> None:
    left_by_a_run_that_passed(project)
    assert int(again(project, "-m", "parity", "--parity-no-report").ret) == 0
    assert gate(project)[0] != 0


def test_a_run_killed_while_it_collects_leaves_a_record_that_says_that_it_began(project: Project) -> None:
    left_by_a_run_that_passed(project)
    project.write("test_killed.py", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert int(again(project, "-m", "parity").ret) != 0
    code, text = gate(project)
    assert code == 1 and "incomplete" in text
    assert {c.state for c in read(project.path / "reports" / "parity.json").cells} == {"missing"}


@pytest.mark.parametrize("args", [("--collect-only", "-m", "parity"), ("-m", "not parity"), ("--parity-show-plan",)])
def test_what_measures_nothing_leaves_the_report_alone(project: Project, args: tuple[str, ...]) -> None:
    left_by_a_run_that_passed(project)
    again(project, *args)
    assert gate(project)[0] == 0


def test_an_empty_selection_leaves_the_report_of_the_last_whole_run(project: Project) -> None:
    left_by_a_run_that_passed(project)
    again(project, "-m", "parity", "-k", "nothing_of_this_name")
    assert gate(project)[0] == 0
    assert not (project.path / "reports" / "parity.whole.json").exists()


def test_a_record_does_not_outlive_a_later_run_that_failed_elsewhere(project: Project) -> None:
    def command(*arguments: str) -> tuple[int, str]:
        whole = [sys.executable, "-m", "parity.cli", *arguments]
        done = subprocess.run(whole, cwd=project.path, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    record = project.path / "reports" / "parity.json"
    assert project.run("--parity-report=other/1.html").code == 0
    assert not record.with_suffix(publishing.ELSEWHERE).exists()  # no record stands that could be an earlier one
    assert project.run().code == 0
    standing = record.read_bytes()
    passed = replace(read(record))
    html = project.path / "other" / "2.html"
    publishing.note_elsewhere(record.with_suffix(".html"), html)
    publishing.publish(html, passed, whole=True)
    assert command("gate", "reports/parity.json") == (
        0, "reports/parity.json: a later run has its record in other/2.json: pass\n"
    )  # fmt: skip
    publishing.publish(html, replace(passed, cells=(replace(passed.cells[0], checks=()),)), whole=True)
    assert record.read_bytes() == standing
    assert command("gate", "reports/parity.json")[0] == 1
    code, said = command("release", "reports/parity.json", "--to=out", f"--parity-cache={project.cache}")
    assert code == 1 and "a later run has its record in" in said
    publishing.clear(record.with_suffix(".html"))
    assert publishing.elsewhere(record) == []


def test_a_run_with_its_report_elsewhere_says_so_beside_the_usual_one(fresh: Project) -> None:
    record = fresh.path / "reports" / "parity.json"
    assert fresh.run().code == 0
    text = record.read_text()
    run = fresh.run("--parity-report=reports/2.html", env={"PLAIN_RUN": "wrong"}, keep=True)
    assert run.code == 1 and record.read_text() == text
    assert [path.name for path in publishing.elsewhere(record)] == ["2.json"]
