"""Faults of files, on files of every format: what each does to the file's function; benign changes do nothing to it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import formats as targets
from parity.core.errors import ParityError
from parity.core.settings import ModelSpec
from parity.faults import FileFault, register_fault
from parity.faults import base as registry
from parity.faults.artefact import make
from parity.faults.base import on_files
from parity.faults.messages import FaultyFile, FaultyFileRequest
from parity.formats import serve
from tests.faults import formats
from tests.faults.test_divergence import CONTRACT, EXAMPLE, SPEC, to_ncnn, to_onnx

FAULTS = [f.name for f in on_files() if not f.benign]
BENIGN = [f.name for f in on_files() if f.benign]
EXACT = {  # what a fault makes of the right outputs, or of the right model
    "file_outputs_scaled": lambda x: 0.95 * formats.right(x),
    "file_labels_rotated": lambda x: np.roll(formats.right(x), 1, -1),
    "file_classes_swapped": lambda x: formats.right(x)[..., [2, 1, 0, 3]],
    "file_last_bias_dropped": lambda x: formats.right(x) - formats.B2,
    "file_first_bias_dropped": lambda x: np.maximum(x @ formats.W1.T, 0) @ formats.W2.T + formats.B2,
    "file_activation_lost": lambda x: (x @ formats.W1.T + formats.B1) @ formats.W2.T + formats.B2,
    "file_input_channels_reversed": lambda x: formats.right(x[..., ::-1]),
    "file_first_kernel_transposed": lambda x: np.maximum(x @ formats.W1 + formats.B1, 0) @ formats.W2.T + formats.B2,
}


def opened(target: str, folder: Path, notes: dict[str, Any]) -> Any:
    module, _, name = targets.get(target).session.partition(":")
    return getattr(importlib.import_module(module), name)(str(folder), notes)


def outputs(target: str, folder: Path, notes: dict[str, Any]) -> np.ndarray:
    session = opened(target, folder, notes)
    return np.stack([serve.named(notes, session.run(serve.fed(notes, {"x": x})))["y"] for x in formats.X])


def digest(folder: Path) -> str:
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())).hexdigest()


@pytest.fixture(scope="module", params=formats.FORMATS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict[str, Any]]:
    target: str = request.param
    if importlib.util.find_spec(formats.NEEDS[target]) is None:
        pytest.skip(f"needs {formats.NEEDS[target]}")
    folder = tmp_path_factory.mktemp(target)
    return target, folder, formats.FORMATS[target](folder)


def test_the_files_are_the_model(file: tuple[str, Path, dict[str, Any]]) -> None:
    target, folder, notes = file
    np.testing.assert_allclose(outputs(target, folder, notes), formats.right(formats.X), atol=1e-5)


def test_every_fault_changes_what_the_file_computes(file: tuple[str, Path, dict[str, Any]], tmp_path: Path) -> None:
    target, folder, notes = file
    before, applied = digest(folder), set()
    want = formats.right(formats.X)
    for fault in [f for f in on_files(target, "fp32") if not f.benign]:
        into = tmp_path / fault.name
        into.mkdir()
        made = make.make(FaultyFileRequest(targets.get(target).draft, str(folder), notes, fault.name, str(into)))
        assert made.state in ("made", "inapplicable") and bool(made.reason) == (made.state != "made"), made
        if made.state == "inapplicable":
            continue
        applied.add(fault.name)
        if fault.name == "file_truncated":  # ncnn reads zeros where there is nothing
            continue
        got = outputs(target, into, made.notes)
        assert got.shape == want.shape and np.abs(got - want).max() > 1e-6, (target, fault.name)
        if fault.name in EXACT:
            np.testing.assert_allclose(got, EXACT[fault.name](formats.X), atol=1e-5, err_msg=f"{target} {fault.name}")
    assert digest(folder) == before, "a fault is put into a copy"
    assert {name for name, *_ in make.every(target, "fp32", folder, notes, tmp_path / "again")} == applied
    assert set(EXACT) | {"file_truncated", "file_activation_other"} <= applied and len(applied) >= 30, applied


def test_a_benign_change_of_a_file_changes_nothing(file: tuple[str, Path, dict[str, Any]], tmp_path: Path) -> None:
    target, folder, notes = file
    applied = set()
    for fault in [f for f in on_files(target, "fp32") if f.benign]:
        into = tmp_path / fault.name
        into.mkdir()
        made = make.make(FaultyFileRequest(targets.get(target).draft, str(folder), notes, fault.name, str(into)))
        if made.state == "made":
            applied.add(fault.name)
            np.testing.assert_allclose(outputs(target, into, made.notes), formats.right(formats.X), atol=1e-5)
    assert "file_written_again" in applied
    assert target == "coreml" or {"file_two_threads", "file_other_kernels"} <= applied, applied
    assert target != "onnx" or {"file_optimised"} <= applied
    assert digest(tmp_path / "file_written_again") != digest(folder)


STRUCTURE = ("file_sum_to_difference", "file_padding_at_end", "file_epsilon", "file_activation_other",
             "file_activation_lost", "file_operand_scaled", "file_kernel_transposed", "file_written_again")  # fmt: skip


@pytest.mark.parametrize("target", ["onnx", "ncnn", pytest.param("coreml", marks=pytest.mark.nightly)])
def test_the_graph_of_a_converted_network_is_edited(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Convolutions, normalisations and a residual connection, as the target's own converter writes them."""
    pytest.importorskip({"onnx": "onnxruntime", "ncnn": "pnnx", "coreml": "coremltools"}[target])
    if target == "onnx":
        folder, notes = tmp_path, to_onnx(SPEC, tmp_path)
    elif target == "ncnn":
        folder, notes = tmp_path / "done", to_ncnn(SPEC, tmp_path, monkeypatch)
    else:
        folder, notes = tmp_path, to_coreml(SPEC, tmp_path)

    def run(where: Path, given: dict[str, Any]) -> np.ndarray:
        return np.asarray(serve.named(given, opened(target, where, given).run(serve.fed(given, EXAMPLE)))["y"])

    right, moved = run(folder, notes), {}
    for name in STRUCTURE:
        into = tmp_path / name
        into.mkdir()
        made = make.make(FaultyFileRequest(targets.get(target).draft, str(folder), notes, name, str(into)))
        assert made.state == "made", (name, made)
        moved[name] = float(np.abs(run(into, made.notes) - right).max() / np.abs(right).max())
    assert moved.pop("file_written_again") < 1e-6
    assert min(moved.values()) > 1e-5, moved


