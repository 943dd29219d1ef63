"""Files on an emulated Arm core, for real: what x86 hides, and what both compute alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.formats.serve import Opened, OpenRequest, Outputs, RunRequest
from parity.process.isolate import Child
from parity.session.engines import SESSION, engine

WHY = engine("arm64:cortex-a76", "ncnn").unavailable or engine("arm64:cortex-a53", "ncnn").unavailable
pytestmark = pytest.mark.skipif(bool(WHY), reason=f"needs emulated Arm cores with ncnn: {WHY}")

NET = """7767517
3 3
Input        x 0 1 x
InnerProduct h 1 1 x h 0=4 1=1 2=16
InnerProduct y 1 1 h y 0=2 1=1 2=8
"""
NOTES = {"entry": "net.param", "inputs": {"x": {"name": "x"}}, "outputs": {"y": {"name": "y"}}}


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Two products: weights of 100, whose sums are 400 times an input, and weights that bring them back to 0.04."""
    (tmp_path / "net.param").write_text(NET, encoding="utf-8")
    layers = (np.full(16, 100, np.float32), np.zeros(4, np.float32)), (np.full(8, 1e-4, np.float32), np.zeros(2, "<f4"))
    data = b"".join(b"\0\0\0\0" + weights.tobytes() + bias.tobytes() for weights, bias in layers)
    (tmp_path / "net.bin").write_bytes(data)
    return tmp_path


def outputs_on(executor: str, folder: Path, value: float) -> tuple[Any, dict[str, Any]]:
    """What the network gives for four equal inputs, and what its session says of itself."""
    by = engine(executor, "ncnn")
    child = Child("arm", by.python, confined_to=[folder / "scratch"])
    try:
        request = OpenRequest(SESSION, str(folder), {**NOTES, **by.notes})
        opened = child.call("parity.formats.serve:open_session", request, Opened)
        case = {"x": np.full((1, 4), value, np.float32)}
        result = child.call("parity.formats.serve:run", RunRequest(opened.handle, [case]), Outputs)
        return result.outputs[0]["y"], child.call("parity.formats.serve:described", opened.handle, dict[str, Any])
    finally:
        child.close()


def test_sums_that_leave_fp16_overflow_on_a_core_that_computes_in_it_alone(net: Path) -> None:
    large = 200.0  # 400 times that is 80,000, and fp16 ends at 65,504
    older, _ = outputs_on("arm64:cortex-a53", net, large)
    newer, said = outputs_on("arm64:cortex-a76", net, large)
    np.testing.assert_allclose(older, np.full((1, 2), 32.0), rtol=1e-3)
    assert np.isinf(newer).all()
    assert (said["computes"], said["machine"]) == ("fp16", "aarch64")


def test_inside_the_range_of_fp16_both_cores_are_right(net: Path) -> None:
    for executor in ("arm64:cortex-a53", "arm64:cortex-a76"):
        outputs, _ = outputs_on(executor, net, 20.0)
        np.testing.assert_allclose(outputs, np.full((1, 2), 3.2), rtol=2e-3)


def test_sums_in_fp16_are_told_from_fp16_storage(net: Path) -> None:
    rng = np.random.default_rng(5)
    layers = ((16, 4), (8, 2))
    parts = [rng.standard_normal(n).astype(np.float32).tobytes() for layer in layers for n in layer]
    (net / "net.bin").write_bytes(b"\0\0\0\0" + parts[0] + parts[1] + b"\0\0\0\0" + parts[2] + parts[3])
    _, older = outputs_on("arm64:cortex-a53", net, 0.3)
    _, newer = outputs_on("arm64:cortex-a76", net, 0.3)
    assert (newer["computes"], newer["flavour"]) == ("fp16", "accumulate")
    assert older["flavour"] != "accumulate"
