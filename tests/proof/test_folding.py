"""Parts of a file that follow from constants alone: the audit holds what they make, not what they start from."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from parity import formats as targets
from parity.core.proof import Proof
from parity.core.settings import ModelSpec
from parity.formats.onnx import folding
from parity.formats.onnx import graph as onnx_graph
from parity.formats.tflite import graph as tflite
from parity.proof import prove
from parity.proof.messages import ProofRequest
from tests.proof import test_tables as tables
from tests.proof.edits import Edit, edited
from tests.proof.seeded import ROOT, notes

ROWS = 120
CASES = [{"ids": np.arange(3, 9)[None] + number} for number in range(3)]
FILES = {"onnx": "model.onnx", "torchscript": "model.pt", "exported": "model.pt2"}
Change = Callable[[Any], None]


class Words(nn.Module):
    """ids [batch, 6] -> [batch, 5]: a table, a recurrent layer, attention, a convolution with a computed weight.

    `kind`: whether a row of the table is another's, or a few of its numbers are others.
    """

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.kind, self.table, self.places = kind, nn.Embedding(ROWS, 16), nn.Parameter(torch.randn(32, 16))
        self.gru, self.queries = nn.GRU(16, 16, batch_first=True), nn.Linear(16, 16)
        self.conv = parametrizations.weight_norm(nn.Conv1d(16, 16, 3, padding=1))
        self.head = nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        table = self.table.weight
        if self.kind == "another row":
            table = torch.cat([table[:99], table[98:99], table[100:]])
        if self.kind == "few numbers":
            table = torch.cat([table[:99], table[99:100] + 1, table[100:]])
        x = F.embedding(ids, table) + self.places[: ids.shape[1]]
        x = self.gru(x)[0]
        x = torch.softmax(self.queries(x) @ x.transpose(1, 2) / 4, -1) @ x
        return self.head(torch.relu(self.conv(x.transpose(1, 2))).mean(2))


def made(kind: str = "") -> nn.Module:
    torch.manual_seed(0)
    return Words(kind).eval().requires_grad_(False)


def write(folder: Path, target: str, kind: str = "", how: str = "plain") -> None:
    module, path, ids = made(kind), folder / FILES[target], torch.from_numpy(CASES[0]["ids"])
    module = Half(module).eval() if how == "half" else module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if target == "torchscript":
            script = torch.jit.trace(module, ids, check_trace=False)
            (torch.jit.freeze(script) if how == "frozen" else script).save(str(path))
        elif target == "exported":
            torch.export.save(torch.export.export(module, (ids,), strict=False), path)
        else:
            more: dict[str, Any] = {"dynamo": True, "verbose": False} if how == "dynamo" else {"dynamo": False}
            if how == "unfolded":
                more["do_constant_folding"] = False
            torch.onnx.export(module, (ids,), path, input_names=["ids"], output_names=["y"], **more)


def proof(folder: Path, target: str, precision: str = "fp32") -> Proof:
    part = targets.get(target)
    given = {"entry": FILES[target], "inputs": {"ids": {"name": "ids"}}, "outputs": {"y": {"name": "y"}}}
    spec = ModelSpec(str(ROOT), "tests.proof.test_folding:made", {})
    return prove(ProofRequest(spec, part.graph, precision, str(folder), given, CASES, ["y"], survey=part.survey,
                              constants=part.constants))  # fmt: skip


HOW = [("onnx", "plain"), ("onnx", "unfolded"), ("onnx", "dynamo"), ("torchscript", "plain"),
       ("torchscript", "frozen"), ("exported", "plain")]  # fmt: skip


@pytest.mark.parametrize(("target", "how"), HOW)
def test_a_right_file_is_proved_and_all_of_it_is_explained(tmp_path: Path, target: str, how: str) -> None:
    write(tmp_path, target, how=how)
    found = proof(tmp_path, target)
    assert found.state == "proved", found.summary
    assert found.link("match").figures["unexplained"] == []
    assert found.link("operators").figures["unexplained"] == []
    assert "copies" not in {link.name for link in found.links}


@pytest.mark.parametrize("kind", ["another row", "few numbers"])
@pytest.mark.parametrize(("target", "how"), HOW)
def test_a_row_that_movers_change_is_named(tmp_path: Path, target: str, how: str, kind: str) -> None:
    write(tmp_path, target, kind, how)
    link = proof(tmp_path, target).link("audit")
    assert link.state == "failed"
    assert any("table.weight" in str(culprit) for culprit in link.culprits), link.culprits


class Half(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.half()

    def forward(self, ids: Tensor) -> Tensor:
        return self.module(ids).float()


@pytest.mark.parametrize("kind", ["", "another row"])
@pytest.mark.parametrize("target", ["torchscript", "exported"])
def test_what_half_precision_computes_is_held_where_it_is_moved(tmp_path: Path, target: str, kind: str) -> None:
    """A weight that is normalised in half precision rounds several times."""
    write(tmp_path, target, kind, "half")
    link = proof(tmp_path, target, "fp16").link("audit")
    assert link.state == ("failed" if kind else "proved"), link.culprits
    assert all("table.weight" in str(culprit) for culprit in link.culprits)


# Integers, which are moved before or behind their DequantizeLinear.


def shifted(model: Any, before: bool) -> None:
    """Row 3 of the table becomes row 4, by Slice and Concat."""
    graph = model.graph
    table = next(i.name for i in graph.initializer if i.name.endswith("embed.weight_quantized"))
    if not before:
        reader = next(n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] == table)
        table = reader.output[0]
    readers = [n for n in graph.node if n.op_type == "Gather" and n.input[0] == table]
    assert readers
    for name, value in (("zero", 0), ("three", 3), ("four", 4), ("five", 5), ("end", 1 << 30)):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), f"moved/{name}"))
    pieces = [("zero", "three"), ("four", "five"), ("four", "end")]
    nodes = [
        helper.make_node("Slice", [table, f"moved/{low}", f"moved/{high}", "moved/zero"], [f"moved/{place}"])
        for place, (low, high) in enumerate(pieces)
    ]
    nodes.append(helper.make_node("Concat", [node.output[0] for node in nodes], ["moved/table"], axis=0))
    for reader in readers:
        reader.input[0] = "moved/table"
    place = 1 + max((i for i, n in enumerate(graph.node) if table in n.output), default=-1)
    for node in reversed(nodes):
        graph.node.insert(place, node)


@pytest.mark.parametrize("precision", ["dynamic", "int8"])
def test_moved_integers_are_audited_on_their_grid(exports: Path, tmp_path: Path, precision: str) -> None:
    folder = tables.file(exports, "bag", "onnx", precision)
    model = onnx.load(folder / "model.onnx")
    table = next(i.name for i in model.graph.initializer if i.name.endswith("embed.weight_quantized"))
    before = any(n.op_type == "Gather" and n.input[0] == table for n in model.graph.node)
    edit = Edit("moved row", lambda m: shifted(m, before), "audit", "embed")
    link = tables.proof(edited(folder, tmp_path, edit), "bag", "onnx", precision).link("audit")
    assert link.state == "failed"
    assert any("embed.weight" in culprit.name for culprit in link.culprits), link.culprits


@pytest.mark.parametrize("moved", ["before", "behind"])
def test_folding_keeps_the_grid_and_gives_the_same_to_the_bit(moved: str) -> None:
    """table (uint8) -> Slice, Slice -> Concat, with DequantizeLinear before or behind them, all rows in their places"""
    rng = np.random.default_rng(0)
    values = {"table": rng.integers(0, 256, (40, 8)).astype(np.uint8), "scale": np.float32(0.03),
              "zero": np.uint8(120), "a": np.array([0]), "b": np.array([7]), "c": np.array([40])}  # fmt: skip
    dequantise, read = "table", "moved"
    if moved == "behind":
        dequantise, read = "moved", "real"
    start = "real" if moved == "before" else "table"
    nodes = [
        helper.make_node("Slice", [start, "a", "b", "a"], ["first"]),
        helper.make_node("Slice", [start, "b", "c", "a"], ["last"]),
        helper.make_node("Concat", ["first", "last"], ["moved"], axis=0),
    ]
    real = helper.make_node("DequantizeLinear", [dequantise, "scale", "zero"], ["real"])
    nodes.insert(0 if moved == "before" else 3, real)
    nodes.append(helper.make_node("Gather", [read, "ids"], ["y"]))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("ids", 7, [5])],
                              [helper.make_tensor_value_info("y", 1, [5, 8])],
                              [numpy_helper.from_array(np.asarray(v), n) for n, v in values.items()])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    ids = {"ids": np.array([0, 6, 7, 20, 39])}
    want = onnx_graph._open(model, {}, "as written").run(None, ids)[0]
    folding.fold(model)
    assert sorted(n.op_type for n in model.graph.node) == ["DequantizeLinear", "Gather"]
    np.testing.assert_array_equal(onnx_graph._open(model, {}, "as written").run(None, ids)[0], want)


def test_a_table_that_no_reader_folds_is_looked_at_row_by_row(exports: Path, tmp_path: Path) -> None:
    """table -> GATHER(ids) becomes table -> REVERSE_V2 -> REVERSE_V2 -> GATHER(ids), all constants right."""

    def turned(model: Any) -> None:
        graph = model.subgraphs[0]
        place = next(i for i, op in enumerate(graph.operators) if tflite.kind(model, op) == "GATHER")
        table = int(graph.operators[place].inputs[0])
        given = graph.tensors[table]
        model.buffers.append(copy.deepcopy(model.buffers[0]))
        model.buffers[-1].data = np.frombuffer(np.array([0], np.int32).tobytes(), np.uint8)
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.REVERSE_V2
        code.version = 1
        model.operatorCodes.append(code)
        axis = schema.TensorT()
        axis.shape, axis.type, axis.buffer, axis.name = [1], schema.TensorType.INT32, len(model.buffers) - 1, b"axis"
        graph.tensors.append(axis)
        number = len(graph.tensors) - 1
        for step in range(2):
            result = copy.deepcopy(given)
            result.buffer, result.name = 0, f"turned{step}".encode()
            graph.tensors.append(result)
            op = schema.OperatorT()
            op.opcodeIndex, op.inputs = len(model.operatorCodes) - 1, [table, number]
            op.outputs = [len(graph.tensors) - 1]
            graph.operators.insert(place + step, op)
            table = len(graph.tensors) - 1
        reader = graph.operators[place + 2]
        reader.inputs = [table, *reader.inputs[1:]]

    folder = edited(tables.file(exports, "bag", "tflite", "fp32"), tmp_path, Edit("turned", turned, "copies", "embed"))
    part = targets.get("tflite")
    given = tables.cases(tables.WORDS, 2)
    found = prove(ProofRequest(tables.spec("bag"), part.graph, "fp32", str(folder), notes(folder), given, ["y"],
                               constants=part.constants))  # fmt: skip
    assert found.link("copies").figures["unaudited"] == {"ids": tables.WORDS}


# Sparse constants.


def sparse(model: Any, how: str) -> None:
    """What is looked up gets the row of a second, sparse table added."""
    graph = model.graph
    values = helper.make_tensor("extra", 1, [16], np.linspace(1, 2, 16, dtype=np.float32))
    indices = helper.make_tensor("places", 7, [16, 2], np.stack([np.full(16, 99), np.arange(16)], 1).reshape(-1))
    held = helper.make_sparse_tensor(values, indices, [ROWS, 16])
    reader = next(n for n in graph.node if n.op_type == "Gather" and "ids" in n.input)
    result = reader.output[0]
    reader.output[0] = "looked/up"
    place = 1 + list(graph.node).index(reader)
    nodes = [
        helper.make_node("Gather", ["extra", "ids"], ["more"]),
        helper.make_node("Add", ["looked/up", "more"], [result]),
    ]
    if how == "initializer":
        graph.sparse_initializer.append(held)
    else:
        nodes.insert(0, helper.make_node("Constant", [], ["extra"], sparse_value=held))
    for node in reversed(nodes):
        graph.node.insert(place, node)


@pytest.mark.parametrize("how", ["initializer", "node"])
def test_a_sparse_constant_is_read_as_what_it_holds(tmp_path: Path, how: str) -> None:
    write(tmp_path, "onnx")
    model = onnx.load(tmp_path / "model.onnx")
    sparse(model, how)
    onnx.save(model, tmp_path / "model.onnx")
    (entry,) = proof(tmp_path, "onnx").link("match").figures["unexplained"]
    assert (entry["name"], entry["shape"]) == ("extra", [ROWS, 16])


def test_a_sparse_constant_may_say_places_in_the_flat_tensor() -> None:
    values = helper.make_tensor("s", 1, [3], np.array([1, 2, 3], np.float32))
    indices = helper.make_tensor("places", 7, [3], np.array([0, 5, 11]))
    graph = helper.make_graph([], "g", [], [], sparse_initializer=[helper.make_sparse_tensor(values, indices, [3, 4])])
    folding.densify(graph)
    want = np.zeros((3, 4), np.float32)
    want[0, 0], want[1, 1], want[2, 3] = 1, 2, 3
    np.testing.assert_array_equal(numpy_helper.to_array(graph.initializer[0]), want)


# What recurrent operators do besides.


def test_a_clip_of_a_recurrent_operator_is_a_bound(tmp_path: Path) -> None:
    write(tmp_path, "onnx")
    model = onnx.load(tmp_path / "model.onnx")
    recurrent = next(n for n in model.graph.node if n.op_type == "GRU")
    recurrent.attribute.append(helper.make_attribute("clip", 50.0))
    onnx.save(model, tmp_path / "model.onnx")
    (text,) = proof(tmp_path, "onnx").link("operators").figures["unexplained"]
    assert text.startswith("clip ") and text.endswith("GRU/clip with 50"), text
