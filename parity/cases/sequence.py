"""Steps that feed one another: one loop for artefact, oracle and twin, so that all carry state alike. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.core.case import Array
from parity.core.contract import Contract, InputSpec
from parity.core.errors import ParityError
from parity.core.settings import ModelConfig

Step = Mapping[str, Array]


@dataclass(frozen=True)
class Free:
    """Running freely: from step `after` on, the input `token` is the best of the output `scores` of the step before."""

    token: str
    scores: str
    after: int


def play(
    run: Callable[[dict[str, Array], int], Mapping[str, Array]],
    steps: Sequence[Step],
    carry: Mapping[str, str],
    keep: Sequence[str],
    free: Free | None = None,
) -> list[dict[str, Array]]:
    """The outputs `keep` of every step. `run(inputs, number)` computes one; the first step brings the initial state.

    Raises ParityError when an output that the next step needs is not there.
    """
    state: dict[str, Array] = {}
    kept = []
    token: Array | None = None
    for number, step in enumerate(steps):
        inputs = {**step, **state}
        if free is not None and token is not None and number >= free.after:
            inputs[free.token] = token.astype(inputs[free.token].dtype)
        outputs = run(inputs, number)
        for name, output in carry.items():
            if output not in outputs:
                raise ParityError(f"step {number}: no output {output!r}, which {name!r} of the next step needs")
            state[name] = np.asarray(outputs[output])
        if free is not None:
            token = chosen(outputs[free.scores]).reshape(np.shape(step[free.token]))
        kept.append({name: np.asarray(outputs[name]) for name in keep if name in outputs})
    return kept


def chosen(scores: Array) -> Array:
    """The best token of each row: of the last position, where scores are of several."""
    last = scores if scores.ndim <= 2 else scores[:, -1]
    return np.asarray(last.argmax(-1))


def initial(contract: Contract, carry: Mapping[str, str], rows: int = 1) -> dict[str, Array]:
    """A state of zeros for `rows` rows."""
    dims = {**contract.example(), **{d: rows for d in contract.sizes() if contract.is_batch(d)}}
    return {s.name: np.zeros(s.sized(dims), s.dtype) for s in contract.inputs if s.name in carry}


def tokens_of(model: ModelConfig, given: Sequence[Array], seed: int) -> Array:
    """`decode.steps` tokens: those of `given` (golden texts) one after another, drawn ones where they are too few."""
    assert model.decode is not None
    spec: InputSpec = next(s for s in model.contract.inputs if s.name == model.decode.token)
    low, high = spec.range or (0, 1)
    drawn = np.random.default_rng(seed).integers(int(low), int(high), model.decode.steps, endpoint=True)
    texts = np.concatenate([*(g.reshape(-1) for g in given), drawn])
    return np.asarray(texts[: model.decode.steps]).astype(spec.dtype)


def decoding(model: ModelConfig, tokens: Array, held: Step) -> list[Step]:
    """The steps of a teacher-forced decode: a token and its position each, the initial state in the first.

    `held`: what the inputs hold that are neither token, position nor state, in every step.
    """
    assert model.decode is not None
    decode, contract = model.decode, model.contract
    dims = {**contract.example(), **{d: 1 for d in contract.sizes() if contract.is_batch(d)}}
    shapes = {s.name: (s.sized(dims), s.dtype) for s in contract.inputs}
    steps: list[Step] = []
    for number, token in enumerate(tokens):
        step = dict(held)
        step[decode.token] = np.full(*_shaped(shapes[decode.token], token))
        if decode.position is not None:
            step[decode.position] = np.full(*_shaped(shapes[decode.position], number))
        steps.append({**step, **(initial(contract, model.states) if number == 0 else {})})
    return steps


def _shaped(shape: tuple[tuple[int, ...], str], value: Any) -> tuple[Any, ...]:
    return shape[0], value, shape[1]
