"""`parity gate`: the verdict of a saved record, without running a model.

It is derived from the record alone. In the project that the record is of, files and configuration that have changed
since leave no pass.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity.core.errors import ParityError
from parity.core.record import CellRecord, RunRecord, loads, text_of
from parity.core.settings import Waiver
from parity.core.visible import visible
from parity.judging import gate as gating
from parity.judging.applicable import unapplied
from parity.report import publishing
from parity.session import project
from parity.session.standing import standing, words


def add(commands: Any) -> None:
    command = commands.add_parser("gate", help="judge a saved record again", description=__doc__)
    command.add_argument("record", type=Path, metavar="FILE", help="a parity.json")
    command.add_argument(
        "--limits", type=Path, metavar="PYPROJECT",
        help="judge under the limits and waivers that this pyproject.toml sets now, instead of the recorded ones",
    )  # fmt: skip
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    text = text_of(options.record)
    record = judged(loads(text, str(options.record)), options.limits)
    now = standing(record, options.record, judged_anew=options.limits is not None)
    if now.changed and not gating.exit_code(record):
        record = replace(record, verdict="incomplete", reason=words(now.changed))
    for cell in gating.by_urgency(record.cells):
        if cell.state != "pass":
            print(visible(f"{cell.state:<11} {cell.id}: {cell.reason}"))
        elif beyond := gating.tail_warning(cell):
            print(visible(f"{'warning':<11} {cell.id}: {beyond}"))
    print(visible(f"verdict: {record.verdict}: {record.reason}"))
    if now.absent:
        named = ", ".join(now.absent[:3]) + (f" and {len(now.absent) - 3} more" if len(now.absent) > 3 else "")
        print(visible(f"note: not here, and so not compared with the record: {named}"), file=sys.stderr)
    for path in publishing.strangers(options.record, text):
        print(f"{path}: made from another record; write it again with: parity report {options.record}", file=sys.stderr)
    code = gating.exit_code(record)
    for path, newer in later(options.record):
        print(f"{options.record}: a later run has its record in {path}: {newer.verdict}", file=sys.stderr)
        code = code or gating.exit_code(newer)
    return code


def later(record: Path) -> Iterator[tuple[Path, RunRecord]]:
    """The records, judged again, of runs that began after that of `record` and reported to another place."""
    for path in publishing.elsewhere(record):
        yield path, judged(loads(text_of(path), str(path)))


def judged(record: RunRecord, limits: Path | None = None) -> RunRecord:
    """The record with states and verdict derived again: from itself, or under the limits of a pyproject.toml."""
    if limits is None:
        cells = tuple(gating.settle(cell, _waivers(record, cell)) for cell in record.cells)
        return gating.judge(replace(record, cells=cells))
    config = project.load(limits)
    cells = tuple(gating.rejudge(cell, config.rules) for cell in record.cells)
    cells, waivers = gating.apply_waivers(cells, config.waive, datetime.date.today(), [c.id for c in cells])
    if not record.partial:
        cells = unapplied(cells, config.rules)
    return gating.judge(replace(record, cells=cells, waivers=waivers))


def _waivers(record: RunRecord, cell: CellRecord) -> list[Waiver]:
    """The waivers of a cell that were in force on the day of the run, as the record tells them; a stored state alone
    excuses nothing."""
    used = [w for w in record.waivers if w.cell == cell.id and w.state == "used"]
    found = [Waiver(w.cell, w.metric, w.reason, _date(w.expires), w.limit, w.source) for w in used]
    return [w for w in found if w.expires >= _date(record.started)]


def _date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text[:10])
    except ValueError:
        raise ParityError(f"the record has waivers and the date {text!r:.40}: not a date as in 2027-01-31") from None
