"""What a plan asks for: which cells block where they cannot be measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity import formats
from parity import formats as targets
from parity.cases.files import unlabelled_folders
from parity.config import parse
from parity.core.errors import ConfigError
from parity.core.settings import Config
from parity.session.planning import make_plan
from parity.suite import planned_kinds

TABLE = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32", "int8"]
[tool.parity.models.tiny]
factory = "m:tiny"
inputs = [{ name = "x", shape = ["batch", 3] }]
outputs = [{ name = "y" }]
"""


ENUMERATED = 'dims = { batch = [1, 4] }\nenumerated = ["batch"]\n'


def config(folder: Path, more: str = "") -> Config:
    (folder / "calibration").mkdir()
    return parse(TABLE + more, folder / "pyproject.toml", formats.facts())


@pytest.fixture
def _everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lacks nothing, as the one of the core's tests on other Pythons does."""
    monkeypatch.setattr("parity.formats.target.installed", lambda module: True)


@pytest.mark.usefixtures("_everything")
def test_int8_without_calibration_blocks(tmp_path: Path) -> None:
    planned = make_plan(config(tmp_path), {}, planned_kinds)
    assert "set calibration" in (planned["tiny-onnx-int8"].unavailable or "")
    assert (planned["tiny-onnx-int8"].required, planned["tiny-onnx-fp32"].required) == (True, False)


@pytest.mark.usefixtures("_everything")
def test_int8_with_calibration_is_measured(tmp_path: Path) -> None:
    planned = make_plan(config(tmp_path, 'calibration = "calibration"\n'), {}, planned_kinds)["tiny-onnx-int8"]
    assert (planned.unavailable, planned.required) == (None, False)


def test_what_a_machine_lacks_does_not_block_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.formats.target.installed", lambda module: False)
    planned = make_plan(config(tmp_path, 'calibration = "calibration"\n'), {}, planned_kinds)["tiny-onnx-int8"]
    assert "not installed" in (planned.unavailable or "") and not planned.required


@pytest.mark.parametrize(
    ("target", "more", "tried"),
    [("onnx", "", True), ("ncnn", "", False), ("tflite", "", False), ("tflite", ENUMERATED, True)],
)
def test_other_sizes_are_tried_where_a_file_takes_them(tmp_path: Path, target: str, more: str, tried: bool) -> None:
    model = config(tmp_path, more).models["tiny"]
    assert targets.get(target).several_sizes(model) == tried


LABELLED = """
[tool.parity.models.classes]
factory = "m:classes"
inputs = [{ name = "x", shape = ["batch", 3, 4, 4] }]
outputs = [{ name = "y", kind = "logits"%s }]
golden = "golden"
"""


def classes(folder: Path, labels: str, *folders: str) -> Config:
    for name in folders:
        (folder / "golden" / name).mkdir(parents=True)
        (folder / "golden" / name / "1.png").write_bytes(b"")
    return config(folder, LABELLED % labels)


def test_a_folder_that_is_no_label_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"golden folder 'cut' in 'golden' is none of the 2 labels \(cat, dog\)"):
        make_plan(classes(tmp_path, ', labels = ["cat", "dog"]', "cut", "dog"), {}, planned_kinds)


@pytest.mark.parametrize(
    ("labels", "folders", "told"),
    [
        ("", ("cat", "dog"), ["cat", "dog"]),
        ("", ("all",), []),
        (', labels = ["cat", "dog"]', ("cat", "dog"), []),
    ],
)
def test_folders_without_labels_are_noticed(
    tmp_path: Path, labels: str, folders: tuple[str, ...], told: list[str]
) -> None:
    planned = classes(tmp_path, labels, *folders)
    assert unlabelled_folders(planned.models["classes"]) == told
    kinds = make_plan(planned, {}, planned_kinds)["classes-onnx-fp32"].kinds
    assert ("accuracy" in kinds) == bool(labels)


def test_a_command_that_set_options_is_named_in_their_place(tmp_path: Path) -> None:
    plan = make_plan(config(tmp_path), {"set": ["seed = 1"], "rerun": "parity verify a.onnx"}, planned_kinds)
    assert plan.partial == "parity verify a.onnx"
