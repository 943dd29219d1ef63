"""Faults in the meaning of a picture: colours, scaling, normalisation, layout and geometry.

They act on the arrays that the model is given. What they need of the preprocessing is taken from the contract, so a
model without one has no place for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from parity.cases import golden
from parity.core.contract import InputSpec, Preprocess
from parity.core.errors import ConfigError
from parity.faults.base import Array, Parameter, Subject, fault

Pixels = Callable[[Array, Preprocess], Array]


def picture_of(subject: Subject) -> InputSpec | None:
    """The one input that holds pictures as [batch, channels, height, width] floats; None where there is none."""
    try:
        spec = subject.contract.picture_input()
    except ConfigError:
        return None
    return spec if spec.dtype.startswith("float") and spec.shape[1] in (1, 3) else None


def on_picture(subject: Subject, change: Callable[[Array], Array], colours: int | None = None) -> Subject | None:
    """The subject with `change` applied to every picture [batch, channels, height, width], its shape and dtype kept."""
    spec = picture_of(subject)
    if spec is None or (colours is not None and spec.shape[1] != colours):
        return None
    name = spec.name

    def changed(case: Mapping[str, Array]) -> Mapping[str, Array]:
        before = case[name]
        after = np.ascontiguousarray(change(before), dtype=before.dtype)
        return {**case, name: after.reshape(before.shape)}

    return subject.with_inputs(changed)


def from_pixels(subject: Subject, change: Pixels) -> Subject | None:
    """The subject whose pictures are `change(pixels, preprocess)`; pixels as [batch, height, width, channels]."""
    how = subject.contract.preprocess
    if how is None:
        return None

    def changed(value: Array) -> Array:
        unit = value.transpose(0, 2, 3, 1).astype(np.float64) * np.asarray(how.std) + np.asarray(how.mean)
        return change(unit * how.scale, how).transpose(0, 3, 1, 2)

    return on_picture(subject, changed)


def _normal(pixels: Array, how: Preprocess) -> Array:
    return np.asarray((pixels / how.scale - np.asarray(how.mean)) / np.asarray(how.std))


def _normalised(**other: object) -> Pixels:
    """Normalisation by another preprocessing than the declared one."""
    return lambda pixels, how: _normal(pixels, replace(how, **other))  # type: ignore[arg-type]


@fault("swap_rgb_bgr", "the picture's colour channels are in the opposite order (RGB for BGR)", "input", "input")
def swap_rgb_bgr(subject: Subject) -> Subject | None:
    return on_picture(subject, lambda x: x[:, ::-1], colours=3)


@fault("grey_for_colour", "the picture is converted to grey", "input", "input")
def grey_for_colour(subject: Subject) -> Subject | None:
    def grey(pixels: Array, how: Preprocess) -> Array:
        return _normal(np.repeat((pixels @ [0.299, 0.587, 0.114])[..., None], 3, -1), how)

    return from_pixels(subject, grey) if (s := picture_of(subject)) and s.shape[1] == 3 else None


@fault("mean_std_bgr", "mean and std are applied in the opposite channel order", "input", "input")
def mean_std_bgr(subject: Subject) -> Subject | None:
    return from_pixels(subject, lambda p, how: _normal(p, replace(how, mean=how.mean[::-1], std=how.std[::-1])))


@fault("scaled_twice", "pixels are divided by their scale twice", "input", "input")
def scaled_twice(subject: Subject) -> Subject | None:
    return from_pixels(subject, lambda p, how: _normal(p / how.scale, how))


@fault("not_scaled", "pixels are not divided by their scale", "input", "input")
def not_scaled(subject: Subject) -> Subject | None:
    return from_pixels(subject, _normalised(scale=1.0))


@fault("scaled_by_256", "pixels are divided by 256 instead of 255", "input", "input")
def scaled_by_256(subject: Subject) -> Subject | None:
    how = subject.contract.preprocess
    return from_pixels(subject, _normalised(scale=256.0)) if how is not None and how.scale == 255 else None


@fault("mean_missing", "the mean is not subtracted", "input", "input")
def mean_missing(subject: Subject) -> Subject | None:
    return from_pixels(subject, _normalised(mean=(0.0,)))


@fault("std_missing", "the input is not divided by its std", "input", "input")
def std_missing(subject: Subject) -> Subject | None:
    return from_pixels(subject, _normalised(std=(1.0,)))


@fault("normalisation_missing", "mean and std are missing", "input", "input")
def normalisation_missing(subject: Subject) -> Subject | None:
    return from_pixels(subject, _normalised(mean=(0.0,), std=(1.0,)))


@fault("normalised_twice", "mean and std are applied twice", "input", "input")
def normalised_twice(subject: Subject) -> Subject | None:
    return from_pixels(subject, lambda p, how: (_normal(p, how) - np.asarray(how.mean)) / np.asarray(how.std))


@fault("half_for_mean_std", "mean and std are 0.5", "input", "input")
def half_for_mean_std(subject: Subject) -> Subject | None:
    return from_pixels(subject, _normalised(mean=(0.5,), std=(0.5,)))


@fault("averaged_std", "one averaged std stands for the three (as Core ML's ImageType forces)", "input", "input")
def averaged_std(subject: Subject) -> Subject | None:
    return from_pixels(subject, lambda p, how: _normal(p, replace(how, std=(float(np.mean(how.std)),))))


@fault("pixels_truncated", "pixels are truncated to whole numbers before they are normalised", "input", "input")
def pixels_truncated(subject: Subject) -> Subject | None:
    return from_pixels(subject, lambda p, how: _normal(np.floor(np.round(p, 3)), how))


@fault("input_in_8_bits", "the input is stored in 8 bits over its declared range", "input", "input",
       precisions=("fp32", "fp16", "dynamic"))  # fmt: skip
def input_in_8_bits(subject: Subject) -> Subject | None:
    spec = picture_of(subject)
    if spec is None or spec.range is None:
        return None
    low, high = spec.range
    step = (high - low) / 255
    return on_picture(subject, lambda x: np.floor((np.clip(x, low, high) - low) / step) * step + low)


@fault("layout_misread", "a channels-first buffer is read as channels-last", "input", "input")
def layout_misread(subject: Subject) -> Subject | None:
    def misread(x: Array) -> Array:
        n, c, h, w = x.shape
        return np.ascontiguousarray(x).reshape(n, h, w, c).transpose(0, 3, 1, 2)

    return on_picture(subject, misread)


@fault("height_width_swapped", "height and width are exchanged", "input", "input")
def height_width_swapped(subject: Subject) -> Subject | None:
    return on_picture(subject, lambda x: x.swapaxes(2, 3))


@fault("mirrored", "the picture is mirrored left to right", "input", "input")
def mirrored(subject: Subject) -> Subject | None:
    return on_picture(subject, lambda x: x[..., ::-1])


@fault("upside_down", "the picture is upside down (rows stored bottom first)", "input", "input")
def upside_down(subject: Subject) -> Subject | None:
    return on_picture(subject, lambda x: x[:, :, ::-1])


@fault("turned", "the picture is turned", "input", "input",
       parameter=Parameter("by", unit=" degrees", choices=lambda s, e: [90, 180, 270]))  # fmt: skip
def turned(subject: Subject, degrees: int) -> Subject | None:
    spec = picture_of(subject)
    if spec is None:
        return None
    square = all(case[spec.name].shape[2] == case[spec.name].shape[3] for case in subject.inputs)
    if degrees != 180 and not square:
        return None
    return on_picture(subject, lambda x: np.rot90(x, -degrees // 90, axes=(2, 3)))


def _shifted(x: Array, axis: int, by: int) -> Array:
    """Moved by whole pixels; the edge is repeated."""
    size = x.shape[axis]
    return x.take(np.clip(np.arange(size) - by, 0, size - 1), axis=axis)


def _pixels(subject: Subject, evidence: object) -> list[int]:
    return [1, -1, 2, -2, 3, -3, 4, -4]


@fault("shifted_across", "the picture is shifted to the right", "input", "input",
       parameter=Parameter("by", unit=" pixels", choices=_pixels))  # fmt: skip
def shifted_across(subject: Subject, by: int) -> Subject | None:
    return on_picture(subject, lambda x: _shifted(x, 3, by))


@fault("shifted_down", "the picture is shifted down", "input", "input",
       parameter=Parameter("by", unit=" pixels", choices=_pixels))  # fmt: skip
def shifted_down(subject: Subject, by: int) -> Subject | None:
    return on_picture(subject, lambda x: _shifted(x, 2, by))


def _sampled(x: Array, axis: int, at: Array) -> Array:
    """Linear interpolation along an axis at fractional positions; beyond the edge the edge is repeated."""
    at = np.clip(at, 0, x.shape[axis] - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = len(at)
    share = (at - low).reshape(shape)
    return np.asarray(x.take(low, axis) * (1 - share) + x.take(high, axis) * share)


def _zoomed(x: Array, factor: float) -> Array:
    """The picture seen through a window of 1 / factor of its size around the centre."""
    for axis in (2, 3):
        middle = (x.shape[axis] - 1) / 2
        x = _sampled(x, axis, middle + (np.arange(x.shape[axis]) - middle) / factor)
    return x


@fault("centre_cropped", "the picture's border is cropped and the rest enlarged", "input", "input",
       parameter=Parameter("factor", usual=8 / 7, low=1.0, high=1.6, neutral=1.0))  # fmt: skip
def centre_cropped(subject: Subject, factor: float) -> Subject | None:
    return on_picture(subject, lambda x: _zoomed(x, factor))


@fault("letterboxed", "the picture is scaled to three quarters of its height, with black bars", "input", "input")
def letterboxed(subject: Subject) -> Subject | None:
    def boxed(pixels: Array, how: Preprocess) -> Array:
        height = pixels.shape[1]
        middle = (height - 1) / 2
        at = middle + (np.arange(height) - middle) * 4 / 3
        inside = ((at >= 0) & (at <= height - 1))[None, :, None, None]
        return _normal(np.where(inside, _sampled(pixels, 1, at), 0.0), how)

    return from_pixels(subject, boxed)


def _decoded_again(subject: Subject, change: Callable[[Preprocess], Preprocess]) -> Subject | None:
    """The subject whose pictures are decoded from their files by another preprocessing."""
    spec, how = picture_of(subject), subject.contract.preprocess
    if spec is None or how is None or not subject.sources or not all(subject.sources):
        return None
    other = change(how)
    if other == how:
        return None
    inputs = tuple(
        {**case, spec.name: golden.picture(Path(source), other, case[spec.name].shape[1:])[None].astype(spec.dtype)}
        for case, source in zip(subject.inputs, subject.sources, strict=True)
        if source is not None
    )
    return replace(subject, inputs=inputs)


@fault("resize_nearest", "the picture is resized by taking the nearest pixel", "input", "input")
def resize_nearest(subject: Subject) -> Subject | None:
    return _decoded_again(subject, lambda how: replace(how, resize="nearest"))


@fault("resize_bicubic", "the picture is resized by bicubic interpolation", "input", "input")
def resize_bicubic(subject: Subject) -> Subject | None:
    return _decoded_again(subject, lambda how: replace(how, resize="bicubic"))


@fault("orientation_ignored", "the orientation that the picture's file declares is ignored", "input", "input")
def orientation_ignored(subject: Subject) -> Subject | None:
    return _decoded_again(subject, lambda how: replace(how, orient=False))


@fault("transparency_on_white", "transparent pixels are put on white", "input", "input")
def transparency_on_white(subject: Subject) -> Subject | None:
    return _decoded_again(subject, lambda how: replace(how, alpha="white"))


@fault("input_gain", "the input is multiplied by a constant", "input", "input",
       parameter=Parameter("gain", usual=0.9, low=0.003, high=300.0, log=True, neutral=1.0))  # fmt: skip
def input_gain(subject: Subject, gain: float) -> Subject | None:
    return on_floats(subject, lambda x: x * gain)


@fault("input_offset", "a constant is added to the input", "input", "input",
       parameter=Parameter("offset", usual=0.1, low=-4.0, high=4.0, neutral=0.0))  # fmt: skip
def input_offset(subject: Subject, offset: float) -> Subject | None:
    return on_floats(subject, lambda x: x + offset)


def on_floats(subject: Subject, change: Callable[[Array], Array], ndim: int | None = None) -> Subject | None:
    """The subject with `change` applied to every float input (of `ndim` dimensions)."""
    names = [i.name for i in subject.contract.inputs if i.dtype.startswith("float")]
    names = [n for n in names if ndim is None or subject.inputs[0][n].ndim == ndim]
    if not names:
        return None
    return subject.with_inputs(
        lambda case: {k: np.ascontiguousarray(change(v), v.dtype) if k in names else v for k, v in case.items()}
    )
