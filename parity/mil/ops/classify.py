"""The last operator of a classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from parity.mil.errors import OperatorFailed
from parity.mil.registry import operator


@operator()
def classify(probabilities: Tensor, classes: Any) -> tuple[Any, dict[Any, float]]:
    """The label of the largest probability (the first of equals), and the probability of each label."""
    labels = list(classes) if isinstance(classes, list) else classes.reshape(-1).tolist()
    scores = probabilities.reshape(-1).tolist()
    if len(labels) != len(scores):
        raise OperatorFailed(f"{len(scores)} probabilities for {len(labels)} classes")
    labels = [label.item() if isinstance(label, Tensor) else label for label in labels]
    return labels[int(probabilities.reshape(-1).argmax())], dict(zip(labels, scores, strict=True))
