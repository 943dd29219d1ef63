"""Faults in recurrent layers: the order of gates, where the reset gate acts, the direction, the state.

`torch.gru` and `torch.lstm` take (input, state, weights, bias, layers, dropout, training, bidirectional, batch_first)
with the weights of each layer and direction as [w_ih, w_hh, b_ih, b_hh]; rows in the order reset, update, new (GRU) or
input, forget, cell, output (LSTM).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from parity.faults.base import Handler, Subject, fault


def _with_weights(subject: Subject, function: str, order: Sequence[int]) -> Subject:
    """The subject whose cells read their gates in another order."""

    def handler(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        weights = [torch.cat([w.chunk(len(order))[i] for i in order]) for w in args[2]]
        return call(*args[:2], weights, *args[3:], **kwargs)

    return subject.with_patch(lambda: {function: handler})


@fault(
    "gru_gate_order", "the GRU's reset and update gates are exchanged (ONNX stores them as z, r, h)", "time", "module"
)
def gru_gate_order(subject: Subject) -> Subject | None:
    return _with_weights(subject, "gru", (1, 0, 2))


@fault("lstm_gate_order", "the LSTM's gates are read in ONNX's order (i, o, f, c)", "time", "module")
def lstm_gate_order(subject: Subject) -> Subject | None:
    return _with_weights(subject, "lstm", (0, 3, 1, 2))


@fault("gru_reset_before", "the GRU's reset gate acts before the recurrent product (linear_before_reset = 0)", "time",
       "module")  # fmt: skip
def gru_reset_before(subject: Subject) -> Subject | None:
    def handler(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) != 9:
            return call(*args, **kwargs)  # a packed sequence: left as it is
        x, state, weights, bias, layers, _, _, bidirectional, batch_first = args
        x = x.transpose(0, 1) if batch_first else x
        directions, each = 1 + bidirectional, 4 if bias else 2
        last = []
        for layer in range(layers):
            results = []
            for direction in range(directions):
                number = layer * directions + direction
                own = [*weights[number * each : (number + 1) * each], *([None, None] if not bias else [])]
                result, final = _reset_before(x.flip(0) if direction else x, state[number], own)
                results.append(result.flip(0) if direction else result)
                last.append(final)
            x = torch.cat(results, -1)
        return (x.transpose(0, 1) if batch_first else x), torch.stack(last)

    return subject.with_patch(lambda: {"gru": handler})


def _reset_before(x: Tensor, state: Tensor, weights: list[Any]) -> tuple[Tensor, Tensor]:
    """One direction of one layer over [time, batch, features]: new = tanh(W x + b + U (r * h) + c)."""
    w_ih, w_hh, b_ih, b_hh = weights
    size = state.shape[-1]
    steps = []
    for step in x:
        fed = torch.nn.functional.linear(step, w_ih, b_ih)
        gates = torch.nn.functional.linear(state, w_hh[: 2 * size], None if b_hh is None else b_hh[: 2 * size])
        reset, update = torch.sigmoid(fed[:, : 2 * size] + gates).chunk(2, -1)
        recurrent = torch.nn.functional.linear(
            reset * state, w_hh[2 * size :], None if b_hh is None else b_hh[2 * size :]
        )
        state = (1 - update) * torch.tanh(fed[:, 2 * size :] + recurrent) + update * state
        steps.append(state)
    return torch.stack(steps), state


@fault("recurrent_direction", "a recurrent layer runs from the last step to the first", "time", "module")
def recurrent_direction(subject: Subject) -> Subject | None:
    def handler(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        axis = 1 if args[-1] else 0
        result, *states = call(args[0].flip(axis), *args[1:], **kwargs)
        return result.flip(axis), *states

    return subject.with_patch(lambda: {"gru": handler, "lstm": handler})


@fault("recurrent_state_kept", "a recurrent layer begins with the state that the call before left", "time", "module")
def recurrent_state_kept(subject: Subject) -> Subject | None:
    def patch() -> dict[str, Handler]:
        kept: dict[tuple[int, ...], Any] = {}

        def handler(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            key = tuple(id(w) for w in args[2])
            result = call(args[0], kept.get(key, args[1]), *args[2:], **kwargs)
            kept[key] = result[1] if len(result) == 2 else tuple(result[1:])
            return result

        return {"gru": handler, "lstm": handler}

    return subject.with_patch(patch, alone=True)


@fault("second_bias_dropped", "a recurrent layer's second bias is dropped", "time", "module")
def second_bias_dropped(subject: Subject) -> Subject | None:
    def handler(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        weights = [torch.zeros_like(w) if args[3] and i % 4 == 3 else w for i, w in enumerate(args[2])]
        return call(*args[:2], weights, *args[3:], **kwargs)

    return subject.with_patch(lambda: {"gru": handler, "lstm": handler})
