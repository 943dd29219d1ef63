"""Recurrent layers over x [T, N, I], as single operators.

Traps. A ``reverse`` layer leaves its outputs in the order in which it computed them, last time step first;
only the second half of a bidirectional LSTM is turned back. The activation called ``scaled_tanh`` is plain
tanh. ``clip`` limits the LSTM's cell state after its update, not the gates. A result without
``output_sequence`` keeps a first axis of size 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.mil.precision import Context
from parity.mil.registry import operator

State = tuple[Tensor, ...]


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp(0, 1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "linear": lambda x: x,
    "hard_sigmoid": _hard_sigmoid,
    "sigmoid_hard": _hard_sigmoid,
    "scaled_tanh": torch.tanh,
}


def _scan(
    x: Tensor, step: Callable[..., State], state: State, backwards: bool, whole_sequence: bool
) -> tuple[Tensor, ...]:
    """Apply ``step`` along time; the outputs (in processing order, or only the last) and the final state."""
    outputs: list[Tensor] = []
    state = tuple(_of_batch(value, x.shape[1]) for value in state)
    for t in reversed(range(x.shape[0])) if backwards else range(x.shape[0]):
        state = step(x[t], *state)
        outputs.append(state[0])
    return (torch.stack(outputs) if whole_sequence else state[0][None], *state)


def _of_batch(state: Tensor, batch: int) -> Tensor:
    """An initial state [N, H] for ``batch`` sequences. coremltools makes that of packed sequences with as many rows as
    the first sequence has steps, and Core ML takes it; where all rows are equal, it is no question which it reads."""
    if state.shape[0] > batch and bool((state == state[:1]).all()):
        return state[:batch]
    return state


@operator()
def rnn(
    ctx: Context,
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, ...]:
    """h' = act(W_ih x + W_hh h + bias)."""
    act, shift = ACTIVATIONS[activation], _or_zero(bias, x)

    def step(now: Tensor, h: Tensor) -> State:
        return (act(ctx.matmul(now, weight_ih.t()) + ctx.matmul(h, weight_hh.t()) + shift),)

    return _scan(x, step, (initial_h,), direction == "reverse", output_sequence)


@operator()
def gru(
    ctx: Context,
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gated recurrent unit; weights stack the gates reset, output, update (r, o, z).

    ``reset_after`` (iOS18) multiplies by the reset gate after the recurrent product, as torch does.
    """
    gate, act = ACTIVATIONS[recurrent_activation], ACTIVATIONS[activation]
    size = weight_hh.shape[1]
    w_r, w_o, w_z = torch.split(weight_hh, size)
    zeros = torch.zeros(3 * size, dtype=x.dtype)
    b_r, b_o, b_z = torch.split(zeros if bias is None else bias, size)
    b_in = _or_zero(input_bias, x)

    def step(now: Tensor, h: Tensor) -> State:
        i_r, i_o, i_z = torch.split(ctx.matmul(now, weight_ih.t()) + b_in, size, 1)
        r = gate(i_r + ctx.matmul(h, w_r.t()) + b_r)
        z = gate(i_z + ctx.matmul(h, w_z.t()) + b_z)
        if reset_after:
            recurrent = r * (ctx.matmul(h, w_o.t()) + b_o)
        else:
            recurrent = ctx.matmul(r * h, w_o.t()) + b_o
        return (ctx.round((1 - z) * act(i_o + recurrent) + z * h),)

    return _scan(x, step, (initial_h,), direction == "reverse", output_sequence)


@dataclass(frozen=True)
class _Lstm:
    """What both directions of an LSTM share."""

    ctx: Context
    gate: Callable[[Tensor], Tensor]
    cell: Callable[[Tensor], Tensor]
    output: Callable[[Tensor], Tensor]
    clip: float | None
    whole_sequence: bool

    def run(
        self,
        x: Tensor,
        state: State,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor | None,
        peephole: Tensor | None,
        backwards: bool,
    ) -> tuple[Tensor, ...]:
        ctx, size, shift = self.ctx, weight_hh.shape[1], _or_zero(bias, x)
        p_i, p_f, p_o = torch.split(torch.zeros(3 * size, dtype=x.dtype) if peephole is None else peephole, size)

        def step(now: Tensor, h: Tensor, c: Tensor) -> State:
            gates = ctx.matmul(now, weight_ih.t()) + ctx.matmul(h, weight_hh.t()) + shift
            i, f, o, z = torch.split(gates, size, 1)
            c_new = self.gate(f + p_f * c) * c + self.gate(i + p_i * c) * self.cell(z)
            if self.clip is not None:
                c_new = c_new.clamp(-self.clip, self.clip)
            return ctx.round(self.gate(o + p_o * c_new) * self.output(c_new)), ctx.round(c_new)

        return _scan(x, step, state, backwards, self.whole_sequence)


@operator()
def lstm(
    ctx: Context,
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, ...]:
    """Long short-term memory; weights stack the gates input, forget, output, cell (i, f, o, z)."""
    layer = _Lstm(
        ctx,
        ACTIVATIONS[recurrent_activation],
        ACTIVATIONS[cell_activation],
        ACTIVATIONS[activation],
        clip,
        output_sequence,
    )
    if direction != "bidirectional" or weight_ih_back is None or weight_hh_back is None:
        state = (initial_h, initial_c)
        return layer.run(x, state, weight_ih, weight_hh, bias, peephole, direction == "reverse")
    size = weight_hh.shape[1]
    ahead = layer.run(x, (initial_h[:, :size], initial_c[:, :size]), weight_ih, weight_hh, bias, peephole, False)
    back = layer.run(
        x,
        (initial_h[:, size:], initial_c[:, size:]),
        weight_ih_back,
        weight_hh_back,
        bias_back,
        peephole_back,
        True,
    )
    in_time_order = (back[0].flip(0), *back[1:])
    return tuple(torch.cat(pair, -1) for pair in zip(ahead, in_time_order, strict=True))


def _or_zero(bias: Tensor | None, x: Tensor) -> Tensor:
    return torch.zeros((), dtype=x.dtype) if bias is None else bias
