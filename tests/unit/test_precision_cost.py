"""What a precision itself costs: told of every cell, and past its limit the precision's failure and not the file's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from parity.core.contract import OutputSpec
from parity.core.plan import Cell
from parity.core.record import CellRecord, Check
from parity.judging.floor import floor
from parity.judging.gate import settle
from parity.judging.judge import check_noise
from parity.judging.limits import resolve

Rows = Sequence[np.ndarray]
LOGITS = OutputSpec("logits")
CELL = Cell("skin", "onnx", "int8")
RANDOM = np.random.default_rng(0)
WANT = [RANDOM.normal(0, 3, (1, 40)) for _ in range(6)]
NOISE = [RANDOM.normal(0, 3, (1, 40)) for _ in range(6)]


def moved(share: float, noise: Rows = NOISE) -> list[np.ndarray]:
    """The oracle's rows, off by a share of their rms."""
    return [want + share * off for want, off in zip(WANT, noise, strict=True)]


def judged(got: Rows, twin: Rows, want: Rows = WANT) -> CellRecord:
    cases = [f"case{i}" for i in range(len(want))]
    checks = check_noise("golden", LOGITS, cases, got, floor(want, twin, "int8", 1), resolve((), CELL, "logits"))
    return settle(
        CellRecord(
            CELL.id, "skin", "onnx", "int8", "missing", planned=("golden",), measured=("golden",), checks=tuple(checks),
            planned_cases=len(cases), planned_outputs=("logits",),
        )
    )  # fmt: skip


def cost(cell: CellRecord) -> Check | None:
    return next((check for check in cell.checks if check.metric == "precision_cost"), None)


def test_a_file_that_passes_says_what_its_precision_costs() -> None:
    cell = judged(moved(0.05), moved(0.05))
    assert cell.state == "pass"
    assert cell.reason == "the precision itself costs 5.09 % of logits's rms"


def test_a_precision_that_leaves_nothing_fails_and_the_file_is_not_blamed() -> None:
    cell = judged(moved(1.0), moved(1.0))
    assert cell.state == "fail"
    told = "the precision costs too much: 102 % of logits's rms against at most 80 %, limit from built-in default"
    assert cell.reason == told
    assert [check.metric for check in cell.checks if not check.passed] == ["precision_cost"]


def test_a_wrong_file_fails_by_itself_and_its_precision_is_told() -> None:
    cell = judged(moved(1.0), moved(0.05))
    assert cell.state == "fail" and cell.reason.startswith("logits: 20 times as far off as")
    assert cell.reason.endswith("; the precision itself costs 5.09 % of logits's rms")


def test_a_wrong_file_at_a_useless_precision_is_told_as_wrong() -> None:
    cell = judged(moved(9.0), moved(0.9))
    assert cell.state == "fail" and cell.reason.startswith("logits: 10 times as far off as")


def test_a_file_that_is_better_than_its_twin_is_not_refused_for_the_twin() -> None:
    """A twin that rounds more than the file does says nothing of the precision."""
    cell = judged(moved(0.3), moved(1.0))
    assert cell.state == "pass"
    check = cost(cell)
    assert check is not None and check.value == pytest.approx(0.3, rel=0.05)


def test_a_file_without_an_error_costs_nothing() -> None:
    check = cost(judged(WANT, WANT))
    assert check is not None and check.value == 0


@pytest.mark.parametrize("size", [0.0, 1e-12])
def test_of_an_output_that_cancels_to_nothing_no_share_is_lost(size: float) -> None:
    want = [size * w for w in WANT]
    got = [w + 1e-9 for w in want]
    assert cost(judged(got, got, want)) is None


def test_a_file_that_says_the_same_of_every_input_is_useless_however_small_its_error() -> None:
    want = [1000 + 0.1 * w for w in WANT]
    got = [np.full_like(w, 1000.9) for w in want]
    cell = judged(got, got, want)
    assert cell.state == "fail"
    assert "the file gives nearly the same output for every case, and the oracle does not: 100 % of what" in cell.reason


def test_a_file_that_follows_its_inputs_roughly_is_not_called_the_same() -> None:
    """An int8 step as large as what the output varies by leaves it half right."""
    want = [1000 + 0.1 * w for w in WANT]
    got = [np.rint(w) for w in want]
    check = cost(judged(got, got, want))
    assert check is not None and check.value is not None and check.value < 1e-3


def test_saturated_probabilities_show_no_lack_of_the_file() -> None:
    want = [np.clip(1 - 1e-4 * np.abs(w), 0, 1) for w in WANT]
    got = [np.ones_like(w) for w in want]
    assert judged(got, got, want).state == "pass"


def test_hidden_elements_that_one_grid_loses_are_told_and_fail_as_cost() -> None:
    """The rms of the whole is that of the mask, and says that nothing is lost."""
    want = [np.where(np.arange(40) % 4 == i % 4, -1e9, w) for i, w in enumerate(WANT)]
    got = [np.where(w < -1e3, w, 0.0) for w in want]
    twin = [np.where(w < -1e3, w, w + 0.05 * n) for w, n in zip(want, NOISE, strict=True)]
    cell = judged(got, twin, want)
    assert cell.state == "fail"
    told = "the precision costs too much: 100 % of logits's rms (the elements of at most"
    assert cell.reason.startswith(told) and "beside far larger ones) against at most 80 %" in cell.reason
    assert [check.metric for check in cell.checks if not check.passed] == ["precision_cost"]
    right = judged(twin, twin, want)
    assert right.state == "pass" and "beside far larger ones" in right.reason
