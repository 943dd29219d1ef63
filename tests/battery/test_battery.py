"""This suite passes nothing in the battery that it should not, and every case of it is one that somebody does pass.

What takes more than a few seconds (whole runs of pytest, one a case) is nightly; tests/plugin/test_losses.py has
the ways to lose a whole run that are particular to this suite.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.battery import runs
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
def test_a_process_that_ends_well_from_inside_leaves_no_record(project: Project) -> None:
    """No plugin can change the exit code of os._exit(0): `parity gate` as the last step finds nothing to judge."""
    assert project.run().code == 0
    report = project.path / "reports" / "parity.html"
    assert report.exists()
    project.add("conftest.py", "import os\ndef pytest_runtest_call(item): os._exit(0)\n")
    run = project.run()
    assert run.code == 0 and run.verdict == "no record" and not report.exists()


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


def test_any_checker_can_be_plugged_in() -> None:
    command = [sys.executable, "-m", "tests.battery", "--checker", "tests.battery.test_battery:Anything"]
    done = subprocess.run([*command, "--family", "arrays"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout.startswith("| checker |") and "| anything |" in done.stdout
