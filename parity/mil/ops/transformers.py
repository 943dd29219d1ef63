"""Attention as one operator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from parity.mil.ops.activation import softmax
from parity.mil.precision import Context
from parity.mil.registry import operator


@operator("iOS18")
def scaled_dot_product_attention(
    ctx: Context, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """softmax(query @ key.T / sqrt(E) + mask) @ value; a boolean mask keeps the positions that are true."""
    scaled = ctx.round(query / math.sqrt(query.shape[-1]))
    scores = ctx.matmul(scaled, key.transpose(-1, -2))
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + attn_mask
    return ctx.matmul(softmax(ctx, scores, -1), value)
