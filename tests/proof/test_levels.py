"""Outputs that join values of very different ranges under one 8-bit scale, in files of real converters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parity import formats as targets
from parity.core.proof import Proof
from parity.core.settings import ModelSpec
from parity.proof import prove
from parity.proof.messages import ProofRequest
from tests.proof import seeded

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[2]
CLASSES = 6


class Detector(nn.Module):
    """Boxes [n, 4, height, width] in pixels and scores [n, classes, height, width] in 0..1, joined as `how` says.

    "apart": two outputs. "joined": channels of one. "transposed": the same, channels last. "products": scores are
    products of two sigmoids. "scaled": sigmoids times one constant a channel. "linear": no sigmoid, channels of one
    convolution. "levels": the scores of two heights joined, of which the second never fires. "silent": scores alone,
    whose last class never fires.
    """

    def __init__(self, how: str, pixels: float = 640.0):
        super().__init__()
        torch.manual_seed(0)
        self.how, self.pixels = how, pixels
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.boxes, self.scores = nn.Conv2d(16, 4, 1), nn.Conv2d(16, CLASSES, 1)
        self.object = nn.Conv2d(16, 1, 1)
        self.both = nn.Conv2d(16, 4 + CLASSES, 1)
        unit = torch.ones(4 + CLASSES)
        unit[:4] = pixels
        self.register_buffer("unit", unit[None, :, None, None])
        with torch.no_grad():
            for layer in (self.boxes, self.scores, self.both):
                layer.weight *= 8
            if how == "linear":
                self.both.weight *= unit[:, None, None, None]
            if how == "silent":
                self.scores.weight[-1] *= 0.01
                self.scores.bias[-1] = -9

    def forward(self, x: torch.Tensor) -> Any:
        features = self.stem(x)
        if self.how == "linear":
            return self.both(features)
        if self.how == "scaled":
            return torch.sigmoid(self.both(features)) * self.unit
        scores = torch.sigmoid(self.scores(features))
        if self.how == "silent":
            return scores
        if self.how == "levels":
            never = torch.sigmoid(0.1 * self.scores(nn.functional.avg_pool2d(features, (2, 1))) - 12)
            return torch.cat([scores, never], 2)
        boxes = torch.sigmoid(self.boxes(features)) * self.pixels
        if self.how == "products":
            scores = scores * torch.sigmoid(self.object(features))
        if self.how == "apart":
            return boxes, scores
        joined = torch.cat([boxes, scores], 1)
        return joined.permute(0, 2, 3, 1) if self.how == "transposed" else joined


def detector(how: str, pixels: float = 640.0) -> nn.Module:
    return Detector(how, pixels).eval()


def pictures(count: int, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [{"image": random.normal(0, 1, (1, 3, 32, 32)).astype(np.float32)} for _ in range(count)]


def proof(work: Path, target: str, how: str, pixels: float = 640.0) -> Proof:
    """The chain of proof of the int8 file that the target's converter makes of such a detector."""
    outputs = ["boxes", "scores"] if how == "apart" else ["found"]
    spec = ModelSpec(str(ROOT), "tests.proof.test_levels:detector", {"how": how, "pixels": pixels})
    contract = {
        "inputs": [{"name": "image", "shape": [1, 3, 32, 32], "dtype": "float32"}],
        "outputs": [{"name": name} for name in outputs],
    }
    calibration = pictures(8, 1)
    subject = seeded.Subject(f"detector_{how}_{pixels:g}", spec, contract, calibration)
    folder = seeded.convert(subject, work, target, ("int8",))["int8"]
    reader = targets.get(target).graph
    notes = seeded.notes(folder)
    return prove(ProofRequest(spec, reader, "int8", str(folder), notes, pictures(8, 2), outputs, calibration))


@pytest.mark.parametrize("how", ["joined", "transposed", "products", "scaled", "linear"])
def test_scores_beside_boxes_in_pixels_are_lost(exports: Path, how: str) -> None:
    link = proof(exports, "onnx", how).link("range")
    assert link.state == "failed"
    culprit = link.culprits[-1]
    assert culprit.channels == tuple(range(4, 4 + CLASSES))
    assert "give them an output of their own" in str(culprit), str(culprit)


@pytest.mark.parametrize("how", ["apart", "levels", "silent"])
def test_scores_with_a_scale_of_their_own_are_kept(exports: Path, how: str) -> None:
    """Also those that never come near one of its steps."""
    assert proof(exports, "onnx", how).link("range").state == "proved"


@pytest.mark.parametrize(("pixels", "state"), [(640.0, "failed"), (128.0, "failed"), (16.0, "proved")])
def test_how_many_steps_are_left_decides(exports: Path, pixels: float, state: str) -> None:
    assert proof(exports, "onnx", "joined", pixels).link("range").state == state


@pytest.mark.parametrize(("how", "state"), [("joined", "failed"), ("products", "failed"), ("levels", "proved")])
def test_tflite_files_are_looked_at_alike(exports: Path, how: str, state: str) -> None:
    """Its converter gives all that is joined the scale of the whole."""
    pytest.importorskip("ai_edge_litert")
    link = proof(exports, "tflite", how).link("range")
    assert link.state == state, link.culprits
    if state == "failed":
        assert "give them an output of their own" in str(link.culprits[-1])
