"""Compressed weights of iOS16 and iOS17: computed once, when a program is compiled.

Four of the names returned in iOS18 with other inputs; one function serves both forms. In iOS16 the parameters
are attributes, indices and masks are packed into bytes (least significant bit first) and ``shape`` says how
many there are; in iOS18 they are inputs of sub-byte types that carry their own shape.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from parity.mil.errors import OperatorFailed
from parity.mil.ops.quantization_ops import along_axis
from parity.mil.precision import Context
from parity.mil.registry import operator


def repeat_blocks(parameter: Tensor, shape: torch.Size) -> Tensor:
    """A parameter with one value for each block, repeated to one value for each element of ``shape``."""
    for axis, size in enumerate(shape):
        parameter = parameter.repeat_interleave(size // parameter.shape[axis], axis)
    return parameter


def _unpack(packed: Tensor, bits: int, shape: list[int]) -> Tensor:
    count = math.prod(shape)
    flat = np.unpackbits(packed.reshape(-1).numpy().astype(np.uint8), bitorder="little")
    if len(flat) < count * bits:
        raise OperatorFailed(f"{count} codes of {bits} bits are declared, {len(flat)} bits are stored")
    codes = (flat[: count * bits].reshape(count, bits).astype(np.int64) << np.arange(bits)).sum(1)
    return torch.from_numpy(codes).reshape(shape)


@operator("iOS16")
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """fp16 weights as fp32."""
    return source_val


@operator("iOS16")
def constexpr_affine_dequantize(
    ctx: Context, quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int
) -> Tensor:
    """scale * (data - zero_point), with one scale and zero point or one for each position along ``axis``."""
    centred = quantized_data - along_axis(zero_point, quantized_data, axis)
    return centred.to(ctx.float_dtype) * along_axis(scale, quantized_data, axis)


@operator("iOS16")
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: list[int] | None = None, vector_axis: int | None = None
) -> Tensor:
    """Palettised weights: each index looked up in a table.

    In iOS18 the table has shape [blocks of each axis ..., entries, vector]: a block of the weight has its own
    table, and entries longer than 1 fill the result along ``vector_axis``.
    """
    if shape is not None:
        return lut[_unpack(indices, int(math.log2(lut.numel())), shape)]
    rank = indices.dim()
    if lut.dim() != rank + 2:
        raise OperatorFailed(f"a table of rank {lut.dim()} cannot serve indices of rank {rank}")
    blocks = lut.shape[:rank]
    tables = lut.reshape(-1, *lut.shape[rank:])
    table = repeat_blocks(torch.arange(tables.shape[0]).reshape(blocks), indices.shape)
    entries = tables[table, indices.long()]
    if lut.shape[-1] == 1:
        return entries.squeeze(-1)
    if vector_axis is None:
        raise OperatorFailed("a table of vectors needs vector_axis")
    axis = vector_axis % rank
    return entries.movedim(-1, axis + 1).flatten(axis, axis + 1)


@operator("iOS16")
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: list[int] | None = None) -> Tensor:
    """Sparse weights: the stored elements where the mask is 1, in order, and 0 elsewhere."""
    present = (mask if shape is None else _unpack(mask, 1, shape)).bool()
    if int(present.sum()) != nonzero_data.numel():
        raise OperatorFailed(f"the mask has {int(present.sum())} ones for {nonzero_data.numel()} elements")
    dense = torch.zeros(present.shape, dtype=nonzero_data.dtype)
    dense[present] = nonzero_data
    return dense
