"""Constants against the module's tensors by value, in files that no chain of proof follows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from parity.core.proof import Link, Proof
from parity.core.settings import ModelSpec
from parity.formats.onnx.target import Onnx
from parity.formats.tflite.target import TFLite
from parity.proof import prove
from parity.proof.messages import ProofRequest
from tests.proof import test_tables as tables
from tests.proof.edits import Edit, edited
from tests.proof.seeded import ROOT, notes

ROWS = 300
CASES = [{"ids": np.arange(3, 11)[None] + number} for number in range(2)]


class Texts(nn.Module):
    """ids [batch, time] -> [batch, time, 300]. `kind`: what is particular about the table, or about the head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.table, self.head = kind, nn.Embedding(ROWS, 12, padding_idx=0), nn.Linear(12, ROWS)
        self.types = nn.Embedding(2, 12)
        with torch.no_grad():
            if kind == "tied":
                self.head.weight = self.table.weight
            if kind == "equal rows":
                self.table.weight[100:] = self.table.weight[99]
            if kind == "pruned":
                prune.ln_structured(self.table, "weight", amount=0.2, n=2, dim=0)
        self.register_buffer("kept", torch.ones(ROWS, 1).index_fill(0, torch.arange(0, ROWS, 9), 0))

    def forward(self, ids: Tensor) -> Tensor:
        if ids.sum() < 0:  # torch.export does not follow it
            return ids.float()
        table = self.table.weight
        if self.kind == "patched":
            table = torch.cat([table[:-8], self.types.weight.repeat(4, 1)])
        if self.kind == "folded":
            table = table + self.types.weight[0]
        x = F.embedding(ids, table)
        weight = self.head.weight * self.kept if self.kind == "masked" else self.head.weight
        if self.kind == "standardised":
            weight = (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)
        return F.linear(torch.relu(x), weight, self.head.bias)


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return Texts(kind).eval()


def spec(kind: str) -> ModelSpec:
    return ModelSpec(str(ROOT), "tests.proof.test_copies:made", {"kind": kind})


def export(folder: Path, kind: str, change: Callable[[np.ndarray], np.ndarray] = lambda values: values) -> None:
    """The ONNX file of a module; `change` edits what is looked up in. Other constants that follow from parameters are
    folded, as optimisers do."""
    onnxruntime = pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(made(kind), (torch.from_numpy(CASES[0]["ids"]),), folder / "plain.onnx", dynamo=False,
                          input_names=["ids"], output_names=["y"])  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "model.onnx")
    onnxruntime.InferenceSession(str(folder / "plain.onnx"), options, providers=["CPUExecutionProvider"])
    model = onnx.load(folder / "model.onnx")
    read = next(node.input[0] for node in model.graph.node if node.op_type == "Gather")
    held = next(i for i in model.graph.initializer if i.name == read)
    held.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(held).copy())), read))
    onnx.save(model, folder / "model.onnx")


def proof(folder: Path, kind: str) -> Proof:
    ports: dict[str, Any] = {"inputs": {"ids": {"name": "ids"}}, "outputs": {"y": {"name": "y"}}}
    given = {"entry": "model.onnx", **ports}
    return prove(
        ProofRequest(spec(kind), Onnx.graph, "fp32", str(folder), given, CASES, ["y"], constants=Onnx.constants)
    )


def copies(found: Proof) -> Link:
    assert found.link("audit").state == "not possible", found.summary
    return found.link("copies")


def other_rows(values: np.ndarray) -> np.ndarray:
    values[200:203] = values[200:203, ::-1] + 1
    return values


def padded(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, np.zeros((20, values.shape[1]), values.dtype)])


