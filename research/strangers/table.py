"""The summary of lines: what became of right and wrong files, and every refused right file with its cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from research.strangers.lines import OWN_ERRORS, Line

ROWS = (
    "right, passed", "right, refused", "wrong, refused", "wrong, passed",
    "undecided by hand, passed", "undecided by hand, refused", "error of our own", "out of time", "no file",
    "unavailable here",
)  # fmt: skip
LISTED = ("right, refused", "wrong, passed", "undecided by hand, refused", "error of our own", "no file")


def summary(lines: Sequence[Line]) -> str:
    """Markdown. Core ML files do not run here: what the suite says of them is counted apart, by hand undecided."""
    run = [line for line in lines if not line.target.startswith("coreml") and not line.edit]
    apart = [line for line in lines if line.target.startswith("coreml") and not line.edit]
    parts = [_counts("Files that the judge by hand can run", run), _counts("Core ML, not run by hand", apart)]
    parts += [_listed(row, [line for line in (*run, *apart) if line.outcome == row]) for row in LISTED]
    edited = [line for line in lines if line.edit]
    if edited:
        parts.append(_edits(edited))
    return "\n".join(part for part in parts if part)


def _counts(title: str, lines: Sequence[Line]) -> str:
    counted = Counter(line.outcome for line in lines)
    right = counted["right, passed"] + counted["right, refused"]
    errors = [line for line in lines if line.file and line.state in OWN_ERRORS]
    models = len({line.model for line in lines})
    text = [f"## {title}", "", f"{len(lines)} cells of {models} models.", "", "| | cells |", "| --- | ---: |"]
    text += [f"| {row} | {counted[row]} |" for row in ROWS if counted[row]]
    text += ["", f"Right files refused: {counted['right, refused']} of {right}"
             + (f" ({counted['right, refused'] / right:.1%})." if right else "."),
             f"Cells with a file that ended in an error, crash or time-out: {len(errors)}.", ""]  # fmt: skip
    return "\n".join(text)


def _listed(row: str, lines: Sequence[Line]) -> str:
    if not lines:
        return ""
    text = [f"## {row}: {len(lines)}", ""]
    for line in sorted(lines, key=lambda line: (line.reason.partition(": ")[2], line.cell)):
        by_hand = f" (by hand: {line.why})" if line.why else ""
        text.append(f"- `{line.cell}` {line.state} {line.stage}: {' '.join(line.reason.split())[:500]}{by_hand}")
    return "\n".join([*text, ""])


def _edits(lines: Sequence[Line]) -> str:
    """Mutations: of those that change what the file computes, how many are refused."""
    counted: dict[tuple[str, str], Counter[str]] = {}
    for line in lines:
        changed = line.verdict == "wrong"
        key = (line.precision, line.target)
        counted.setdefault(key, Counter()).update(
            {"changed": changed, "found": changed and line.outcome == "wrong, refused", "same": not changed}
        )
    text = [
        "## Mutations",
        "",
        "| precision | target | refused of changed | not changed |",
        "| --- | --- | ---: | ---: |",
    ]
    text += [f"| {p} | {t} | {c['found']} of {c['changed']} | {c['same']} |" for (p, t), c in sorted(counted.items())]
    missed = [line for line in lines if line.verdict == "wrong" and line.outcome == "wrong, passed"]
    text += ["", *(f"- not found: `{line.cell}` {line.edit} ({line.why})" for line in missed)]
    return "\n".join([*text, ""])
