"""Weights that are beside a file: measured with it, proved with it, released and packed with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ncnn")

from parity.capsule.archive import Archive  # noqa: E402
from parity.core.record import CellRecord  # noqa: E402
from tests.plugin.test_capsule_cli import with_modules  # noqa: E402
from tests.plugin.tiny_project import Project, Run  # noqa: E402

pytest_plugins = "pytester"

MAIN = "import sys; from parity.cli import main; sys.exit(main(sys.argv[1:]))"
WEIGHT = np.float32([[3, 0, 0], [0, 3, 0], [0, 0, 3], [-3, -3, -3]])
BIAS = np.float32([0.1, 0.2, 0.3, 0.4])
CELLS = """cells = ["onnx-fp32", "ncnn-fp32"]
artifacts."onnx-fp32" = "files/net.onnx"
artifacts."ncnn-fp32" = { path = "files/net.param", fixed = true }
"""
PARAM = """7767517
2 2
Input x 0 1 x
InnerProduct fc 1 1 x logits 0=4 1=1 2=12
"""
FILES = {"onnx": ["net.onnx", "weights/net.bin"], "ncnn": ["net.param", "net.bin"]}
SINGLE = {"weights/net.bin": 0, "net.bin": 4}  # where the first weight begins


NODES = {
    "plain": [onnx.helper.make_node("Gemm", ["x", "w", "b"], ["logits"], transB=1)],
    "only ONNX Runtime": [
        onnx.helper.make_node("FusedMatMul", ["x", "w"], ["product"], domain="com.microsoft", transB=1),
        onnx.helper.make_node("Add", ["product", "b"], ["logits"]),
    ],
}


def external(path: Path, location: str, alone: bool = False, nodes: str = "plain") -> None:
    """The tiny model as an ONNX file, with its weights at `location` beside it, or in itself."""
    held, at, content = [], 0, b""
    for name, values in (("w", WEIGHT), ("b", BIAS)):
        tensor = onnx.numpy_helper.from_array(values, name)
        if not alone:
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", at), ("length", values.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
        held.append(tensor)
        at, content = at + values.nbytes, content + values.tobytes()
    sides = [[onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", size])]
             for n, size in (("x", 3), ("logits", 4))]  # fmt: skip
    model = onnx.helper.make_model(
        onnx.helper.make_graph(NODES[nodes], "net", *sides, held), ir_version=9,
        opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)],
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    if not alone:
        (path.parent / location).parent.mkdir(exist_ok=True)
        (path.parent / location).write_bytes(content)


def given(project: Project) -> Path:
    """The project with two finished files, each with its weights beside it; the folder that they are in."""
    text = (project.path / "pyproject.toml").read_text()
    project.write("pyproject.toml", text.replace('targets = ["plain"]', 'targets = ["onnx", "ncnn"]'))
    project.add("pyproject.toml", CELLS)
    folder = project.path / "files"
    external(folder / "net.onnx", "weights/net.bin")
    (folder / "net.param").write_text(PARAM)
    (folder / "net.bin").write_bytes(bytes(4) + WEIGHT.tobytes() + BIAS.tobytes())
    return folder


def change(file: Path, start: int, to: float = 3.1) -> None:
    """Another first weight, in a file of the same size."""
    content = bytearray(file.read_bytes())
    content[start : start + 4] = np.float32(to).tobytes()
    file.write_bytes(content)


def cell(run: Run, target: str) -> CellRecord:
    return run.record.cell(f"tiny-{target}-fp32")


def paths(record: CellRecord) -> list[str]:
    assert record.artifact
    return [file.path for file in record.artifact.files]


def parity(project: Project, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-c", MAIN, *arguments, f"--parity-cache={project.cache}"]
    done = subprocess.run(command, cwd=project.path, env=with_modules(project), capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def proofs(project: Project) -> int:
    manifests = (project.cache / "objects").glob("*/manifest.json")
    return sum("calibration" in json.loads(m.read_text())["spec"] and "artifact" in json.loads(m.read_text())["spec"]
               for m in manifests)  # fmt: skip


def test_weights_changed_in_place_do_not_pass(fresh: Project) -> None:
    folder = given(fresh)
    before = fresh.run()
    assert before.verdict == "pass", before.text
    made = proofs(fresh)
    for target, names in FILES.items():
        assert paths(cell(before, target)) == names
        change(folder / names[1], SINGLE[names[1]])
    after = fresh.run()
    assert after.states() == {"tiny-onnx-fp32": "fail", "tiny-ncnn-fp32": "fail"}, after.text
    assert proofs(fresh) == 2 * made > 0
    for target in FILES:
        was, now = (cell(run, target).artifact for run in (before, after))
        assert was and now and was.key != now.key and was.files[0] == now.files[0] and was.files[1] != now.files[1]


def test_release_and_capsule_hold_every_file(fresh: Project) -> None:
    folder = given(fresh)
    assert fresh.run().code == 0
    code, text = parity(fresh, "capsule", "make", "--output", "out.zip")
    assert code == 0, text
    with Archive(fresh.path / "out.zip", "capsule") as capsule:
        packed = set(capsule)
    code, text = parity(fresh, "release", "reports/parity.json", "--to", "dist")
    assert code == 0, text
    told = {f["path"] for c in json.loads((fresh.path / "dist/manifest.json").read_text())["cells"] for f in c["files"]}
    for target, names in FILES.items():
        for name in names:
            place = f"tiny-{target}-fp32/{name}"
            assert (fresh.path / "dist" / place).read_bytes() == (folder / name).read_bytes()
            assert place in told and f"artifacts/{place}" in packed
    change(folder / "net.bin", 4)
    for arguments in (("release", "reports/parity.json", "--to", "dist2"), ("capsule", "make", "--output", "2.zip")):
        code, text = parity(fresh, *arguments)
        assert code != 0 and "net.bin" in text, text
        assert "is not the file that" in text or "changed since this run" in text, text
    assert not (fresh.path / "dist2").exists()


@pytest.mark.parametrize("target", FILES)
def test_a_record_that_names_the_file_alone_releases_nothing(fresh: Project, target: str) -> None:
    """Records of earlier versions do not name what is beside a file."""
    given(fresh)
    assert fresh.run().code == 0
    report = fresh.path / "reports/parity.json"
    data = json.loads(report.read_text())
    for entry in data["cells"]:
        if entry["target"] == target:
            del entry["artifact"]["files"][1:]
    report.write_text(json.dumps(data))
    for arguments in (("release", "reports/parity.json", "--to", "dist"), ("capsule", "make", "--output", "out.zip")):
        code, text = parity(fresh, *arguments)
        assert code != 0 and f"needs {FILES[target][1]}, which the record does not name" in text, text
    assert not (fresh.path / "dist").exists() and not (fresh.path / "out.zip").exists()


def test_a_missing_part_is_told(fresh: Project) -> None:
    folder = given(fresh)
    (folder / "net.bin").unlink()
    record = cell(fresh.run(), "ncnn")
    assert record.state == "error"
    assert "net.param: its weights should be beside it in net.bin, and no such file is there" in record.reason


@pytest.mark.parametrize("nodes", NODES)
def test_the_weights_of_a_reference_are_part_of_what_it_is(fresh: Project, nodes: str) -> None:
    """Named by the file, whatever it calls them; a change in place makes all that was stored of it again, also one that
    is too small for the guard."""
    text = (fresh.path / "pyproject.toml").read_text().replace('factory = "tinynet:tiny"', 'reference = "ref/net.onnx"')
    fresh.write("pyproject.toml", text + 'cells = ["onnx-fp32"]\nartifacts."onnx-fp32" = "alone.onnx"\n')
    external(fresh.path / "ref/net.onnx", "weights/net.bin", nodes=nodes)
    external(fresh.path / "alone.onnx", "", alone=True)
    assert fresh.run().verdict == "pass"
    before = oracles(fresh)
    change(fresh.path / "ref/weights/net.bin", 0, to=3.001)
    after = fresh.run()
    assert after.states() == {"tiny-onnx-fp32": "fail"}, after.text
    assert before and not before & (oracles(fresh) - before) and len(oracles(fresh)) == 2 * len(before)


def oracles(project: Project) -> set[Any]:
    specs = [json.loads(m.read_text())["spec"] for m in (project.cache / "objects").glob("*/manifest.json")]
    return {json.dumps(s, sort_keys=True) for s in specs if s.get("evaluates") == "oracle"}
