"""Real conversions by coremltools, executed from the saved file, against the torch model in float64."""

import copy

import numpy as np
import pytest
import torch

import parity.mil
from tests.mil import zoo

FLOOR = {"fp32": 110.0, "fp16": 55.0}


FURTHER = [pytest.param(name, marks=pytest.mark.nightly) for name in zoo.everything() if name not in zoo.ZOO]


@pytest.mark.parametrize("precision", FLOOR)
@pytest.mark.parametrize("name", [*zoo.ZOO, *FURTHER])
def test_saved_package_computes_what_torch_computes(name, precision, tmp_path):
    network = zoo.model(name)
    program = parity.mil.load(zoo.convert(network, zoo.example(name), tmp_path / "m.mlpackage", precision))
    x = zoo.example(name, seed=1)
    with torch.no_grad():
        oracle = copy.deepcopy(network).double()(x if name == "decoder" else x.double())
    oracle = oracle if isinstance(oracle, tuple) else (oracle,)
    outputs = program.run({"x": x.numpy()})
    assert len(outputs) == len(oracle)
    for got, want in zip(outputs.values(), oracle, strict=True):
        assert got.shape == tuple(want.shape)
        assert zoo.decibels(got, want.numpy()) >= FLOOR[precision]
    assert not program.events
    if precision == "fp16":
        lowered = program.run({"x": x.numpy()}, mode="fp64")
        stressed = program.run({"x": x.numpy()}, mode="stress")
        for key, want in zip(outputs, oracle, strict=True):
            exact, worst = (zoo.decibels(o[key], want.numpy()) for o in (lowered, stressed))
            assert exact >= zoo.decibels(outputs[key], want.numpy()) - 6  # luck of few values
            assert worst >= 35
            assert np.isfinite(stressed[key]).all()