KINDS = ("plain", "tied", "equal rows", "pruned", "masked", "patched", "folded", "standardised")


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_file_has_no_fault_and_an_audited_table(tmp_path: Path, kind: str) -> None:
    export(tmp_path, kind)
    link = copies(proof(tmp_path, kind))
    assert link.state == "proved", link
    assert link.figures["unaudited"] == {}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_no_case_reads_are_named(tmp_path: Path, kind: str) -> None:
    export(tmp_path, kind, other_rows)
    link = copies(proof(tmp_path, kind))
    assert link.state == "failed"
    assert "3 of 300 rows: 200, 201, 202" in str(link.culprits[0])


def test_a_padded_vocabulary_is_right_and_its_rows_are_looked_at(tmp_path: Path) -> None:
    export(tmp_path, "plain", padded)
    link = copies(proof(tmp_path, "plain"))
    assert (link.state, link.figures["unaudited"]) == ("proved", {})
    export(tmp_path, "plain", lambda values: padded(other_rows(values)))
    assert copies(proof(tmp_path, "plain")).state == "failed"


def test_a_table_that_resembles_none_is_no_fault_and_is_named(tmp_path: Path) -> None:
    export(tmp_path, "plain", lambda values: values[::-1])
    link = copies(proof(tmp_path, "plain"))
    assert (link.state, link.figures["unaudited"]) == ("proved", {"ids": ROWS})


@pytest.mark.parametrize("factor", [-1, 0.5])
def test_a_multiple_of_a_table_is_no_fault_and_its_rows_are_looked_at(tmp_path: Path, factor: float) -> None:
    export(tmp_path, "plain", lambda values: np.asarray(values * factor, np.float32))
    link = copies(proof(tmp_path, "plain"))
    assert (link.state, link.figures["unaudited"]) == ("proved", {"ids": ROWS})


# Files of reduced precision, read without their graph.


def by_value(folder: Path, kind: str, target: type[Onnx] | type[TFLite], precision: str) -> Link:
    given = tables.cases(tables.WORDS, 2, 2)
    made = prove(
        ProofRequest(
            tables.spec(kind), "", precision, str(folder), notes(folder), given, ["y"], constants=target.constants
        )
    )
    return made.link("copies")


@pytest.mark.parametrize(
    ("target", "precision"),
    [(Onnx, "fp16"), (Onnx, "dynamic"), (Onnx, "int8"), (TFLite, "fp16"), (TFLite, "dynamic"), (TFLite, "int8")],
)
def test_tables_of_reduced_precision_are_copies(
    exports: Path, target: type[Onnx] | type[TFLite], precision: str
) -> None:
    link = by_value(tables.file(exports, "bag", target.name, precision), "bag", target, precision)
    assert link.state == "proved", link.culprits
    assert link.figures["unaudited"] == {}, link


@pytest.mark.parametrize("precision", ["dynamic", "int8"])
def test_a_changed_row_of_integers_is_named(exports: Path, tmp_path: Path, precision: str) -> None:
    edit = Edit("row", lambda m: tables.stored(m, "embed.weight_quantized", tables.other_row), "copies", "embed")
    folder = edited(tables.file(exports, "bag", "onnx", precision), tmp_path, edit)
    assert "1 of 90 rows: 3" in str(by_value(folder, "bag", Onnx, precision).culprits[0])


def test_a_changed_row_of_a_tflite_file_is_named(exports: Path, tmp_path: Path) -> None:
    edit = Edit("row", lambda m: tables.values(m, tables.other_row), "copies", "embed")
    folder = edited(tables.file(exports, "bag", "tflite", "int8"), tmp_path, edit)
    assert "1 of 90 rows: 3" in str(by_value(folder, "bag", TFLite, "int8").culprits[0])


def test_a_table_that_the_chain_audits_is_not_looked_at_again(exports: Path) -> None:
    folder = tables.file(exports, "bag", "onnx", "int8")
    found = prove(
        ProofRequest(
            tables.spec("bag"), Onnx.graph, "int8", str(folder), notes(folder), tables.cases(tables.WORDS, 2), ["y"],
            tables.cases(tables.SEEN, 1), constants=Onnx.constants,
        )
    )  # fmt: skip
    assert "copies" not in {link.name for link in found.links}
