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

from parity import formats as targets
from parity.core.settings import ModelSpec
from parity.proof import prove
from parity.proof.messages import ProofRequest
from tests.proof.seeded import ROOT, Subject, convert, notes

pytest.importorskip("onnxruntime")


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
