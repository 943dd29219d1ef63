"""The chain on real TFLite files: `skin` with faults edited in, and a runtime's own fault on an attention model."""

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
from research.proof import names
from tests.proof import attention, edits, seeded

pytest.importorskip("ai_edge_litert")
pytest.importorskip("onnx2tf")
pytestmark = pytest.mark.slow  # onnx2tf takes ten seconds and more


def proof(folder: Path, precision: str = "int8") -> dict[str, Any]:
    cases = seeded.cases()[::3]
    calibration = seeded.cases("calibration") if precision == "int8" else []
    return prove(
        ProofRequest(
            seeded.spec(),
            targets.get("tflite").graph,
            precision,
            str(folder),
            seeded.notes(folder),
            cases,
            ["logits"],
            calibration,
        )
    )


@pytest.fixture(scope="module")
def clean(exports: Path) -> dict[str, Path]:
    return seeded.export(exports, "tflite", seeded.PRECISIONS)


@pytest.mark.parametrize("precision", seeded.PRECISIONS)
def test_a_correct_file_is_proved(clean: dict[str, Path], precision: str) -> None:
    result = proof(clean[precision], precision)
    assert result.state == "proved", result.summary
    assert result.link("lift").figures["relative_rms"] < 1e-6
    assert set(result.link("local").figures["worst"]) == {"XNNPACK", "builtin", "reference"}


def test_per_tensor_weights_raise_no_alarm(exports: Path, clean: dict[str, Path]) -> None:
    result = proof(seeded.per_tensor(clean["int8"], exports / "per_tensor"))
    assert result.state == "proved", result.summary


@pytest.mark.parametrize("edit", edits.TFLITE, ids=lambda e: e.name)
def test_a_fault_in_the_file_is_found(clean: dict[str, Path], tmp_path: Path, edit: edits.Edit) -> None:
    result = proof(edits.edited(clean["int8"], tmp_path, edit))
    assert names(result, edit.links, edit.culprit), result.summary


class Turned(nn.Module):
    """Layers around another order in time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 64), nn.Linear(64, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x))[:, [3, 1, 0, 2, *range(15, 3, -1)]])


def turned() -> nn.Module:
    torch.manual_seed(0)
    return Turned().eval()


@pytest.mark.parametrize(("factor", "by", "state"), [(1.008, 0, "not possible"), (1.03, 0, "failed")])
def test_a_copy_from_a_grid_that_is_nearly_its_own_is_weighed(
    exports: Path, tmp_path: Path, factor: float, by: int, state: str
) -> None:
    """LiteRT gathers integers whatever their grids are, and its quantiser may give two that differ."""

    def beside(quantisation: Any) -> None:
        edits._times(quantisation.scale, 0, factor)
        edits._set(quantisation.zeroPoint, 0, quantisation.zeroPoint[0] + by)

    rng = np.random.default_rng(0)
    cases = [{"x": rng.uniform(-1, 1, (1, 16, 8)).astype(np.float32)} for _ in range(12)]
    model = ModelSpec(str(seeded.ROOT), "tests.proof.test_tflite:turned", {})
    contract = {"inputs": [{"name": "x", "shape": [1, 16, 8], "dtype": "float32"}], "outputs": [{"name": "y"}]}
    folder = seeded.convert(seeded.Subject("turned", model, contract, cases), exports, "tflite", ("int8",))["int8"]
    edit = edits.Edit(f"turned {factor}", edits._grid("GATHER", 0, 0, beside), "local", "GATHER")
    edited = edits.edited(folder, tmp_path, edit)
    reader = targets.get("tflite").graph
    for file, expected in ((folder, "proved"), (edited, state)):
        result = prove(ProofRequest(model, reader, "int8", str(file), seeded.notes(file), cases, ["y"]))
        assert result.link("local").state == result.state == expected, result.summary
    assert "GATHER" in result.summary


def test_a_fault_of_the_runtime_is_not_blamed_on_the_file(exports: Path) -> None:
    """LiteRT 2.1.0 with XNNPACK ignores a zero point in int8 BATCH_MATMUL; see docs/found-faults.md."""
    folder = attention.export(exports, "tflite", ("int8",))["int8"]
    result = prove(
        ProofRequest(
            attention.SPEC,
            targets.get("tflite").graph,
            "int8",
            str(folder),
            seeded.notes(folder),
            attention.cases(),
            ["logits"],
        )
    )
    states = {link.name: link.state for link in result.links}
    assert states == {"match": "proved", "audit": "proved", "lift": "proved", "local": "failed", "range": "proved"}
    culprits = result.link("local").culprits
    assert {c.kind for c in culprits} == {"runtime"}
    assert {c.name for c in culprits} == {"XNNPACK BATCH_MATMUL"}
    assert all("right on builtin, reference" in c.what for c in culprits)


def test_every_kernel_set_runs_every_operator_alone(clean: dict[str, Path]) -> None:
    """On the same stored inputs, the integer kernels of one set are within a step of another's."""
    from parity.formats.tflite.graph import TFLiteArtefact
    from parity.proof.lift import feed

    artefact = TFLiteArtefact(str(clean["int8"]), seeded.notes(clean["int8"]))
    trace = artefact.trace(feed(artefact.graph, seeded.cases(count=1)[0]))
    outputs = {name for op in artefact.graph.operators for name in op.outputs}
    for kernels in artefact.kernels:
        got = artefact.alone(kernels, artefact.graph.operators)(trace)
        assert set(got) == outputs
        assert max(np.abs(got[n].astype(int) - trace[n].astype(int)).max() for n in outputs) <= 1
