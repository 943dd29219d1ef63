"""Where ONNX Runtime's quantiser drops a ReLU or a Clip, the end of the grid is all that is left of it: which of the
module's bounds it stood for is a guess, and golden data beyond what calibration saw tell a wrong guess from a right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from parity import formats as targets
from parity.core.proof import Proof
from parity.core.settings import ModelSpec
from parity.proof import prove
from parity.proof.messages import ProofRequest
from tests.proof.seeded import ROOT, Subject, convert, notes

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


def clipped(first: str = "ReLU6") -> nn.Module:
    """The factory: two layers, of which the first is clipped at 6 or not at all, and the other the other way."""
    torch.manual_seed(0)
    acts = {"ReLU6": (nn.ReLU6(), nn.ReLU()), "ReLU": (nn.ReLU(), nn.ReLU6())}[first]
    module = nn.Sequential(nn.Linear(6, 16), acts[0], nn.Linear(16, 16), acts[1], nn.Linear(16, 4))
    with torch.no_grad():
        module[2].weight *= 0.1  # so that the second activation stays far below 6 whatever the first does
    return module.eval()


def cases(reach: float, count: int = 24) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.uniform(-reach, reach, (1, 6)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("first", ["ReLU6", "ReLU"])
def test_golden_data_beyond_a_calibration_that_stayed_below_the_bound(tmp_path: Path, first: str) -> None:
    model = ModelSpec(str(ROOT), "tests.proof.test_clips:clipped", {"first": first})
    peaks = []
    for reach in (4.0, 9.0):
        with torch.no_grad():
            seen = clipped(first)[0](torch.cat([torch.from_numpy(c["x"]) for c in cases(reach)]))
        peaks.append(float(seen.max()))
    assert 0 < peaks[0] < 5.5 < 6.5 < peaks[1], peaks
    contract = {"inputs": [{"name": "x", "shape": [1, 6], "dtype": "float32"}], "outputs": [{"name": "y"}]}
    folder = convert(Subject(f"clipped-{first}", model, contract, cases(4.0)), tmp_path, "onnx", ("int8",))["int8"]
    request = ProofRequest(
        model,
        targets.get("onnx").graph,
        "int8",
        str(folder),
        notes(folder),
        cases(9.0),
        ["y"],
        cases(4.0),
    )
    lift = prove(request).link("lift")
    assert lift.state == "proved", lift


class Enlarged(nn.Module):
    """Super-resolution: a cubic interpolation, which reaches beyond its input, is clamped at once or at the end."""

    def __init__(self, at_once: bool):
        super().__init__()
        self.at_once = at_once
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)
        )
        self.last = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large = functional.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
        if self.at_once:
            return self.last(large.clamp(0, 1))
        return (large + 0.3 * self.body(x)).clamp(0, 1)


def enlarged(at_once: bool) -> nn.Module:
    torch.manual_seed(0)
    return Enlarged(at_once).eval()


def pictures(seed: int, count: int = 8) -> list[dict[str, Any]]:
    """Black and white edges, beside which the interpolation overshoots."""
    rng = np.random.default_rng(seed)
    return [{"x": rng.integers(0, 2, (1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def flat(seed: int, count: int = 8) -> list[dict[str, Any]]:
    """Pictures of one colour from black to white, of which the interpolation stays within [0, 1]."""
    levels = np.linspace(0, 1, count, dtype=np.float32)
    return [{"x": np.full((1, 3, 8, 8), level, np.float32)} for level in np.roll(levels, seed)]


@pytest.mark.parametrize("held", [True, False], ids=["right", "without its clamp"])
@pytest.mark.parametrize("at_once", [True, False], ids=["clamped at once", "clamped at the end"])
def test_a_resampled_picture_has_the_ends_of_pictures_whether_it_is_clamped_or_not(
    exports: Path, at_once: bool, held: bool
) -> None:
    spec = {key: ModelSpec(str(ROOT), "tests.proof.test_clips:enlarged", {"at_once": key}) for key in (True, False)}
    contract = {"inputs": [{"name": "x", "shape": [1, 3, 8, 8], "dtype": "float32"}], "outputs": [{"name": "y"}]}
    made = at_once if held else not at_once
    folder = convert(Subject(f"enlarged-{made}", spec[made], contract, flat(1)), exports, "onnx", ("int8",))["int8"]
    reader = targets.get("onnx").graph
    found = prove(ProofRequest(spec[at_once], reader, "int8", str(folder), notes(folder), pictures(2), ["y"], flat(1)))
    assert (found.link("lift").state == "proved") is held, found.summary


class Silent(nn.Module):
    """A head whose ReLU no input reaches, alone or beside one that is alive; `dropped` leaves the ReLU out."""

    def __init__(self, beside: bool, dropped: bool):
        super().__init__()
        self.beside = beside
        self.body, self.head, self.other = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(16, 4)
        self.last = nn.Identity() if dropped else nn.ReLU()
        with torch.no_grad():
            self.head.weight *= 0.05
            self.head.bias.fill_(-0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.body(x))
        silent = self.last(self.head(features))
        return self.other(features) + silent if self.beside else silent


def silent(beside: bool, dropped: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return Silent(beside, dropped).eval()


def made_of_silent(folder: Path, beside: bool, dropped: bool) -> Path:
    model = ModelSpec(str(ROOT), "tests.proof.test_clips:silent", {"beside": beside, "dropped": dropped})
    contract = {"inputs": [{"name": "x", "shape": [1, 6], "dtype": "float32"}], "outputs": [{"name": "y"}]}
    subject = Subject(f"silent-{beside}-{dropped}", model, contract, cases(1.0))
    return convert(subject, folder, "onnx", ("int8",))["int8"]


def of_silent(folder: Path, beside: bool) -> Proof:
    """The proof of a file against the module that has its ReLU."""
    model = ModelSpec(str(ROOT), "tests.proof.test_clips:silent", {"beside": beside})
    reader = targets.get("onnx").graph
    return prove(ProofRequest(model, reader, "int8", str(folder), notes(folder), cases(1.0), ["y"], cases(1.0)))


@pytest.mark.parametrize("beside", [True, False], ids=["beside others", "alone"])
def test_a_relu_that_is_silent_in_all_of_calibration_is_no_fault(tmp_path: Path, beside: bool) -> None:
    """ONNX Runtime's quantiser drops the ReLU and gives its result a scale of 1: small values become 0 all the same."""
    found = of_silent(made_of_silent(tmp_path, beside, dropped=False), beside)
    assert found.state == ("proved" if beside else "not possible"), found.summary
    if not beside:
        lift = found.link("lift")
        assert lift.state == "not possible" and "hold one value" in lift.reason, "a proof by nothing is none"
        assert not found.complete


@pytest.mark.parametrize("beside", [True, False], ids=["beside others", "alone"])
def test_a_silent_relu_that_a_file_lacks_is_found(tmp_path: Path, beside: bool) -> None:
    found = of_silent(made_of_silent(tmp_path, beside, dropped=True), beside)
    assert found.link("lift").state == "failed", found.summary


def test_a_layer_of_other_weights_behind_outputs_that_never_move_is_found(tmp_path: Path) -> None:
    folder = made_of_silent(tmp_path, beside=False, dropped=False)
    path = folder / notes(folder)["entry"]
    model = onnx.load(str(path))
    weights = next(i for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 2)
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights)[::-1].copy(), weights.name))
    onnx.save(model, str(path))
    assert of_silent(folder, beside=False).state == "failed"
