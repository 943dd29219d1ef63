"""Operators that move elements without changing them: shapes, axes, slices, blocks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mil.errors import OperatorFailed
from parity.mil.registry import operator


@operator(exact=True)
def reshape(x: Tensor, shape: list[int]) -> Tensor:
    """x in another shape; 0 keeps the size of that axis, -1 takes what is left."""
    return x.reshape([x.shape[i] if n == 0 and x.numel() else n for i, n in enumerate(shape)])


@operator("iOS16", exact=True)
def reshape_like(
    x: Tensor, ref_tensors: list[Tensor], begins: list[int], ends: list[int], end_masks: list[bool]
) -> Tensor:
    """x in a shape put together from ranges of the shapes of other tensors; a mask lets a range run to the end."""
    sizes: list[int] = []
    for reference, begin, end, to_the_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += reference.shape[begin:] if to_the_end else reference.shape[begin:end]
    return x.reshape(sizes)


@operator(exact=True)
def transpose(x: Tensor, perm: list[int]) -> Tensor:
    """x with its axes in another order."""
    return x.permute(perm)


@operator(exact=True)
def expand_dims(x: Tensor, axes: list[int]) -> Tensor:
    """x with axes of size 1 inserted; positions count in the result."""
    rank = x.dim() + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


@operator(exact=True)
def squeeze(x: Tensor, axes: list[int] | None = None) -> Tensor:
    """x without the named axes of size 1, or without all of them."""
    drop = [i for i, n in enumerate(x.shape) if n == 1] if axes is None else [a % x.dim() for a in axes]
    if any(x.shape[a] != 1 for a in drop):
        raise OperatorFailed(f"axes {drop} of shape {list(x.shape)} are not all of size 1")
    return x.reshape([n for i, n in enumerate(x.shape) if i not in drop])


@operator(exact=True)
def reverse(x: Tensor, axes: list[int] | None = None) -> Tensor:
    """x back to front along the named axes, or along all."""
    return x.flip(list(range(x.dim())) if axes is None else axes)


@operator(exact=True)
def reverse_sequence(x: Tensor, lengths: list[int], seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """Each sample's first ``lengths[i]`` elements back to front, the rest as they are."""
    x = x.clone()
    for sample, length in enumerate(lengths):
        row = x.select(batch_axis, sample)
        head = row.narrow(seq_axis - (seq_axis > batch_axis), 0, length)
        head.copy_(head.flip(seq_axis - (seq_axis > batch_axis)))
    return x


def _index(
    x: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None,
    begin_mask: list[bool] | None,
    end_mask: list[bool] | None,
    squeeze_mask: list[bool] | None,
) -> list[Any]:
    """One slice for each axis (a mask opens its end), or a position for an axis that is squeezed away."""
    rank = x.dim()
    off = [False] * rank
    begin_mask, end_mask, squeeze_mask = begin_mask or off, end_mask or off, squeeze_mask or off
    index: list[Any] = []
    for i in range(rank):
        if squeeze_mask[i]:
            index.append(begin[i] + (x.shape[i] if begin[i] < 0 else 0))
        else:
            first = None if begin_mask[i] else begin[i]
            last = None if end_mask[i] else end[i]
            index.append(slice(first, last, stride[i] if stride else 1))
    return index


@operator(exact=True)
def slice_by_index(
    x: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    """x[begin:end:stride] on each axis, as Python slices; strides may be negative."""
    index = _index(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis, part in enumerate(index):
        if isinstance(part, slice) and part.step < 0:  # torch has no negative strides
            x = x.index_select(axis, torch.arange(*part.indices(x.shape[axis])))
            index[axis] = slice(None)
    return x[tuple(index)]


@operator(exact=True)
def slice_by_size(x: Tensor, begin: list[int], size: list[int]) -> Tensor:
    """``size`` elements of each axis from ``begin``; size -1 takes the rest."""
    index = []
    for first, count, length in zip(begin, size, x.shape, strict=True):
        first = first % length if length else 0
        index.append(slice(first, length if count == -1 else first + count))
    return x[tuple(index)]


@operator("iOS18", exact=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    """x with the slice that ``slice_by_index`` would take replaced by ``update``, whose shape must fit."""
    index = tuple(_index(x, begin, end, stride, begin_mask, end_mask, squeeze_mask))
    result = x.clone()
    place = result.numpy()[index]  # a view; numpy slices take negative strides
    if place.shape != tuple(update.shape):
        raise OperatorFailed(f"an update of shape {list(update.shape)} into a slice of {list(place.shape)}")
    result.numpy()[index] = update.to(x.dtype).numpy()
    return result


@operator(exact=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """Channels to blocks of pixels; the block position is the slow part of the channel index."""
    b = block_size
    n, c, h, w = x.shape
    return x.reshape(n, b, b, c // b // b, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b // b, h * b, w * b)


@operator(exact=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """Blocks of pixels to channels; the inverse of ``depth_to_space``."""
    b = block_size
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


@operator(exact=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """Channels to blocks of pixels; the block position is the fast part of the channel index, as in torch."""
    return F.pixel_shuffle(x, upscale_factor)


@operator("iOS16", exact=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """Blocks of pixels to channels; the inverse of ``pixel_shuffle``."""
    return F.pixel_unshuffle(x, downscale_factor)


@operator(exact=True)
def space_to_batch(x: Tensor, block_shape: list[int], paddings: Tensor) -> Tensor:
    """x [N, C, H, W] padded, then the positions within a block moved to the front of the batch axis."""
    (top, bottom), (left, right) = paddings.tolist()
    bh, bw = block_shape
    x = F.pad(x, [left, right, top, bottom])
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // bh, bh, w // bw, bw).permute(3, 5, 0, 1, 2, 4)
    return blocks.reshape(bh * bw * n, c, h // bh, w // bw)


@operator(exact=True)
def batch_to_space(x: Tensor, block_shape: list[int], crops: Tensor) -> Tensor:
    """The inverse of ``space_to_batch``: batch to blocks of pixels, then cropped."""
    (top, bottom), (left, right) = crops.tolist()
    bh, bw = block_shape
    n, c, h, w = x.shape
    n //= bh * bw
    full = x.reshape(bh, bw, n, c, h, w).permute(2, 3, 4, 0, 5, 1).reshape(n, c, h * bh, w * bw)
    return full[:, :, top : h * bh - bottom, left : w * bw - right]


@operator(exact=True)
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """Every window of ``size`` elements along an axis, on a new axis before their contents."""
    axis %= x.dim()
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)
