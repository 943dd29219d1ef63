"""A file that holds other weights than the model's: named with the layer, by what the file stores, or not at all.

A re-initialised layer has no name among the faults; read from the file, its weights explain the outputs or do not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from parity import config
from parity import formats as targets
from parity.core.plan import Cell
from parity.faults.base import Array, Rows, registered
from parity.faults.bench import Bench
from parity.faults.causes import OTHER_WEIGHTS, Diagnosis, Stored
from parity.faults.diagnose import LIMITS, Search
from parity.session import faults as ask
from parity.session.session import Session
from parity.store.cache import Store
from tests.faults import formats
from tests.faults.small import BENCHES

ROOT = Path(__file__).resolve().parents[2]
NAME = "gate.1.weight"
PROJECT = """
[tool.parity.models.two]
factory = "two:two"
inputs = [{ name = "x", shape = [1, 6] }]
outputs = [{ name = "y", kind = "dense" }]
golden = "golden"
artifacts = { "onnx-fp32" = "m.onnx", "tflite-fp32" = "m.tflite" }
cells = ["onnx-fp32", "tflite-fp32"]
"""
MODEL = """
import numpy as np, torch

def two():
    net = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
    net.load_state_dict({k: torch.from_numpy(v) for k, v in np.load("weights.npz").items()})
    return net
"""


def draw(on: Bench, seed: int) -> torch.Tensor:
    weight = on.subject.tensor(NAME)
    return torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * weight.std()


def noisy(rows: Rows, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return [{k: v + 1e-7 * rng.standard_normal(v.shape) for k, v in row.items()} for row in rows]


def diagnosis(on: Bench, artefact: Rows, read: torch.Tensor | None, name: str = NAME) -> Diagnosis:
    held = Stored({name: read.double().numpy()}, (name,), 6) if read is not None else None
    known = registered("fp32", ["swap_rgb_bgr", "output_gain", "sign_flipped", "labels_rotated"])
    return Search(on, artefact, noisy(on.clean(), 9), known, LIMITS["fp32"], seconds=60, stored=held).diagnose()


def test_weights_that_the_file_holds_explain_it_or_do_not() -> None:
    on = BENCHES["drawings"]("fp32")
    artefact = noisy(on.run(on.subject.with_tensors({NAME: draw(on, 5)})), 1)
    assert diagnosis(on, artefact, None).state == "unexplained"
    assert diagnosis(on, artefact, draw(on, 6)).state == "unexplained", "another draw than what gave the outputs"
    found = diagnosis(on, artefact, draw(on, 5))
    assert [c.faults for c in found.causes] == [(OTHER_WEIGHTS,)] and found.causes[0].residual < 2
    assert found.sentence.startswith(f"behaves as if 1 of 6 layers ({NAME}) held other weights than the model's")
    assert diagnosis(on, artefact, draw(on, 6)).state == "unexplained", "no artefact's weights are remembered"


def test_a_fault_with_a_name_is_named_whatever_the_file_holds() -> None:
    on = BENCHES["drawings"]("fp32")
    (fault,) = registered(names=["sign_flipped"])
    faulty = fault.on(on.subject)
    assert faulty is not None
    ((name, flipped),) = faulty.tensors.items()
    found = diagnosis(on, noisy(on.run(faulty), 1), flipped, name)
    assert found.causes[0].faults == ("sign_flipped",)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "two.py").write_text(MODEL)
    formats.onnx(tmp_path)
    formats.tflite(tmp_path)
    (tmp_path / "golden").mkdir()
    for i, x in enumerate(formats.X):
        np.savez(tmp_path / "golden" / f"{i}.npz", x=x)
    return tmp_path


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_a_real_file_with_one_layer_of_another_checkpoint(target: str, project: Path) -> None:
    pytest.importorskip(formats.NEEDS[target])
    first: Array = np.random.default_rng(1).standard_normal(formats.W1.shape).astype(np.float32)
    np.savez(project / "weights.npz", **{"0.weight": first, "0.bias": formats.B1, "2.weight": formats.W2,
                                         "2.bias": formats.B2})  # fmt: skip
    session = Session(config.load(project / "pyproject.toml", targets.facts()), "one", store=Store(project / "cache"))
    try:
        cell = Cell("two", target, "fp32")
        cases = session.golden(session.config.models["two"])
        runtime = session.runtime(cell)
        got = runtime.run([c.inputs for c in cases])
        runtime.close()
        found = ask.diagnosis(session, cell, cases, got)
        assert found.causes and found.causes[0].faults == (OTHER_WEIGHTS,), found.sentence
        assert "1 of 2 layers (0) held other weights" in found.sentence and found.causes[0].explains > 0.999
    finally:
        session.close()
