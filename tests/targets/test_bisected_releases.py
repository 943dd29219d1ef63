"""`parity bisect` on a fault that was mended: minutes, and releases from the package index, so nightly alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from parity import cli
from parity.core.record import read
from parity.process.toolchains.resolving import resolve

MODEL = """
import torch
from torch import nn

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x):
        weights = torch.softmax(torch.matmul(self.q(x), self.k(x).transpose(1, 2)) / 4, -1)
        return self.head(torch.matmul(weights, torch.relu(self.v(x))))

def attention():
    torch.manual_seed(0)
    return Attention().eval()
"""
PROJECT = """
[tool.parity]
targets = ["tflite"]
precisions = ["int8"]
cache = "cache"
[tool.parity.models.attention]
factory = "attention_of_bisect:attention"
inputs = [{ name = "x", shape = [1, 12, 16], range = [-2, 2] }]
outputs = [{ name = "scores" }]
golden = "golden"
calibration = "golden"
"""


@pytest.mark.nightly
@pytest.mark.skipif(not resolve("onnx2tf").is_own, reason="this environment has no onnx2tf")
def test_the_release_that_mended_batch_matmul_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """XNNPACK's int8 BATCH_MATMUL ignores a zero point up to ai-edge-litert 2.1.2."""
    (tmp_path / "attention_of_bisect.py").write_text(MODEL)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "golden").mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        np.savez(tmp_path / "golden" / f"{i}.npz", x=rng.uniform(-2, 2, (1, 12, 16)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    command = ["bisect", "attention-tflite-int8", "--package", "ai-edge-litert", "--profile", "quick"]
    assert cli.main([*command, "--good", "2.1.5", "--bad", "2.1.1"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("attention-tflite-int8 fails with ai-edge-litert 2.1.2 (int8: not faithful: local: XNNPACK ")
    assert out.endswith(" and passes from 2.1.3 on\n") and out.count("\n") == 1
    assert "  ai-edge-litert 2.1.5: pass, noise_ratio " in err

    folder = tmp_path / "reports" / "bisect"
    said = json.loads((folder / "attention-tflite-int8-ai-edge-litert.json").read_text())
    assert (said["last_before"], said["first_after"], said["untried_between"]) == ("2.1.2", "2.1.3", [])
    states = {entry["version"]: entry["state"] for entry in said["versions"]}
    assert states.items() >= {"2.1.1": "fail", "2.1.2": "fail", "2.1.3": "pass", "2.1.5": "pass"}.items()
    for entry in said["versions"]:
        assert read(Path(entry["report"])).environment.packages["ai-edge-litert"] == entry["version"]
    assert not (tmp_path / "reports" / "parity.json").exists()
