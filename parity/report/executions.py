"""Executions beside the host's for the page and the summary: their state, and their figures beside the host's. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from parity.core.case import OVER_ALL
from parity.core.record import CellRecord, Check, ExecutionRecord

TONES: Final = {
    "pass": "ok",
    "measured": "let",
    "waived": "let",
    "refused": "off",
    "unavailable": "off",
    "missing": "gap",
}
NOTE: Final = (
    "measured: its figures are told and no limit holds them, because none is measured on this executor yet and nobody "
    "set one. refused: the executor does not take the file, and an app would meet the same."
)
_SHOWN = ("noise_ratio", "rel_rms", "top1", "top1_drop")  # figures that are compared, over all cases where there is one


@dataclass(frozen=True)
class Compared:
    """One figure of one output: the host's, and the execution's; None where it was not measured."""

    output: str
    metric: str
    host: float | None
    execution: float | None


@dataclass(frozen=True)
class ExecutionView:
    """An execution with everything that its row shows."""

    record: ExecutionRecord
    figures: tuple[Compared, ...]

    @property
    def tone(self) -> str:
        return TONES.get(self.record.state, "bad")

    @property
    def by(self) -> str:
        """What computed it, in words."""
        where = "native" if self.record.native else ""
        return ", ".join(word for word in (self.record.emulator, self.record.driver, where) if word)


def execution_views(cell: CellRecord) -> tuple[ExecutionView, ...]:
    """The executions that the run planned, in its order."""
    on_host = _worst(cell.checks)
    views = []
    for execution in cell.executions:
        if execution.from_capsule:
            continue
        own = _worst(execution.checks)
        figures = tuple(Compared(*key, on_host.get(key), value) for key, value in own.items())
        views.append(ExecutionView(execution, figures))
    return tuple(views)


def _worst(checks: Iterable[Check]) -> dict[tuple[str, str], float]:
    """The worst value of each figure that is shown, by (output, metric); over all cases where there is such a one."""
    values: dict[tuple[str, str], float] = {}
    pooled: set[tuple[str, str]] = set()
    for check in checks:
        key = check.output, check.metric
        if check.metric not in _SHOWN or check.value is None or key in pooled:
            continue
        if check.case == OVER_ALL:
            pooled.add(key)
            values[key] = check.value
        else:
            worse = max if check.sense == "max" else min
            values[key] = worse(values.get(key, check.value), check.value)
    return values
