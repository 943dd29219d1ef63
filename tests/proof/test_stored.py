"""What a file holds in place of the module's weights, taken back to the module: out of layouts, gates and BatchNorm."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from parity import formats as targets
from parity.core.contract import Contract, InputSpec, OutputSpec
from parity.core.record import plain
from parity.core.settings import ModelSpec
from parity.formats.onnx import convert as onnx_convert
from parity.proof.messages import StoredRequest
from parity.proof.stored import stored
from parity.reference import modelling
from tests.faults import diverging, formats

ROOT = Path(__file__).resolve().parents[2]
GIVEN = {"one.weight": formats.W1, "one.bias": formats.B1, "two.weight": formats.W2, "two.bias": formats.B2}


class Layers(nn.Module):
    """The model of `formats`, but for tensors that are other ones."""

    def __init__(self, others: Sequence[str] = ()) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 4)
        self.load_state_dict({k: torch.from_numpy(v + (k in others)) for k, v in GIVEN.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x)))


def redrawn(net: nn.Module, layers: Sequence[str]) -> nn.Module:
    """A copy with other values in every parameter of some submodules."""
    other = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for layer in layers:
            for p in other.get_submodule(layer).parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * (float(p.std()) or 1))
    return other


def net(layers: Sequence[str] = ()) -> nn.Module:
    return redrawn(diverging.net(), layers)


class Beside(nn.Module):
    """Two layers of one shape that read the same value, and a transposed convolution with a BatchNorm behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.query, self.key = nn.Linear(6, 8), nn.Linear(6, 8)
        self.up = nn.ConvTranspose1d(8, 5, 3, 2)
        self.norm = nn.BatchNorm1d(5)
        for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean, self.norm.running_var):
            nn.init.uniform_(tensor, 0.5, 2.0)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.up((self.query(x).tanh() * self.key(x)).transpose(1, 2)))


def beside(layers: Sequence[str] = ()) -> nn.Module:
    return redrawn(Beside(), layers)


def spec(factory: str, option: str, layers: Sequence[str]) -> ModelSpec:
    return ModelSpec(str(ROOT), f"tests.proof.test_stored:{factory}", {option: list(layers)})


@pytest.mark.parametrize("others", [("one.weight",), ("two.bias",), ("one.weight", "one.bias", "two.weight"), ()])
@pytest.mark.parametrize("target", formats.FORMATS)
def test_a_file_s_own_values_come_back(target: str, others: tuple[str, ...], tmp_path: Path) -> None:
    if importlib.util.find_spec(formats.NEEDS[target]) is None:
        pytest.skip(f"needs {formats.NEEDS[target]}")
    notes = formats.FORMATS[target](tmp_path)
    model = spec("Layers", "others", others)
    found = stored(StoredRequest(model, targets.get(target).graph, "fp32", str(tmp_path), notes, {"x": formats.X[0]}))
    assert found.reason == "" and set(found.tensors) == set(others) and found.modules == 2
    assert found.layers == sorted({name.partition(".")[0] for name in others})
    for name, values in found.tensors.items():
        np.testing.assert_allclose(values, GIVEN[name], atol=1e-6)


@pytest.mark.parametrize(
    ("factory", "shape", "layers"),
    [
        ("net", (1, 3, 20, 28), ("stem.0",)),
        ("net", (1, 3, 20, 28), ("body.0", "body.1")),
        ("net", (1, 3, 20, 28), ("stem.0", "stem.1", "body.0", "body.1", "mix", "wide", "head")),
        ("beside", (1, 4, 6), ("key",)),
        ("beside", (1, 4, 6), ("query", "key", "up", "norm")),
    ],
)
def test_the_module_with_them_is_the_file(factory: str, shape: tuple[int, ...], layers: Sequence[str],
                                          tmp_path: Path) -> None:  # fmt: skip
    """With a BatchNorm folded in, whether it is another too or not; of one shape with a layer that is the model's."""
    contract = plain(Contract((InputSpec("x", shape),), (OutputSpec("y", "dense"),)))
    case = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    options = {"opset": 17, "dynamic": False}
    notes = onnx_convert.export(str(tmp_path), options, spec(factory, "layers", layers), contract, case)
    right = spec(factory, "layers", ())
    found = stored(StoredRequest(right, targets.get("onnx").graph, "fp32", str(tmp_path), notes, case))
    assert found.reason == "" and found.tensors
    module = copy.deepcopy(modelling.load(right)).double()
    x = torch.from_numpy(case["x"]).double()
    before = module(x).numpy()
    module.load_state_dict({k: torch.from_numpy(v) for k, v in found.tensors.items()}, strict=False)
    (got,) = onnxruntime.InferenceSession(str(tmp_path / onnx_convert.FILE)).run(None, case)
    size = np.abs(got).max()
    assert np.abs(before - got).max() > 1e-2 * size
    np.testing.assert_allclose(module(x).numpy(), got, atol=1e-5 * size)


def test_what_stands_for_an_expression_is_said_to(tmp_path: Path) -> None:
    """A file whose layer has a bias, where the module's has none: no tensor of the module can hold it."""
    notes = formats.onnx(tmp_path)
    model = spec("without_bias", "layers", ())
    found = stored(StoredRequest(model, targets.get("onnx").graph, "fp32", str(tmp_path), notes, {"x": formats.X[0]}))
    assert found.tensors == {} and "the module has no tensor 'two.bias'" in found.reason


def without_bias(layers: Sequence[str] = ()) -> nn.Module:
    module = Layers()
    module.two.bias = None
    return module
