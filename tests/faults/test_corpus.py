"""Conversion faults that people reported: the default profile finds them, and leaves right artefacts of the same models
alone. `python -m tests.faults.corpus` prints the table of docs/fault-corpus.md."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.corpus import project
from tests.faults.corpus.catalogue import FAULTS, Fault, by_name

SAMPLE = ("batch_fixed", "positions_cached", "relu6_unclipped", "variance_overflow", "half_weights")
MISSED = {"ties", "shared_scale"}  # told in docs/fault-corpus.md


def measured(folder: Path, faults: Sequence[Fault]) -> list[project.Verdict]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        project.build(folder, faults)
    return project.run(folder, faults)[0]


def check(verdicts: Sequence[project.Verdict]) -> None:
    for verdict in verdicts:
        if verdict.right is not None:
            assert verdict.right.state == "pass", f"a right artefact does not pass: {verdict.right.reason}"
        if verdict.fault.name not in MISSED:
            assert verdict.found, f"{verdict.fault.name} is not found"
            assert verdict.cell.reason and (verdict.cell.seconds or 0) < 60


def test_every_fault_has_a_thread_of_its_own_and_a_model() -> None:
    assert len(FAULTS) >= 25
    assert len({f.name for f in FAULTS}) == len({f.thread for f in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        owner, repository, kind, number = fault.thread.split("/")
        assert owner and repository and kind in ("issues", "pull") and number.isdigit()
        assert project.draw(fault, 0).keys() == {i.name for i in fault.inputs}


def test_a_sample_is_found_and_right_artefacts_pass(tmp_path: Path) -> None:
    faults = [by_name(name) for name in SAMPLE]
    check(measured(tmp_path, faults))
    assert [f.name for f in faults if project.one_random_input(tmp_path, f, 3)] == ["half_weights"]


@pytest.mark.nightly
def test_the_default_profile_finds_what_one_random_input_misses(tmp_path: Path) -> None:
    verdicts = measured(tmp_path, FAULTS)
    check(verdicts)
    assert sum(v.found for v in verdicts) >= 23
    naive = [f for f in FAULTS if any(project.one_random_input(tmp_path, f, seed) for seed in range(5))]
    assert len(naive) <= 13
