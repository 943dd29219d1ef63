"""A file appears whole or not at all, whoever else writes it and however the writing ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from parity.core.errors import ParityError
from parity.store import atomic

WRITER = """
import sys
from pathlib import Path
from parity.store import atomic
folder, letter = Path(sys.argv[1]), sys.argv[2]
for _ in range(60):
    atomic.publish({folder / name: letter * 200_000 for name in ("a.html", "a.md")})
"""


def test_what_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    paths = atomic.publish({tmp_path / "new" / "a.html": "one", tmp_path / "new" / "a.md": "two"})
    assert [p.read_text() for p in paths] == ["one", "two"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.html", "a.md"]


def test_a_body_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def interrupted() -> None:
        with atomic.replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_files_that_belong_together_all_stay_when_one_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "file").write_text("")
    with pytest.raises(ParityError, match=r"file/a\.md: cannot be written: File exists"):
        atomic.publish({tmp_path / "a.json": "new", tmp_path / "file" / "a.md": "new"})
    assert (tmp_path / "a.json").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "file"]


def test_writers_at_once_and_one_that_is_killed_never_leave_half_a_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, letter]) for letter in "xyz"]
    seen: set[str] = set()
    while any(w.poll() is None for w in writers[1:]):
        path = tmp_path / "a.html"
        if path.exists():
            text = path.read_text()
            assert len(text) == 200_000
            assert len(set(text)) == 1
            seen.add(text[0])
            if writers[0].poll() is None:
                os.kill(writers[0].pid, signal.SIGKILL)
    assert [w.wait() for w in writers[1:]] == [0, 0]
    writers[0].wait()
    assert seen
    assert {len(p.read_text()) for p in (tmp_path / "a.html", tmp_path / "a.md")} == {200_000}


def test_sync_writes_the_same_file(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a", "α", sync=True)
    assert (tmp_path / "a").read_text(encoding="utf-8") == "α"
