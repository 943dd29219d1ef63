"""This suite passes nothing in the battery that it should not, and every case of it is one that somebody does pass.

What takes more than a few seconds (whole runs of pytest, one a case) is nightly; tests/plugin/test_losses.py has
the ways to lose a whole run that are particular to this suite.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parity.judging.gate import exit_code
from tests.battery import files, runs
from tests.battery.checkers import NAIVE, SUITE, peers, suite
from tests.battery.protocol import Base, Pair
from tests.battery.table import FAMILIES, Answers, ask, made, markdown
from tests.plugin.tiny_project import Project, project, shared_cache

__all__ = ["project", "shared_cache"]

pytest_plugins = "pytester"

PURE = ("arrays", "limits", "records")


def asked(makers: object, families: tuple[str, ...]) -> list[Answers]:
    return [ask(checker, families) for checker in made(makers)[0]]  # type: ignore[arg-type]


def cases(families: tuple[str, ...]) -> list[object]:
    return [case for family in families for case in FAMILIES[family]]


@pytest.fixture(scope="module")
def pure() -> dict[str, list[Answers]]:
    return {"suite": asked(SUITE, PURE), "others": asked((peers.NumpyClose, *NAIVE), PURE)}


def test_there_are_at_least_sixty_cases_and_no_two_alike() -> None:
    every = cases(tuple(FAMILIES))
    assert sum(not c.honest for c in every) >= 180  # type: ignore[attr-defined]
    assert len({c.id for c in every}) == len(every)  # type: ignore[attr-defined]
    assert len({c.sentence for c in every}) == len(every)  # type: ignore[attr-defined]


def test_the_suite_passes_nothing_that_was_not_measured(pure: dict[str, list[Answers]]) -> None:
    for answers in pure["suite"]:
        assert answers.asked(cases(PURE)) >= 100, answers.name
        assert answers.wrong(cases(PURE)) == [], answers.name


def test_the_suite_passes_what_is_right(pure: dict[str, list[Answers]]) -> None:
    for answers in pure["suite"]:
        assert answers.refused(cases(PURE)) == [], answers.name


def test_every_case_is_one_that_somebody_passes(pure: dict[str, list[Answers]]) -> None:
    others = pure["others"]
    assert [c.id for c in cases(PURE) if not c.honest and not any(a.said.get(c.id) for a in others)] == []  # type: ignore[attr-defined]


def test_a_sample_of_files_of_another_model_does_not_pass() -> None:
    files = FAMILIES["files"]
    names = ("file-output-missing", "file-input-folded", "file-all-nan", "file-empty", "file-right")
    assert suite.Gate().files([c for c in files if c.id in names]) == {"file-right"}
    logged, close = asked((NAIVE[0], peers.NumpyClose), ("files",))
    assert {*logged.wrong(files), *close.wrong(files)} == {c.id for c in files if not c.honest}


@pytest.mark.nightly
def test_no_file_of_another_model_passes() -> None:
    (ours,) = asked((SUITE[-1],), ("files",))
    assert ours.wrong(FAMILIES["files"]) == [] and ours.refused(FAMILIES["files"]) == []


def test_a_lost_test_is_not_a_pass() -> None:
    ours, plain = asked((SUITE[-1], peers.NumpyAssert), ("runs",))
    assert ours.wrong(cases(("runs",))) == [] and ours.refused(cases(("runs",))) == []
    assert plain.wrong(cases(("runs",))) == [c.id for c in runs.CASES], "plain pytest stays green in each"


@pytest.mark.nightly
def test_a_process_that_ends_well_from_inside_leaves_a_record_that_says_that_it_began(project: Project) -> None:
    """No plugin can change the exit code of os._exit(0): `parity gate` as the last step does not pass."""
    assert project.run().code == 0
    report = project.path / "reports" / "parity.html"
    assert report.exists()
    project.add("conftest.py", "import os\ndef pytest_runtest_call(item): os._exit(0)\n")
    run = project.run()
    assert run.code == 0 and run.verdict == "incomplete" and exit_code(run.record) == 1
    assert "began" in run.record.reason


@pytest.mark.nightly
def test_a_lost_run_is_not_a_pass() -> None:
    ours, plain = asked((SUITE[-1], peers.NumpyAssert), ("runs of their own",))
    assert ours.wrong(runs.ALONE) == []
    assert len(plain.wrong(runs.ALONE)) >= 3, plain.said


class Anything(Base):
    """A checker that passes everything, to see the battery notice."""

    name = "anything"

    def pair(self, case: Pair) -> bool:
        return True


class Nothing(Base):
    name = "nothing"

    def pair(self, case: Pair) -> bool:
        raise ValueError("no")


def test_the_battery_notices_a_checker_that_passes_everything_or_nothing() -> None:
    everything, nothing = ask(Anything(), ("arrays",)), ask(Nothing(), ("arrays",))
    assert len(everything.wrong(FAMILIES["arrays"])) == everything.asked(FAMILIES["arrays"]) > 60
    assert len(nothing.refused(FAMILIES["arrays"])) == sum(c.honest for c in FAMILIES["arrays"]) > 5
    table = markdown([everything, nothing], ("arrays",))
    assert f"| anything | {len(everything.said) - 9} of {len(everything.said) - 9} |" in table
    assert "`no-cases`" in table and "**X**" in table


ELSEWHERE = """
import sys

