"""True classes in .npz files and from functions of cases count like names of folders, on a real ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

WEIGHTS = 3 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, -1]], np.float32)
BIAS = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
CASES = 24

OWN = """
import numpy as np
def made(contract):
    rng = np.random.default_rng(3)
    return {f"row{i}": {"x": rng.uniform(-1, 1, (1, 3)).astype(np.float32), "label": i % 4} for i in range(4)}
"""


@pytest.fixture
def on_onnx(project: Project) -> Project:
    text = (project.path / "pyproject.toml").read_text()
    text = text.replace('targets = ["plain"]', 'targets = ["onnx"]').replace('["fp32", "fp16"]', '["fp32"]')
    project.write("pyproject.toml", text.replace(', labels = ["a", "b", "c", "d"]', ""))
    for path in (project.path / "golden").rglob("*.npz"):
        path.unlink()
    return project


def store(folder: Path, shift: int = 0, labelled: int = CASES) -> None:
    """Golden rows, the first `labelled` of them with the class that the model gives them, moved by `shift`."""
    rng = np.random.default_rng(5)
    for number in range(CASES):
        row = rng.uniform(-1, 1, (1, 3)).astype(np.float32)
        label = {"label": int((row @ WEIGHTS.T + BIAS).argmax()) + shift} if number < labelled else {}
        np.savez(folder / f"{number:02}.npz", x=row, **label)


def limited(project: Project) -> None:
    project.add("pyproject.toml", "[tool.parity.limits]\nfp32 = { top1_drop = 0.2 }\n")


def test_classes_in_npz_files_give_accuracy_without_names_of_labels(on_onnx: Project) -> None:
    store(on_onnx.path / "golden", labelled=20)
    limited(on_onnx)
    run = on_onnx.run("-k", "accuracy or contract")
    accuracy = {c.metric: c for c in run.record.cells[0].checks if c.kind == "accuracy"}
    assert accuracy["top1_accuracy"].value == 1.0 and "of 20 labelled cases" in accuracy["top1_drop"].detail, run.text
    assert not [f for f in run.record.cells[0].findings if f.text.startswith("labels of")]


def test_classes_from_a_function_of_cases_give_accuracy(on_onnx: Project) -> None:
    on_onnx.write("own_cases.py", OWN)
    text = (on_onnx.path / "pyproject.toml").read_text()
    on_onnx.write("pyproject.toml", text.replace('golden = "golden"', 'cases = "own_cases:made"'))
    limited(on_onnx)
    run = on_onnx.run("-k", "accuracy")
    assert "of 4 labelled cases" in next(c.detail for c in run.record.cells[0].checks if c.metric == "top1_drop")


def test_a_limit_on_accuracy_without_any_label_is_a_configuration_error(on_onnx: Project) -> None:
    store(on_onnx.path / "golden", labelled=0)
    limited(on_onnx)
    run = on_onnx.run()
    assert run.code == 4 and "no golden case has a true class" in run.text, run.text


def test_labels_that_are_off_by_one_are_told(on_onnx: Project) -> None:
    store(on_onnx.path / "golden", shift=-1)
    folder = on_onnx.path / "golden"
    for path in folder.glob("*.npz"):  # class 0 would be stored as -1
        with np.load(path) as held:
            if held["label"] < 0:
                path.unlink()
    run = on_onnx.run("-k", "accuracy")
    (said,) = [f for f in run.record.cells[0].findings if f.text.startswith("labels of logits")]
    assert said.level == "warning" and "labels are one too low" in said.text, said.text


def test_a_label_that_no_class_has_is_an_error(on_onnx: Project) -> None:
    store(on_onnx.path / "golden", shift=1)
    run = on_onnx.run("-k", "accuracy")
    assert run.code == 1 and "label 4 is none of its 4 classes, numbered from 0" in run.text, run.text
