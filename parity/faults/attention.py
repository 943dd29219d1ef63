"""Faults in attention: the scale, the mask, the order of heads and of packed projections."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from parity.faults.base import Handler, Subject, fault

Named = dict[str, Any]
_DIRECT = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_PACKED = (
    "query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v",
    "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias", "training", "key_padding_mask", "need_weights",
    "attn_mask",
)  # fmt: skip


def attending(subject: Subject, direct: Callable[[Named], Named], packed: Callable[[Named], Named]) -> Subject:
    """The subject that attends with other arguments: of the bare function and of nn.MultiheadAttention's."""

    def handler(names: tuple[str, ...], change: Callable[[Named], Named]) -> Handler:
        def call_with(call: Callable[..., Any], args: tuple[Any, ...], kwargs: Named) -> Any:
            return call(**change(dict(zip(names, args, strict=False)) | kwargs))

        return call_with

    handlers: Mapping[str, Handler] = {
        "scaled_dot_product_attention": handler(_DIRECT, direct),
        "multi_head_attention_forward": handler(_PACKED, packed),
    }
    return subject.with_patch(lambda: handlers)


def _scaled_queries(a: Named, factor: float) -> Named:
    """Queries times a constant, by their share of the packed projection."""
    width = a["query"].shape[-1]
    rows = torch.ones(3 * width, dtype=a["query"].dtype)
    rows[:width] = factor
    bias = a["in_proj_bias"]
    return {
        **a,
        "in_proj_weight": a["in_proj_weight"] * rows[:, None],
        "in_proj_bias": None if bias is None else bias * rows,
    }


@fault("attention_scale_dropped", "attention is not divided by the root of its width", "graph", "module")
def attention_scale_dropped(subject: Subject) -> Subject | None:
    return attending(
        subject,
        lambda a: {**a, "scale": 1.0},
        lambda a: _scaled_queries(a, math.sqrt(a["query"].shape[-1] / a["num_heads"])),
    )


@fault("attention_scale_twice", "attention is divided by the root of its width twice", "graph", "module")
def attention_scale_twice(subject: Subject) -> Subject | None:
    return attending(
        subject,
        lambda a: {**a, "scale": (a.get("scale") or a["query"].shape[-1] ** -0.5) ** 2},
        lambda a: _scaled_queries(a, math.sqrt(a["num_heads"] / a["query"].shape[-1])),
    )


@fault("attention_mask_dropped", "the attention mask is ignored", "graph", "module")
def attention_mask_dropped(subject: Subject) -> Subject | None:
    def packed(a: Named) -> Named:
        return {**a, "attn_mask": None, "key_padding_mask": None, **({"is_causal": False} if "is_causal" in a else {})}

    return attending(subject, lambda a: {**a, "attn_mask": None, "is_causal": False}, packed)


@fault("attention_causal", "attention sees no later position (a causal mask too many)", "graph", "module")
def attention_causal(subject: Subject) -> Subject | None:
    def mask(queries: int, keys: int, like: Tensor) -> Tensor:
        return torch.full((queries, keys), -math.inf, dtype=like.dtype).triu(1)

    def packed(a: Named) -> Named:
        return {**a, "attn_mask": mask(a["query"].shape[0], a["key"].shape[0], a["query"]), "is_causal": False}

    def direct(a: Named) -> Named:
        return {**a, "attn_mask": mask(a["query"].shape[-2], a["key"].shape[-2], a["query"]), "is_causal": False}

    return attending(subject, direct, packed)


@fault("keys_values_swapped", "keys and values are exchanged", "graph", "module")
def keys_values_swapped(subject: Subject) -> Subject | None:
    def packed(a: Named) -> Named:
        if a["in_proj_weight"] is None:
            return a
        width = a["query"].shape[-1]
        order = torch.cat([torch.arange(width), torch.arange(2 * width, 3 * width), torch.arange(width, 2 * width)])
        bias = a["in_proj_bias"]
        return {
            **a,
            "in_proj_weight": a["in_proj_weight"][order],
            "in_proj_bias": None if bias is None else bias[order],
        }

    def direct(a: Named) -> Named:
        return {**a, "key": a["value"], "value": a["key"]} if a["key"].shape == a["value"].shape else a

    return attending(subject, direct, packed)


@fault("heads_not_split", "the heads' results are joined in the wrong order", "graph", "module")
def heads_not_split(subject: Subject) -> Subject | None:
    """Merging [heads, width] without the transpose that splitting had."""

    def handler(call: Callable[..., Any], args: tuple[Any, ...], kwargs: Named) -> Any:
        result = call(*args, **kwargs)
        if not isinstance(result, Tensor) or result.ndim != 4:
            return result
        batch, heads, length, width = result.shape
        return result.reshape(batch, length, heads, width).transpose(1, 2)

    return subject.with_patch(lambda: {"scaled_dot_product_attention": handler})
