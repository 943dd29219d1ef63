"""Every target exports and runs a small model with two inputs and two outputs, and what it computes is the oracle's.

The sizes are pairwise distinct, so that a swapped axis cannot hide, and the outputs differ in rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parity import config as configuration
from parity import formats as targets
from parity import suite
from parity.core.plan import PRECISIONS, Cell
from parity.process.isolate import ChildFailure
from parity.session.runtimes import OpenFile
from parity.session.session import Session
from parity.store.cache import Store
from parity.suite.check_kind import CheckContext
from parity.suite.recorder import Recorder

MODEL = """
import torch


class Two(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = torch.nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.mix = torch.nn.Conv2d(6, 5, 1)
        self.side = torch.nn.Linear(7, 5)
        self.head = torch.nn.Linear(5, 4)

    def forward(self, image, extra):
        features = self.mix(torch.relu(self.conv(image)))
        pooled = features.mean((2, 3)) + torch.tanh(self.side(extra))
        return self.head(pooled), features


def two() -> torch.nn.Module:
    return Two()


def other() -> torch.nn.Module:
    model = Two()
    model.head.weight.data *= 1.5
    return model
"""

CONFIG = """
[tool.parity]
targets = {targets}
precisions = {precisions}
cache = "cache"

[tool.parity.models.two]
factory = "models:two"
inputs = [{{ name = "image", shape = ["batch", 3, 14, 22] }}, {{ name = "extra", shape = ["batch", 7] }}]
outputs = [{{ name = "logits", kind = "logits" }}, {{ name = "features" }}]
golden = "golden"
calibration = "golden"
"""

CELLS = [(name, p) for name in targets.names() for p in targets.get(name).precisions]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    root = tmp_path_factory.mktemp("project")
    (root / "models.py").write_text(MODEL)
    (root / "golden").mkdir()
    rng = np.random.default_rng(5)
    for i in range(6):
        image, extra = rng.standard_normal((1, 3, 14, 22)), rng.standard_normal((1, 7))
        np.savez(root / "golden" / f"{i}.npz", image=image.astype(np.float32), extra=extra.astype(np.float32))
    text = CONFIG.format(targets=list(targets.names()), precisions=list(PRECISIONS)).replace("'", '"')
    (root / "pyproject.toml").write_text(text)
    config = configuration.load(root / "pyproject.toml", targets.facts())
    opened = Session(config, "test", store=Store(root / "cache"))
    yield opened
    opened.close()


def measure(session: Session, cell: Cell) -> tuple[Recorder, Recorder]:
    model = session.config.models[cell.model]
    runtime, cases = session.runtime(cell), session.golden(model)
    contract, golden = Recorder(cell, "contract"), Recorder(cell, "golden")
    suite.contract.run(CheckContext(runtime, contract))
    reference = session.reference(model, cases)
    suite.golden.run(CheckContext(runtime, golden, golden=cases, reference=reference))
    return contract, golden


@pytest.mark.parametrize(("target", "precision"), CELLS, ids=["-".join(c) for c in CELLS])
def test_a_correct_export_passes(session: Session, target: str, precision: str) -> None:
    cell = Cell("two", target, precision)
    reason = targets.get(target).unavailable(cell, session.config.models["two"])
    if reason:
        pytest.skip(reason)
    contract, golden = measure(session, cell)
    assert contract.verdict() == ""
    assert golden.verdict() == ""
    measured = {(c.case, c.output) for c in golden.checks if c.case != "all"}
    assert len(measured) == 6 * 2


@pytest.mark.parametrize("target", ["onnx", "tflite", "ncnn", "torchscript", "exported"])
def test_outputs_that_change_places_are_found(session: Session, target: str) -> None:
    cell = Cell("two", target, "fp32")
    runtime = session.runtime(cell).open()
    swapped = dict(runtime.artifact.notes)
    swapped["inputs"] = {k: dict(v) for k, v in swapped["inputs"].items()}
    swapped["outputs"] = dict(zip(swapped["outputs"], reversed(list(swapped["outputs"].values())), strict=True))
    case = session.golden(session.config.models["two"])[0]
    opened = OpenFile(session, cell, replace(runtime.artifact, notes=swapped))
    try:
        (got,) = opened.run([case.inputs])
    except ChildFailure:
        return  # a layout that does not fit the rank is refused, which is as good
    assert got["logits"].ndim == 4 or got["features"].ndim == 2  # never silently reshaped into place


def test_oracle_and_twin_belong_to_one_model(session: Session) -> None:
    """Two models with the same golden cases, names and shapes share nothing of what they are measured against."""
    cell = Cell("two", "onnx", "fp32")
    first = session.config.models["two"]
    cases = session.golden(first)
    second = replace(first, name="other", factory="models:other")
    for precision in ("fp32", "fp16", "dynamic", "int8"):
        rows = [session.twin(m, cases, precision, None)[0]["logits"] for m in (first, second)]
        assert np.abs(rows[0] - rows[1]).max() > 1e-3, precision
    oracles = [session.reference(m, cases).outputs[0]["logits"] for m in (first, second)]
    assert np.abs(oracles[0] - oracles[1]).max() > 1e-3
    floor = session.floors(cell, cases, session.reference(first, cases).post_processed(first))["logits"]
    assert floor.relative < 1e-5


def test_the_file_itself_decides_and_not_the_model(session: Session, tmp_path: Path) -> None:
    """One weight of the exported file is changed: the checks see it."""
    import onnx
    from onnx import numpy_helper

    cell = Cell("two", "onnx", "fp32")
    artifact = session.artifact(cell)
    model = onnx.load(str(artifact.entry))
    weight = next(i for i in model.graph.initializer if numpy_helper.to_array(i).ndim == 4)
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] += 0.05
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, str(tmp_path / "model.onnx"))
    from parity.session.session import Runtime

    broken = Runtime(session, cell, replace(artifact, folder=tmp_path))
    cases = session.golden(session.config.models["two"])
    recorder = Recorder(cell, "golden")
    oracle = session.reference(session.config.models["two"], cases)
    suite.golden.run(CheckContext(broken, recorder, golden=cases, reference=oracle))
    assert "noise_ratio" in recorder.verdict()
