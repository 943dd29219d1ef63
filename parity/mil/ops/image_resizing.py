"""Resizing, cropping and sampling of images [..., H, W].

The names of the sampling rules mean (n elements in, m out, position i of the output):

====================  ====================================================================
STRICT_ALIGN_CORNERS  i * (n - 1) / (m - 1): the corner pixels' centres coincide
ALIGN_CORNERS         the same, but the middle of the input when m = 1
DEFAULT               i * n / m: the first pixels coincide
OFFSET_CORNERS        (i + 1/2) * max(1, n - 1) / m
UNALIGN_CORNERS       (i + 1/2) * n / m - 1/2: the corner pixels' edges coincide
====================  ====================================================================
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mil import events
from parity.mil.errors import OperatorFailed
from parity.mil.ops.tensor_operation import affordable
from parity.mil.precision import Context
from parity.mil.registry import operator

ALIGNED = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS")


def positions(n: float, m: int, rule: str) -> Tensor:
    """Where each of ``m`` output elements reads an axis of ``n``, in float64."""
    affordable([m])
    i = torch.arange(m, dtype=torch.float64)
    if rule in ALIGNED:
        if m > 1:
            return i * ((n - 1) / (m - 1))
        return i + ((n - 1) / 2 if rule == "ALIGN_CORNERS" else 0)
    if rule == "OFFSET_CORNERS":
        return (i + 0.5) * (max(1, n - 1) / m)
    if rule == "UNALIGN_CORNERS":
        return (i + 0.5) * (n / m) - 0.5
    return i * (n / m)


def interpolate(x: Tensor, at: Tensor, axis: int) -> Tensor:
    """Linear interpolation of ``x`` along ``axis``; positions beyond the ends read the end."""
    last = x.shape[axis] - 1
    at = at.to(x.dtype).clamp(0, last)
    low = at.floor().long().clamp(max=last)
    high = (low + 1).clamp(max=last)
    weight = (at - low).reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])
    return x.index_select(axis, low) * (1 - weight) + x.index_select(axis, high) * weight


def _bilinear(x: Tensor, height: int, width: int, rule: str) -> Tensor:
    rows = interpolate(x, positions(x.shape[-2], height, rule), -2)
    return interpolate(rows, positions(x.shape[-1], width, rule), -1)


def _nearest_below(x: Tensor, size: int, axis: int) -> Tensor:
    affordable([size])
    return x.index_select(axis, torch.arange(size) * x.shape[axis] // size)


@operator()
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Bilinear resize by factors. Without aligned corners pixels have half-pixel centres unless told otherwise."""
    half_pixel = not align_corners if half_pixel_centers is None else half_pixel_centers
    rule = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half_pixel else "DEFAULT"
    height, width = int(x.shape[-2] * scale_factor_height), int(x.shape[-1] * scale_factor_width)
    return _bilinear(x, height, width, rule)


@operator()
def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Bilinear resize to a size, by one of the sampling rules."""
    return _bilinear(x, target_size_height, target_size_width, sampling_mode)


@operator(exact=True)
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    """Nearest resize by factors: floor(n * factor) elements, of which i is element floor(i * n / m).

    The documentation gives the size and not the positions. By sizes, or by the factor (floor(i / factor)), is the same
    wherever the size is whole; where the two differ no test of Apple's decides, and the operator is refused.
    """
    sizes = []
    for n, factor in ((x.shape[-2], scale_factor_height), (x.shape[-1], scale_factor_width)):
        m = math.floor(n * factor)
        affordable([m])
        i = torch.arange(m, dtype=torch.float64)
        if not torch.equal(torch.arange(m) * n // max(m, 1), (i / factor).floor().long().clamp(max=n - 1)):
            raise OperatorFailed(
                f"a factor of {factor:g} on {n} elements reads other elements by the factor than by the sizes, and "
                "neither documentation nor tests say which: resize to a multiple of the size, or by another operator"
            )
        sizes.append(m)
    return resize_nearest_neighbor(x, *sizes)


@operator(exact=True)
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """Nearest resize to a size: element floor(i * n / m)."""
    return _nearest_below(_nearest_below(x, target_size_height, -2), target_size_width, -1)


@operator("iOS17")
def resize(
    x: Tensor,
    shape: list[int],
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last ``resized_dims`` axes resized; size 0 keeps an axis.

    Nearest rounds halves up, unlike ``resize_nearest_neighbor``, which rounds down.
    """
    for back in range(resized_dims, 0, -1):
        axis = x.dim() - back
        at = positions(x.shape[axis], shape[-back] or x.shape[axis], sampling_mode)
        if interpolation_mode == "LINEAR":
            x = interpolate(x, at, axis)
        else:
            x = x.index_select(axis, (at + 0.5).floor().long().clamp(0, x.shape[axis] - 1))
    return x


