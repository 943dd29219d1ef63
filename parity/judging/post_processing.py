"""What is done to an output before it is compared: on artefact, oracle and twin alike. NumPy only.

`post = "softmax"` changes values; `match = "boxes"` puts a set in the oracle's order, because detectors list the same
boxes in any order. A project adds its own with `register_post` and `register_match`, or names them `module:function`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from parity.core.contract import OutputSpec
from parity.core.errors import ParityError
from parity.judging.metrics import register_metric

Array = np.ndarray[Any, np.dtype[Any]]
Post = Callable[[Array], Array]
Match = Callable[[Array, Array], Array]


def softmax(scores: Array) -> Array:
    """Along the last axis."""
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def sigmoid(scores: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-scores)))


def argmax(scores: Array) -> Array:
    """The index of the best along the last axis: of feature maps [batch, class, ...], along the second."""
    return np.asarray(scores.argmax(1 if scores.ndim >= 3 else -1))


def overlap(a: Array, b: Array) -> Array:
    """Intersection over union of boxes a [n, 4] with b [m, 4], each (left, top, right, bottom): [n, m]."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inner = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - inner
    return np.asarray(np.where(union > 0, inner / np.where(union > 0, union, 1), 0.0))


def boxes(got: Array, want: Array) -> Array:
    """The rows of `got` [..., n, 4 or more] in the order of `want`'s: each goes to the row that it overlaps most, where
    two want the same one the larger overlap wins. Columns from the fifth on (score, class) travel along, and a row of
    another class (the sixth column) is no partner. A box without a partner stands against what is left over, where it
    shows as the large error that it is."""
    if got.shape != want.shape or got.ndim < 2 or got.shape[-1] < 4:
        return got
    flat_got, flat_want = got.reshape(-1, *got.shape[-2:]), want.reshape(-1, *want.shape[-2:])
    ordered = np.zeros_like(flat_got)
    for place, (mine, theirs) in enumerate(zip(flat_got, flat_want, strict=True)):
        shared = overlap(mine[:, :4], theirs[:, :4])
        if mine.shape[-1] > 5:
            shared = np.where(np.rint(mine[:, 5])[:, None] == np.rint(theirs[:, 5])[None, :], shared, 0.0)
        taken = np.zeros(len(mine), bool)
        free = np.ones(len(theirs), bool)
        for _ in range(len(mine)):
            row, column = np.unravel_index(int(shared.argmax()), shared.shape)
            if shared[row, column] <= 0:
                break
            ordered[place, column] = mine[row]
            taken[row], free[column] = True, False
            shared[row, :], shared[:, column] = 0, 0
        # What has no partner stands where the oracle has padding or a box that was lost: either way it shows.
        rest = sorted(np.flatnonzero(~taken), key=lambda i: not mine[i].any())
        for column, row in zip(np.flatnonzero(free), rest, strict=True):
            ordered[place, column] = mine[row]
    return ordered.reshape(got.shape)


POSTS: dict[str, Post] = {"softmax": softmax, "sigmoid": sigmoid, "argmax": argmax}
MATCHES: dict[str, Match] = {"boxes": boxes}


def register_post(name: str, fn: Post) -> None:
    """Make `fn(array) -> array` known as `post = "NAME"` of an output."""
    _register(POSTS, "register_post", name, fn)


def register_match(name: str, fn: Match) -> None:
    """Make `fn(got, want) -> got in want's order` known as `match = "NAME"` of an output."""
    _register(MATCHES, "register_match", name, fn)


def _register(known: dict[str, Any], what: str, name: str, fn: Any) -> None:
    if not name.isidentifier() or name in known:
        raise ParityError(f"{what}: {name!r} is taken or is no identifier: choose another name")
    known[name] = fn


def _named(known: Mapping[str, Any], what: str, name: str) -> Any:
    if ":" not in name:
        if name not in known:
            raise ParityError(f"{what} = {name!r}: nobody registered it; known: {', '.join(known)}")
        return known[name]
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ParityError(f"{what} = {name!r}: {error}") from None


def seen(
    outputs: Sequence[OutputSpec], row: Mapping[str, Array], want: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """An output row as it is compared. `want` is the oracle's row, seen already; None for the oracle's own."""
    found = dict(row)
    for spec in outputs:
        if spec.name not in found or not (spec.post or spec.match):
            continue
        if spec.post:
            found[spec.name] = np.asarray(_named(POSTS, "post", spec.post)(found[spec.name]))
        if spec.match and want is not None and spec.name in want:
            found[spec.name] = np.asarray(_named(MATCHES, "match", spec.match)(found[spec.name], want[spec.name]))
    return found


def iou(got: Array, want: Array) -> float:
    """Intersection over union of masks: elements above 0.5, or, of integers, the mean over the classes of `want`."""
    if want.dtype.kind in "iu":
        classes = np.unique(want)
        shares = [((got == c) & (want == c)).sum() / ((got == c) | (want == c)).sum() for c in classes]
        return float(np.mean(shares)) if len(shares) else 1.0
    a, b = np.asarray(got) > 0.5, np.asarray(want) > 0.5
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


register_metric("iou", iou, sense="min", unit="ratio", doc="Intersection over union of masks: elements above 0.5; of "
                "integers, the mean over the classes of want.")  # fmt: skip
