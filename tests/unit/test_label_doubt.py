"""Labels that even the oracle does not follow are told, with what they look like; few or fair ones are not."""

from __future__ import annotations

import numpy as np
import pytest

from parity.judging.label_doubt import doubt
from parity.judging.statistics import binomial_at_most

CLASSES = 5


def chosen(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CLASSES, count)


def some_wrong(truth: np.ndarray, share: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    other = (truth + rng.integers(1, CLASSES, len(truth))) % CLASSES
    return np.where(rng.random(len(truth)) < share, other, truth)


WRONG = {
    "one too high": (lambda picked: picked + 1, "labels are one too high"),
    "one too low": (lambda picked: picked - 1, "labels are one too low"),
    "another order": (lambda picked: np.array([3, 0, 4, 1, 2])[picked], "the order of the model's outputs"),
    "drawn anew": (lambda picked: chosen(len(picked), 9), "wrong labels, another preprocessing"),
}


@pytest.mark.parametrize(("relabel", "cause"), WRONG.values(), ids=WRONG)
def test_labels_by_which_the_oracle_is_at_chance_are_told_with_their_likely_cause(relabel, cause: str) -> None:
    picked = chosen(80)
    said = doubt(relabel(picked), picked)
    assert "of 80 labelled cases even the oracle has" in said and cause in said, said


@pytest.mark.parametrize("count", [10, 40, 400])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_a_model_that_is_better_than_chance_is_not_told(count: int, share: float) -> None:
    truth = chosen(count)
    assert not doubt(truth, some_wrong(truth, share))


@pytest.mark.parametrize("count", [0, 1, 3, 6])
def test_few_cases_raise_no_doubt(count: int) -> None:
    assert not doubt(chosen(count) + 1, chosen(count))


def test_one_class_that_is_always_chosen_rightly_raises_no_doubt() -> None:
    assert not doubt(np.zeros(50, int), np.zeros(50, int))
    assert "one too high" in doubt(np.ones(50, int), np.zeros(50, int))


@pytest.mark.parametrize(("count", "total", "share"), [(0, 5, 0.3), (3, 10, 0.2), (40, 1000, 0.05), (7, 7, 0.9)])
def test_the_tail_of_the_binomial_is_scipys(count: int, total: int, share: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert binomial_at_most(count, total, share) == pytest.approx(stats.binom.cdf(count, total, share))
