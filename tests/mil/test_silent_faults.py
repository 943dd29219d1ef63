"""Conversions by coremltools 9.0 that are silently wrong: the evaluator must show each.

A test that fails after an upgrade of coremltools has found that the fault is mended: then it should go.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import parity.mil
from tests.mil import zoo


def measured(function, x, tmp_path, precision="fp32", route="trace", inputs=None):
    """Signal to noise against float64 torch, in dB, and the program after the run."""

    class Module(nn.Module):
        def forward(self, x):
            return function(x)

    network = Module().eval()
    path = tmp_path / "m.mlpackage"
    if route == "trace":
        zoo.convert(network, x, path, precision)
    else:
        with zoo.quiet():
            import coremltools as ct

            exported = torch.export.export(network, (x,), strict=False).run_decompositions({})
            kind = ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32
            ct.convert(exported, compute_precision=kind, skip_model_load=True).save(str(path))
    program = parity.mil.load(path)
    x = x if inputs is None else inputs
    name = next(iter(program.inputs))
    got = next(iter(program.run({name: x.numpy()}).values()))
    want = copy.deepcopy(network)(x.double() if x.dtype.is_floating_point else x)
    return zoo.decibels(got, want.numpy()), program


def test_reciprocal_adds_an_epsilon(tmp_path):
    """1 / x becomes ``inverse`` with epsilon 1e-4: 0.9999 for 1 (apple/coremltools #2773)."""
    ratio, _ = measured(torch.reciprocal, torch.linspace(0.5, 1.5, 8), tmp_path)
    assert 60 < ratio < 90


def test_alpha_is_dropped_on_the_export_route(tmp_path):
    """torch.add(x, y, alpha=2) loses its alpha through torch.export (#2680); tracing refuses it."""

    def function(x):
        return torch.add(x, torch.sin(x), alpha=2.0)

    x = torch.linspace(0.1, 2, 8)
    assert measured(function, x, tmp_path, route="export")[0] < 20


def test_atan2_has_a_wrong_quadrant(tmp_path):
    """atan2 where x = 0 or y = 0 (#2769)."""

    def function(x):
        return torch.atan2(x[0], x[1])

    points = torch.tensor([[0.0, 0.0, 1.0, -1.0, 1.0], [1.0, -1.0, 0.0, 0.0, 1.0]])
    ratio, _ = measured(function, points, tmp_path)
    assert ratio < 30


def test_masks_of_the_smallest_number_become_nan_in_fp16(tmp_path):
    """finfo.min twice in one row sums to -inf, and a row of -inf is NaN after softmax (#2669)."""

    def function(x):
        mask = torch.full((1, 4, 4), torch.finfo(torch.float32).min)
        return torch.softmax(x + mask + mask, -1)

    _, program = measured(function, torch.rand(1, 4, 4), tmp_path, "fp16")
    assert "nan" in {e.kind for e in program.events}
    assert program.events[0].operator == "softmax"


def test_log_softmax_of_unlikely_classes_in_fp16(tmp_path):
    """log(softmax(x)): probabilities below 6e-8 flush to zero in fp16 (#2728)."""
    x = torch.tensor([[0.0, -5.0, -20.0]])
    assert measured(lambda x: F.log_softmax(x, -1), x, tmp_path)[0] > 100
    got, program = measured(lambda x: F.log_softmax(x, -1), x, tmp_path, "fp16")
    assert got < 30
    assert [e.kind for e in program.events] == ["infinite"]
    assert program.events[0].operator == "log"


def test_logcumsumexp_overflows_in_fp16(tmp_path):
    """log(cumsum(exp(x))) without the maximum taken out (#2729)."""
    got, program = measured(lambda x: torch.logcumsumexp(x, 1), torch.full((1, 4), 12.0), tmp_path, "fp16")
    assert got < 10
    assert "fp16-overflow" in {e.kind for e in program.events}


def test_rms_normalisation_overflows_in_fp16(tmp_path):
    """x * x at activations of 400 is beyond 65504; the example does not show it, the data does."""
    small, large = torch.rand(1, 8), torch.rand(1, 8) * 100 + 400

    def function(x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    got, program = measured(function, small, tmp_path, "fp16")
    assert got > 55
    assert not program.events
    got, program = measured(function, large, tmp_path, "fp16", inputs=large)
    event = next(e for e in program.events if e.kind == "fp16-overflow")
    assert event.operator in ("pow", "mul", "square", "reduce_mean")
    assert event.detail["peak"] == pytest.approx(float(large.max() ** 2), rel=1e-2)
    assert got < 10


def test_sound_conversions_of_the_same_kind_are_clean(tmp_path):
    """The measure does not fire on what is right."""
    x = torch.linspace(0.5, 1.5, 8)
    assert measured(lambda x: 1.0 / (x + 1), x, tmp_path)[0] > 80
    ratio, program = measured(lambda x: torch.softmax(x * 2, -1), x, tmp_path, "fp16")
    assert ratio > 60
    assert not program.events
    assert np.isfinite(program.peak.headroom)
