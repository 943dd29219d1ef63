"""Golden cases that show nothing count once, and too few that show something leave a cell without a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from parity.core.case import Array, Case, telling
from parity.core.contract import OutputSpec
from parity.core.record import CellRecord, Check
from parity.judging.check_cases import check_cases
from parity.judging.gate import settle
from parity.judging.limits import Limit
from parity.judging.post_processing import PostProcessed

RANDOM = np.random.default_rng(0)
PICTURES = [RANDOM.random((1, 3, 8, 8), np.float32) for _ in range(3)]
BLACK, WHITE = (np.full((1, 3, 8, 8), value, np.float32) for value in (0, 1))
CACHE = np.zeros((1, 2, 4), np.float32)


def cases(*rows: Array | Mapping[str, Array]) -> list[Case]:
    inputs = [row if isinstance(row, Mapping) else {"image": row} for row in rows]
    return [Case(f"case{i}", row) for i, row in enumerate(inputs)]


def token(number: int) -> dict[str, Array]:
    return {"token": np.array([[number]]), "cache": CACHE}


@pytest.mark.parametrize(
    ("given", "counted"),
    [
        (cases(*PICTURES), [0, 1, 2]),
        (cases(PICTURES[0], PICTURES[1], PICTURES[0].copy()), [0, 1]),
        (cases(BLACK, WHITE, BLACK, PICTURES[0]), [0, 3]),
        (cases(PICTURES[0], PICTURES[0].astype(np.float64)), [0, 1]),
        (cases(np.zeros((1, 4)), np.zeros((1, 5))), [0]),
        (cases(np.array([1.0]), np.array([2.0])), [0, 1]),
        (cases(token(3), token(4), token(3)), [0, 1]),
        ([], []),
    ],
    ids=[
        "different",
        "identical",
        "constant",
        "another dtype",
        "constant of other sizes",
        "scalars",
        "decoder",
        "none",
    ],
)
def test_identical_cases_and_constant_ones_count_once(given: Sequence[Case], counted: list[int]) -> None:
    assert telling(given) == counted


def cell(telling_cases: int | None) -> CellRecord:
    checks = tuple(Check("golden", f"case{i}", "logits", "max_abs", 0.1, 0.5, "max", True) for i in range(3))
    return CellRecord(
        "skin-onnx-fp32", "skin", "onnx", "fp32", "missing", planned=("golden",), measured=("golden",), checks=checks,
        planned_cases=3, telling_cases=telling_cases, planned_outputs=("logits",),
    )  # fmt: skip


@pytest.mark.parametrize(("count", "state"), [(0, "missing"), (1, "missing"), (2, "pass"), (3, "pass"), (None, "pass")])
def test_a_cell_needs_two_cases_that_tell(count: int | None, state: str) -> None:
    settled = settle(cell(count))
    assert settled.state == state
    if state == "missing":
        assert f"its 3 cases count as {count}" in settled.reason and "add other inputs" in settled.reason


def test_a_figure_beyond_its_limit_fails_however_little_the_cases_tell() -> None:
    broken = replace(
        cell(1), checks=(*cell(1).checks, Check("golden", "all", "logits", "top1", 0.1, 0.9, "min", False))
    )
    assert settle(broken).state == "fail"


def test_a_share_counts_identical_cases_once() -> None:
    """Sixty copies of a right answer decide nothing, and do not hide the one wrong answer among three."""
    spec = OutputSpec("logits", "logits")
    rows = [np.eye(3)[[i % 3]] for i in (0, 1, 2)] + [np.eye(3)[[0]]] * 57
    got = [rows[0], np.roll(rows[1], 1), *rows[2:]]
    limits = {"logits": {"top1": Limit("top1", 0.9, "pyproject.toml:4")}}
    ids = [f"case{i}" for i in range(len(rows))]
    outputs, oracle = [{"logits": row} for row in got], [PostProcessed({"logits": row}) for row in rows]
    loose = Limit("rel_rms", 10.0, "test")

    def top1(counted: Sequence[int] | None) -> Check:
        checks = check_cases("golden", [spec], ids, outputs, oracle, {}, limits, loose, counted).checks
        return next(check for check in checks if check.metric == "top1")

    assert top1(None).passed
    assert not top1([0, 1, 2]).passed
    assert top1([0, 1, 2]).value == pytest.approx(2 / 3)
