"""ONNX files that give something else with several threads than with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import config as configuration
from parity import formats as targets
from parity import suite
from parity.core.plan import Cell
from parity.formats import serve
from parity.session.session import Session
from parity.store.cache import Store
from parity.suite.check_kind import CheckContext
from parity.suite.recorder import Recorder

X = np.array([[1.0, 2.0, 3.0]], np.float32)
ROWS = 400000


def scattering(folder: Path, distinct: bool, reduction: str) -> None:
    """Writes x [1, 3] into rows, the last of all with what counts."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    h: Any = onnx.helper
    places = np.arange(4 * ROWS)[:, None] if distinct else np.zeros((4 * ROWS, 1))
    data = np.zeros((4 * ROWS if distinct else 1, 3), np.float32)
    factors = np.concatenate([np.full(3 * ROWS, -3.0), np.ones(ROWS)]).astype(np.float32)[:, None]
    constants = {"places": places.astype(np.int64), "data": data, "factors": factors}
    nodes = [
        h.make_node("Mul", ["x", "factors"], ["rows"]),
        h.make_node("ScatterND", ["data", "places", "rows"], ["y"], reduction=reduction),
    ]
    value = h.make_tensor_value_info
    graph = h.make_graph(nodes, "g", [value("x", 1, [1, 3])], [value("y", 1, list(data.shape))],
                         [onnx.numpy_helper.from_array(v, n) for n, v in constants.items()])  # fmt: skip
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "m.onnx")


@pytest.mark.parametrize(
    ("distinct", "reduction", "racing"), [(False, "none", True), (True, "none", False), (False, "max", False)]
)
def test_a_scatter_to_one_place_in_no_fixed_order(tmp_path: Path, distinct: bool, reduction: str, racing: bool) -> None:
    scattering(tmp_path, distinct, reduction)
    notes = {"entry": "m.onnx", "inputs": {"x": {"name": "x"}}, "outputs": {"y": {"name": "y"}}}
    opened = serve.open_session(serve.OpenRequest("parity.formats.onnx.runtime:OrtSession", str(tmp_path), notes))
    try:
        found = serve.otherwise(serve.RunRequest(opened.handle, [{"x": X}]))
        assert found == ([serve.Otherwise("4 threads", ["y"])] if racing else [])
    finally:
        serve.close_session(opened.handle)


CONFIG = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32"]
[tool.parity.models.net]
factory = "torch.nn:Identity"
inputs = [{ name = "step", shape = [1], dtype = "int64", range = [0, 9] }]
outputs = [{ name = "y" }]
golden = "golden"
artifacts = { "onnx-fp32" = "m.onnx" }
"""


@pytest.mark.parametrize("step", [0, 1])
def test_a_scatter_that_goes_to_one_place_for_a_golden_case_alone(tmp_path: Path, step: int) -> None:
    """Row i goes to place i * step: to the first for a step of 0, each to its own for any other."""
    onnx = pytest.importorskip("onnx")
    h: Any = onnx.helper
    count = 1600033  # a prime
    constants = {"rows": np.arange(count)[:, None], "most": np.array(count), "data": np.zeros((count, 3), np.float32),
                 "values": np.random.default_rng(0).random((count, 3), np.float32)}  # fmt: skip
    nodes = [h.make_node("Mul", ["rows", "step"], ["far"]), h.make_node("Mod", ["far", "most"], ["places"]),
             h.make_node("ScatterND", ["data", "places", "values"], ["all"]),
             h.make_node("Gather", ["all", "first"], ["y"])]  # fmt: skip
    constants["first"] = np.arange(2)
    value = h.make_tensor_value_info
    graph = h.make_graph(nodes, "g", [value("step", 7, [1])], [value("y", 1, [2, 3])],
                         [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()])  # fmt: skip
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "golden").mkdir()
    for number in range(2):
        np.savez(tmp_path / "golden" / f"{number}.npz", step=np.array([step if number else 1]))
    (tmp_path / "pyproject.toml").write_text(CONFIG)
    session = Session(
        configuration.load(tmp_path / "pyproject.toml", targets.facts()), "test", store=Store(tmp_path / "cache")
    )
    try:
        assert session.example(session.config.models["net"])["step"][0] > 0
        recorder = Recorder(Cell("net", "onnx", "fp32"), "contract")
        suite.contract.run(CheckContext(session.runtime(recorder.cell), recorder))
    finally:
        session.close()
    warned = [f.text for f in recorder.findings if f.text.startswith("with 4 threads y are not what one thread gives")]
    assert len(warned) == (step == 0)
