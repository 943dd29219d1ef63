"""Long short-term memory as layers, over x [T, N, C, 1, 1]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parity.mil.errors import OperatorFailed
from parity.mil.nn.elementwise import activate
from parity.mil.nn.registry import Result, layer, weights

GATES = ("input", "forget", "output", "block")


def _direction(
    params: Any, stored: Any, activations: Any, x: Tensor, h: Tensor, c: Tensor, size: int, backwards: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction over x [T, N, C]: outputs in time order, last h, last c."""
    if params.coupledInputAndForgetGate or params.forgetBias:
        raise OperatorFailed("coupled gates and an implied forget bias are not supported")
    w_in = [weights(getattr(stored, f"{g}GateWeightMatrix" if g != "block" else "blockInputWeightMatrix"),
                    [size, x.shape[-1]], x) for g in GATES]  # fmt: skip
    w_re = [weights(getattr(stored, f"{g}GateRecursionMatrix" if g != "block" else "blockInputRecursionMatrix"),
                    [size, size], x) for g in GATES]  # fmt: skip
    zero = torch.zeros(size, dtype=x.dtype)
    bias, peephole = [zero] * 4, [zero] * 3
    if params.hasBiasVectors:
        bias = [weights(getattr(stored, f"{g}GateBiasVector" if g != "block" else "blockInputBiasVector"), [size], x)
                for g in GATES]  # fmt: skip
    if params.hasPeepholeVectors:
        peephole = [weights(getattr(stored, f"{g}GatePeepholeVector"), [size], x) for g in GATES[:3]]
    gate, cell, output = activations
    outputs: list[Tensor] = []
    for now in x.flip(0) if backwards else x:
        i, f, o, z = (now @ a.t() + h @ b.t() + d for a, b, d in zip(w_in, w_re, bias, strict=True))
        kept = activate(gate, f + peephole[1] * c) * c
        c = kept + activate(gate, i + peephole[0] * c) * activate(cell, z)
        if params.cellClipThreshold:
            c = c.clamp(-params.cellClipThreshold, params.cellClipThreshold)
        h = activate(gate, o + peephole[2] * c) * activate(output, c)
        outputs.append(h)
    whole = torch.stack(outputs[::-1] if backwards else outputs)
    return whole if params.sequenceOutput else h[None], h, c


def _deep(x: Tensor) -> Tensor:
    return x[..., None, None]


@layer("uniDirectionalLSTM")
def uni_directional_lstm(p: Any, inputs: list[Tensor]) -> Result:
    """One direction; inputs x, h, c and outputs y, h, c. A reverse layer leaves y in processing order."""
    x, h, c = (v.squeeze(-1).squeeze(-1) for v in inputs)
    y, h, c = _direction(p.params, p.weightParams, p.activations, x, h[0], c[0], p.outputVectorSize, p.reverseInput)
    if p.reverseInput and p.params.sequenceOutput:
        y = y.flip(0)
    return _deep(y), _deep(h[None]), _deep(c[None])


@layer("biDirectionalLSTM")
def bi_directional_lstm(p: Any, inputs: list[Tensor]) -> Result:
    """Both directions; inputs x, h, c, h back, c back, and outputs y with both joined, then the four states."""
    x, h, c, h_back, c_back = (v.squeeze(-1).squeeze(-1) for v in inputs)
    size = p.outputVectorSize
    ahead = _direction(p.params, p.weightParams[0], p.activationsForwardLSTM, x, h[0], c[0], size, False)
    back = _direction(p.params, p.weightParams[1], p.activationsBackwardLSTM, x, h_back[0], c_back[0], size, True)
    states = [v[None] for v in (*ahead[1:], *back[1:])]
    return tuple(_deep(v) for v in (torch.cat([ahead[0], back[0]], -1), *states))
