"""`parity report FILE`: write the HTML and Markdown of a saved record again.

`parity report merge FILE...`: join the records of all shards of one plan, judge the whole, and write its report.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from parity.commands.gate import judged
from parity.core.errors import ConfigError
from parity.core.record import RunRecord, dumps, loads, read, text_of
from parity.core.visible import visible
from parity.judging import gate
from parity.judging.shards import merge
from parity.report import publishing
from parity.store import atomic


def add(commands: Any) -> None:
    command = commands.add_parser(
        "report", help="write the report of a saved record; 'report merge' joins shards", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.add_argument("records", type=Path, nargs="+", metavar="[merge] FILE", help="a parity.json")
    command.add_argument(
        "--output", type=Path, metavar="HTML",
        help="where to (default: beside the record; for merge reports/parity.html); .json and .md go beside it",
    )  # fmt: skip
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """0 when written; after a merge, the exit code of the verdict."""
    first, *others = options.records
    if str(first) == "merge":
        record = judged(merge([(str(path), read(path)) for path in others]))
        html: Path = options.output or Path("reports", "parity.html")
        text = dumps(record)
        _write(html, record, text, {html.with_suffix(".json"): text})
        publishing.forget_elsewhere(html)
        print(visible(f"verdict: {record.verdict}: {record.reason}"))
        return gate.exit_code(record)
    if others:
        raise ConfigError("one record at a time; to join the shards of one plan: parity report merge FILE...")
    text, html = text_of(first), options.output or first.with_suffix(".html")
    if first in (html, html.with_suffix(".md")):
        raise ConfigError(f"{first}: the report would be written over its record; name another place with --output")
    _write(html, loads(text, str(first)), text, {})
    return 0


def _write(html: Path, record: RunRecord, text: str, beside: dict[Path, str]) -> None:
    """Write the report of a record, whose text is `text`, and what goes beside it. Raises ParityError."""
    if html.suffix != ".html":
        raise ConfigError(f"--output {html}: the report is HTML; give a path that ends in .html")
    for path in atomic.publish({**publishing.made(html, record, text), **beside}):
        print(path)
