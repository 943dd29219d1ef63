"""Tables in which integers are looked up: each converter keeps their quantisation parameters at another place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from parity import formats as targets
from parity.core.proof import Proof
from parity.core.settings import ModelSpec
from parity.formats.onnx import graph as onnx_graph
from parity.formats.onnx import rewriting
from parity.formats.tflite import graph as tflite
from parity.proof import prove
from parity.proof.messages import ProofRequest
from tests.proof.edits import Edit, edited
from tests.proof.seeded import ROOT, Subject, convert, notes

WORDS, SEEN = 90, 40


class Tagger(nn.Module):
    """A tag for every token, by a recurrent layer, beside what the tokens say by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(torch.cat([self.rnn(x)[0], torch.tanh(x)], -1))


class Bag(nn.Module):
    """Words of a text in any order: enough layers for the calibration of a file to be told from another's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 24)
        self.layers = nn.ModuleList(nn.Linear(24, 24) for _ in range(4))
        self.head = nn.Linear(24, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x.mean(1))


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    module = {"tagger": Tagger, "bag": Bag}[kind]()
    with torch.no_grad():
        furthest = 1.15 * module.embed.weight.abs().max()
        module.embed.weight[SEEN + 1, 0] = furthest  # in a row that calibration does not look up
    return module.eval()


def spec(kind: str) -> ModelSpec:
    return ModelSpec(str(ROOT), "tests.proof.test_tables:made", {"kind": kind})


def cases(words: int, seed: int, count: int = 16) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"ids": rng.integers(0, words, (1, 8))} for _ in range(count)]


def file(exports: Path, kind: str, target: str, precision: str) -> Path:
    """A file whose calibration data looks up only some of the rows."""
    contract = {"inputs": [{"name": "ids", "shape": [1, 8], "dtype": "int64"}], "outputs": [{"name": "y"}]}
    return convert(Subject(f"tables-{kind}", spec(kind), contract, cases(SEEN, 1)), exports, target, (precision,))[
        precision
    ]


def proof(folder: Path, kind: str, target: str, precision: str) -> Proof:
    reader = targets.get(target).graph
    return prove(
        ProofRequest(spec(kind), reader, precision, str(folder), notes(folder), cases(WORDS, 2), ["y"], cases(SEEN, 1))
    )


def states(found: Proof) -> dict[str, str]:
    return {link.name: link.state for link in found.links}


# What ONNX Runtime leaves: dynamic files dequantise behind the look-up, int8 files keep the table's scale behind it.


def stored(model: Any, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change an initializer whose name ends so."""
    held = next(i for i in model.graph.initializer if i.name.endswith(name))
    held.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(held).copy()), held.name))


def other_row(table: np.ndarray) -> np.ndarray:
    table[3] = table[4]
    return table


def one_reader(model: Any) -> None:
    """One of the two that turn what was looked up into reals does so with another scale."""
    readers = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and "embed.weight_scale" in n.input[1]]
    assert len(readers) == 2
    scale = next(i for i in model.graph.initializer if i.name == readers[1].input[1])
    wrong = numpy_helper.from_array(np.asarray(numpy_helper.to_array(scale) * np.float32(1.03)), "wrong_scale")
    model.graph.initializer.append(wrong)
    readers[1].input[1] = "wrong_scale"


ONNX = [
    Edit("another row", lambda m: stored(m, "embed.weight_quantized", other_row), "audit", "embed.weight"),
    Edit("zero point", lambda m: stored(m, "embed.weight_zero_point", lambda z: z + z.dtype.type(2)), "audit", "embed"),
    Edit("scale", lambda m: stored(m, "embed.weight_scale", lambda s: s * np.float32(1.03)), "audit|lift", "embed"),
]


@pytest.mark.parametrize(("kind", "precision"), [("tagger", "dynamic"), ("bag", "dynamic"), ("bag", "int8")])
def test_a_right_onnx_file_is_proved(exports: Path, kind: str, precision: str) -> None:
    found = proof(file(exports, kind, "onnx", precision), kind, "onnx", precision)
    assert found.state == "proved", found.summary


