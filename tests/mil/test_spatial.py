"""Convolution, pooling, normalisation and image operators against torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import parity.mil
from tests.mil.build import evaluate

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def close(got, want, tolerance=1e-5):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("run_mode", ["fp32", "stress"])
@pytest.mark.parametrize(
    ("sizes", "strides", "dilations", "groups"),
    [((9,), [2], [1], 1), ((9, 7), [2, 1], [1, 2], 2), ((5, 6, 7), [1, 2, 2], [1, 1, 1], 1)],
)
def test_convolution(sizes, strides, dilations, groups, run_mode):
    x, w, b = normal(2, 4, *sizes), normal(6, 4 // groups, *[3] * len(sizes)), normal(6)
    pad = [1] * (2 * len(sizes))
    got = evaluate(
        "conv", "fp16", x=x, weight=w, bias=b, strides=strides, pad_type="custom", pad=pad,
        dilations=dilations, groups=groups, run_mode=run_mode,
    )  # fmt: skip
    f = (F.conv1d, F.conv2d, F.conv3d)[len(sizes) - 1]
    want = f(*map(torch.from_numpy, (x, w, b)), strides, 1, dilations, groups)
    close(got, want, 1e-5 if run_mode == "fp32" else 2e-2)


@pytest.mark.parametrize(("pad_type", "before"), [("same", (0, 1)), ("same_lower", (1, 0))])
def test_same_padding_puts_the_odd_element_on_its_side(pad_type, before):
    x, w = normal(1, 1, 6), normal(1, 1, 3)
    got = evaluate("conv", x=x, weight=w, strides=[2], pad_type=pad_type)
    close(got, F.conv1d(F.pad(torch.from_numpy(x), before), torch.from_numpy(w), stride=2))


def test_asymmetric_padding():
    x, w = normal(1, 2, 5, 6), normal(3, 2, 3, 3)
    got = evaluate("conv", x=x, weight=w, pad_type="custom", pad=[0, 2, 1, 0])
    close(got, F.conv2d(F.pad(torch.from_numpy(x), (1, 0, 0, 2)), torch.from_numpy(w)))


def test_quantised_convolution():
    x, w = normal(1, 2, 5), RNG.integers(0, 255, (3, 2, 3)).astype(np.float32)
    scale, shift = [0.01, 0.02, 0.03], [-1.0, -2.0, -3.0]
    got = evaluate("conv_quantized", x=x, weight=w, quantization_type="linear", quant_scale=scale, quant_bias=shift)
    dense = torch.from_numpy(w) * torch.tensor(scale)[:, None, None] + torch.tensor(shift)[:, None, None]
    close(got, F.conv1d(torch.from_numpy(x), dense))


@pytest.mark.parametrize(("stride", "pad", "extra"), [(1, 0, 0), (2, 1, 0), (2, 1, 1), (3, 0, 2)])
def test_transposed_convolution(stride, pad, extra):
    x, w, b = normal(1, 3, 5, 4), normal(3, 4, 3, 3), normal(4)
    want = F.conv_transpose2d(*map(torch.from_numpy, (x, w, b)), stride, pad, extra)
    got = evaluate(
        "conv_transpose", x=x, weight=w, bias=b, strides=[stride] * 2, pad_type="custom", pad=[pad] * 4,
        output_shape=list(want.shape),
    )  # fmt: skip
    close(got, want)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("pad", [0, 1])
def test_pooling(ceil, pad):
    x = normal(1, 2, 8, 7)
    t = torch.from_numpy(x)
    common = {"x": x, "kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "custom", "pad": [pad] * 4}
    close(evaluate("max_pool", **common, ceil_mode=ceil), F.max_pool2d(t, 3, 2, pad, ceil_mode=ceil))
    for exclude in (False, True):
        got = evaluate("avg_pool", **common, ceil_mode=ceil, exclude_padding_from_average=exclude)
        close(got, F.avg_pool2d(t, 3, 2, pad, ceil, not exclude))
    close(evaluate("l2_pool", **common), F.avg_pool2d(t * t, 3, 2, pad).mul(9).sqrt())


def test_a_last_window_inside_the_right_padding_is_dropped():
    x = normal(1, 1, 5, 7)
    common = {
        "x": x,
        "kernel_sizes": [2, 2],
        "strides": [2, 2],
        "pad_type": "custom",
        "pad": [1] * 4,
        "ceil_mode": True,
    }
    close(evaluate("max_pool", **common), F.max_pool2d(torch.from_numpy(x), 2, 2, 1, ceil_mode=True))
    close(evaluate("avg_pool", **common), F.avg_pool2d(torch.from_numpy(x), 2, 2, 1, ceil_mode=True))


@pytest.mark.parametrize("run_mode", ["fp32", "stress"])
def test_normalisations(run_mode):
    x, gamma, beta = normal(2, 3, 4, 5), normal(3), normal(3)
    t, g, b = map(torch.from_numpy, (x, gamma, beta))
    tolerance = 1e-5 if run_mode == "fp32" else 1e-2

    def check(kind, want, **constants):
        close(evaluate(kind, "fp16", x=x, run_mode=run_mode, **constants), want, tolerance)

    mean, variance = [0.1, 0.2, 0.3], [1.0, 2.0, 0.5]
    scale = {"gamma": gamma.tolist(), "beta": beta.tolist()}
    want = F.batch_norm(t, torch.tensor(mean), torch.tensor(variance), g, b, eps=1e-3)
    check("batch_norm", want, mean=mean, variance=variance, epsilon=1e-3, **scale)
    check("instance_norm", F.instance_norm(t, weight=g, bias=b, eps=1e-3), epsilon=1e-3, **scale)
    check("layer_norm", F.layer_norm(t, (4, 5), eps=1e-3), axes=[-2, -1], epsilon=1e-3)
    over_channels = F.layer_norm(t.movedim(1, -1), (3,), g, b, 1e-3).movedim(-1, 1)
    check("layer_norm", over_channels, axes=[1], epsilon=1e-3, **scale)
    check("l2_norm", t / torch.sqrt((t * t).sum((1, 2, 3), keepdim=True) + 1e-6))
    check("local_response_norm", F.local_response_norm(t, 3, 1e-2, 0.5, 2.0), size=3, alpha=1e-2, beta=0.5, k=2.0)


@pytest.mark.parametrize(("align", "want_align"), [(True, True), (False, False)])
def test_bilinear_resize(align, want_align):
    x = normal(1, 2, 5, 7)
    got = evaluate("upsample_bilinear", x=x, scale_factor_height=2.0, scale_factor_width=3.0, align_corners=align)
    close(got, F.interpolate(torch.from_numpy(x), (10, 21), mode="bilinear", align_corners=want_align))


def test_sampling_rules_as_documented():
    """The table in the documentation of ``resize_bilinear``."""
    x = np.float32([0, 1]).reshape(1, 1, 1, 2)
    table = {
        "UNALIGN_CORNERS": [0, 0.1, 0.5, 0.9, 1],
        "STRICT_ALIGN_CORNERS": [0, 0.25, 0.5, 0.75, 1],
        "ALIGN_CORNERS": [0, 0.25, 0.5, 0.75, 1],
        "DEFAULT": [0, 0.4, 0.8, 1, 1],
        "OFFSET_CORNERS": [0.1, 0.3, 0.5, 0.7, 0.9],
    }
    for rule, want in table.items():
        got = evaluate("resize_bilinear", x=x, target_size_height=1, target_size_width=5, sampling_mode=rule)
        close(got.reshape(-1), want)
        got = evaluate("resize", x=x, shape=[1, 5], resized_dims=2, sampling_mode=rule)
        close(got.reshape(-1), want)


def test_nearest_resizes_round_differently():
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
    down = evaluate("resize_nearest_neighbor", x=x, target_size_height=1, target_size_width=3)
    np.testing.assert_array_equal(down.reshape(-1), [0, 1, 2])
    factor = evaluate("upsample_nearest_neighbor", x=x, scale_factor_width=2)
    np.testing.assert_array_equal(factor.reshape(-1), [0, 0, 1, 1, 2, 2, 3, 3])
    half_up = evaluate("resize", x=x[..., :2], shape=[1, 4], resized_dims=2, interpolation_mode="NEAREST_NEIGHBOR")
    np.testing.assert_array_equal(half_up.reshape(-1), [0, 1, 1, 1])  # 0.5 and 1.5 round up


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("factor", [1.5, 2.5, 0.5, 1.0])
def test_fractional_nearest_upsampling_is_computed_where_every_reading_agrees(dtype, factor):
    x = np.arange(4).reshape(1, 1, 1, 4).astype(dtype)
    got = evaluate("upsample_nearest_neighbor", x=x, scale_factor_width=np.float32(factor))
    np.testing.assert_array_equal(got.reshape(-1), np.floor(np.arange(int(4 * factor)) / factor))


@pytest.mark.parametrize("factor", [1.6, 6.0001 / 4])
def test_fractional_nearest_upsampling_is_refused_by_name_where_readings_differ(factor):
    """Output 3 of 6 is element 2 of 4 by sizes, and element 1 by a factor of 1.6, as torch reads it."""
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
    with pytest.raises(parity.mil.OperatorFailed, match=r"upsample_nearest_neighbor.*on 4 elements"):
        evaluate("upsample_nearest_neighbor", x=x, scale_factor_width=np.float32(factor))


def test_crop_and_crop_resize():
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    close(evaluate("crop", x=x, crop_height=[1, 0], crop_width=[0, 2]), x[..., 1:, :2])
    aligned = {"target_height": 2, "target_width": 2, "sampling_mode": "ALIGN_CORNERS"}
    box = np.float32([[1, 1, 2, 2]])
    close(evaluate("crop_resize", x=x, boxes=box, **aligned).reshape(-1), [6, 7, 10, 11])
    close(evaluate("crop_resize", x=x, boxes=box[:, [2, 3, 0, 1]], **aligned).reshape(-1), [11, 10, 7, 6])
    outside = np.float32([[0.1, 0.3, 1.3, 1.0]])
    got = evaluate("crop_resize", x=x, boxes=outside, normalized_coordinates=True, pad_value=9.0, **aligned)
    close(got.reshape(-1), [3.1, 5.2, 9, 9])


def test_crop_resize_by_pixel_edges():
    """The one published value of UNALIGN_CORNERS: an inverted box beyond the image, which reads the mirror image."""
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    box = np.float32([2, 2, 1, 1]).reshape(1, 1, 4, 1, 1)
    got = evaluate(
        "crop_resize", x=x, roi=box, target_height=2, target_width=2, normalized_coordinates=True,
        sampling_mode="UNALIGN_CORNERS",
    )  # fmt: skip
    close(got.reshape(-1), [3.5, 5.5, 11.5, 13.5])
    whole = evaluate(
        "crop_resize", x=x, boxes=np.float32([[0, 0, 1, 1]]), target_height=3, target_width=3,
        normalized_coordinates=True, sampling_mode="UNALIGN_CORNERS",
    )  # fmt: skip
    close(whole, F.interpolate(torch.from_numpy(x), (3, 3), mode="bilinear", align_corners=False))


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize(("mode", "torch_mode"), [("border", "border"), ("reflection", "reflection")])
def test_resample(align, mode, torch_mode):
    x, grid = normal(1, 2, 5, 4), RNG.uniform(-1.3, 1.3, (1, 3, 3, 2)).astype(np.float32)
    got = evaluate(
        "resample", x=x, coordinates=grid, sampling_mode="bilinear", padding_mode=mode, padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one", align_corners=align,
    )  # fmt: skip
    close(got, F.grid_sample(*map(torch.from_numpy, (x, grid)), "bilinear", torch_mode, align))


def test_affine_identity_and_shift():
    x = normal(2, 1, 3, 3)
    common = {
        "output_height": 3, "output_width": 3, "sampling_mode": "bilinear", "padding_mode": "constant",
        "padding_value": 0.0, "coordinates_mode": "normalized_minus_one_to_one", "align_corners": True,
    }  # fmt: skip
    close(evaluate("affine", x=x, transform_matrix=np.float32([[1, 0, 0, 0, 1, 0]]), **common), x, 1e-6)
    shifted = evaluate("affine", x=x, transform_matrix=np.float32([[1, 0, 1, 0, 1, 0]]), **common)
    close(shifted[..., :2], x[..., 1:], 1e-6)
    close(shifted[..., 2], 0 * x[..., 2], 1e-6)
