"""The Core AI target: which interpreter it uses, what it says where there is none, and a file made and run."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from parity import config
from parity import formats as targets
from parity.core.plan import Cell
from parity.core.settings import ToolchainConfig
from parity.formats import target as base
from parity.process.toolchains.resolving import resolve
from parity.session import toolchains

ROOT = Path(__file__).parents[2]
CELL = Cell("skin", "coreai", "fp32")


@pytest.fixture(scope="module")
def project():
    return config.load(ROOT / "pyproject.toml", targets.facts())


def test_an_environment_that_is_named_exports_and_runs(project):
    target = targets.get("coreai")
    with_one = replace(project, toolchains={"coreai": ToolchainConfig(python=sys.executable)})
    assert toolchains.python_of(with_one, target) == sys.executable
    *_, step = target.routes(CELL, project.models["skin"], with_one)[0].steps
    assert step.toolchain == "coreai"
    absent = replace(project, toolchains={"coreai": ToolchainConfig(python="/no/such/python")})
    assert toolchains.python_of(absent, target) == sys.executable
    why = toolchains.toolchain(absent, "coreai").why
    assert why == "[tool.parity.toolchains.coreai]: /no/such/python: cannot be started: No such file or directory"
    assert toolchains.python_of(absent, targets.get("onnx")) == sys.executable


def test_without_wheels_or_toolchain_it_is_unavailable_and_says_what_helps(project, monkeypatch):
    target, model = targets.get("coreai"), project.models["skin"]
    monkeypatch.setattr(base, "installed", lambda module: module == "torch")
    reason = target.unavailable(CELL, model, sys.executable)
    assert reason == "coreai_torch, coreai not installed: parity tools install coreai"
    assert target.unavailable(CELL, model, "/elsewhere/python") is None
    assert "no int8 route" in target.unavailable(replace(CELL, precision="int8"), model, "/elsewhere/python")


@pytest.mark.skipif(not resolve("coreai").python, reason="parity tools install coreai has not been run")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_file_is_made_and_run(project, precision, tmp_path):
    import numpy as np

    from parity.session.session import Session
    from parity.store.cache import Store

    session = Session(project, "coreai-test", store=Store.at(str(tmp_path / "cache"), project.root))
    try:
        model, cell = project.models["golfiq_lite"], Cell("golfiq_lite", "coreai", precision)
        cases = session.golden(model)[:3]
        want = session.reference(model, cases).outputs
        runtime = session.runtime(cell)
        got = runtime.run([c.inputs for c in cases])
        error = max(float(np.abs(g["logits"] - w["logits"]).max()) for g, w in zip(got, want, strict=True))
        scale = max(float(np.abs(w["logits"]).max()) for w in want)
        assert error < (1e-5 if precision == "fp32" else 2e-2) * scale
        assert error > 0
        record = runtime.record()
        assert (record.executor, record.name) == ("coreai-runtime", "coreai-core")
        assert record.version != "absent"
        assert runtime.description["inputs"][0]["shape"] == [1, 3, 64, 64]
    finally:
        session.close()
