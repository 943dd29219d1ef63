"""A reference that is an ONNX file runs in float32 as its users run it: bit for bit as ONNX Runtime does."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from parity.core.settings import REFERENCE_FACTORY, ModelSpec  # noqa: E402
from parity.reference import oracle, plain  # noqa: E402
from parity.reference.messages import OracleRequest, PlainRequest  # noqa: E402


def test_an_onnx_reference_in_float32_is_onnx_runtimes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array((rng.standard_normal((300, 300)) * 0.5).astype(np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Sigmoid", ["h"], ["y"])]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 300]) for n in "xy")
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [weight]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    file = tmp_path / "net.onnx"
    onnx.save(model, str(file))
    spec = ModelSpec(
        str(tmp_path), REFERENCE_FACTORY, {"inputs": ["x"], "outputs": ["y"], "content": []}, reference=str(file)
    )
    case = {"x": rng.standard_normal((4, 300)).astype(np.float32)}
    theirs = onnxruntime.InferenceSession(str(file)).run(["y"], case)[0]
    (row,) = plain.evaluate(PlainRequest(spec, [case], ["y"], False)).outputs
    np.testing.assert_array_equal(row["y"].astype(np.float32), theirs)
    exact = oracle.evaluate(OracleRequest(spec, [case], ["y"]))
    assert exact.dtype == "float64" and not np.array_equal(exact.outputs[0]["y"].astype(np.float32), theirs)


def test_a_script_whose_operators_take_any_number_of_arguments_runs_in_float64(tmp_path: Path) -> None:
    import torch

    from parity.reference.torch_files import Script

    class Checked(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[0] > 9:
                raise ValueError(f"at most {9} rows of {x.shape[1]}, given are {x.shape[0]}")
            return x / 3

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, by other words in each version
        torch.jit.save(torch.jit.script(Checked()), tmp_path / "net.pt")
    x = torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(Script(tmp_path / "net.pt").double()(x), x / 3)
