"""Layers of images [..., C, H, W]: convolution, pooling, normalisation, resizing, padding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mil.errors import OperatorFailed
from parity.mil.nn.registry import Result, layer, only, weights
from parity.mil.ops import conv as mil_conv
from parity.mil.ops import image_resizing, pool
from parity.mil.precision import Context, Precision

PLAIN = Context(Precision("fp32"), False, lambda *_, **__: None)


def _borders(amounts: Any) -> list[int]:
    """``BorderAmounts`` as [top, bottom, left, right]; none stands for zeros."""
    edges = [n for b in amounts.borderAmounts for n in (b.startEdgeSize, b.endEdgeSize)]
    return edges or [0, 0, 0, 0]


def _padding(p: Any, oneof: str) -> tuple[str, list[int]]:
    """The padding type and amounts of a layer as a program would write them."""
    kind = p.WhichOneof(oneof) or "valid"
    if kind == "same":
        return ("same_lower" if p.same.asymmetryMode else "same"), [0, 0, 0, 0]
    if kind == "includeLastPixel":
        h, w = list(p.includeLastPixel.paddingAmounts) or [0, 0]
        return "custom", [h, h, w, w]
    return "custom", _borders(p.valid.paddingAmounts)


@layer("convolution")
def convolution(p: Any, inputs: list[Tensor]) -> Result:
    """Convolution, or its transpose, in two dimensions."""
    (x,) = only(inputs)
    kernel, stride = list(p.kernelSize) or [3, 3], list(p.stride) or [1, 1]
    dilation, groups = list(p.dilationFactor) or [1, 1], p.nGroups or 1
    pad_type, pads = _padding(p, "ConvolutionPaddingType")
    bias = weights(p.bias, [p.outputChannels], x) if p.hasBias else None
    if not p.isDeconvolution:
        weight = weights(p.weights, [p.outputChannels, p.kernelChannels, *kernel], x)
        return mil_conv.conv(PLAIN, x, weight, bias, stride, pad_type, pads, dilation, groups)
    weight = weights(p.weights, [p.kernelChannels, p.outputChannels // groups, *kernel], x)
    shape = list(p.outputShape) or None
    return mil_conv.conv_transpose(x, weight, bias, pads, shape, pad_type, stride, dilation, groups)


@layer("pooling")
def pooling(p: Any, inputs: list[Tensor]) -> Result:
    """Largest, mean or Euclidean norm of windows, or of the whole image."""
    x = inputs[0]
    if p.globalPooling:
        if p.type == 0:
            return x.amax((-2, -1), keepdim=True)
        if p.type == 1:
            return x.mean((-2, -1), keepdim=True)
        return (x * x).sum((-2, -1), keepdim=True).sqrt()
    kernel, stride = list(p.kernelSize) or [3, 3], list(p.stride) or [1, 1]
    pad_type, pads = _padding(p, "PoolingPaddingType")
    ceil = p.WhichOneof("PoolingPaddingType") == "includeLastPixel"
    if p.type == 1:
        return pool.avg_pool(x, kernel, stride, pad_type, pads, ceil, p.avgPoolExcludePadding)
    return (pool.max_pool if p.type == 0 else pool.l2_pool)(x, kernel, stride, pad_type, pads, ceil)


@layer("batchnorm")
def batchnorm(p: Any, inputs: list[Tensor]) -> Result:
    """Batch normalisation with stored statistics, or instance normalisation."""
    x, shape = inputs[0], [p.channels]
    gamma, beta = weights(p.gamma, shape, x), weights(p.beta, shape, x)
    if p.computeMeanVar:
        if not p.instanceNormalization:
            raise OperatorFailed("statistics over the batch are not supported")
        return F.instance_norm(x, weight=gamma, bias=beta, eps=p.epsilon)
    mean, variance = weights(p.mean, shape, x), weights(p.variance, shape, x)
    scale = gamma * torch.rsqrt(variance + p.epsilon)
    return x * scale[:, None, None] + (beta - mean * scale)[:, None, None]


@layer("mvn")
def mvn(p: Any, inputs: list[Tensor]) -> Result:
    """Mean taken out, and divided by the spread, over the image or over the channels too."""
    x = inputs[0]
    axes = (-3, -2, -1) if p.acrossChannels else (-2, -1)
    centred = x - x.mean(axes, keepdim=True)
    if not p.normalizeVariance:
        return centred
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + p.epsilon)


@layer("layerNormalization")
def layer_normalization(p: Any, inputs: list[Tensor]) -> Result:
    """Standardised over the last axes, scaled and shifted."""
    x, shape = inputs[0], list(p.normalizedShape)
    return F.layer_norm(x, shape, weights(p.gamma, shape, x), weights(p.beta, shape, x), p.eps)


@layer("l2normalize")
def l2_normalize(p: Any, inputs: list[Tensor]) -> Result:
    """Divided by the Euclidean norm over channels and image."""
    x = inputs[0]
    return x * torch.rsqrt((x * x).sum((-3, -2, -1), keepdim=True) + p.epsilon)


@layer("lrn")
def lrn(p: Any, inputs: list[Tensor]) -> Result:
    """Local response normalisation over channels."""
    return F.local_response_norm(inputs[0], p.localSize, p.alpha, p.beta, p.k)


@layer("upsample")
def upsample(p: Any, inputs: list[Tensor]) -> Result:
    """Enlargement by factors, nearest or bilinear with one of three sampling rules."""
    x = inputs[0]
    factors = list(p.fractionalScalingFactor) or [float(f) for f in p.scalingFactor] or [1.0, 1.0]
    if p.mode == 0:
        return image_resizing.upsample_nearest_neighbor(x, *factors)
    height, width = (int(n * f) for n, f in zip(x.shape[-2:], factors, strict=True))
    rule = ("DEFAULT", "STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS")[p.linearUpsampleMode]
    return image_resizing.resize_bilinear(x, height, width, rule)


@layer("resizeBilinear")
def resize_bilinear(p: Any, inputs: list[Tensor]) -> Result:
    """Bilinear resize to a size."""
    rule = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS")[p.mode.samplingMethod]
    height, width = list(p.targetSize) or [1, 1]
    return image_resizing.resize_bilinear(inputs[0], height, width, rule)


@layer("padding")
def padding(p: Any, inputs: list[Tensor]) -> Result:
    """Image borders by a constant, by reflection or by the edge."""
    top, bottom, left, right = _borders(p.paddingAmounts)
    kind = p.WhichOneof("PaddingType")
    if kind == "constant":
        return F.pad(inputs[0], [left, right, top, bottom], value=p.constant.value)
    return F.pad(inputs[0], [left, right, top, bottom], mode="reflect" if kind == "reflection" else "replicate")


@layer("constantPad")
def constant_pad(p: Any, inputs: list[Tensor]) -> Result:
    """Every axis extended by a constant."""
    only(inputs)
    if p.padToGivenOutputSizeMode:
        raise OperatorFailed("padding to a given size is not supported")
    pairs = [(p.padAmounts[i], p.padAmounts[i + 1]) for i in range(0, len(p.padAmounts), 2)]
    return F.pad(inputs[0], [n for pair in reversed(pairs) for n in pair], value=p.value)
