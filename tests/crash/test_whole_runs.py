"""Whole runs that are cut off, starved of disk, refused their folders, given a jumping clock, or not alone.

None ends in `pass` without its measurements or in a traceback of ours, and the next run is right.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parity.core.record import read
from tests.crash import injection
from tests.crash.test_campaign import consistent
from tests.crash.test_crashes import begin, good
from tests.plugin.tiny_project import Project, Run

pytest_plugins = "pytester"

STRUCK = """
import os, sys, pathlib, injection
if os.environ.get("STRIKE") and ("PYTEST_XDIST_WORKER" in os.environ) == (os.environ.get("STRIKE_WHO") == "worker"):
    way, at = os.environ["STRIKE"].split()
    here = pathlib.Path(__file__).parent
    hook = injection.Saboteur([here / "own-cache", here / "reports", here / ".parity"], way, int(at))
    sys.addaudithook(hook)
    def pytest_unconfigure():
        with open(os.path.join(os.environ["COUNT_TO"], f"{os.getpid()}.count"), "w") as file:
            file.write(str(hook.count))
"""
JUMPS = """
import time
real, begun = time.time, time.monotonic()
def jumping():
    return real() + (%s if time.monotonic() - begun > 1.5 else 0)
time.time = jumping
"""
LIMITED = """
import resource, os
if os.environ.get("MOST_BYTES"):
    most = int(os.environ["MOST_BYTES"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
"""


@pytest.fixture
def struck(pytester: pytest.Pytester) -> Project:
    """A project whose processes count their changes of cache and reports, and may be struck at one of them."""
    project = Project(pytester, pytester.path / "own-cache")
    project.write("injection.py", Path(injection.__file__).read_text(encoding="utf-8"))
    project.add("conftest.py", STRUCK)
    return project


def strike(project: Project, way: str, at: int, *args: str, who: str = "controller") -> tuple[Run, int]:
    """The run, and how many changes it made where it lived to tell."""
    counts = project.path / "counts"
    counts.mkdir(exist_ok=True)
    for old in counts.iterdir():
        old.unlink()
    env = {"STRIKE": f"{way} {at}", "STRIKE_WHO": who, "COUNT_TO": str(counts)}
    run = project.run("--parity-precisions=fp32", *args, env=env)
    return run, max((int(p.read_text()) for p in counts.iterdir()), default=0)


def counted(project: Project, *args: str, who: str = "controller") -> int:
    """How many changes a run makes that nobody disturbs."""
    run, changes = strike(project, "kill", 1_000_000_000, *args, who=who)
    assert run.code == 0, run.text
    return changes


def survived(project: Project, run: Run, way: str, at: int) -> None:
    """What must hold after a run that was struck, whatever the moment."""
    told = f"{way} at change {at}:\n{run.text[-3000:]}"
    assert "INTERNALERROR" not in run.text, told
    if run.code == 0:  # then nothing that counts was lost
        assert run.verdict in ("partial", "no record") and way != "kill", told
        assert run.verdict == "partial" or "verdict: partial" in run.text, told
    elif run.verdict != "no record" and way != "kill":  # a kill after the report was written comes too late
        assert run.verdict in ("fail", "incomplete"), told
    after = project.run("--parity-precisions=fp32")
    assert (after.code, after.verdict) == (0, "partial"), f"{told}\nand then:\n{after.text}"
    consistent(project.cache)


@pytest.mark.parametrize("way", ["kill", pytest.param("full", marks=pytest.mark.nightly)])
def test_a_run_struck_at_some_changes(struck: Project, way: str) -> None:
    changes = counted(struck)
    assert changes > 20
    for at in sorted({*map(round, np.linspace(2, changes - 1, 2))}):
        _emptied(struck)
        run, _ = strike(struck, way, at)
        survived(struck, run, way, at)


@pytest.mark.nightly
@pytest.mark.parametrize("way", injection.WAYS)
def test_a_run_struck_at_many_changes(struck: Project, way: str) -> None:
    changes = counted(struck)
    chosen = sorted({*map(round, np.linspace(1, changes, 16))})
    for at in chosen:
        _emptied(struck)
        run, _ = strike(struck, way, at)
        survived(struck, run, way, at)
    print(f"{len(chosen)} runs struck by {way}, of {changes} changes that a run makes")


@pytest.mark.nightly
@pytest.mark.parametrize("way", ["kill", "full", "readonly"])
def test_a_worker_struck_at_many_changes(struck: Project, way: str) -> None:
    """One worker of two: the controller lives, so every such run ends with a record."""
    changes = counted(struck, "-n", "2", "--dist", "worksteal", who="worker")
    chosen = sorted({*map(round, np.linspace(2, changes, 8))})
    for at in chosen:
        _emptied(struck)
        run, _ = strike(struck, way, at, "-n", "2", "--dist", "worksteal", who="worker")
        assert run.verdict != "no record", run.text
        assert "INTERNALERROR" not in run.text, run.text
        if run.code == 0:
            assert run.verdict == "partial" and set(run.states().values()) == {"pass"}, run.text
        good(struck.run())
        consistent(struck.cache)
    print(f"{len(chosen)} runs whose workers were struck by {way}")


def _emptied(project: Project) -> None:
    import shutil

    shutil.rmtree(project.cache, ignore_errors=True)
    shutil.rmtree(project.path / "reports", ignore_errors=True)


@pytest.mark.parametrize("most", [300, pytest.param(2_000, marks=pytest.mark.nightly),
                                  pytest.param(20_000, marks=pytest.mark.nightly),
                                  pytest.param(60_000, marks=pytest.mark.nightly)])  # fmt: skip
def test_a_disk_that_fills_up_in_the_middle_of_a_file(fresh: Project, most: int) -> None:
    """A limit on file sizes, which the child processes inherit: writes that have begun are cut short."""
    fresh.write("sitecustomize.py", LIMITED)
    limit = {"MOST_BYTES": str(most), "PYTHONPATH": str(fresh.path)}
    # Python's own bytecode is cut short too, and by Python 3.11 believed later on: it is not what is tested here.
    running = begin(fresh, {**limit, "PYTHONDONTWRITEBYTECODE": "1"}, "--parity-precisions=fp32")
    text, _ = running.communicate(timeout=200)
    assert running.returncode == 1 and "INTERNALERROR" not in text and "File too large" in text, text
    report = fresh.path / "reports" / "parity.json"
    assert not report.exists() or read(report).verdict in ("fail", "incomplete"), text
    after = fresh.run("--parity-precisions=fp32")
    assert (after.code, after.verdict) == (0, "partial"), after.text
    consistent(fresh.cache)


@pytest.mark.parametrize("place", ["reports", "own-cache", "own-cache/objects", "own-cache/locks"])
def test_a_folder_that_cannot_be_used(struck: Project, place: str) -> None:
    """A file stands where a folder should be: refused to everybody, the superuser too."""
    file = struck.path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("in the way")
    run = struck.run("--parity-precisions=fp32")
    assert run.code != 0 and "INTERNALERROR" not in run.text and "Traceback" not in run.text, run.text
    assert re.search(r"Not a directory|File exists", run.text), run.text
    file.unlink()
    after = struck.run("--parity-precisions=fp32")
    assert (after.code, after.verdict) == (0, "partial"), after.text


@pytest.mark.parametrize("seconds", [-86_400 * 400, pytest.param(86_400 * 400, marks=pytest.mark.nightly)])
def test_a_clock_that_jumps(fresh: Project, seconds: int) -> None:
    fresh.add("conftest.py", JUMPS % seconds)
    run = fresh.run("--parity-rebuild")
    assert (run.code, run.verdict) == (0, "pass"), run.text
    assert run.record.builds == 2 and 0 <= run.record.seconds < 600, (run.record.builds, run.record.seconds)
    consistent(fresh.cache)


def test_two_runs_at_once_share_what_they_build(fresh: Project, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    both = [begin(fresh, {"PLAIN_COUNTER": str(counter), "PLAIN_EXPORT": "slow"}, f"--parity-report=reports/{n}.html")
            for n in "ab"]  # fmt: skip
    texts = [running.communicate(timeout=300)[0] for running in both]
    assert [running.returncode for running in both] == [0, 0], texts
    assert counter.read_text().count("weights") == 1 and counter.read_text().count("half") == 1
    assert {read(fresh.path / "reports" / f"{n}.json").verdict for n in "ab"} == {"pass"}
    consistent(fresh.cache)


@pytest.mark.nightly
def test_two_runs_at_once_that_write_one_report(fresh: Project) -> None:
    for _ in range(3):
        both = [begin(fresh, {}), begin(fresh, {"PLAIN_RUN": "wrong"})]
        texts = [running.communicate(timeout=300)[0] for running in both]
        assert sorted(running.returncode for running in both) == [0, 1], texts
        assert read(fresh.path / "reports" / "parity.json").verdict in ("pass", "fail")
        gate = subprocess.run([sys.executable, "-m", "parity.cli", "gate", "reports/parity.json"], cwd=fresh.path,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert gate.returncode in (0, 1) and "Traceback" not in gate.stderr, gate.stderr
    consistent(fresh.cache)
