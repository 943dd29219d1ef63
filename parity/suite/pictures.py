"""Arrays as small encoded pictures: an input as the photograph that it was, a large output as a map of its values.

Reduced pictures keep what matters: a photograph is averaged, a map of differences keeps the largest of each block, so
that one wrong element is never averaged away. Same array, same bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from parity.core.contract import Preprocess
from parity.core.exhibits import Picture

Array = np.ndarray[Any, np.dtype[Any]]
LONGEST = 96  # pixels of a picture's longer side; small maps are drawn larger by the page
CHANNELS = 4  # of a map, side by side; of more, those with the largest difference

# Anchors of the colour scales, evenly spaced: cividis (Nuñez, Anderton, Renslow 2018), which people with any colour
# vision read alike, for values; blue - grey - orange for differences, dark at both ends.
_VALUES = ((0, 34, 78), (53, 69, 108), (102, 105, 112), (148, 142, 119), (200, 184, 102), (254, 232, 56))
_SIGNED = ((9, 45, 120), (85, 140, 200), (238, 238, 238), (224, 140, 60), (122, 45, 0))


def photograph(value: Array, how: Preprocess | None, name: str = "") -> Picture | None:
    """The picture that an input [1, channels, height, width] was made from, its preprocessing undone.

    None when the array is no picture: not four dimensions, or neither one channel nor three. Values that are not
    finite are black.
    """
    if value.ndim != 4 or value.shape[1] not in (1, 3) or min(value.shape[2:]) < 2:
        return None
    how = how or Preprocess()
    pixels = np.nan_to_num(value[0].astype(np.float64).transpose(1, 2, 0), nan=0.0, posinf=0.0, neginf=0.0)
    if len(how.mean) in (1, pixels.shape[2]) and len(how.std) in (1, pixels.shape[2]):
        pixels = pixels * np.asarray(how.std) + np.asarray(how.mean)
    pixels = np.clip(np.rint(pixels * how.scale), 0, 255).astype(np.uint8)
    if how.color == "BGR":
        pixels = pixels[..., ::-1]
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX)
    return _encoded(image, "JPEG", f"{name} {value.shape[2]} × {value.shape[3]}".strip())


def plane(value: Array, chosen: Sequence[int] | None = None) -> Array:
    """Two dimensions of an output to look at: its first row, the channels `chosen` (or the first) side by side.

    [1, C, H, W] and [1, H, W] as they are, [1, T, F] with time downwards, vectors folded to a rectangle.
    """
    array = value[0] if value.ndim > 1 and value.shape[0] == 1 else value
    while array.ndim > 3:
        array = array[0] if array.shape[0] == 1 else array.reshape(-1, *array.shape[2:])
    if array.ndim == 3:
        picked = list(chosen if chosen is not None else range(min(len(array), CHANNELS)))
        return np.concatenate([array[i] for i in picked], axis=-1)
    if array.ndim == 2:
        return array
    flat = array.reshape(-1)
    width = max(1, int(np.ceil(np.sqrt(len(flat) * 2))))
    padded = np.full(-(-len(flat) // width) * width, np.nan)
    padded[: len(flat)] = flat
    return padded.reshape(-1, width)


def channels(difference: Array) -> list[int] | None:
    """The channels of an output [1, C, H, W] with the largest differences, in their order; None where it has none."""
    array = difference[0] if difference.ndim > 1 and difference.shape[0] == 1 else difference
    while array.ndim > 3:
        array = array[0] if array.shape[0] == 1 else array.reshape(-1, *array.shape[2:])
    if array.ndim != 3:
        return None
    worst = np.nan_to_num(np.abs(array), nan=np.inf).reshape(len(array), -1).max(axis=1)
    return sorted(int(i) for i in np.argsort(-worst, kind="stable")[:CHANNELS])


def value_map(values: Array, low: float, high: float, caption: str) -> Picture:
    """A map of a plane, from dark blue (`low`) over grey to yellow (`high`); what is not finite is magenta."""
    return _map(_reduced(values, signed=False), low, high, _VALUES, caption)


def difference_map(values: Array, most: float, caption: str) -> Picture:
    """A map of signed differences, from blue (`-most`) over light grey (none) to brown (`most`)."""
    return _map(_reduced(values, signed=True), -most, most, _SIGNED, caption)


def _reduced(values: Array, signed: bool) -> Array:
    """At most LONGEST elements a side: the mean of each block, or its largest difference with its sign."""
    values = np.asarray(values, np.float64)
    for axis in (0, 1):
        size = values.shape[axis]
        if size <= LONGEST:
            continue
        edges = np.linspace(0, size, LONGEST + 1).astype(int)[:-1]
        if signed:
            high, low = np.maximum.reduceat(values, edges, axis), np.minimum.reduceat(values, edges, axis)
            values = np.where(np.abs(high) >= np.abs(low), high, low)
        else:
            counts = np.diff([*edges, size])
            values = np.add.reduceat(values, edges, axis) / (counts[:, None] if axis == 0 else counts)
    return values


def _map(values: Array, low: float, high: float, anchors: Sequence[tuple[int, int, int]], caption: str) -> Picture:
    steps = np.linspace(0, len(anchors) - 1, 255)
    table = np.array([np.interp(steps, range(len(anchors)), [a[c] for a in anchors]) for c in range(3)]).T
    colours = np.rint(table).astype(np.uint8).tolist()
    span = high - low if high > low else 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        index = np.clip(np.nan_to_num((values - low) / span, nan=0.0, posinf=1.0, neginf=0.0), 0, 1) * 254
    index = np.where(np.isfinite(values), np.rint(index), 255).astype(np.uint8)
    image = Image.fromarray(index)
    image.putpalette([*(part for colour in colours for part in colour), 200, 0, 200])
    return _encoded(image, "PNG", caption)


def _encoded(image: Image.Image, form: str, caption: str) -> Picture:
    buffer = io.BytesIO()
    if form == "JPEG":
        image.save(buffer, "JPEG", quality=72, optimize=True)
    else:
        image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture("image/jpeg" if form == "JPEG" else "image/png", data, image.width, image.height, caption)
