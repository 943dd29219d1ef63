"""The files that belong to an artefact: named by its format, hashed, and looked for by release and capsule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from parity import formats as targets  # noqa: E402
from parity.core.errors import ParityError  # noqa: E402
from parity.session.artefact_files import check_whole, content_key, file_records  # noqa: E402


def onnx_file(folder: Path) -> tuple[Path, list[str]]:
    values = np.arange(4, dtype=np.float32)
    held = []
    for name in ("first", "second"):
        tensor = onnx.numpy_helper.from_array(values, name)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"weights/{name}.bin")
        held.append(tensor)
        Path(folder, "weights").mkdir(exist_ok=True)
        Path(folder, "weights", f"{name}.bin").write_bytes(values.tobytes())
    nodes = [onnx.helper.make_node("Add", ["x", "first"], ["h"]), onnx.helper.make_node("Mul", ["h", "second"], ["y"])]
    sides = [[onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4])] for n in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", *sides, held)
    path = folder / "m.onnx"
    path.write_bytes(onnx.helper.make_model(graph, ir_version=9).SerializeToString())
    return path, ["m.onnx", "weights/first.bin", "weights/second.bin"]


def ncnn_file(folder: Path) -> tuple[Path, list[str]]:
    (folder / "m.ncnn.param").write_text("7767517\n")
    (folder / "m.ncnn.bin").write_bytes(bytes(16))
    return folder / "m.ncnn.param", ["m.ncnn.param", "m.ncnn.bin"]


def package(folder: Path) -> tuple[Path, list[str]]:
    inner = folder / "m.mlpackage" / "Data"
    inner.mkdir(parents=True)
    (inner / "weight.bin").write_bytes(bytes(16))
    (inner / "model.mlmodel").write_bytes(b"spec")
    (inner / ".DS_Store").write_bytes(b"of a file browser")
    return folder / "m.mlpackage", ["m.mlpackage/Data/model.mlmodel", "m.mlpackage/Data/weight.bin"]


KINDS: dict[str, Callable[[Path], tuple[Path, list[str]]]] = {
    "onnx": onnx_file,
    "ncnn": ncnn_file,
    "coreml": package,
}


@pytest.fixture(params=KINDS)
def made(request: Any, tmp_path: Path) -> tuple[str, Path, list[str]]:
    return (request.param, *KINDS[request.param](tmp_path))


def test_a_byte_of_any_file_is_another_artefact(made: tuple[str, Path, list[str]]) -> None:
    kind, path, names = made
    target = targets.get(kind)
    before = file_records(path, target)
    assert [file.path for file in before] == names
    assert [file.bytes for file in before] == [(path.parent / name).stat().st_size for name in names]
    keys = {content_key(before)}
    for name in names:
        file = path.parent / name
        content = file.read_bytes()
        file.write_bytes(content + b" " if name == path.name else content[:-1] + b"\1")
        keys.add(content_key(_unparsed(path, names)))
        file.write_bytes(content)
    assert len(keys) == 1 + len(names) and content_key(file_records(path, target)) in keys


def _unparsed(path: Path, names: list[str]) -> Any:
    """Hashes of the named files as they are, whatever the changed one would say by itself."""
    return [file_records(path.parent / name, None)[0] for name in names]


def test_release_and_capsule_need_every_file(made: tuple[str, Path, list[str]]) -> None:
    kind, path, names = made
    check_whole("net", kind, path.parent, names)
    if path.is_dir():
        return
    for name in names[1:]:
        with pytest.raises(ParityError, match=rf"^net: {path.name} needs {name}, which the record does not name"):
            check_whole("net", kind, path.parent, [n for n in names if n != name])


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    for kind, lost in (("onnx", "weights/second.bin"), ("ncnn", "m.ncnn.bin")):
        path, _ = KINDS[kind](tmp_path)
        (tmp_path / lost).unlink()
        with pytest.raises(ParityError, match=lost):
            file_records(path, targets.get(kind))


def test_a_file_alone_keeps_its_own_hash(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"TFL3")
    records = file_records(path, targets.get("tflite"))
    assert content_key(records) == records[0].sha256


def test_two_exports_of_one_folder_do_not_share_weights() -> None:
    target = targets.get("onnx")
    files = ["model.onnx", "w.bin"]
    first = target.published("a", {"entry": "model.onnx"}, files)
    assert first == {"model.onnx": "a/a.onnx", "w.bin": "a/w.bin"}
    assert not set(first.values()) & set(target.published("b", {"entry": "model.onnx"}, files).values())
    assert target.published("a", {"entry": "model.onnx"}, files[:1]) == {"model.onnx": "a.onnx"}
