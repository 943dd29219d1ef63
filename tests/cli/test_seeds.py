"""docs/seeds.md says only what its commands print: every row is read here, and run in the nightly profile.

Numbers may differ from machine to machine; the words around them may not.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from parity import cli

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "seeds.md"


@dataclass(frozen=True)
class Row:
    line: int
    feature: str
    command: str
    printed: tuple[str, ...]


def rows() -> list[Row]:
    found = []
    for number, line in enumerate(PAGE.read_text(encoding="utf-8").splitlines(), 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| ") and not line.startswith(("| feature", "| ---")):
            assert len(cells) == 3, f"line {number} has {len(cells)} cells"
            commands = re.findall(r"`([^`]+)`", cells[1])
            assert len(commands) == 1, f"line {number} needs exactly one command"
            found.append(Row(number, cells[0], commands[0], tuple(re.findall(r"`([^`]+)`", cells[2]))))
    return found


def test_every_row_has_a_command_that_exists_and_what_it_printed():
    assert len(rows()) > 50
    for row in rows():
        assert row.feature and row.printed, row
        words = [w for w in shlex.split(row.command) if not re.fullmatch(r"EXPORT_\w+=\S*", w)]
        if words[0] == "parity":
            cli.parser().parse_args(words[1:])  # leaves with an error where an option is not there
        else:
            assert words[0] == "pytest", row
            assert all((ROOT / w.partition("::")[0]).exists() for w in words[1:] if w.startswith("tests/")), row


def pattern(text: str) -> str:
    """A regular expression for a printed piece: any number for each number, any blanks for blanks."""
    parts = re.split(r"([\d.,]*\d[\d.,e+-]*|\s+|…)", text)
    kinds = {True: r"\s+", False: r"[-+\d.,e]+"}
    return "".join(
        ".*?" if p == "…" else kinds[p.isspace()] if i % 2 else re.escape(p) for i, p in enumerate(parts)
    )  # fmt: skip


@pytest.mark.nightly
def test_every_row_prints_what_it_says(tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "EXPORT_OUTPUT_DIR": str(tmp_path / "exports")}
    said: dict[str, str] = {}
    wrong = []
    for row in rows():
        if row.command not in said:
            command = row.command.replace("exports/", f"{tmp_path}/exports/")
            done = subprocess.run(command, shell=True, cwd=ROOT, env=env, capture_output=True, text=True)
            said[row.command] = f"{done.stdout}\n{done.stderr}\nexit {done.returncode}\n"
        said_here = said[row.command].replace(f"{tmp_path}/", "")
        wrong += [f"line {row.line}: {p}" for p in row.printed if not re.search(pattern(p), said_here)]
    assert not wrong, "\n".join(wrong)