def to_coreml(spec: ModelSpec, work: Path) -> dict[str, Any]:
    from parity.formats.coreml import convert as coreml
    from parity.formats.torch import convert as torch_files

    torch_files.trace(str(work), {"half": False}, spec, CONTRACT, EXAMPLE)
    options = {"backend": "mlprogram", "precision": "fp32"}
    (work / "done").mkdir()
    return coreml.convert(str(work), str(work), options, CONTRACT, EXAMPLE)


def test_a_file_that_ends_too_early_is_refused_or_wrong(file: tuple[str, Path, dict[str, Any]], tmp_path: Path) -> None:
    target, folder, notes = file
    made = make.make(FaultyFileRequest(targets.get(target).draft, str(folder), notes, "file_truncated", str(tmp_path)))
    try:
        got = outputs(target, tmp_path, made.notes)
    except Exception:
        return
    assert np.abs(got - formats.right(formats.X)).max() > 1e-6


@pytest.fixture
def own() -> Iterator[None]:
    """Leaves the registry as it was."""
    before = dict(registry._registry)
    yield
    registry._registry.clear()
    registry._registry.update(before)


def test_a_fault_of_a_project_s_own_is_registered_the_same_way(own: None, tmp_path: Path) -> None:
    def doubled(draft: Any) -> bool:
        return draft.put(draft.layers()[0].name, 2 * draft.values(draft.layers()[0].name))

    register_fault(FileFault("own_doubled", "the first layer is doubled", doubled, targets=("onnx",)))
    assert [f.name for f in on_files("onnx", "int8")][-1] == "own_doubled" and on_files("ncnn")[
        -1
    ].name != "own_doubled"
    folder, into = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    into.mkdir()
    notes = formats.onnx(folder)
    made = make.make(FaultyFileRequest(targets.get("onnx").draft, str(folder), notes, "own_doubled", str(into)))
    assert made.state == "made"
    want = np.maximum(formats.X @ (2 * formats.W1.T) + formats.B1, 0) @ formats.W2.T + formats.B2
    np.testing.assert_allclose(outputs("onnx", into, notes), want, atol=1e-5)
    with pytest.raises(ParityError, match="exists"):
        register_fault(FileFault("own_doubled", "again", doubled))
    with pytest.raises(ParityError, match="no files of 'gguf'"):
        register_fault(FileFault("own_other", "x", doubled, targets=("gguf",)))
    with pytest.raises(ParityError, match="no precision 'fp8'"):
        register_fault(FileFault("own_other", "x", doubled, precisions=("fp8",)))


@pytest.mark.parametrize(("edit", "said"), [
    (lambda draft: 1 / 0, "ZeroDivisionError: division by zero"),
    (lambda draft: draft.put("nothing", np.zeros(3)), "KeyError: 'nothing'"),
    (lambda draft: draft.put(draft.layers()[0].name, np.full((6, 6), "a")), "ValueError"),
    (lambda draft: draft.nonsense(), "AttributeError"),
])  # fmt: skip
def test_a_fault_that_fails_says_so_in_one_line(own: None, edit: Any, said: str, tmp_path: Path) -> None:
    register_fault(FileFault("own_broken", "it is broken", edit))
    made = make.make(
        FaultyFileRequest(targets.get("onnx").draft, str(tmp_path), formats.onnx(tmp_path), "own_broken", str(tmp_path))
    )
    assert made.state == "broken" and made.reason.startswith(said) and "\n" not in made.reason
    with pytest.raises(RuntimeError, match=f"own_broken: {said}"):
        list(make.every("onnx", "fp32", tmp_path, formats.onnx(tmp_path), tmp_path / "every"))


def test_what_cannot_be_edited_is_said(tmp_path: Path) -> None:
    (tmp_path / "m.param").write_text("7767517\n1 1\nMagic m 0 1 y\n")
    (tmp_path / "m.bin").write_bytes(b"")
    notes = {"entry": "m.param", "inputs": {}, "outputs": {"y": {"name": "y"}}}
    made = make.make(
        FaultyFileRequest(targets.get("ncnn").draft, str(tmp_path), notes, "file_bias_dropped", str(tmp_path))
    )
    assert made == FaultyFile("inapplicable", "layer Magic is not known to this reader")


def test_names_sentences_and_precisions_of_the_library() -> None:
    assert len(FAULTS) >= 45 and len(BENIGN) >= 6
    for fault in on_files():
        assert fault.name.startswith("file_") and fault.name.isidentifier()
        assert not fault.sentence.endswith(".") and len(fault.sentence) < 120
    assert len({f.sentence for f in on_files()}) == len(on_files())
    assert "file_weight_scale_off" in [f.name for f in on_files("tflite", "int8")]
    assert "file_weight_scale_off" not in [f.name for f in on_files("tflite", "fp32")]