@operator(exact=True)
def crop(x: Tensor, crop_height: list[int], crop_width: list[int]) -> Tensor:
    """x without ``crop_height`` rows (top, bottom) and ``crop_width`` columns (left, right)."""
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@operator()
def crop_resize(
    ctx: Context,
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: list[int] | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """Boxes cut out of images and resized bilinearly to one size.

    Up to iOS16 ``roi`` [N, 1, 4 or 5, 1, 1] holds an optional image index before the box, and the result is
    [N, B, C, H, W]; in iOS17 ``boxes`` [N, 4] and ``box_indices`` replace it and the result is [N, C, H, W].
    A box may be inverted, which flips the crop. Normalised coordinates scale by the size less 1. Positions
    outside the image read ``pad_value``.

    UNALIGN_CORNERS measures between pixel edges instead: it scales by the full size, and positions outside
    are mirrored at the edges. Nothing documents that, so it is reported as an event; it is what explains the
    values in the one test that coremltools ships.
    """
    height, width = x.shape[-2:]
    images: list[int] | None
    if boxes is None:
        if roi is None:
            raise OperatorFailed("neither roi nor boxes is given")
        rows = roi[:, 0, :, 0, 0]
        boxes = rows[:, -4:]
        images = [int(i) for i in rows[:, 0]] if rows.shape[1] == 5 else None
    else:
        images = box_indices if box_indices is not None else list(range(boxes.shape[0]))
    by_edges = sampling_mode == "UNALIGN_CORNERS"
    boxes = boxes.to(x.dtype)
    if normalized_coordinates:
        extent = torch.tensor([height, width], dtype=x.dtype) - (0 if by_edges else 1)
        boxes = boxes * (extent if "HEIGHT_FIRST" in box_coordinate_mode else extent.flip(0)).repeat(2)
    else:
        boxes = boxes * spatial_scale
    if "CENTER" in box_coordinate_mode:
        half = boxes[:, 2:] / 2
        boxes = torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], 1)
    if "WIDTH_FIRST" in box_coordinate_mode:
        boxes = boxes[:, [1, 0, 3, 2]]
    crops = []
    for number, (top, left, bottom, right) in enumerate(boxes.tolist()):
        source = x if images is None else x[images[number] : images[number] + 1]
        at_y = _box_positions(top, bottom, target_height, sampling_mode).to(x.dtype)
        at_x = _box_positions(left, right, target_width, sampling_mode).to(x.dtype)
        if by_edges:
            if min(top, bottom, left, right) < 0 or max(top, bottom) > height or max(left, right) > width:
                ctx.report(events.UNDOCUMENTED, box=[top, left, bottom, right], image=[height, width])
            at_y, at_x = _mirror(at_y, height), _mirror(at_x, width)
        values = interpolate(interpolate(source, at_y, -2), at_x, -1)
        inside_y, inside_x = (at_y >= 0) & (at_y <= height - 1), (at_x >= 0) & (at_x <= width - 1)
        inside = (inside_y[:, None] & inside_x) | by_edges
        crops.append(torch.where(inside, values, torch.tensor(pad_value, dtype=x.dtype)))
    return torch.stack(crops) if roi is not None else torch.cat(crops)


def _box_positions(start: float, end: float, count: int, rule: str) -> Tensor:
    """Where the ``count`` elements of a box's side are read."""
    if rule in ALIGNED:
        if count > 1:
            return start + torch.arange(count, dtype=torch.float64) * ((end - start) / (count - 1))
        return torch.tensor([(start + end) / 2 if rule == "ALIGN_CORNERS" else start], dtype=torch.float64)
    if rule == "UNALIGN_CORNERS":
        return start + positions(end - start, count, rule)
    return start + positions(end - start + 1, count, rule)


def _mirror(at: Tensor, size: int) -> Tensor:
    """Positions folded back at the outer edges of the first and last pixel."""
    folded = (at + 0.5) % (2 * size)
    return torch.minimum(folded, 2 * size - folded) - 0.5


PADDING = {"constant": "zeros", "border": "border", "reflection": "reflection", "symmetric": "reflection"}


@operator("iOS16")
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """x read at coordinates [B, H, W, 2] in the order (x, y); ``padding_mode`` decides outside the image."""
    grid = coordinates.to(x.dtype)
    if coordinates_mode == "normalized_zero_to_one":
        grid = grid * 2 - 1
    elif coordinates_mode == "unnormalized":
        extent = torch.tensor([max(x.shape[-1] - 1, 1), max(x.shape[-2] - 1, 1)], dtype=x.dtype)
        grid, align_corners = 2 * grid / extent - 1, True
    shift = padding_value if padding_mode == "constant" else 0.0
    return shift + F.grid_sample(x - shift, grid, sampling_mode, PADDING[padding_mode], align_corners)


@operator("iOS16")
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """x read at an affine map [a0, a1, a2, b0, b1, b2] of the output's coordinates, both running from -1 to 1."""
    batch = x.shape[0]
    affordable([batch, x.shape[1], output_height, output_width])
    theta = transform_matrix.to(x.dtype).reshape(-1, 2, 3).expand(batch, 2, 3)
    grid = F.affine_grid(theta, [batch, x.shape[1], output_height, output_width], align_corners)
    return resample(x, grid, sampling_mode, padding_mode, padding_value, "normalized_minus_one_to_one", align_corners)
