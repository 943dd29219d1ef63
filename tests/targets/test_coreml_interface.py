"""What a Core ML file's interface may have otherwise than the model's: names that Core ML lets stand, and float16."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import config as configuration
from parity import formats as targets
from parity import suite
from parity.core.plan import Cell
from parity.session.session import Session
from parity.store.cache import Store
from parity.suite.check_kind import CheckContext
from parity.suite.recorder import Recorder

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, a, b):
        return a * 2 + 1, b - a, a * b, b * 3

def net():
    return Net()

def identity():
    return nn.Identity()
"""

INPUTS = ["a/b.c", "state"]
OUTPUTS = ["y/z", "y.z", "y_z", "tensor"]

CONFIG = """
[tool.parity]
targets = ["coreml", "coreml_nn"]
precisions = ["fp32", "fp16"]
[tool.parity.models.net]
factory = "models:net"
inputs = [{ name = "a/b.c", shape = ["batch", 5] }, { name = "state", shape = ["batch", 5] }]
outputs = [{ name = "y/z" }, { name = "y.z" }, { name = "y_z" }, { name = "tensor" }]
[tool.parity.models.identity]
factory = "models:identity"
inputs = [{ name = "image", shape = [1, 4, 6, 8] }]
outputs = [{ name = "same" }]
golden = "golden"
artifacts = { "coreml-fp16" = "half.mlpackage", "coreml-fp32" = "half.mlpackage" }
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    root = tmp_path_factory.mktemp("project")
    (root / "models.py").write_text(MODEL)
    (root / "golden").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        np.savez(root / "golden" / f"{number}.npz", image=rng.standard_normal((1, 4, 6, 8)).astype(np.float32))
    by_hand(root / "half.mlpackage")
    (root / "pyproject.toml").write_text(CONFIG)
    opened = Session(configuration.load(root / "pyproject.toml", targets.facts()), "test", store=Store(root / "cache"))
    yield opened
    opened.close()


def by_hand(file: Path) -> None:
    """nn.Identity as coremltools makes it unless it is told the types of inputs and outputs: float16 throughout."""
    torch = pytest.importorskip("torch")
    ct: Any = pytest.importorskip("coremltools")
    traced = torch.jit.trace(torch.nn.Identity(), torch.rand(1, 4, 6, 8))
    inputs, outputs = [ct.TensorType(name="image", shape=(1, 4, 6, 8))], [ct.TensorType(name="same")]
    made = ct.convert(
        traced, inputs=inputs, outputs=outputs, minimum_deployment_target=ct.target.iOS16, skip_model_load=True
    )
    made.save(str(file))


@pytest.mark.parametrize("target", ["coreml", "coreml_nn"])
def test_names_that_core_ml_does_not_take_are_changed_and_declared(session: Session, target: str) -> None:
    cell = Cell("net", target, "fp32")
    runtime, contract = session.runtime(cell), Recorder(cell, "contract")
    suite.contract.run(CheckContext(runtime, contract))
    assert contract.verdict() == ""
    notes = runtime.artifact.notes
    assert [notes["inputs"][name]["name"] for name in INPUTS] == ["a_b_c", "state_workaround"]
    assert [notes["outputs"][name]["name"] for name in OUTPUTS] == ["y_z_0", "y_z_0_1", "y_z", "tensor_workaround"]
    a, b = np.float32([[1, 2, 3, 4, 5]]), np.float32([[7, 5, 3, 2, 1]])
    (got,) = runtime.run([{"a/b.c": a, "state": b}])
    for name, want in zip(OUTPUTS, (a * 2 + 1, b - a, a * b, b * 3), strict=True):
        np.testing.assert_array_equal(got[name], want)


def measured(session: Session, precision: str) -> tuple[Recorder, Recorder]:
    cell = Cell("identity", "coreml", precision)
    model = session.config.models["identity"]
    runtime, cases = session.runtime(cell), session.golden(model)
    contract, golden = Recorder(cell, "contract"), Recorder(cell, "golden")
    suite.contract.run(CheckContext(runtime, contract))
    reference = session.reference(model, cases)
    suite.golden.run(CheckContext(runtime, golden, golden=cases, reference=reference))
    return contract, golden


def test_float16_inputs_of_an_fp16_file_are_its_makers_choice(session: Session) -> None:
    contract, golden = measured(session, "fp16")
    assert contract.verdict() == "" and golden.verdict() == ""
    assert any("takes image as float16" in f.text for f in contract.findings)


def test_float16_inputs_of_an_fp32_file_are_not(session: Session) -> None:
    contract, _ = measured(session, "fp32")
    assert "declared float32, the file has float16" in contract.verdict()
    assert any("--precision fp16" in f.text for f in contract.findings)