class Absent:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("parity", "torch", "pytest", "onnxruntime"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())
sys.argv[0] = "battery"
import runpy
runpy.run_module("battery", run_name="__main__")
"""
ADAPTER = """
import numpy as np
from battery import files
from battery.protocol import Base, Pair, each

def close(case):
    return all(np.allclose(g[n], w[n], case.rtol, case.atol) for g, w in zip(case.got, case.want) for n in case.names)

class Mine(Base):
    name = "mine"

    def pair(self, case):
        return close(case)

    def files(self, cases):
        from onnx.reference import ReferenceEvaluator

        def passes(path):
            runs = [ReferenceEvaluator(str(path)).run(["y", "z"], {"x": x}) for x in files.ROWS]
            got = [dict(zip(("y", "z"), run)) for run in runs]
            return close(Pair("", "", got, [files.model(x) for x in files.ROWS], ("y", "z")))

        return each(cases, passes)
"""


class Zipped(Base):
    """The adapter's comparison, asked here."""

    def pair(self, case: Pair) -> bool:
        pairs = zip(case.got, case.want, strict=False)
        return all(np.allclose(g[n], w[n], case.rtol, case.atol) for g, w in pairs for n in case.names)


def elsewhere(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The battery's folder copied to where nothing of this project is, asked there."""
    shutil.copytree(Path(__file__).parent, folder / "battery", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "adapter.py").write_text(ADAPTER)
    command = [sys.executable, "-c", ELSEWHERE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_a_checker_of_somebody_else_is_asked_where_this_project_is_not(tmp_path: Path) -> None:
    done = elsewhere(tmp_path, "--checker", "adapter:Mine", "--family", "arrays", "--family", "files")
    assert done.returncode == 1, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("| mine |"))
    (ours,) = asked((Zipped,), ("arrays",))
    every = FAMILIES["arrays"]
    # Asked about the probe alone, it passes what is wrong on zeros and what is random by next to nothing.
    assert f"| {len(ours.wrong(every))} of {ours.asked(every)} | 4 of {len(files.CASES)} |" in row, row
    assert len(ours.wrong(every)) > 5
    assert "| `file-all-nan` |" in done.stdout and "**X**" in done.stdout


@pytest.mark.parametrize(("given", "said"), [
    ("adapter:close", ""), ("adapter:gone", "no attribute 'gone'"), ("gone:Mine", "No module named 'gone'"),
    ("adapter", "give MODULE:NAME"), ("adapter:np", "neither a class nor a function"),
    ("battery.protocol:Base", "asked no case"),
])  # fmt: skip
def test_what_is_no_checker_is_said_in_one_line(given: str, said: str, tmp_path: Path) -> None:
    done = elsewhere(tmp_path, "--checker", given, "--family", "arrays")
    assert done.returncode == (2 if said else 1), done.stderr
    assert said in done.stderr and len(done.stderr.splitlines()) == bool(said)
    assert done.stdout.startswith("| checker |") == (not said)


def test_any_checker_can_be_plugged_in() -> None:
    command = [sys.executable, "-m", "tests.battery", "--checker", "tests.battery.test_battery:Anything"]
    done = subprocess.run([*command, "--family", "arrays"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout.startswith("| checker |") and "| anything |" in done.stdout
