"""Operators that make, measure, sort, join and split tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mil.errors import OperatorFailed
from parity.mil.precision import Context
from parity.mil.registry import operator
from parity.mil.types import ELEMENT_LIMIT


def affordable(shape: Sequence[int]) -> list[int]:
    """``shape`` as a list, refused if a value of it could not be held: damaged files ask for such values."""
    if any(n < 0 for n in shape) or math.prod(shape) > ELEMENT_LIMIT // 8:
        raise OperatorFailed(f"a result of shape {list(shape)} is not reasonable")
    return list(shape)


@operator(exact=True)
def identity(x: Tensor) -> Tensor:
    """x itself."""
    return x


@operator()
def shape(x: Tensor) -> Tensor:
    """The sizes of x, as integers."""
    return torch.tensor(x.shape, dtype=torch.int64)


@operator()
def fill(ctx: Context, shape: list[int], value: Tensor | None = None) -> Tensor:
    """A tensor of one repeated value, 0 unless given."""
    if value is None:
        return torch.zeros(affordable(shape), dtype=ctx.float_dtype)
    return value.reshape(()).expand(affordable(shape)).clone()


@operator("iOS16")
def fill_like(ctx: Context, ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    """One repeated value in the shape of another tensor."""
    return fill(ctx, list(ref_tensor.shape), value)


@operator()
def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """start, start + step, ... up to but without ``end``."""
    first, last, stride = start.item(), end.item(), step.item()
    if stride == 0 or not math.isfinite((last - first) / stride):
        raise OperatorFailed(f"a range from {first} to {last} by {stride} has no end")
    affordable([max(0, math.ceil((last - first) / stride))])
    return torch.arange(first, last, stride, dtype=start.dtype)


@operator()
def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    """A new axis with ``on_value`` (1) where its position equals the index and ``off_value`` (0) elsewhere."""
    affordable([*indices.shape, one_hot_vector_size])
    hot = F.one_hot(indices.long() % one_hot_vector_size, one_hot_vector_size).bool()
    on = torch.tensor(1) if on_value is None else on_value.reshape(())
    off = torch.tensor(0) if off_value is None else off_value.reshape(())
    return torch.where(hot, on, off).movedim(-1, axis)


@operator(exact=True)
def pad(x: Tensor, pad: list[int], mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """The last axes extended before and after: by a constant, by reflection without the edge, or by the edge."""
    axes = len(pad) // 2
    pairs = [(pad[2 * i], pad[2 * i + 1]) for i in range(axes)]
    affordable([n + b + a for n, (b, a) in zip(x.shape[x.dim() - axes :], pairs, strict=True)])
    if mode == "constant":
        return F.pad(x, [n for pair in reversed(pairs) for n in pair], value=constant_val)
    for i, (before, after) in enumerate(pairs):
        axis = x.dim() - axes + i
        last = x.shape[axis] - 1
        position = torch.arange(-before, last + 1 + after)
        if mode == "replicate":
            position = position.clamp(0, last)
        else:
            position = last - (position.abs() - last).abs()
        if before or after:
            x = x.index_select(axis, position)
    return x


@operator(exact=True)
def tile(x: Tensor, reps: list[int]) -> Tensor:
    """x repeated along each axis."""
    affordable([n * r for n, r in zip(x.shape, reps, strict=False)])
    return x.repeat(reps)


@operator(exact=True)
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """The matrix within ``lower`` diagonals below and ``upper`` above the main one (all, if negative), else 0."""
    row = torch.arange(x.shape[-2])[:, None]
    column = torch.arange(x.shape[-1])[None]
    keep = ((lower < 0) | (row - column <= lower)) & ((upper < 0) | (column - row <= upper))
    return torch.where(keep, x, torch.zeros_like(x))


@operator()
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sum along an axis; ``exclusive`` leaves out the element itself, ``reverse`` starts at the end."""
    ordered = x.flip(axis) if reverse else x
    total = ordered.cumsum(axis)
    if exclusive:
        total = total - ordered
    return total.flip(axis) if reverse else total


@operator()
def non_zero(x: Tensor) -> Tensor:
    """The positions of the elements that are not 0, one row each."""
    return torch.nonzero(x)


