"""What the terminal says at the end of a run: what does not pass first, then the verdict and how to go on. Pure."""

from __future__ import annotations

from parity.core.executors import execution_id
from parity.core.record import CellRecord, RunRecord
from parity.core.visible import visible
from parity.core.words import plural
from parity.judging import answer, gate

Line = tuple[str, str]  # (style of pytest's terminal or "", text)
RERUN = 6  # cells that one command to run again names, and whose causes are told
CAUSES = ("diagnosis: ", "first divergence: ", "hint: ")  # findings that are told with a cell that does not pass
NAMED, WARNINGS = 3, 12  # cells that one warning names, and warnings that are told


def lines(record: RunRecord, *, blocking: bool = True) -> list[Line]:
    """The lines of a run, up to its verdict. `blocking` is whether the verdict decides the exit code."""
    found: list[Line] = []
    told = 0
    for cell in gate.by_urgency(record.cells):
        if cell.state == "pass":
            continue
        style = {"unavailable": "", "waived": "yellow", "missing": "yellow"}.get(cell.state, "red")
        found.append((style, f"{cell.state:<11} {cell.id}: {cell.reason}"))
        more = [f.text for f in cell.findings if f.text.startswith(CAUSES) and not answer.repeats(cell, f)]
        if cell.proof is not None and cell.proof.state == "failed" and cell.proof.summary not in cell.reason:
            more.append(f"chain of proof: {cell.proof.summary}")
        told += bool(more)
        found += [("", f"{'':<11} {text}") for text in more if told <= RERUN]
    found += [("yellow", line) for line in warnings(record)]
    if record.waiting and not record.partial:
        found.append(("", f"{'nightly':<11} {', '.join(record.waiting)}: only with --parity-profile nightly"))
    passed = sum(c.state == "pass" for c in record.cells)
    steps = f"{plural(record.builds, 'converter step')} run" if record.builds else "all artefacts from the cache"
    if not any(cell.artifact for cell in record.cells):
        steps = "nothing was exported"
    checks = sum(len(c.checks) for c in record.cells)
    found.append(
        ("", f"{passed} of {plural(len(record.cells), 'cell')} pass, {checks} check{'s' * (checks != 1)}, {steps}")
    )
    style = {"pass": "green", "partial": "yellow"}.get(record.verdict, "red")
    warn = " (gate: warn, not blocking)" if style == "red" and not blocking else ""
    found.append((style, f"verdict: {record.verdict}: {record.reason}{warn}"))
    again = rerun(record)
    found += [("", f"rerun: {again}")] if again else []
    return [(style, visible(text)) for style, text in found]


def rerun(record: RunRecord) -> str:
    """The command that runs again the cells that do not pass and can run here; empty where there is none."""
    bad = [c for c in gate.by_urgency(record.cells) if c.state not in ("pass", "waived", "unavailable") and c.rerun]
    if len(bad) == 1:
        return bad[0].rerun
    named: list[CellRecord] = bad[:RERUN]
    more = f"   # and {len(bad) - RERUN} more cells, each with its command in the report" if len(bad) > RERUN else ""
    return f"pytest -m parity -k '{' or '.join(c.id for c in named)}'{more}" if named else ""


def warnings(record: RunRecord) -> list[str]:
    """A line for each warning, with the cells that it is about; of very many, how many more the report has."""
    cells: dict[str, list[str]] = {}
    of_failing = 0
    for cell in record.cells:
        texts = [finding.text for finding in cell.findings if finding.level == "warning"]
        if cell.state == "fail":  # its fault comes first, and most of these are of it
            of_failing += len(texts)
            continue
        for text in texts:
            cells.setdefault(text, []).append(cell.id)
    for cell in record.cells:
        for execution in cell.executions:
            id = execution_id(cell.id, execution.executor)
            texts = [finding.text for finding in execution.findings if finding.level == "warning"]
            for text in [execution.reason] if execution.state == "refused" else texts:
                cells.setdefault(text, []).append(id)
        if beyond := gate.tail_warning(cell):
            cells.setdefault(beyond, []).append(cell.id)
    found = []
    for text, ids in cells.items():
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        found.append(f"{'warning':<11} {', '.join(ids[:NAMED])}{more}: {text}")
    left = len(found) - WARNINGS
    if left > 0:
        found = [*found[:WARNINGS], f"{'warning':<11} and {left} more: see the report"]
    if of_failing:
        found.append(f"{'warning':<11} {of_failing} more of cells that fail: see the report")
    return found
