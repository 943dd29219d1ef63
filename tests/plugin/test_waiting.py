"""What hangs is waited for once, and not again by every test that uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

ONE, SOON = "--parity-precisions=fp32", "--parity-timeout=5"
HANGING_MODEL = """
import os, time
import torch

class Hangs(torch.nn.Linear):
    def forward(self, x):
        with open(os.environ["PLAIN_COUNTER"], "a") as file:
            file.write("hang\\n")
        time.sleep(600)

def tiny():
    return Hangs(3, 4)
"""


def waits(counter: Path) -> int:
    return sum(line.startswith("hang") for line in counter.read_text().splitlines())


@pytest.mark.parametrize("stage", ["LOAD", "RUN"])
def test_a_file_that_hangs_is_waited_for_once(fresh: Project, tmp_path: Path, stage: str) -> None:
    """By each test in turn, a time-out of 15 s took 129 s; the default one would have taken 85 minutes."""
    counter = tmp_path / "counter"
    run = fresh.run(ONE, SOON, env={f"PLAIN_{stage}": "hang", "PLAIN_COUNTER": str(counter)})
    assert run.states() == {"tiny-plain-fp32": "timeout"} and run.code == 1, run.text
    assert run.record.cells[0].reason.startswith(f"{stage.lower()}: no answer within 5 s")
    assert waits(counter) == 1
    assert run.record.seconds < 3 * 5, "about one time-out, and what else a run takes"


def test_workers_tell_one_another_what_hangs(fresh: Project, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    run = fresh.run("-n2", "--dist=worksteal", ONE, SOON,
                    env={"PLAIN_LOAD": "hang", "PLAIN_COUNTER": str(counter)})  # fmt: skip
    assert run.states() == {"tiny-plain-fp32": "timeout"}, run.text
    assert waits(counter) <= 2, "both may wait at the same time"


def test_a_module_that_hangs_is_waited_for_once(fresh: Project, tmp_path: Path) -> None:
    fresh.write("tinynet.py", HANGING_MODEL)
    counter = tmp_path / "counter"
    run = fresh.run(ONE, SOON, env={"PLAIN_COUNTER": str(counter)})
    assert run.states() == {"tiny-plain-fp32": "timeout"}, run.text
    assert "oracle: no answer within 5 s" in run.record.cells[0].reason
    assert waits(counter) == 1


def test_another_run_waits_again(fresh: Project, tmp_path: Path) -> None:
    """What hung may have been mended, or the machine was busy."""
    counter = tmp_path / "counter"
    env = {"PLAIN_LOAD": "hang", "PLAIN_COUNTER": str(counter)}
    fresh.run(ONE, SOON, env=env)
    assert fresh.run(ONE, SOON).code == 0
