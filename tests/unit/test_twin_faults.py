"""The noise ratio on the example model: what each precision does by itself passes, and seeded faults do not.

The artefact is played by another computation than the twin's own: for a correct one with other kernels, other rounding
points or other calibration pictures; for a faulty one by the twin of a module with the fault in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fixtures.models.skin import skin as build
from parity import config, formats
from parity.cases import golden
from parity.judging.floor import Floor, floor, natural
from parity.reference.recipes import RECIPES, recipe
from parity.reference.twin import run

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("onnx", "tflite")
Rows = list[np.ndarray]


class Skin:
    """The example model, every sixth golden picture, and what oracle and twins make of them; computed once."""

    def __init__(self) -> None:
        own = config.load(ROOT / "pyproject.toml", formats.facts()).models["skin"]
        self.module = build(**own.options).eval()
        self.module.load_state_dict(load_file(own.checkpoint))
        self.module.requires_grad_(False)
        self.cases = [case.inputs for case in golden.load(own.golden, own.contract)][::6]
        self.calibration = [case.inputs for case in golden.load(own.calibration, own.contract)][::4]
        self.want = self.eager(copy.deepcopy(self.module).double(), torch.float64)
        self._floors: dict[tuple[str, str], Floor] = {}
        self._broken: dict[tuple[str, str, str], Rows] = {}

    def eager(self, module: nn.Module, dtype: torch.dtype = torch.float32) -> Rows:
        with torch.no_grad():
            return [module(torch.from_numpy(case["image"]).to(dtype)).double().numpy() for case in self.cases]

    def twin(self, module: nn.Module, precision: str, flavour: str, calibration: list | None = None) -> Rows:
        rows, _ = run(module, self.cases, ["y"], recipe(precision, flavour), calibration or self.calibration)
        return [row["y"] for row in rows]

    def floor(self, precision: str, flavour: str) -> Floor:
        if (precision, flavour) not in self._floors:
            self._floors[precision, flavour] = floor(
                self.want, self.twin(self.module, precision, flavour), precision, 1
            )
        return self._floors[precision, flavour]

    def broken(self, fault: Callable[[nn.Module], None], precision: str, flavour: str) -> Rows:
        key = (fault.__name__, precision, flavour)
        if key not in self._broken:
            module = copy.deepcopy(self.module)
            fault(module)
            self._broken[key] = self.twin(module, precision, flavour)
        return self._broken[key]


@pytest.fixture(scope="module")
def skin() -> Iterator[Skin]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Skin()
    torch.set_num_threads(threads)


def layers(module: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, kind)]


def epsilon(module: nn.Module) -> None:
    """Batch normalisation with the other framework's default epsilon."""
    for part in layers(module, nn.BatchNorm2d):
        part.eps = 1e-3


def bias(module: nn.Module) -> None:
    module.classifier[-1].bias.zero_()


class Same(nn.Module):
    """A strided convolution padded as SAME pads: the odd pixel at the end."""

    def __init__(self, inner: nn.Conv2d):
        super().__init__()
        self.inner, self.pad = copy.deepcopy(inner), inner.kernel_size[0] - 2
        self.inner.padding = (0, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.pad // 2
        return self.inner(nn.functional.pad(x, [before, self.pad - before] * 2))


def same_padding(module: nn.Module) -> None:
    module.features[0][0] = Same(module.features[0][0])


def stale(module: nn.Module) -> None:
    """One layer from an older checkpoint: a fifth of the way back to another set of weights."""
    weight = layers(module, nn.Conv2d)[6].weight
    weight.lerp_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * weight.std(), 0.2)


def hard_swish(module: nn.Module) -> None:
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.SiLU):
                setattr(part, name, nn.Hardswish())


HIDDEN = {
    ("onnx", "dynamic", "bias"), ("tflite", "dynamic", "bias"), ("onnx", "int8", "bias"), ("tflite", "int8", "bias"),
    ("tflite", "int8", "epsilon"), ("tflite", "int8", "stale"), ("tflite", "int8", "hard_swish"),
    ("onnx", "int8", "stale"),
}  # fmt: skip
"""Faults that move the example model less than 8 bits do: the noise ratio cannot see them, the chain of proof must."""
FAULTS = (epsilon, bias, same_padding, stale, hard_swish)
CELLS = [(t, p) for t in TARGETS for p in RECIPES]


def correct(skin: Skin, precision: str) -> dict[str, Rows]:
    """Artefacts as good as the precision allows, none of them the twin's own computation."""
    flat = copy.deepcopy(skin.module)
    if precision == "fp32":
        with torch.backends.mkldnn.flags(enabled=False):
            return {
                "other kernels": skin.eager(flat),
                "channels last": skin.eager(flat.to(memory_format=torch.channels_last)),
            }
    if precision == "fp16":
        return {"weights rounded before folding": skin.eager(flat.half().float())}
    if precision == "int8":
        return {"other pictures": skin.twin(flat, "int8", "whole", skin.calibration[1:])}
    for part in flat.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            axes = tuple(range(1, part.weight.dim()))
            scale = part.weight.abs().amax(axes, keepdim=True) / 127
            part.weight.copy_(torch.round(part.weight / scale) * scale)
    return {"weights only": skin.eager(flat)}


@pytest.mark.parametrize(("target", "precision"), CELLS)
def test_correct_artefacts_pass(skin: Skin, target: str, precision: str) -> None:
    known = natural(target, precision)
    assert known is not None
    noise = skin.floor(precision, known.flavour)
    for name, rows in correct(skin, precision).items():
        ratio = noise.ratio(rows)
        assert ratio.over(known.limits) == [], f"{name}: {ratio}"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("target", "precision"), CELLS)
def test_faults_fail(skin: Skin, target: str, precision: str, fault: Callable[[nn.Module], None]) -> None:
    known = natural(target, precision)
    assert known is not None
    ratio = skin.floor(precision, known.flavour).ratio(skin.broken(fault, precision, known.flavour))
    if (target, precision, fault.__name__) in HIDDEN:
        assert 1 < ratio.pooled < known.limits["pooled"], "no longer hidden: take it off the list"
    else:
        assert ratio.over(known.limits), ratio
