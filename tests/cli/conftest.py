"""A small project on disk that the commands work on: a two-layer model that converts in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from parity import cli

MODEL = """
import torch


def tiny(num_classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(4, num_classes),
    )
"""

CONFIG = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32"]
cache = "cache"

[tool.parity.models.tiny]
factory = "models:tiny"
inputs = [{ name = "image", shape = ["batch", 3, 17, 19], range = [0, 1] }]
outputs = [{ name = "logits", kind = "logits" }]
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models.py").write_text(MODEL)
    (tmp_path / "pyproject.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    for name in ("OUTPUT_DIR", "FORMAT", "PRECISION", "INT8", "DUMMY", "CHECKPOINT", "MODEL_NAME"):
        monkeypatch.delenv(f"EXPORT_{name}", raising=False)
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = cli.main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call
