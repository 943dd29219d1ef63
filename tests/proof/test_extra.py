"""Numbers in a file that the module does not have: named with their shape, on every route; tables of converters are
not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parity import formats
from parity.core.settings import ModelSpec
from parity.formats.graph import TABLE, Constant, Graph, Slot
from parity.proof import extra, prove
from parity.proof.messages import ProofRequest
from tests.proof.seeded import ROOT
from tests.proof.test_operators import export

X = np.random.default_rng(0).uniform(-1, 1, (4, 1, 24)).astype(np.float32)
IDS = np.arange(12).reshape(3, 1, 4)
TARGETS = ("onnx", "torchscript", "exported")


class Net(nn.Module):
    """x [1, 24] -> y [1, 3]; `second`: with another network behind a gate that random inputs do not open."""

    def __init__(self, second: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))
        self.second = nn.Linear(24, 3) if second else None
        self.gate = nn.Parameter(torch.randn(24).sign()[:, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return y if self.second is None else y + (50 * (x @ self.gate - 22)).sigmoid() * self.second(x)


class Words(nn.Module):
    """ids [1, 4] -> y [1, 5]; `row`: one id has something added, from a table of nothing else."""

    def __init__(self, row: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 5)
        self.row = nn.Parameter(torch.eye(40)[:, 17:18] * 5) if row else None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y = self.table(ids).mean(1)
        return y if self.row is None else y + nn.functional.embedding(ids, self.row).mean(1)


class Recurrent(nn.Module):
    """x [1, 24] -> y [1, 3], in 6 steps of 4 values, by two layers of a kind, the second both ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        cell = {"gru": nn.GRU, "lstm": nn.LSTM}[kind]
        self.one, self.both = cell(4, 16, batch_first=True), cell(16, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, _ = self.one(x.reshape(1, 6, 4))
        steps, _ = self.both(steps)
        return self.head(steps[:, -1])


def gru() -> nn.Module:
    torch.manual_seed(0)
    return Recurrent("gru").eval().requires_grad_(False)


def lstm() -> nn.Module:
    torch.manual_seed(0)
    return Recurrent("lstm").eval().requires_grad_(False)


def net(second: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return Net(second).eval().requires_grad_(False)


def words(row: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return Words(row).eval().requires_grad_(False)


def counts(folder: Path, target: str, file: nn.Module, factory: str, name: str, cases: Any) -> list[int]:
    """How many numbers each constant has that nothing of the module explains."""
    notes = export(file, target, folder, cases[0])
    with torch.no_grad():
        wants = [{"y": file(torch.from_numpy(case)).double().numpy()} for case in cases]
    notes |= {"inputs": {name: {"name": "ids"}}, "outputs": {"y": {"name": "y"}}}
    if target == "onnx":
        import onnx

        model = onnx.load(folder / "m.onnx")
        notes["outputs"] = {"y": {"name": model.graph.output[0].name}}
    spec = ModelSpec(str(ROOT), f"tests.proof.test_extra:{factory}", {})
    part = formats.get(target).graph
    request = ProofRequest(spec, part, "fp32", str(folder), notes, [{name: case} for case in cases], ["y"], [])
    link = prove(dataclasses.replace(request, wants=wants)).link("match")
    return [entry["count"] for entry in link.figures["unexplained"]]


@pytest.mark.parametrize("target", TARGETS)
def test_a_second_network_is_named(tmp_path: Path, target: str) -> None:
    assert counts(tmp_path, target, net(second=True), "net", "x", X) in ([72, 24], [72])
    assert counts(tmp_path, target, net(), "net", "x", X) == []


@pytest.mark.parametrize("target", TARGETS)
def test_a_table_beside_the_table_is_named(tmp_path: Path, target: str) -> None:
    assert counts(tmp_path, target, words(row=True), "words", "ids", IDS) == [40]
    assert counts(tmp_path, target, words(), "words", "ids", IDS) == []


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_biases_that_a_converter_joins_gate_by_gate_are_the_modules(tmp_path: Path, kind: str) -> None:
    file = {"gru": gru, "lstm": lstm}[kind]()
    assert counts(tmp_path, "onnx", file, kind, "x", X) == []


RANDOM = np.random.default_rng(3).normal(size=(16, 24)).astype(np.float32)
RESIZE = np.array([[max(0.0, 1 - abs(i / 2 - j)) for j in range(12)] for i in range(23)], np.float32)
PLAIN = {
    "few": RANDOM[0, :8],
    "one value": np.full((4, 9), 0.3, np.float32),
    "positions": np.arange(30, dtype=np.float32)[:, None] * 0.5 + 2,
    "a causal mask": np.where(np.tri(16), 0, -np.inf).astype(np.float32),
    "a resize": RESIZE,
}


def left(values: Any, source: Any, role: Any = "operand", layout: str = "") -> bool:
    constant = Constant("c", values, None, (Slot(0, role, layout),))
    graph = Graph((), {"c": constant}, {}, (), (), False, False)
    return bool(extra.unexplained(graph, (), source))


@pytest.fixture
def source() -> Any:
    from parity.proof.source import export as exported

    return exported(net(), [torch.from_numpy(X[0])])


@pytest.mark.parametrize("name", PLAIN)
def test_a_table_of_a_converter_is_no_weight(name: str, source: Any) -> None:
    assert not left(PLAIN[name], source)


def test_parts_of_a_tensor_are_explained(source: Any) -> None:
    weight = np.asarray(source.tensors["body.0.weight"].float().numpy())
    assert not left(weight[3:9].T, source, "weight", "IO")
    assert not left(weight[3:9].astype(np.float16), source, "weight", "IO")
    assert not left(-weight[5, ::-1], source)


def test_what_looks_like_a_mask_is_one_only_beside_activations(source: Any) -> None:
    assert left(RANDOM, source) and left(np.sign(RANDOM), source) and left((RANDOM > 0).astype(np.float32), source)
    one = np.eye(40, dtype=np.float32)[:, 17:18]
    assert left(one, source, "weight", TABLE)
