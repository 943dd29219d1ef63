"""Files made in toolchains of their own, installed for the purpose: minutes and gigabytes, so nightly alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from parity import config as configuration
from parity import formats as targets
from parity.core.errors import ParityError
from parity.process.toolchains import environments, interpreters
from parity.process.toolchains.definitions import BUILT_IN, off_platform, recipe
from parity.process.toolchains.resolving import resolve
from parity.session import toolchains
from parity.session.session import Session
from parity.store.cache import Store

MODEL = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 8 * 8, 6)]
    return nn.Sequential(*layers).eval()
"""
PROJECT = """
[tool.parity]
targets = ["tflite"]
precisions = ["fp32", "fp16", "dynamic", "int8"]
[tool.parity.models.net]
factory = "net_of_toolchains:net"
inputs = [{ name = "image", shape = [1, 3, 16, 16], range = [-2, 2] }]
outputs = [{ name = "scores" }]
calibration = "calibration"
cells = [CELLS]
"""
CELLS = {
    "onnx2tf": [f"tflite-{p}" for p in ("fp32", "fp16", "dynamic", "int8")],
    "litert": [f"tflite-{p}" for p in ("fp32", "fp16", "dynamic", "int8")],
    "coremltools": ["coreml-fp32", "coreml-fp16"],
    "pnnx": ["ncnn-fp32", "ncnn-fp16"],
    "coreai": ["coreai-fp32", "coreai-fp16"],
}
WITHIN = {"fp32": 1e-5, "fp16": 1e-2, "dynamic": 0.05, "int8": 0.1}
"""The largest error, as a share of the largest output: a wrong file is off by far more."""


@pytest.fixture(params=CELLS)
def session(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A session whose only way to the format is this toolchain, made of its lock in a cache folder of the test's."""
    name = request.param
    lock, python = Path(environments.__file__).with_name(f"{name}.txt"), BUILT_IN[name].pythons[0]
    try:
        interpreters.find((python,))
    except ParityError as error:
        pytest.skip(str(error))
    if reason := off_platform(name, None):
        pytest.skip(reason)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "net_of_toolchains.py").write_text(MODEL)
    (tmp_path / "calibration").mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        picture = rng.uniform(-2, 2, (1, 3, 16, 16)).astype(np.float32)
        np.savez(tmp_path / "calibration" / f"{i}.npz", image=picture)
    text = PROJECT.replace("[CELLS]", str(CELLS[name]).replace("'", '"'))
    text += f'[tool.parity.toolchains.{name}]\nlock = "{lock}"\npython = "{python}"\n'
    config = configuration.parse(text, tmp_path / "pyproject.toml", targets.facts())
    target = config.cells[0].target
    config = toolchains.choose(config, [f"{target}={name}"])
    environments.install(recipe(name, config.toolchains[name]), print)
    opened = Session(config, name, store=Store(tmp_path / "store"))
    yield opened
    opened.close()


@pytest.mark.nightly
def test_files_by_a_toolchain_are_right(session: Session) -> None:
    model = session.config.models["net"]
    cases = session.calibration(model)[:4]
    want = session.reference(model, cases).outputs
    scale = max(float(np.abs(w["scores"]).max()) for w in want)
    for cell in session.config.cells:
        assert toolchains.unavailable(session.config, cell) is None
        rows = session.runtime(cell).run([case.inputs for case in cases])
        off = max(float(np.abs(r["scores"] - w["scores"]).max()) for r, w in zip(rows, want, strict=True))
        assert off < WITHIN[cell.precision] * scale, cell
        made = session.artifact(cell).toolchain
        assert made is not None and made.name == session.run and len(made.lock) == 64, cell


IDS = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 6)).eval()
"""


@pytest.mark.skipif(not resolve("litert").python, reason="parity tools install litert has not been run")
def test_integer_inputs_calibrate_as_the_file_takes_them(tmp_path: Path) -> None:
    """litert-torch turns int64 inputs into int32, which the quantiser's calibrator does not."""
    (tmp_path / "ids_of_toolchains.py").write_text(IDS)
    (tmp_path / "calibration").mkdir()
    for i in range(4):
        ids = np.random.default_rng(i).integers(0, 20, (1, 6))
        np.savez(tmp_path / "calibration" / f"{i}.npz", ids=ids)
    text = PROJECT.replace("[CELLS]", '["tflite-int8"]').replace("net_of", "ids_of")
    text = text.replace('"image", shape = [1, 3, 16, 16], range = [-2, 2]', '"ids", shape = [1, 6], dtype = "int64"')
    config = configuration.parse(text, tmp_path / "pyproject.toml", targets.facts())
    config = toolchains.choose(config, ["tflite=litert"])
    opened = Session(config, "ids", store=Store(tmp_path / "store"))
    try:
        cases = opened.calibration(config.models["net"])
        rows = opened.runtime(config.cells[0]).run([case.inputs for case in cases])
        want = opened.reference(config.models["net"], cases).outputs
        off = max(float(np.abs(r["scores"] - w["scores"]).max()) for r, w in zip(rows, want, strict=True))
        assert off < 0.1
    finally:
        opened.close()
