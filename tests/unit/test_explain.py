"""The explanation of a failure names size, expectation, worst case and kind, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from parity.judging.explain import explain
from parity.judging.floor import floor

RNG = np.random.default_rng(3)
WANT = [RNG.normal(0, 2, (1, 5)) for _ in range(8)]
TWIN = [w + RNG.normal(0, 0.01, w.shape) for w in WANT]
NAMES = [f"hand_{i:02}" for i in range(8)]


def said(change: Callable[[list[Any]], list[Any]], limit: float | None = 1.5) -> str:
    return explain("logits", "int8", NAMES, change(WANT), WANT, floor(WANT, TWIN, "int8", 1), 1, limit)


def one_case(rows: list[Any]) -> list[Any]:
    return [r + 0.5 if i == 5 else r for i, r in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: [r * 1.05 for r in rows], "By the output alone: a gain: the output is 1.05 times the oracle's"),
        (lambda rows: [r + 0.3 for r in rows], "By the output alone: an offset: every channel is off by a constant"),
        (lambda rows: [r[:, [1, 0, 2, 3, 4]] for r in rows], "By the output alone: channels in other places: 2 of 5"),
        (one_case, "By the output alone: one case only: nearly all of it in hand_05"),
        (lambda rows: [r + RNG.normal(0, 0.2, r.shape) for r in rows], "By the output alone: noise"),
        (lambda rows: [r * np.nan for r in rows], "NaN or infinity in 8 of 8 cases"),
    ],
)
def test_each_kind_is_named(change: Callable[[list[Any]], list[Any]], words: str) -> None:
    assert words in said(change)


def test_measured_expected_ratio_and_worst_case() -> None:
    text = said(one_case)
    assert text.startswith("logits: measured 0.177 (7.6 % of the output)")
    assert "rms away from the oracle; expected from int8 alone 0.0" in text
    assert "times as much (limit 1.5); worst case hand_05" in text


def test_without_a_floor_it_is_told_in_shares_of_the_output() -> None:
    text = explain("y", "fp16", NAMES, one_case(WANT), WANT, None, None, None)
    assert "expected" not in text and "worst case hand_05, 0.5 (" in text
