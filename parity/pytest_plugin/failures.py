"""pytest's FAILURES section, one block a faulty cell: its tests fail of one fault, which is told once.

With `-v` every failing test keeps a block of its own, and the short summary lists every test as ever.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from parity.core.visible import visible
from parity.pytest_plugin.fixtures import CONTROL

if TYPE_CHECKING:
    from parity.core.record import RunRecord

_REPORTS: pytest.StashKey[list[Any]] = pytest.StashKey()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> Iterator[None]:
    """Fold the reports before pytest prints them; `restore` gives them back before its short summary."""
    control = config.stash.get(CONTROL, None)
    reports = terminalreporter.stats.get("failed")
    if control is not None and control.record is not None and reports and config.option.verbose < 1:
        config.stash[_REPORTS] = reports
        terminalreporter.stats["failed"] = folded(reports, control.record, control.shown_report())
    yield
    restore(terminalreporter, config)


def restore(terminalreporter: Any, config: pytest.Config) -> None:
    """Give pytest the reports of all failing tests back."""
    reports = config.stash.get(_REPORTS, None)
    if reports is not None:
        terminalreporter.stats["failed"] = reports
        del config.stash[_REPORTS]


def folded(reports: Sequence[Any], record: RunRecord, path: str) -> list[Any]:
    """The reports with those of one cell as one, in the place of the first. `path` is the HTML report's, "" for none.

    The only failing test of a cell keeps its block, and so does a failure that is no verdict of the suite (an
    assertion in a project's own test).
    """
    reasons = {cell.id: cell.reason for cell in record.cells if cell.state == "fail"}
    by_cell: dict[str, list[Any]] = {}
    for report in reports:
        cell = _cell_of(report)
        if cell in reasons:
            by_cell.setdefault(cell, []).append(report)
    kept = []
    for report in reports:
        cell = _cell_of(report)
        if len(by_cell.get(cell, ())) < 2:
            kept.append(report)
        elif report is by_cell[cell][0]:
            kept.append(_block(cell, reasons[cell], by_cell[cell], path))
    return kept


def _cell_of(report: Any) -> str:
    """The cell whose checks the report's test found broken; "" for any other failure."""
    seen: Mapping[str, Any] = getattr(report, "parity", {})
    return seen["cell"] if seen.get("broken") else ""


def _block(cell: str, reason: str, reports: Sequence[Any], path: str) -> Any:
    """One report for all of a cell: the reason, what each test found, and how to see more and to repeat it."""
    lines = [visible(f"{cell}: {reason}")]
    for report in reports:
        broken, *notes = report.parity["broken"]
        test = report.nodeid.rpartition("::")[2].partition("[")[0]
        lines += [visible(f"  {test}: {broken}"), *notes]
    see = f"  more: {path}#{cell}; " if path else "  "
    lines.append(
        f"{see}{len(reports)} tests failed of this, each with its figures by -v; again: pytest -m parity -k {cell}"
    )
    block = copy.copy(reports[0])
    file, line, _ = block.location
    block.location = (file, line, cell)
    block.longrepr = "\n".join(lines)
    block.sections = [section for report in reports for section in report.sections]
    return block
