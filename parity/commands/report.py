"""`parity report`: write the HTML and Markdown of a saved record again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from parity.errors import ParityError
from parity.record import read


def add(commands: Any) -> None:
    command = commands.add_parser("report", help="write the HTML and Markdown of a saved record", description=__doc__)
    command.add_argument("record", type=Path, metavar="FILE", help="a parity.json")
    command.add_argument("--output", type=Path, metavar="HTML", help="where to (default: beside the record)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from parity.report import markdown, render

    record = read(options.record)
    html: Path = options.output or options.record.with_suffix(".html")
    try:
        html.parent.mkdir(parents=True, exist_ok=True)
        for path, text in ((html, render(record)), (html.with_suffix(".md"), markdown(record))):
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
            print(path)
    except OSError as error:
        raise ParityError(f"{html}: cannot be written: {error.strerror or error}") from None
    return 0
