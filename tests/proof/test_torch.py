"""The chain on real TorchScript files and ExportedPrograms, matched by the names of the module's tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parity import formats as targets
from parity.core.proof import Proof
from parity.core.settings import ModelSpec
from parity.formats.torch import convert
from parity.process import serialise
from parity.proof import prove
from parity.proof.messages import ProofRequest
from tests.proof.seeded import ROOT

SPEC = ModelSpec(str(ROOT), "tests.proof.test_torch:small", {})
CASES = [{"image": np.random.default_rng(i).standard_normal((1, 3, 12, 12)).astype(np.float32)} for i in range(4)]
CONTRACT = {"inputs": [{"name": "image", "shape": [1, 3, 12, 12], "dtype": "float32", "range": None}],
            "outputs": [{"name": "logits"}], "sizes": {}}  # fmt: skip
FILES = {"torchscript": "model.pt", "exported": "model.pt2"}


class Small(nn.Module):
    """Convolution with BatchNorm, LayerNorm, a parameter of its own, a literal, a constant buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.LeakyReLU(0.1))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, 8))
        self.register_buffer("scale", torch.linspace(1.0, 2.0, 5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image).mean((2, 3)) * self.gain
        return self.head(self.norm(x * 0.7)) * self.scale


def small() -> nn.Module:
    torch.manual_seed(0)
    module = Small()
    nn.init.uniform_(module.stem[1].weight, 0.5, 1.5)  # type: ignore[arg-type]
    module.stem[1].running_mean.normal_(0, 0.3)  # type: ignore[operator, union-attr]
    return module.eval().requires_grad_(False)


def write(module: nn.Module, target: str, folder: Path) -> dict[str, Any]:
    """A file of a module by hand, as a stranger makes it."""
    example = (torch.from_numpy(CASES[0]["image"]),)
    file = folder / FILES[target]
    if target == "exported":
        torch.export.save(torch.export.export(module, example, strict=False), file)
    else:
        torch.jit.trace(module, example, check_trace=False).save(str(file))
    return convert._notes(CONTRACT, file.name, None)


def proof(folder: Path, notes: dict[str, Any], target: str, precision: str = "fp32") -> Proof:
    made = targets.get(target)
    request = ProofRequest(SPEC, made.graph, precision, str(folder), notes, CASES, ["logits"], survey=made.survey)
    return prove(request)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("target", FILES)
def test_the_route_s_own_file_is_proved(tmp_path: Path, target: str, precision: str) -> None:
    function = convert.trace if target == "torchscript" else convert.export_program
    options = {"half": precision == "fp16", "dynamic": False}
    notes = function(str(tmp_path), options, SPEC, CONTRACT, CASES[0])
    result = proof(tmp_path, notes, target, precision)
    assert result.state == "proved", result.summary
    assert result.link("match").figures["by_name"] == 13 and result.link("match").figures["unused"] == []
    assert {"layer_norm", "batch_norm", "leaky_relu"} <= result.link("match").figures["literals_of"].keys()
    assert result.link("lift").figures["relative_rms"] < 1e-6
    json.dumps(serialise.to_builtins(result), allow_nan=False)


class Double(Small):
    """`Small` with a buffer of float64 that is computed with as such."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.linspace(0.0, 1.0, 5, dtype=torch.float64))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) + (self.shift * 2).to(image.dtype)


def double() -> nn.Module:
    torch.manual_seed(0)
    return Double().eval().requires_grad_(False)


@pytest.mark.parametrize("target", FILES)
def test_a_buffer_of_float64_stays_one(tmp_path: Path, target: str) -> None:
    notes, made = write(double(), target, tmp_path), targets.get(target)
    spec = ModelSpec(SPEC.root, "tests.proof.test_torch:double", {})
    request = ProofRequest(spec, made.graph, "fp32", str(tmp_path), notes, CASES, ["logits"], survey=made.survey)
    result = prove(request)
    assert result.state == "proved", result.summary


class OfItsType(Small):
    """`Small` with numbers and a mask that are made in the type of what it computes in, as in language models."""

    def __init__(self, root: float) -> None:
        super().__init__()
        self.root = root

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores = super().forward(image) * torch.tensor(self.root**0.5, dtype=image.dtype)
        scores = scores * scores.new_tensor([0.1, 0.3, 0.7, 1.1, 1.3]) + torch.zeros(5, dtype=image.dtype)
        return scores.masked_fill(scores > 1e4, torch.finfo(image.dtype).min)


def of_its_type(root: float) -> nn.Module:
    torch.manual_seed(0)
    return OfItsType(root).eval().requires_grad_(False)


def of_its_type_proof(folder: Path, target: str, precision: str, made_with: float = 48.0) -> Proof:
    """The proof of a file of the module with the root of `made_with`, against the module with that of 48."""
    function = convert.trace if target == "torchscript" else convert.export_program
    options = {"half": precision == "fp16", "dynamic": False}
    spec = {
        root: ModelSpec(SPEC.root, "tests.proof.test_torch:of_its_type", {"root": root}) for root in (48, made_with)
    }
    notes, made = function(str(folder), options, spec[made_with], CONTRACT, CASES[0]), targets.get(target)
    request = ProofRequest(spec[48], made.graph, precision, str(folder), notes, CASES, ["logits"], survey=made.survey)
    return prove(request)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("target", FILES)
def test_another_number_in_the_code_is_found(tmp_path: Path, target: str, precision: str) -> None:
    result = of_its_type_proof(tmp_path, target, precision, made_with=49.0)
    assert result.state == "failed", result.summary


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("target", FILES)
def test_numbers_of_the_code_follow_the_type(tmp_path: Path, target: str, precision: str) -> None:
    result = of_its_type_proof(tmp_path, target, precision)
    links = {link.name: link.state for link in result.links}
    assert (links["match"], links["audit"], links["lift"]) == ("proved", "proved", "proved"), result.summary
    assert result.link("lift").figures["relative_rms"] < 1e-6


def _head(module: nn.Module) -> nn.Linear:
    return module.head  # type: ignore[return-value]


FAULTS: dict[str, tuple[Callable[[nn.Module], Any], str, str]] = {
    "one value": (lambda m: _head(m).weight[2, 3].mul_(1.0001), "audit", "head.weight"),
    "bias": (lambda m: _head(m).bias.copy_(_head(m).bias.roll(1)), "audit", "head.bias"),
    "buffer": (lambda m: m.scale[1].add_(1e-6), "audit", "scale"),  # type: ignore[operator, index]
    "statistics": (lambda m: m.stem[1].running_var.mul_(1.001), "audit", "running_var"),  # type: ignore[index]
    "epsilon": (lambda m: setattr(m.norm, "eps", 2e-5), "match", "layer_norm"),
    "slope": (lambda m: setattr(m.stem[2], "negative_slope", 0.1001), "match", "leaky_relu"),  # type: ignore[index]
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("target", FILES)
def test_a_fault_in_the_file_is_named(tmp_path: Path, target: str, fault: str) -> None:
    change, name, culprit = FAULTS[fault]
    module = small()
    change(module)
    found = proof(tmp_path, write(module, target, tmp_path), target).link(name)
    assert found.state == "failed" and any(culprit in c.name for c in found.culprits), found


def test_weights_under_each_others_names_are_found(tmp_path: Path) -> None:
    """The names are right and the graph reads another tensor: the lift runs what the file computes."""
    module = small()
    module.norm.weight, module.norm.bias = module.norm.bias, module.norm.weight  # type: ignore[union-attr]
    result = proof(tmp_path, write(module, "exported", tmp_path), "exported")
    assert result.state == "failed", result.summary


def test_half_values_in_an_fp32_file_are_found(tmp_path: Path) -> None:
    module = small()
    for parameter in module.parameters():
        parameter.copy_(parameter.half().float())
    found = proof(tmp_path, write(module, "torchscript", tmp_path), "torchscript").link("audit")
    assert found.state == "failed" and "head.weight" in {c.name for c in found.culprits}


@pytest.mark.parametrize("kind", ["script", "freeze", "freeze trace", "wrapped"])
def test_other_ways_to_make_a_script_raise_no_alarm(tmp_path: Path, kind: str) -> None:
    """Frozen scripts have their weights in the code, without names, and BatchNorm folded into them."""
    module = small()
    example = (torch.from_numpy(CASES[0]["image"]),)
    made: Any = torch.jit.script(module)
    if kind == "wrapped":
        made = torch.jit.script(nn.Sequential(module))
    elif kind == "freeze trace":
        made = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))
    elif kind == "freeze":
        made = torch.jit.freeze(made)
    made.save(str(tmp_path / "model.pt"))
    result = proof(tmp_path, convert._notes(CONTRACT, "model.pt", None), "torchscript")
    assert result.state == "proved", result.summary


def test_a_fault_in_a_frozen_script_is_found(tmp_path: Path) -> None:
    module = small()
    _head(module).weight[2].mul_(1.01)
    torch.jit.freeze(torch.jit.script(module)).save(str(tmp_path / "model.pt"))
    result = proof(tmp_path, convert._notes(CONTRACT, "model.pt", None), "torchscript")
    assert result.state == "failed" and "head.weight" in result.summary, result.summary
