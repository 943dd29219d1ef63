"""A saved record beside the project as it is now: what has changed since leaves no pass."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from parity.core.errors import ParityError
from parity.core.record import ArtifactRecord, CellRecord, Environment, FileRecord, RunRecord
from parity.session.origin import configuration
from parity.session.standing import check, standing

PYPROJECT = """
[tool.parity]
targets = ["onnx"]
timeout = 60

[tool.parity.limits]
fp32 = { cosine = 0.99 }

[tool.parity.models.skin]
factory = "net:skin"
"""


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    files = {"files/skin.onnx": b"right", "w.npz": b"weights"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    artifact = ArtifactRecord((FileRecord("skin.onnx", 5, digests["files/skin.onnx"]),), location="files")
    cell = CellRecord("skin-onnx-fp32", "skin", "onnx", "fp32", "pass", route="prebuilt", artifact=artifact)
    said = configuration(tmp_path / "pyproject.toml")
    read = {"w.npz": digests["w.npz"]}
    return RunRecord("pass", (cell,), Environment("3.11", {}, "linux"), configuration=said, read=read)


def test_a_project_as_it_was_has_no_changes(record: RunRecord, tmp_path: Path) -> None:
    now = standing(record, tmp_path / "reports" / "parity.json")
    assert (now.changed, now.absent) == ((), ())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("files/skin.onnx", "wrong", "files/skin.onnx, the artefact of skin-onnx-fp32"),
        ("w.npz", "other", "w.npz, which a model reads"),
        ("pyproject.toml", PYPROJECT.replace("net:skin", "net:other"), "models.skin in pyproject.toml"),
        ("pyproject.toml", PYPROJECT.replace("0.99", "0.9"), "limits in pyproject.toml"),
        ("pyproject.toml", PYPROJECT + '[tool.parity.models.pose]\nfactory = "net:pose"\n', "models.pose in"),
    ],
)
def test_what_has_changed_is_named(record: RunRecord, tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ParityError, match=f"changed since this run: .*{message}.*: run pytest -m parity again"):
        check(record, tmp_path / "reports" / "parity.json")


def test_other_tables_and_what_moves_no_figure_are_no_change(record: RunRecord, tmp_path: Path) -> None:
    other = PYPROJECT.replace("60", "90") + '[tool.pytest.ini_options]\naddopts = "-q"\n'
    (tmp_path / "pyproject.toml").write_text(other)
    check(record, tmp_path / "parity.json")


def test_limits_of_today_are_no_change_where_they_judge(record: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.replace("0.99", "0.9"))
    check(record, tmp_path / "parity.json", judged_anew=True)
    (tmp_path / "w.npz").write_bytes(b"other")
    with pytest.raises(ParityError, match=r"w\.npz"):
        check(record, tmp_path / "parity.json", judged_anew=True)


def test_a_record_beside_no_file_of_its_own_is_judged_alone(record: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "w.npz").unlink()
    (tmp_path / "files" / "skin.onnx").unlink()
    now = standing(record, tmp_path / "parity.json")
    assert (now.changed, now.absent) == ((), ("files/skin.onnx", "w.npz"))


def test_a_record_without_its_project_says_that_nothing_was_compared(
    record: RunRecord, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    now = standing(record, elsewhere / "parity.json")
    assert (now.changed, now.absent) == ((), ("the project", "files/skin.onnx", "w.npz"))


def test_a_record_elsewhere_is_of_the_current_project_where_that_has_its_models(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("elsewhere") / "parity.json"
    (tmp_path / "w.npz").write_bytes(b"other")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParityError, match=r"w\.npz"):
        check(record, place)
    check(replace(record, cells=(replace(record.cells[0], model="pose"),)), place)
    monkeypatch.chdir(place.parent)
    check(record, place)
