"""What a shard says it is made from: it follows every file of the plan, and nothing that a run writes itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from parity.core.record import Environment, RunRecord, dumps
from parity.session import project
from parity.session.origin import joined, origin

PYPROJECT = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32"]

[tool.parity.models.skin]
factory = "net:skin"
checkpoint = "skin.npz"
inputs = [{ name = "x", shape = ["batch", 3] }]
outputs = [{ name = "y" }]
golden = "golden"
artifacts = { "onnx-fp32" = "skin.onnx" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "net.py").write_text("def skin(): ...\n")
    (tmp_path / "skin.onnx").write_bytes(b"a")
    (tmp_path / "golden").mkdir()
    for path in ("skin.npz", "golden/0.npz"):
        np.savez(tmp_path / path, x=np.zeros((1, 3), np.float32))
    return tmp_path


def made_from(folder: Path) -> dict[str, str]:
    return origin(project.load(folder / "pyproject.toml"))


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def committed(folder: Path) -> None:
    git(folder, "init")
    git(folder, "add", "-A")
    git(folder, "commit", "-m", "one")


@pytest.mark.parametrize("in_git", [False, True])
@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("net.py", "source"),
        ("other.py", "source"),
        ("skin.npz", "checkpoint of skin"),
        ("golden/0.npz", "golden data of skin"),
        ("golden/1.npz", "golden data of skin"),
        ("skin.onnx", "artefact skin-onnx-fp32"),
    ],
)
def test_a_changed_file_is_told_by_its_name(folder: Path, in_git: bool, file: str, what: str) -> None:
    if in_git:
        committed(folder)
    before = made_from(folder)
    with (folder / file).open("ab") as opened:
        opened.write(b"#")
    now = made_from(folder)
    assert before[what] != now[what]
    assert {key for key in now if before.get(key) != now[key]} <= {what, "uncommitted changes"}


def test_a_commit_and_what_is_not_committed_are_told(folder: Path) -> None:
    (folder / "limits.json").write_text("{}")
    committed(folder)
    before = made_from(folder)
    (folder / "limits.json").write_text("[]")
    changed = made_from(folder)
    assert {key for key in before if before[key] != changed[key]} == {"uncommitted changes"}
    git(folder, "commit", "-am", "two")
    after = made_from(folder)
    assert {key for key in before if before[key] != after[key]} == {"commit"}


def test_what_a_run_writes_is_no_change(folder: Path) -> None:
    record = RunRecord("incomplete", (), Environment("3.11", {}, "linux"))
    (folder / "sh").mkdir()
    for suffix in (".json", ".html", ".md", ".whole.json", ".whole.html", ".whole.md"):
        (folder / "sh" / f"1{suffix}").write_text(dumps(record))
    committed(folder)
    before = made_from(folder)
    (folder / "sh" / "1.html").unlink()
    (folder / "sh" / "1.whole.json").unlink()
    (folder / "sh" / "1.json").write_text(dumps(record) + "\n")
    assert made_from(folder) == before


def test_a_change_while_a_shard_ran_equals_neither_end() -> None:
    assert joined({"commit": "a"}, {"commit": "a"}) == {"commit": "a"}
    assert joined({"commit": "a"}, {"commit": "b"})["commit"] not in ("a", "b")
    assert joined({"commit": "a"}, {})["commit"] not in ("a", "")
