"""The Markdown summary of a run, for the job page of a CI: verdict, matrix, what blocks, what is missing.

GitHub's dialect. Every string of the record is escaped so that it stays the text that it is: no table, tag,
link, mention or code span can be made from a name or a reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from parity.core.record import RunRecord
from parity.report import text
from parity.report.glossary import EMOJI, GAPS, VERDICT_EMOJI
from parity.report.matrix import Matrix, matrix, tally
from parity.report.view import Budget, CellView, verdict_sentence, views

LISTED = 100  # cells listed by name; a summary has 1 MiB on GitHub
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;", "`": "\\`", "|": "\\|"})
_MARKS = re.compile(r"([\\*\[\]#~$!{}])")
_EDGE_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def escape(value: str, length: int = 300) -> str:
    """`value` as one line of text: control characters visible, markup characters escaped, cut to `length`."""
    shown = _MARKS.sub(r"\\\1", text.clip(text.visible(value), length))
    shown = _EDGE_UNDERSCORE.sub(r"\\_", shown).translate(_HTML)
    return shown.replace("://", "&#58;//").replace("www.", "www&#46;")


def markdown(record: RunRecord, digest: str = "") -> str:
    """The summary of `record`: same record, same text; ends on a newline.

    `digest`, the sha256 of the record's `parity.json`, is the last line where it is given.
    """
    cells = views(record, Budget.for_cells(max(len(record.cells), 500)))
    parts = [
        f"## {VERDICT_EMOJI[record.verdict]} Parity: {record.verdict}",
        escape(verdict_sentence(record), 1000),
        " · ".join(f"{EMOJI[state]} {count:,} {state}" for state, count in tally(cells)) or "No cell was planned.",
    ]
    if record.partial:
        parts.append(f"Partial run ({escape(record.partial)}): never a release verdict.")
    if cells:
        parts += [
            "### Matrix",
            _matrix(matrix(cells)),
            "Share of the tightest limit that is used; 100 % is at the limit.",
        ]
    parts += _listed("Blocking", [cell for cell in cells if cell.blocks])
    parts += _listed("Not measured", [cell for cell in cells if cell.state in GAPS])
    parts += _listed("Waived", [cell for cell in cells if cell.state == "waived"])
    parts += _listed("Proved, with a warning", [cell for cell in cells if cell.state == "pass" and cell.warned])
    parts += _changes(record)
    env = record.environment
    packages = ", ".join(f"{name} {version}" for name, version in sorted(env.packages.items()))
    parts.append("---")
    parts.append(
        escape(f"Python {env.python} · {env.machine} · {text.plural(env.threads, 'thread')} · {packages}", 2000)
    )
    parts += [f"record sha256:{digest}"] if digest else []
    return "\n\n".join(parts) + "\n"


def _matrix(table: Matrix) -> str:
    lines = ["| " + " | ".join(["model", "precision", *(escape(target, 60) for target in table.targets)]) + " |"]
    lines.append("| --- " * (2 + len(table.targets)) + "|")
    for model in table.models:
        for row in model.rows:
            slots = ("<br>".join(_slot(cell) for cell in slot) or " " for slot in row.slots)
            lines.append(f"| {escape(model.name, 120)} | {escape(row.precision, 60)} | {' | '.join(slots)} |")
    return "\n".join(lines)


def _slot(cell: CellView) -> str:
    host = f"{EMOJI[cell.state]} {cell.state} {cell.used}".rstrip()
    others = (f"{escape(x.record.executor, 60)} {x.record.state}" for x in cell.executions)
    return "<br>".join((host, *others))


def _listed(title: str, cells: Sequence[CellView]) -> list[str]:
    if not cells:
        return []
    lines = []
    for cell in cells[:LISTED]:
        reason = cell.record.reason or (f"at {cell.record.stage}" if cell.record.stage else "no reason recorded")
        lines.append(f"- {EMOJI[cell.state]} **{escape(cell.record.id, 200)}** {cell.state}: {escape(reason)}")
    if len(cells) > LISTED:
        lines.append(f"- and {len(cells) - LISTED:,} more, in parity.json")
    return [f"### {title} ({len(cells):,})", "\n".join(lines)]


def _changes(record: RunRecord) -> list[str]:
    changes, bad_waivers = record.regressions_that_block, record.waivers_that_block
    parts = []
    if changes:
        lines = [
            f"- **{escape(c.cell, 200)}** {escape(c.what)}: {text.number(c.before)} → {text.number(c.now)}"
            for c in changes[:LISTED]
        ]
        parts += [f"### Regressed since the baseline ({len(changes):,})", "\n".join(lines)]
    if bad_waivers:
        lines = [
            f"- **{escape(w.cell, 200)}** {escape(w.metric)}: {w.state} ({escape(w.reason)}; {escape(w.expires)})"
            for w in bad_waivers[:LISTED]
        ]
        parts += [f"### Waivers that do not hold ({len(bad_waivers):,})", "\n".join(lines)]
    return parts
