"""Converters and runtimes that die, hang, leave or eat memory: one named cell each, and a session that finishes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.plugin.tiny_project import Project, Run

pytest_plugins = "pytester"

# Only the fp16 cell has the step `half`; the fp32 cell must pass beside it.
DEATHS = {
    "segfault": ("crash", "SIGSEGV (segmentation fault)"),
    "abort": ("crash", "SIGABRT (abort)"),
    "_exit": ("crash", "exited with code 3"),
    "exit": ("error", "called sys.exit(3)"),
    "raise": ("error", "ValueError: unsupported operator aten::nothing"),
    "hang": ("timeout", "no answer within"),
    "memory": ("crash", "used more than 0.6 GiB, ended: `memory` in [tool.parity] raises it"),
}


def limited(project: Project) -> Project:
    text = (project.path / "pyproject.toml").read_text()
    project.write("pyproject.toml", text.replace("timeout = 60", 'timeout = 60\nmemory = "600MiB"'))
    return project


def nightly(*values: str) -> Any:
    """What waits long, or has a sibling that runs with every commit."""
    return pytest.param(*values, marks=pytest.mark.nightly)


@pytest.mark.parametrize("how", [*(how for how in DEATHS if how != "hang"), nightly("hang")])
def test_a_converter_that_dies_is_one_named_cell(project: Project, how: str) -> None:
    state, reason = DEATHS[how]
    args = ["--parity-timeout=10", "-k", "contract"] if how == "hang" else []  # one test waits, not five
    run = limited(project).run(*args, env={"PLAIN_CONVERT": how})
    assert (run.code, run.verdict) == (1, "fail"), run.text
    assert run.states() == {"tiny-plain-fp32": "pass", "tiny-plain-fp16": state}, run.text
    cell = run.record.cell("tiny-plain-fp16")
    assert cell.stage == "convert" and reason in cell.reason
    assert f"{state:<11} tiny-plain-fp16: convert: {reason}"[:60] in run.text
    if how in ("segfault", "raise", "exit"):
        assert "misbehave" in cell.log


@pytest.mark.parametrize(("place", "how"), [
    *itertools.product(("RUN", "LOAD"), ("segfault", "exit", "raise")), ("RUN", "_exit"), ("LOAD", "memory"),
    pytest.param("RUN", "hang", marks=pytest.mark.slow),
    *itertools.starmap(nightly, [("LOAD", "hang"), ("LOAD", "_exit"), ("RUN", "memory")]),
])  # fmt: skip
def test_a_runtime_that_dies_is_named_after_its_stage(project: Project, how: str, place: str) -> None:
    state, reason = DEATHS[how]
    args = ["--parity-timeout=10", "-k", "contract"] if how == "hang" else []  # one test waits, not five
    run = limited(project).run("--parity-precisions=fp32", *args, env={f"PLAIN_{place}": how})
    assert (run.code, run.verdict) == (1, "fail"), run.text
    cell = run.record.cell("tiny-plain-fp32")
    assert (cell.state, cell.stage) == (state, place.lower()), run.text
    assert reason in cell.reason


def test_a_converter_that_leaves_no_file_is_an_error(fresh: Project) -> None:
    run = fresh.run(env={"PLAIN_EXPORT": "nothing"})
    assert (run.code, run.verdict) == (1, "fail"), run.text
    assert set(run.states().values()) == {"error"}
    assert "reported success and left no 'weights.npz'" in run.text


def test_nothing_of_a_failed_step_stays_in_the_cache(fresh: Project) -> None:
    fresh.run(env={"PLAIN_EXPORT": "segfault"})
    assert not any("weights.npz" in str(p) for p in fresh.cache.rglob("*"))
    run = fresh.run()
    assert (run.code, run.verdict) == (0, "pass"), run.text


def test_a_crash_that_only_a_used_child_has_does_not_change_the_verdict(project: Project) -> None:
    """The runtime dies at its third call; opened anew in a fresh child it answers."""
    project.add("plain_target.py", """
calls = 0
real = PlainSession.run
def run(self, inputs):
    global calls
    calls += 1
    if calls > 6:
        os.abort()
    return real(self, inputs)
PlainSession.run = run
""")  # fmt: skip
    run = project.run("-k", "test_golden or test_accuracy")
    assert (run.code, run.verdict) == (0, "partial"), run.text


# Killed from outside.


def begin(project: Project, env: Mapping[str, str], *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pytest", "-m", "parity", "-p", "no:cacheprovider",
               f"--parity-cache={project.cache}", *args]  # fmt: skip
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return subprocess.Popen(command, cwd=project.path, env={**clean, **env}, stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip


def wait_for(file: Path, seconds: float = 60) -> int:
    """The process that wrote its id to `file`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if file.exists() and file.read_text().strip():
            return int(file.read_text().split()[1])
        time.sleep(0.05)
    raise AssertionError("no builder began")


def good(run: Run) -> None:
    assert (run.code, run.verdict) == (0, "pass"), run.text
    assert set(run.states().values()) == {"pass"}


def test_after_the_builder_process_was_killed_the_next_run_is_right(fresh: Project, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    running = begin(fresh, {"PLAIN_COUNTER": str(counter), "PLAIN_EXPORT": "hang"}, "--parity-precisions=fp32")
    builder = wait_for(counter)
    assert psutil.Process(builder).ppid() == running.pid
    os.kill(builder, signal.SIGKILL)  # the child that converts: its call is repeated once
    until = time.monotonic() + 30
    while counter.read_text().count("weights") < 2 and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(int(counter.read_text().split()[-1]), signal.SIGKILL)
    text, _ = running.communicate(timeout=120)
    assert running.returncode == 1 and "SIGKILL (killed: out of memory, or by hand)" in text
    good(fresh.run())


def test_after_the_whole_run_was_killed_the_next_one_is_right(fresh: Project, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    running = begin(fresh, {"PLAIN_COUNTER": str(counter), "PLAIN_EXPORT": "hang"})
    builder = wait_for(counter)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not any("weights.npz" in str(p) for p in (fresh.cache / "objects").rglob("*"))
    until = time.monotonic() + 10
    while psutil.pid_exists(builder) and time.monotonic() < until:
        time.sleep(0.1)
    assert not psutil.pid_exists(builder) or psutil.Process(builder).status() == psutil.STATUS_ZOMBIE
    run = fresh.run()
    good(run)
    assert run.record.builds == 2


@pytest.mark.slow
def test_an_xdist_worker_killed_while_it_builds_changes_no_verdict_of_the_next_run(
    fresh: Project, tmp_path: Path
) -> None:
    counter = tmp_path / "counter"
    running = begin(fresh, {"PLAIN_COUNTER": str(counter), "PLAIN_EXPORT": "slow"}, "-n", "2", "--dist", "worksteal")
    worker = psutil.Process(wait_for(counter)).ppid()
    assert worker != running.pid
    os.kill(worker, signal.SIGKILL)
    text, _ = running.communicate(timeout=180)
    assert running.returncode == 1, text
    assert "verdict: fail" in text and "crash" in text
    good(fresh.run("-n", "2"))


def test_a_truncated_artefact_is_never_used(fresh: Project) -> None:
    fresh.run()
    for file in (fresh.cache / "objects").rglob("*.npz"):
        os.truncate(file, 40)
    run = fresh.run()
    good(run)
    assert run.record.builds == 2
