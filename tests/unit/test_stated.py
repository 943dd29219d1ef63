"""A model whose module or contract is in a file: what the table may leave out, and what it may not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from parity.core.errors import ConfigError, ParityError
from parity.core.settings import REFERENCE_FACTORY, TensorName
from parity.session import signature
from parity.session.planning import make_plan
from parity.session.project import parse
from parity.store.cache import Store
from parity.suite import planned_kinds

HEAD = '[tool.parity]\ntargets = ["onnx", "exported"]\nprecisions = ["fp32"]\n\n[tool.parity.models.net]\n'
FULL = 'inputs = [{ name = "x", shape = ["batch", 3] }]\noutputs = [{ name = "y" }]\n'
SAID = {
    "inputs": [{"name": "image", "shape": [1, 3, 8, 8], "dtype": "float32", "layout": "NHWC"}],
    "outputs": [{"name": "scores"}],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("net.pt2", "net.pt", "net.onnx", "net.bin", "net.tflite"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def read(root: Path, table: str) -> Any:
    return parse(HEAD + table, root / "pyproject.toml")


def refused(root: Path, table: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(root, table)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_reference_takes_the_factorys_place(root: Path) -> None:
    model = read(root, 'reference = "net.pt2"\n' + FULL).models["net"]
    assert (model.reference, model.factory) == (root / "net.pt2", REFERENCE_FACTORY)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('reference = "net.pt2"\nfactory = "a:b"\n', "has a factory and a reference: leave one out"),
        ("", 'or reference = "file.pt2"'),
        ('reference = "gone.pt2"\n', "'gone.pt2': no such file"),
        ('reference = "net.bin"\n', "unknown kind of file; known: .pt2"),
        ('reference = "net.pt2"\ncheckpoint = "net.bin"\n', "checkpoint: a reference file has its weights"),
        ('reference = "net.pt2"\noptions = { a = 1 }\n', "options: a reference file has its weights and options"),
    ],
)
def test_a_table_that_says_too_much_or_too_little_is_one_line(root: Path, table: str, words: str) -> None:
    assert words in refused(root, table + FULL)


def test_a_target_that_cannot_start_from_the_file_is_unavailable_unless_it_is_given(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parity.formats.target.installed", lambda module: True)
    table = 'reference = "net.onnx"\n' + FULL
    planned = {p.cell.target: p for p in make_plan(read(root, table), {}, planned_kinds).cells}
    assert planned["exported"].unavailable == (
        "exported files are not made from ONNX files: give the factory, or the finished file in artifacts"
    )
    assert planned["onnx"].unavailable is None and planned["onnx"].reference == "ONNX file net.onnx"
    given = table + 'artifacts = { "exported-fp32" = "net.pt2" }\n'
    plan = make_plan(read(root, given), {}, planned_kinds)
    assert {p.cell.target: p.unavailable for p in plan.cells}["exported"] is None


def test_the_contract_is_read_where_it_is_not_declared(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(signature, "read", lambda file, kind, root: asked.append((file.name, kind)) or SAID)
    contract = read(root, 'reference = "net.onnx"\n').models["net"].contract
    assert [(i.name, i.shape) for i in contract.inputs] == [("image", (1, 3, 8, 8))]
    assert [o.name for o in contract.outputs] == ["scores"]
    assert read(root, 'reference = "net.onnx"\n' + FULL).models["net"].contract.inputs[0].name == "x"
    half = 'reference = "net.onnx"\noutputs = [{ name = "mine" }]\n'
    assert [o.name for o in read(root, half).models["net"].contract.outputs] == ["mine"]
    assert asked == [("net.onnx", "reference")] * 2, "nothing is read where everything is declared"


def test_the_contract_of_a_file_to_verify_brings_its_layout(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "read", lambda *_: SAID)
    table = 'factory = "a:b"\ncells = ["tflite-fp32"]\nartifacts = { "tflite-fp32" = "net.tflite" }\n'
    model = read(root, table).models["net"]
    assert model.artifacts["tflite-fp32"].inputs == {"image": TensorName("image", "NHWC")}
    declared = read(root, table + FULL).models["net"]
    assert declared.artifacts["tflite-fp32"].inputs == {}, "a declared contract says its own layouts"


def test_a_file_that_says_nothing_is_named_with_the_line(root: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(2)), root / "net.pt")
    message = refused(root, 'reference = "net.pt"\n')
    assert message == (
        "pyproject.toml:6 [tool.parity.models.net] reference: net.pt does not say the shape of its input 'input': "
        "declare inputs and outputs"
    )


# What a session describes, as a contract.


def test_axes_are_named_and_scales_are_floats() -> None:
    described = {
        "inputs": [
            {"name": "a", "shape": [None, 3, "height", None], "dtype": "float32"},
            {"name": "b", "shape": ["N", -1], "dtype": "int8", "scale": 0.1},
        ],
        "outputs": [{"name": "y", "shape": None}],
    }
    assert signature.named(described, "f")["inputs"] == [
        {"name": "a", "shape": ["batch", 3, "height", "a_3"], "dtype": "float32"},
        {"name": "b", "shape": ["batch", "b_1"], "dtype": "float32"},
    ]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "a", "shape": None, "dtype": "float32"}, "does not say the shape of its input 'a'"),
        ({"name": "a", "shape": [1], "dtype": "string"}, "its input 'a' is of type string"),
    ],
)
def test_what_is_not_stated_is_asked_for(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ParityError, match=words):
        signature.named({"inputs": [entry], "outputs": [{"name": "y"}]}, "f")


def test_a_contract_is_read_once_for_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, calls = tmp_path / "net.tflite", []
    file.write_bytes(b"one")
    monkeypatch.setattr(Store, "at", classmethod(lambda cls, *_: Store(tmp_path / "cache")))

    def ran(command: list[str], **_: Any) -> Any:
        calls.append(command)
        said = json.dumps({"inputs": [{"name": "a", "shape": [1], "dtype": "float32"}], "outputs": [{"name": "y"}]})
        return type("Done", (), {"returncode": 0, "stdout": said, "stderr": ""})

    monkeypatch.setattr(signature.subprocess, "run", ran)
    first = signature.read(file, "tflite", tmp_path)
    assert signature.read(file, "tflite", tmp_path) == first and len(calls) == 1
    file.write_bytes(b"two")
    signature.read(file, "tflite", tmp_path)
    assert len(calls) == 2 and calls[0][0] == sys.executable