@pytest.mark.parametrize("precision", ["dynamic", "int8"])
@pytest.mark.parametrize("edit", ONNX, ids=lambda e: e.name)
def test_a_wrong_table_of_an_onnx_file_is_found(exports: Path, tmp_path: Path, edit: Edit, precision: str) -> None:
    kind = {"dynamic": "tagger", "int8": "bag"}[precision]
    found = proof(edited(file(exports, kind, "onnx", precision), tmp_path, edit), kind, "onnx", precision)
    assert found.state == "failed", found.summary


def test_two_readers_of_one_table_have_one_scale(exports: Path, tmp_path: Path) -> None:
    edit = Edit("one reader", one_reader, "lift", "embed")
    found = proof(edited(file(exports, "tagger", "onnx", "dynamic"), tmp_path, edit), "tagger", "onnx", "dynamic")
    assert found.state == "failed", found.summary


def test_dequantising_first_gives_the_same_to_the_bit(exports: Path) -> None:
    model = onnx.load(str(file(exports, "tagger", "onnx", "dynamic") / "model.onnx"))
    before = onnx_graph._open(model, {}, "as written")
    moving = [n.op_type for n in model.graph.node if any("embed.weight_quantized" in i for i in n.input)]
    assert moving == ["Gather"]  # the converter still leaves what is to be rewritten
    rewriting.constants_to_initializers(model)
    rewriting.dequantise_first(model.graph)
    readers = [n.op_type for n in model.graph.node if any(i.endswith("embed.weight_quantized") for i in n.input)]
    assert readers == ["DequantizeLinear"]
    after = onnx_graph._open(model, {}, "as written")
    for case in cases(WORDS, 3, 4):
        np.testing.assert_array_equal(before.run(None, case)[0], after.run(None, case)[0])


# TFLite gives a table and what is looked up in it one asymmetric scale: that of the rows that calibration looked up.


def grid(model: Any, act: Callable[[Any], None]) -> None:
    """Change the quantisation parameters of the table alone."""
    graph = model.subgraphs[0]
    gather = next(op for op in graph.operators if tflite.kind(model, op) == "GATHER")
    given = graph.tensors[int(gather.inputs[0])].quantization
    given.scale, given.zeroPoint = np.array(given.scale, np.float32), np.array(given.zeroPoint, np.int64)
    act(given)


def values(model: Any, act: Callable[[np.ndarray], np.ndarray]) -> None:
    graph = model.subgraphs[0]
    gather = next(op for op in graph.operators if tflite.kind(model, op) == "GATHER")
    tensor = graph.tensors[int(gather.inputs[0])]
    tflite.put(model, tensor, act(np.array(tflite.constant(model, tensor))))


def moved(given: Any) -> None:
    given.zeroPoint += 2


def wider(given: Any) -> None:
    given.scale *= 1.03


TFLITE = [
    Edit("another row", lambda m: values(m, other_row), "audit", "embed"),
    Edit("clipped to half", lambda m: values(m, lambda v: np.clip(v, -64, 63)), "audit", "embed"),
    Edit("zero point", lambda m: grid(m, moved), "audit", "embed"),
    Edit("scale", lambda m: grid(m, wider), "audit", "embed"),
]


def test_a_right_tflite_file_is_proved_and_says_what_its_table_lost(exports: Path) -> None:
    found = proof(file(exports, "bag", "tflite", "int8"), "bag", "tflite", "int8")
    assert found.state == "proved", found.summary
    share = found.link("audit").figures["clipped"]["embed.weight"]
    assert 0 < share < 0.02


@pytest.mark.parametrize("edit", TFLITE, ids=lambda e: e.name)
def test_a_wrong_table_of_a_tflite_file_is_found(exports: Path, tmp_path: Path, edit: Edit) -> None:
    found = proof(edited(file(exports, "bag", "tflite", "int8"), tmp_path, edit), "bag", "tflite", "int8")
    assert "failed" in states(found).values(), found.summary
