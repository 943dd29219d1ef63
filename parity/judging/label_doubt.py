"""Whether labels fit a model at all: where even the oracle is right no more often than by chance, accuracy compares
nothing. Pure.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.judging.statistics import binomial_at_most

Array = np.ndarray[Any, np.dtype[Any]]

BY_CHANCE = 0.05  # so many right or more happen this often by chance: the oracle is not shown to be better
UNLIKELY = 1e-3  # so few right happen less often than this to a model that is right halfway from chance to always
REPEATED = 3  # cases a class, below which any order of the classes seems to explain the labels


def doubt(truth: Array, chosen: Array) -> str:
    """Why the labels `truth` seem not to be the classes that the oracle has `chosen` from; empty where they may be.

    Both are class indices, one a case. By chance means: were they drawn independently, each as often as it occurs. Too
    few cases to tell, and a model that is merely poor, raise no doubt.
    """
    total = len(truth)
    if not total:
        return ""
    right = int((truth == chosen).sum())
    chance = sum(float((truth == c).mean() * (chosen == c).mean()) for c in np.unique(truth))
    halfway = (1 + chance) / 2
    better = right > 0 and 1 - binomial_at_most(right - 1, total, chance) < BY_CHANCE
    if better or binomial_at_most(right, total, halfway) >= UNLIKELY:
        return ""
    said = f"of {total} labelled cases even the oracle has {right} right, no more than by chance ({chance:.0%})"
    return f"{said}: {_cause(truth, chosen, halfway)}; until then accuracy says nothing"


def _cause(truth: Array, chosen: Array, enough: float) -> str:
    """What the labels look like, and what to mend."""
    for shift, words in ((-1, "one too high"), (1, "one too low")):
        share = float((truth + shift == chosen).mean())
        if share >= enough:
            return f"labels are {words} ({share:.0%} are right when moved): number the classes as the model does"
    classes = np.unique(truth)
    if len(truth) >= REPEATED * len(classes):
        most = sum(int(np.unique(chosen[truth == c], return_counts=True)[1].max()) for c in classes)
        taken = {int(_commonest(chosen[truth == c])) for c in classes}
        if most >= enough * len(truth) and len(taken) == len(classes):
            return "each label goes with one other class: list the labels in the order of the model's outputs"
    return "wrong labels, another preprocessing than in training (mean, std, colour order), or an untrained checkpoint"


def _commonest(values: Array) -> Any:
    found, counts = np.unique(values, return_counts=True)
    return found[counts.argmax()]
