"""Weights beside an ONNX file are read from its own folder only, before any runtime opens the file."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from parity.core.errors import ParityError  # noqa: E402
from parity.files import onnx_external  # noqa: E402
from parity.files.onnx_external import external_files  # noqa: E402
from parity.formats.onnx.target import Onnx  # noqa: E402
from parity.reference import files  # noqa: E402

VALUES = np.arange(4, dtype=np.float32)


def external(location: str, name: str = "w") -> Any:
    tensor = numpy_helper.from_array(VALUES, name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(VALUES.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph(nodes: list[Any], held: list[Any], name: str = "g", inputs: tuple[str, ...] = ("x",)) -> Any:
    given = [helper.make_tensor_value_info(i, TensorProto.FLOAT, [4]) for i in inputs]
    return helper.make_graph(nodes, name, given, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])], held)


def save(path: Path, made: Any, **more: Any) -> Path:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=9, **more)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def weights(path: Path, location: str) -> Path:
    return save(path, graph([helper.make_node("Add", ["x", "w"], ["y"])], [external(location)]))


def constant(tensor: Any) -> Any:
    return helper.make_node("Constant", [], ["w"], value=tensor)


def in_branch(tensor: Any) -> Any:
    """A graph whose constant is in the branch of an If."""
    inner = graph([constant(tensor), helper.make_node("Identity", ["w"], ["y"])], [], "inner", ())
    condition = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    return graph([condition, helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)], [])


def in_function(tensor: Any) -> Any:
    body = [constant(tensor), helper.make_node("Add", ["x", "w"], ["y"])]
    return helper.make_function("own", "Plus", ["x"], ["y"], body, [helper.make_opsetid("", 17)])


PLACES: dict[str, Callable[[Path, Any], Path]] = {
    "initializer": lambda p, t: save(p, graph([helper.make_node("Add", ["x", "w"], ["y"])], [t])),
    "constant": lambda p, t: save(p, graph([constant(t), helper.make_node("Add", ["x", "w"], ["y"])], [])),
    "branch": lambda p, t: save(p, in_branch(t)),
    "function": lambda p, t: save(
        p, graph([helper.make_node("Plus", ["x"], ["y"], domain="own")], []), functions=[in_function(t)]
    ),
}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret.bin").write_bytes(VALUES.tobytes())
    return tmp_path / "secret.bin"


def test_the_fields_are_those_of_onnx() -> None:
    """Every message from which a tensor can be reached, by the format's own description."""
    kinds = {
        "ModelProto": "model", "TrainingInfoProto": "training", "FunctionProto": "function", "GraphProto": "graph",
        "NodeProto": "node", "AttributeProto": "attribute", "SparseTensorProto": "sparse", "TensorProto": "tensor",
    }  # fmt: skip
    for kind, ours in kinds.items():
        fields = getattr(onnx, kind).DESCRIPTOR.fields
        reached = {f.number: kinds[f.message_type.name] for f in fields
                   if f.message_type is not None and f.message_type.name in kinds}  # fmt: skip
        if ours == "tensor":
            reached = {next(f.number for f in fields if f.name == "external_data"): "entry"}
        assert onnx_external._INNER[ours] == reached, kind


@pytest.mark.parametrize("place", PLACES)
def test_weights_beside_the_file_are_named(tmp_path: Path, place: str) -> None:
    path = PLACES[place](tmp_path / "m" / "m.onnx", external("parts/w.bin"))
    (tmp_path / "m" / "parts").mkdir()
    (tmp_path / "m" / "parts" / "w.bin").write_bytes(VALUES.tobytes())
    assert external_files(path) == (tmp_path / "m" / "parts" / "w.bin",)


@pytest.mark.parametrize("place", PLACES)
def test_weights_outside_are_refused_wherever_the_tensor_is(tmp_path: Path, secret: Path, place: str) -> None:
    path = PLACES[place](tmp_path / "m" / "m.onnx", external("../secret.bin"))
    with pytest.raises(ParityError, match=r"^m\.onnx: keeps weights in '\.\./secret\.bin', outside its own folder"):
        external_files(path)


def absolute(folder: Path, secret: Path) -> str:
    return str(secret)


def link(folder: Path, secret: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "w.bin").symlink_to(secret)
    return "w.bin"


def folder_link(folder: Path, secret: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "parts").symlink_to(secret.parent)
    return "parts/secret.bin"


def upwards(folder: Path, secret: Path) -> str:
    (folder / "a").mkdir(parents=True)
    return "a/../../secret.bin"


@pytest.mark.parametrize("leave", [absolute, link, folder_link, upwards])
def test_no_runtime_opens_a_file_whose_weights_are_elsewhere(tmp_path: Path, secret: Path, leave: Any) -> None:
    """ONNX Runtime 1.23 reads all four by itself."""
    folder = tmp_path / "m"
    path = weights(folder / "m.onnx", leave(folder, secret))
    notes = {"entry": "m.onnx", "inputs": {"x": {"name": "x"}}, "outputs": {"y": {"name": "y"}}}
    module, _, name = Onnx.session.partition(":")
    with pytest.raises(ParityError, match="outside its own folder; refused"):
        getattr(importlib.import_module(module), name)(str(folder), notes)
    with pytest.raises(ParityError, match="outside its own folder; refused"):
        files.module(path, ["x"], ["y"])


@pytest.mark.parametrize("location", ["gone.bin", "", ".", "*/_ORT_MEM_ADDR_/*", "a\0b"])
def test_weights_that_are_no_file_are_named(tmp_path: Path, location: str) -> None:
    path = weights(tmp_path / "m.onnx", location)
    with pytest.raises(ParityError, match=r"^m\.onnx: keeps weights in .*, and no such file is beside it$"):
        external_files(path)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.bin")
    with pytest.raises(ParityError, match="no such file"):
        external_files(weights(tmp_path / "m.onnx", "w.bin"))


def test_a_hub_s_cache_of_links_is_read(tmp_path: Path) -> None:
    """`snapshots/1/m.onnx` and `m.onnx.data` both link to files in `blobs`."""
    weights(tmp_path / "blobs" / "aa", "m.onnx.data")
    (tmp_path / "blobs" / "bb").write_bytes(VALUES.tobytes())
    snapshot = tmp_path / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "m.onnx").symlink_to("../../blobs/aa")
    (snapshot / "m.onnx.data").symlink_to("../../blobs/bb")
    assert external_files(snapshot / "m.onnx") == (snapshot / "m.onnx.data",)


def test_files_without_weights_elsewhere_have_none(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    path = save(tmp_path / "m.onnx", graph([helper.make_node("Neg", ["x"], ["y"])], []))
    assert external_files(path) == ()


@pytest.mark.parametrize("content", [b"not onnx at all", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 20])
def test_what_is_no_onnx_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ParityError, match=r"^m\.onnx: no valid ONNX file: "):
        external_files(tmp_path / "m.onnx")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"^m\.onnx: cannot be read: No such file"):
        external_files(tmp_path / "m.onnx")
