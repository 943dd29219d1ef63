"""`parity schema config|record [FILE ...]`: the JSON schema of `[tool.parity]` or of a record (`parity.json`), or files
held to it.

For editors that complete and check settings, and for programs that read records:

    parity schema config > parity.schema.json

With files, each is read as strictly as a run reads it, without running or importing anything of the project:

    parity schema config pyproject.toml
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import parity
from parity.core import record
from parity.core.words import plural
from parity.session import project

FILES = {"config": Path("config", "schema.json"), "record": Path("core", "schema.json")}


def add(commands: Any) -> None:
    command = commands.add_parser(
        "schema",
        help="print the JSON schema of settings or records, or check files",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("of", choices=tuple(FILES), help="settings, or the record of a run")
    command.add_argument("files", nargs="*", type=Path, metavar="FILE", help="check these files, and print no schema")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the schema, or check files: 0 where all can be read. Raises ParityError for the first that cannot."""
    if not options.files:
        print(text(options.of), end="")
    for file in options.files:
        print(f"{file}: {_checked(options.of, file)}")
    return 0


def _checked(of: str, file: Path) -> str:
    """What a file holds, in words. Raises ConfigError for settings, ParityError for a record, that cannot be read."""
    if of == "config":
        config = project.load(file)
        return f"{plural(len(config.models), 'model')}, {plural(len(config.cells), 'cell')}"
    whole = record.read(file)
    return f"{plural(len(whole.cells), 'cell')}, verdict {whole.verdict}"


def text(of: str) -> str:
    """The schema of settings ("config") or records ("record"), as JSON; ends on a newline."""
    return (Path(parity.__file__).parent / FILES[of]).read_text(encoding="utf-8")


def of_table(tool_name: str = "parity") -> Any:
    """The schema of `[tool.parity]` for validate-pyproject, which finds it by an entry point."""
    return json.loads(text("config"))
