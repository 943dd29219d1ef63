"""The chain on real ONNX files of `skin`: correct ones pass, seeded faults are found by the right link and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from parity import formats as targets
from parity.process import serialise
from parity.proof import prove
from parity.proof.messages import ProofRequest
from research.proof import names
from tests.proof import edits, seeded

pytest.importorskip("onnxruntime")
SOME = (  # one fault a way to go wrong; research/proof.py runs all
    "stale layer", "channel dead", "one sign", "kernel transposed", "10 bits", "one epsilon", "SAME padding",
    "one hard-swish", "residual dropped", "logits x 1.001", "1/256 for 1/255",
)  # fmt: skip


def proof(folder: Path, precision: str, target: str = "onnx") -> dict[str, Any]:
    cases = seeded.cases()[::3]
    calibration = seeded.cases("calibration") if precision == "int8" else []
    return prove(
        ProofRequest(
            seeded.spec(),
            targets.get(target).graph,
            precision,
            str(folder),
            seeded.notes(folder),
            cases,
            ["logits"],
            calibration,
        )
    )


@pytest.mark.parametrize("precision", seeded.PRECISIONS)
def test_a_correct_file_is_proved(exports: Path, precision: str) -> None:
    result = proof(seeded.export(exports, "onnx", seeded.PRECISIONS)[precision], precision)
    assert result.state == "proved", result.summary
    assert result.link("lift").figures["relative_rms"] < 1e-6
    assert result.link("match").figures["unmatched"] == []
    json.dumps(serialise.to_builtins(result), allow_nan=False)


def test_another_calibration_set_raises_no_alarm(exports: Path) -> None:
    folder = seeded.export(exports, "onnx", ("int8",), calibration="half")["int8"]
    assert proof(folder, "int8").state == "proved"


@pytest.mark.parametrize("calibration", ["dark", "noise"])
def test_calibration_on_another_domain_is_found_by_range_alone(exports: Path, calibration: str) -> None:
    result = proof(seeded.export(exports, "onnx", ("int8",), calibration=calibration)["int8"], "int8")
    assert [link.name for link in result.links if link.state == "failed"] == ["range"]


@pytest.mark.parametrize("edit", edits.ONNX, ids=lambda e: e.name)
def test_a_fault_in_the_file_is_found(exports: Path, tmp_path: Path, edit: edits.Edit) -> None:
    clean = seeded.export(exports, "onnx", seeded.PRECISIONS)["int8"]
    result = proof(edits.edited(clean, tmp_path, edit), "int8")
    assert names(result, edit.links, edit.culprit), result.summary


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("fault", [f for f in seeded.FAULTS if f.name in SOME], ids=lambda f: f.name)
def test_a_fault_in_the_module_is_found(exports: Path, fault: seeded.Fault, precision: str) -> None:
    result = proof(seeded.export(exports, "onnx", ("int8", "fp32"), fault.name)[precision], precision)
    assert names(result, fault.links, fault.culprit), result.summary


def test_a_file_of_another_precision_class_fails(exports: Path) -> None:
    """fp16 weights in a file that says fp32."""
    result = proof(seeded.export(exports, "onnx", seeded.PRECISIONS)["fp16"], "fp32")
    assert result.link("audit").state == "failed"
    assert "float16" in result.link("audit").culprits[0].what


def test_what_cannot_be_read_is_not_proved(exports: Path) -> None:
    result = proof(seeded.export(exports, "onnx", seeded.PRECISIONS)["fp32"], "fp32", target="coreml_nn")
    assert result.state == "not possible"
    assert "no reader for files of this format" in result.summary
