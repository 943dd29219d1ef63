"""What is done to an output before it is compared: on artefact, oracle and twin alike. NumPy only.

`post = "softmax"` changes values; `match = "boxes"` puts a set in the oracle's order, because detectors list the same
boxes in any order. A project adds its own with `register_post` and `register_match`, or names them `module:function`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.core.contract import OutputSpec
from parity.core.errors import ParityError

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


@dataclass(frozen=True, eq=False)
class PostProcessed:
    """The outputs of one case as they are compared: {output: array}. Made by `post_process` alone.

    A type of its own, so that a type checker refuses outputs as the model or the file gave them where post-processed
    ones are compared, and refuses to post-process an output twice.
    """

    outputs: Mapping[str, Array]


def post_process(
    specs: Sequence[OutputSpec], row: Mapping[str, Array], oracle: PostProcessed | None = None
) -> PostProcessed:
    """Apply each output's `post`, then its `match` against the oracle's.

    `row` holds the outputs of one case as they were computed, and may lack some. `oracle` is None for the oracle's
    own. Raises ParityError where a declared function is unknown or fails.
    """
    outputs = dict(row)
    for spec in specs:
        if spec.name not in outputs:
            continue
        if spec.post:
            outputs[spec.name] = _applied("post", spec.post, spec.name, outputs[spec.name])
        if spec.match and oracle is not None and spec.name in oracle.outputs:
            want = oracle.outputs[spec.name]
            outputs[spec.name] = _applied("match", spec.match, spec.name, outputs[spec.name], want)
    return PostProcessed(outputs)


def post_process_all(
    specs: Sequence[OutputSpec],
    rows: Iterable[Mapping[str, Array]],
    oracle: Sequence[PostProcessed],
) -> list[PostProcessed]:
    """`post_process` of every case of an artefact or a twin, in the oracle's order."""
    return [post_process(specs, row, want) for row, want in zip(rows, oracle, strict=True)]


def _applied(key: str, name: str, output: str, *arrays: Array) -> Array:
    function = _named(POSTS if key == "post" else MATCHES, key, name)
    try:
        return np.asarray(function(*arrays))
    except Exception as error:  # whatever a project's function raises
        shapes = " and ".join(str(list(a.shape)) for a in arrays)
        raise ParityError(f"output {output}: {key} = {name!r} fails on {shapes}: {error}") from error


def unregistered(specs: Sequence[OutputSpec]) -> set[str]:
    """The functions named by these outputs that nobody registered: modules would be imported for them."""
    names = {spec.post for spec in specs if spec.post not in POSTS}
    names |= {spec.match for spec in specs if spec.match not in MATCHES}
    return {name for name in names if name is not None}


def addressed(specs: Sequence[OutputSpec]) -> tuple[OutputSpec, ...]:
    """The same outputs with each registered function named `module:function`, as another process can import it.

    A function that has no such name, a lambda for one, keeps the name that it was registered by.
    """
    return tuple(
        replace(
            spec,
            post=spec.post and _address(POSTS, spec.post),
            match=spec.match and _address(MATCHES, spec.match),
        )
        for spec in specs
    )


def _address(table: Mapping[str, Any], name: str) -> str:
    function = table.get(name)
    module = getattr(function, "__module__", __name__)
    attribute = getattr(function, "__name__", "<unnamed>")
    if function is None or module == __name__ or not attribute.isidentifier():
        return name
    return f"{module}:{attribute}"
