"""`parity schema config|record`: the JSON schema of `[tool.parity]`, or of a record (`parity.json`).

For editors that complete and check settings, and for programs that read records:

    parity schema config > parity.schema.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import parity

FILES = {"config": Path("config", "schema.json"), "record": Path("core", "schema.json")}


def add(commands: Any) -> None:
    command = commands.add_parser("schema", help="print the JSON schema of settings or records", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    command.add_argument("of", choices=tuple(FILES), help="settings, or the record of a run")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    print(text(options.of), end="")
    return 0


def text(of: str) -> str:
    """The schema of settings ("config") or records ("record"), as JSON; ends on a newline."""
    return (Path(parity.__file__).parent / FILES[of]).read_text(encoding="utf-8")


def of_table(tool_name: str = "parity") -> Any:
    """The schema of `[tool.parity]` for validate-pyproject, which finds it by an entry point."""
    return json.loads(text("config"))
