"""The twin that a file makes of itself: it follows what the file quantises, and nothing that is wrong in its grids."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from parity import formats as targets
from parity.core.errors import ParityError
from parity.formats.graph import feed
from parity.formats.target import load_part
from parity.proof.messages import Placement, PlacementRequest, ProofRequest
from parity.proof.placement import evaluate
from parity.reference import oracle
from parity.reference.messages import OracleRequest
from tests.proof import seeded
from tests.proof import test_tables as tables
from tests.proof.test_expressions import rows, subject

WHAT = subject("roots")
CASES = rows((4, 12), 12, 2)
HELD = ("local", "range", "copies", "operators")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("placement")


def converted(work: Path, target: str, precision: str) -> Path:
    return seeded.convert(WHAT, work, target, (precision,))[precision]


def placed(target: str, precision: str, folder: Path) -> Placement:
    notes, calibration = seeded.notes(folder), WHAT.calibration if precision == "int8" else []
    reader = targets.get(target).graph
    proof = ProofRequest(WHAT.model, reader, precision, str(folder), notes, CASES, ["y"], calibration, held=HELD)
    return evaluate(PlacementRequest(replace(proof, whole=False), CASES))


def run(target: str, folder: Path, some: Sequence[Any] = CASES) -> list[Any]:
    artefact = load_part(targets.get(target).graph)(str(folder), seeded.notes(folder), ())
    (port,) = artefact.graph.outputs
    whole = artefact.whole(artefact.kernels[0])
    return [port.fetch(whole(feed(artefact.graph, case))[port.tensor]) for case in some]


def rms(got: Sequence[Any], want: Sequence[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(got, np.float64) - np.asarray(want, np.float64)))))


@pytest.mark.parametrize(("target", "precision", "near"), [
    ("onnx", "int8", 1e-3), ("onnx", "dynamic", 1e-3), ("tflite", "int8", 1.0), ("tflite", "dynamic", 1e-3),
])  # fmt: skip
def test_it_costs_what_the_file_costs(target: str, precision: str, near: float, work: Path) -> None:
    """Where kernels compute on floats it is the file itself, but for float32; integer kernels round on their own."""
    folder = converted(work, target, precision)
    placement, got = placed(target, precision, folder), run(target, folder)
    twin = [row["y"] for row in placement.outputs]
    wants = [row["y"] for row in oracle.evaluate(OracleRequest(WHAT.model, CASES, ["y"])).outputs]
    cost = rms(got, wants)
    assert 0.8 < rms(twin, wants) / cost < 1.25
    assert rms(twin, got) < near * cost
    assert placement.weights > 0 and bool(placement.kinds) == (precision == "int8")


@pytest.mark.parametrize(("target", "precision"), [("onnx", "int8"), ("onnx", "dynamic"), ("tflite", "int8")])
def test_a_table_is_rounded_as_the_file_rounds_it(target: str, precision: str, work: Path) -> None:
    folder, some = tables.file(work, "bag", target, precision), tables.cases(tables.SEEN, 3)
    calibration = tables.cases(tables.SEEN, 1) if precision == "int8" else []
    reader, notes = targets.get(target).graph, seeded.notes(folder)
    proof = ProofRequest(tables.spec("bag"), reader, precision, str(folder), notes, some, ["y"], calibration, held=HELD)
    placement = evaluate(PlacementRequest(replace(proof, whole=False), some))
    wants = [row["y"] for row in oracle.evaluate(OracleRequest(tables.spec("bag"), some, ["y"])).outputs]
    cost = rms(run(target, folder, some), wants)
    assert 0.7 < rms([row["y"] for row in placement.outputs], wants) / cost < 1.4
    assert placement.weights >= 6  # the table and five layers; on TFLite biases that are added are on grids, too


@pytest.mark.parametrize("change", ["scale", "zero"])
def test_a_wrong_grid_of_the_file_is_none_of_the_twins(change: str, work: Path, tmp_path: Path) -> None:
    folder = converted(work, "onnx", "int8")
    faulty = shutil.copytree(folder, tmp_path / "faulty")
    model = onnx.load(str(next(faulty.glob("*.onnx"))))
    read = {name for node in model.graph.node if node.op_type == "QuantizeLinear" for name in node.input[1:]}
    for held in model.graph.initializer:
        value = numpy_helper.to_array(held)
        if held.name not in read:
            continue
        if change == "scale" and value.dtype == np.float32:
            held.CopyFrom(numpy_helper.from_array(np.asarray(value * np.float32(1.5)), held.name))
        if change == "zero" and value.dtype.kind in "iu":
            held.CopyFrom(numpy_helper.from_array(np.asarray(value + 9, value.dtype), held.name))
    onnx.save(model, str(next(faulty.glob("*.onnx"))))
    assert rms(run("onnx", faulty), run("onnx", folder)) > 0.01
    right, other = (placed("onnx", "int8", place).outputs for place in (folder, faulty))
    np.testing.assert_array_equal([r["y"] for r in other], [r["y"] for r in right])


def test_a_file_of_another_model_has_none(work: Path) -> None:
    folder = converted(work, "onnx", "int8")
    model = onnx.load(str(next(folder.glob("*.onnx"))))
    constant = next(i for i in model.graph.initializer if numpy_helper.to_array(i).shape == (32, 32))
    assert constant.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    faulty = shutil.copytree(folder, work / "faulty")
    changed = np.ascontiguousarray(numpy_helper.to_array(constant)[::-1])
    constant.CopyFrom(numpy_helper.from_array(changed, constant.name))
    onnx.save(model, str(next(faulty.glob("*.onnx"))))
    with pytest.raises(ParityError, match=r"no twin of the file: .* is not proved"):
        placed("onnx", "int8", faulty)
