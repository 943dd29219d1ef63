"""Compressed weights that iOS18 added: blocks, and sparse weights whose elements are themselves compressed."""

from __future__ import annotations

from torch import Tensor

from parity.mil.ops.constexpr_ops import constexpr_lut_to_dense, constexpr_sparse_to_dense, repeat_blocks
from parity.mil.precision import Context
from parity.mil.registry import operator


@operator("iOS18")
def constexpr_blockwise_shift_scale(ctx: Context, data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale * (data - offset), with one scale and offset for each block of the weight."""
    values = data.to(ctx.float_dtype)
    if offset is not None:
        values = values - repeat_blocks(offset, data.shape).to(ctx.float_dtype)
    return values * repeat_blocks(scale, data.shape)


@operator("iOS18")
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """Sparse palettised weights as a mask and its looked-up elements."""
    indices = constexpr_sparse_to_dense(indices_nonzero_data.long(), indices_mask)
    dense = constexpr_lut_to_dense(indices, lut, None, vector_axis)
    if vector_axis is not None:
        indices_mask = indices_mask.repeat_interleave(lut.shape[-1], vector_axis)
    return indices_mask, dense[indices_mask.bool()]


@operator("iOS18")
def constexpr_sparse_blockwise_shift_scale(
    ctx: Context, data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sparse quantised weights as a mask and its dequantised elements."""
    data = constexpr_sparse_to_dense(nonzero_data, data_mask)
    dense = constexpr_blockwise_shift_scale(ctx, data, scale, offset)
    return data_mask, dense[data_mask.bool()]
