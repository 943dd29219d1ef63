"""ONNX files that give something else with several threads than with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.formats import serve

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
