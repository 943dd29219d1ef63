"""Limits on shares of a sample: too few cases never pass, and never fail what they do not show to be wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parity.core.plan import Cell
from parity.core.record import CellRecord, Check
from parity.core.settings import Rule
from parity.judging import gate, samples
from parity.judging.limits import DEFAULTS, fallback, is_default, resolve
from parity.judging.statistics import binomial_upper

OWN = "pyproject.toml:7 [tool.parity.limits] fp16"


def drop(value: float, bound: float | None, metric: str = "top1_drop", sense: str = "max") -> Check:
    return Check("accuracy", "all", "y", metric, value, None, sense, True, bound=bound)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("check", "limit", "decided"),
    [
        (drop(0.0, 0.04), 0.05, True),
        (drop(0.0, 0.06), 0.05, False),
        (drop(0.06, 0.09), 0.05, True),  # over: that is a failure, not a doubt
        (drop(0.0, 0.06), 0.0, True),  # no room at all: about these cases alone
        (drop(0.0, None), 0.05, True),  # no sample
        (drop(1.0, 0.97, "top1", "min"), 0.95, True),
        (drop(1.0, 0.93, "top1", "min"), 0.95, False),
        (drop(1.0, 0.93, "top1", "min"), 1.0, True),
        (drop(0.9, 0.8, "top1", "min"), 0.95, True),
    ],
)
def test_a_limit_is_decided_by_figure_and_bound(check: Check, limit: float, decided: bool) -> None:
    found = samples.held(check, limit, OWN)
    assert (found.limit, found.undecided) == ((limit, None) if decided else (None, limit))
    assert samples.held(found, None, "").undecided is None


def test_how_many_cases_decide() -> None:
    assert samples.needed(0.02) == 149
    assert binomial_upper(0, 149) <= 0.02 < binomial_upper(0, 148)
    assert samples.needed(0.0) == samples.needed(1.0) == 1


def cell(source: str, value: float = 0.0) -> CellRecord:
    checks = [samples.held(drop(value, value + 0.04), 0.01, source)]
    return CellRecord("m-onnx-fp16", "m", "onnx", "fp16", "missing", planned=("accuracy",), measured=("accuracy",),
                      checks=tuple(checks))  # fmt: skip


def test_an_undecided_limit_that_somebody_set_is_not_a_pass() -> None:
    settled = gate.settle(cell(OWN))
    assert settled.state == "missing" and "368 cases without an error would decide" in settled.reason


def test_an_undecided_built_in_limit_leaves_the_cell_to_its_other_checks() -> None:
    limit = resolve((), Cell("m", "onnx", "fp16"))["top1_drop"]
    settled = gate.settle(cell(limit.source))
    assert settled.state == "pass" and settled.checks[0].undecided == DEFAULTS["fp16"]["top1_drop"]


@pytest.mark.parametrize("source", [OWN, "built-in default for fp16"])
def test_a_sample_that_is_over_fails_however_small(source: str) -> None:
    assert gate.settle(cell(source, value=0.5)).state == "fail"


def test_other_limits_decide_again() -> None:
    rules = [Rule("fp16", "top1_drop", 0.05, source=OWN)]
    wider = gate.rejudge(cell(OWN), rules)
    assert wider.state == "pass" and wider.checks[0].limit == 0.05
    again = gate.rejudge(wider, [replace(rules[0], value=0.02)])
    assert again.state == "missing" and again.checks[0].undecided == 0.02


def test_who_set_a_limit() -> None:
    assert all(is_default(found.source) for found in resolve((), Cell("m", "onnx", "fp16")).values())
    assert is_default(fallback("fp16").source) and not is_default(OWN)


def test_a_record_that_calls_a_check_undecided_without_its_figures_is_no_pass() -> None:
    """Somebody's hand, or a damaged file: found by damaging records at random."""
    check = Check("golden", "all", "y", "top1", None, None, "min", True, undecided=0.9, source="pyproject.toml:1")
    assert samples.words(check) == "y: top1 is called undecided without its limit, value and bound"
