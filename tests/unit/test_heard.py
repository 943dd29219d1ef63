"""Which of several failures the record of a cell tells."""

from __future__ import annotations

import itertools

import pytest

from parity.pytest_plugin.heard import Heard

EXPORT = {"state": "error", "stage": "export", "reason": "no operator", "log": ""}
LOAD = {"state": "error", "stage": "load", "reason": "no kernel for Erf", "log": ""}
ORACLE = {"state": "crash", "stage": "oracle", "reason": "SIGSEGV", "log": ""}
PROVE = {"state": "error", "stage": "prove", "reason": "odd", "log": ""}


def heard(*failures: dict[str, str]) -> dict[str, str] | None:
    cell = Heard()
    for failure in failures:
        cell.hear({"failure": failure, "when": "setup", "outcome": "failed", "kind": "golden"})
    return cell.failure


@pytest.mark.parametrize("of_the_file", [EXPORT, LOAD])
def test_what_the_file_fails_at_is_not_hidden_by_what_it_is_measured_against(of_the_file: dict[str, str]) -> None:
    for order in itertools.permutations([of_the_file, ORACLE, PROVE]):
        assert heard(*order) == of_the_file


def test_of_two_of_a_kind_a_crash_is_told() -> None:
    assert heard(PROVE, ORACLE) == heard(ORACLE, PROVE) == ORACLE
