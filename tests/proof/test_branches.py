"""ONNX files that branch by the sizes of their inputs: proved on the branch that golden data take."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from parity.core.proof import LEFT_OUT, Proof
from parity.core.settings import ModelSpec
from parity.formats.onnx.target import Onnx
from parity.proof import prove
from parity.proof.messages import ProofRequest
from tests.proof.seeded import ROOT

RNG = np.random.default_rng(0)
CASES = [{"x": RNG.standard_normal((rows, 12)).astype(np.float32)} for rows in (2, 3, 5)]


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8)).eval()


def exported(folder: Path) -> Any:
    pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(made(), (torch.from_numpy(CASES[0]["x"]),), folder / "plain.onnx", dynamo=False,
                          input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "batch"}})  # fmt: skip
    return onnx.load(folder / "plain.onnx")


def behind_an_if(model: Any, largest: int, compared: str = "rows", inside: bool = False) -> Any:
    """The model as the branch for at most `largest` rows of an If; the other branch is the same with its result
    negated. `inside`: the constants are the branches' own."""
    graph = model.graph
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    other = [*graph.node, helper.make_node("Neg", ["y"], ["turned"])]
    turned = helper.make_tensor_value_info("turned", TensorProto.FLOAT, None)
    constants = list(graph.initializer)
    held = constants if inside else []
    then = helper.make_graph(list(graph.node), "then", [], [result], held)
    orelse = helper.make_graph(other, "else", [], [turned], held)
    sizes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "first"], ["rows"], axis=0),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["total"], to=TensorProto.INT64),
        helper.make_node("LessOrEqual", [compared, "largest"], ["few"]),
        helper.make_node("If", ["few"], ["result"], then_branch=then, else_branch=orelse),
    ]
    numbers = {"first": 0, "largest": largest}
    stored = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in numbers.items()]
    outputs = [helper.make_tensor_value_info("result", TensorProto.FLOAT, ["batch", 8])]
    whole = helper.make_graph(sizes, "g", list(graph.input), outputs, stored + ([] if inside else constants))
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def proof(folder: Path, model: Any, cases: list[dict[str, Any]] | None = None) -> Proof:
    onnx.save(model, folder / "model.onnx")
    said = {"entry": "model.onnx", "inputs": {"x": {"name": "x"}}, "outputs": {"y": {"name": "result"}}}
    module = ModelSpec(str(ROOT), "tests.proof.test_branches:made", {})
    return prove(
        ProofRequest(module, Onnx.graph, "fp32", str(folder), said, CASES if cases is None else cases, ["y"],
                     constants=Onnx.constants)
    )  # fmt: skip


def negated(model: Any, place: int = 0) -> Any:
    held = next(i for i in model.graph.initializer if i.dims[:] == [[16, 12], [8, 16]][place])
    held.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(held), held.name))
    return model


@pytest.mark.parametrize("inside", [False, True])
def test_a_right_file_behind_an_if_is_proved(tmp_path: Path, inside: bool) -> None:
    proved = proof(tmp_path, behind_an_if(exported(tmp_path), 9, inside=inside))
    assert proved.complete, proved.summary


def test_a_wrong_weight_behind_an_if_is_named(tmp_path: Path) -> None:
    failed = proof(tmp_path, behind_an_if(negated(exported(tmp_path), 1), 9))
    assert failed.state == "failed" and "audit: 2.weight" in failed.summary, failed.summary


def test_cases_of_the_other_branch_are_left_out_and_counted(tmp_path: Path) -> None:
    proved = proof(tmp_path, behind_an_if(exported(tmp_path), 3))
    assert proved.state == "proved", proved.summary
    assert proved.link("match").figures[LEFT_OUT] == 1


def test_a_branch_inside_a_branch_is_taken_too(tmp_path: Path) -> None:
    inner = behind_an_if(exported(tmp_path), 9)
    sizes = helper.make_node("Size", ["x"], ["many"])
    enough = helper.make_node("Greater", ["many", "none"], ["some"])
    then = helper.make_graph(list(inner.graph.node), "then", [], [helper.make_tensor_value_info("result", 1, None)])
    empty = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [],
                              [helper.make_tensor_value_info("e", 1, None)])  # fmt: skip
    chosen = helper.make_node("If", ["some"], ["result"], then_branch=then, else_branch=empty)
    none = numpy_helper.from_array(np.array(0, np.int64), "none")
    graph = helper.make_graph([sizes, enough, chosen], "g", list(inner.graph.input), list(inner.graph.output),
                              [none, *inner.graph.initializer])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    proved = proof(tmp_path, model)
    assert proved.complete, proved.summary


def test_what_values_decide_stays_a_branch(tmp_path: Path) -> None:
    said = proof(tmp_path, behind_an_if(exported(tmp_path), 9, compared="total"))
    assert said.state == "not possible" and "sub-graphs (If)" in said.summary
