"""`parity diff`: two runs compared; exit code 1 when the second is worse."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parity.commands.gate import judged
from parity.core.record import RunRecord, State, read
from parity.core.visible import visible
from parity.judging import baseline
from parity.judging import gate as gating

# How much a state takes from the evidence: a cell may get worse within a run that still passes.
_RANK: dict[State, int] = {
    "pass": 0, "waived": 1, "unavailable": 2, "missing": 3, "fail": 4, "error": 4, "timeout": 4, "crash": 4,
}  # fmt: skip


def add(commands: Any) -> None:
    command = commands.add_parser("diff", help="compare two saved records", description=__doc__)
    command.add_argument("before", type=Path, metavar="A.json", help="the record of the earlier run")
    command.add_argument("after", type=Path, metavar="B.json", help="the record of the later run")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    lines = list(differences(judged(read(options.before)), judged(read(options.after))))
    for worse, line in lines:
        print(visible(f"{'worse' if worse else '':<6}{line}"))
    bad, count = sum(worse for worse, _ in lines), f"{len(lines)} difference{'' if len(lines) == 1 else 's'}"
    if bad:
        print(f"{options.after} is worse than {options.before}: {bad} of {count}")
    elif lines:
        print(f"{options.after} is no worse than {options.before}: {count}")
    else:
        print(f"no difference between {options.before} and {options.after}")
    return int(bad > 0)


def differences(before: RunRecord, after: RunRecord) -> Iterator[tuple[bool, str]]:
    """(whether it is worse, a sentence) for everything that changed from one run to the other.

    Figures are compared over different machines and versions too, which are told: the person knows why they differ.
    """
    ledger = baseline.of(before)
    yield from _runs(before, after)
    old, new = {c.id: c for c in before.cells}, {c.id: c for c in after.cells}
    for id, cell in old.items():
        if id not in new and not after.partial:
            yield _RANK[cell.state] < 4, f"{id}: removed, was {cell.state}"
    for id, cell in new.items():
        if id not in old:
            if not before.partial:
                yield _RANK[cell.state] > 2, f"{id}: new, {cell.state}" + (f": {cell.reason}" if cell.reason else "")
        elif cell.state != old[id].state:
            worse = _RANK[cell.state] > _RANK[old[id].state]
            yield worse, f"{id}: {old[id].state} -> {cell.state}" + (f": {cell.reason}" if cell.reason else "")
    for change in baseline.compare(ledger, after, any_environment=True).regressions:
        if change.what == "cell":
            continue
        lost = change.state == "removed" and new[change.cell].state in ("pass", "waived")
        if change.state == "changed":
            yield False, f"{change.cell}: {change.what}"
            continue
        yield (
            change.state == "regressed" or lost,
            f"{change.cell}: {change.what} {_figures(change.before, change.now)} ({change.state})",
        )
    for id, kept in ledger.cells.items():
        for sentence in baseline.widened(kept, new[id]) if id in new else ():
            yield False, f"{id}: {sentence.replace(' since the baseline', '').replace('in the baseline', 'before')}"


def _runs(before: RunRecord, after: RunRecord) -> Iterator[tuple[bool, str]]:
    for record, name in ((before, "the first"), (after, "the second")):
        if record.partial:
            yield False, f"{name} run is partial ({record.partial}): cells that only the other has are not compared"
    if before.verdict != after.verdict:
        worse = gating.exit_code(after) > gating.exit_code(before)
        yield worse, f"verdict: {before.verdict} -> {after.verdict}: {after.reason}"
    ours, theirs = before.environment, after.environment
    pairs = [("python", ours.python, theirs.python), ("machine", ours.machine, theirs.machine)]
    names = sorted({*ours.packages, *theirs.packages})
    pairs += [(n, ours.packages.get(n, "absent"), theirs.packages.get(n, "absent")) for n in names]
    chains = sorted(ours.toolchains.keys() & theirs.toolchains.keys())
    pairs += [(f"toolchain {n}", ours.toolchains[n], theirs.toolchains[n]) for n in chains]
    for name, first, second in pairs:
        if first != second:
            yield False, f"environment: {name} {first} -> {second}"


def _figures(before: float | None, now: float | None) -> str:
    if before is None and now is None:
        return "cannot be compared"
    return f"{_figure(before)} -> {_figure(now)}"


def _figure(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"