@operator()
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """The order that would sort x, largest first by default; equal elements keep their order."""
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True)


@operator()
def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    """The ``k`` largest (or smallest) elements along an axis and their positions; ``k`` = -1 takes all."""
    count = x.shape[axis] if k == -1 else k
    values, positions = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    values, positions = values.narrow(axis, 0, count), positions.narrow(axis, 0, count)
    return (values, positions) if return_indices else (values,)


@operator(exact=True)
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """A matrix: the axes before ``axis`` as rows, the others as columns."""
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator(exact=True)
def concat(values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """Tensors joined along an axis. Scalars join as if of rank 1; ``interleave`` takes one slice of each in turn."""
    values = [v.reshape(1) if v.dim() == 0 else v for v in values]
    if not interleave:
        return torch.cat(values, axis)
    axis %= values[0].dim()
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


@operator(exact=True)
def stack(values: list[Tensor], axis: int) -> Tensor:
    """Tensors joined along a new axis."""
    return torch.stack(values, axis)


@operator(exact=True)
def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: list[int] | None = None
) -> tuple[Tensor, ...]:
    """x cut along an axis into equal parts, or into parts of the sizes given."""
    if split_sizes is None:
        if not num_splits or x.shape[axis] % num_splits:
            raise OperatorFailed(f"{x.shape[axis]} elements cannot be split into {num_splits} equal parts")
        split_sizes = [x.shape[axis] // num_splits] * num_splits
    return torch.split(x, split_sizes, axis)


@operator()
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    score_threshold: float | None = None,
    per_class_suppression: bool = False,
) -> tuple[Tensor, ...]:
    """The best boxes that do not overlap a better one: boxes, scores, indices and, before iOS17, their
    number.

    Boxes are (centre x, centre y, width, height). Up to iOS16 they lie as [N, B, 4] and scores as [N, B, K];
    in iOS17 as [N, 4, B] and [N, K, B], without ``score_threshold``. A box counts with the score of its best
    class, and with ``per_class_suppression`` only boxes of one best class suppress each other. When no score
    reaches the threshold the single best box is returned all the same. Unused places hold 0, and index -1.
    """
    channels_first = score_threshold is None
    if channels_first:
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    affordable([boxes.shape[0], max_boxes, scores.shape[2]])
    chosen_boxes = boxes.new_zeros(boxes.shape[0], max_boxes, 4)
    chosen_scores = scores.new_zeros(scores.shape[0], max_boxes, scores.shape[2])
    indices = torch.full((boxes.shape[0], max_boxes), -1)
    count = torch.zeros(boxes.shape[0], dtype=torch.int64)
    for n in range(boxes.shape[0]):
        best, label = scores[n].max(-1)
        kept = _suppress(boxes[n], best, label if per_class_suppression else None, iou_threshold, score_threshold)
        kept = (kept or [int(best.argmax())])[:max_boxes]
        chosen_boxes[n, : len(kept)] = boxes[n, kept]
        chosen_scores[n, : len(kept)] = scores[n, kept]
        indices[n, : len(kept)] = torch.tensor(kept)
        count[n] = len(kept)
    if channels_first:
        return chosen_boxes.transpose(1, 2), chosen_scores.transpose(1, 2), indices
    return chosen_boxes, chosen_scores, indices, count


def _suppress(
    boxes: Tensor, score: Tensor, label: Tensor | None, iou_threshold: float, score_threshold: float | None
) -> list[int]:
    """Greedy suppression: the indices that survive, best first."""
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    area = (high - low).prod(-1)
    kept: list[int] = []
    for i in torch.argsort(score, descending=True, stable=True).tolist():
        if score_threshold is not None and score[i] <= score_threshold:
            break
        rivals = [k for k in kept if label is None or label[k] == label[i]]
        overlap = (torch.minimum(high[i], high[rivals]) - torch.maximum(low[i], low[rivals])).clamp_min(0).prod(-1)
        union = area[i] + area[rivals] - overlap
        if not bool((overlap > iou_threshold * union).any()):
            kept.append(i)
    return kept
