"""What the page and the summary say, computed once from the record: order, worst cases, shares, comparisons.

Pure functions over frozen dataclasses; no markup but the charts. A failing check always ranks before a
passing one, a check without a finite value before every measured one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from parity.core.exhibits import Exhibit, Picture
from parity.core.record import CellRecord, Check, Finding, RunRecord, State
from parity.judging.answer import repeats
from parity.judging.gate import gating, tail_warning, warnings
from parity.report import text
from parity.report.checks import Group, Points, Rank, group, rank, tightest, used
from parity.report.executions import ExecutionView, execution_views
from parity.report.glossary import BLOCKING, STATE_ORDER

PRECISIONS = ("fp32", "fp16", "dynamic", "int8")


# Bytes for the pictures and charts of a page, given out in its order: what blocks comes first. Large pages have fewer.
PICTURES, LEAST_PICTURES, TEXT_OF_A_CELL, WHOLE = 900_000, 250_000, 5_000, 2_900_000
CHART = 1_900  # bytes that a distribution takes


@dataclass(frozen=True)
class Budget:
    """How much of each cell is listed, so that the page of many cells stays under 3 MB."""

    rows: int  # rows of the table of checks: one for each (kind, output, metric)
    cases: int  # cases listed under them
    items: int  # findings, files, explanations ...
    words: int  # characters of one text
    log: int  # characters of the log's end
    faults: int  # injected faults listed by name
    layers: int  # points of a drift curve listed as text
    pictures: int  # bytes of pictures and charts, of all cells together

    @classmethod
    def for_cells(cls, count: int, squeeze: int = 1) -> Budget:
        """The budget of a run of `count` cells; a larger `squeeze` lists less."""
        pictures = _between(WHOLE - TEXT_OF_A_CELL * count, LEAST_PICTURES, PICTURES) // squeeze
        each = (WHOLE / squeeze - pictures) / max(count, 1) - 2200
        return cls(
            rows=_between(each * 0.7 / 420, 6 // squeeze, 240),
            cases=_between(each * 0.2 / 110, 4 // squeeze, 480),
            items=_between(each / 400, 5 // squeeze, 60),
            words=_between(each / 8, 240 // squeeze, 4000),
            log=_between(each / 6, 600 // squeeze, 20_000),
            faults=_between(each / 220, 8 // squeeze, 200),
            layers=_between(each / 300, 2, 60),
            pictures=pictures,
        )


def _between(value: float, low: int, high: int) -> int:
    return max(low, min(high, int(value)))


@dataclass(frozen=True)
class Said:
    """A finding for the page: its first line as text, the others as they were written."""

    label: str
    said: str
    lines: str


def _said(finding: Finding) -> Said:
    first, _, rest = finding.text.partition("\n")
    why = first.startswith("why: ")
    return Said("Why" if why else finding.level.capitalize(), first.removeprefix("why: "), rest)


@dataclass(frozen=True)
class CellView:
    """A cell with everything that its section shows."""

    record: CellRecord
    anchor: str
    tight: Check | None
    share: float | None
    used: str
    groups: tuple[Group, ...]
    rows_left: int
    rows_left_failed: int
    unmeasured: tuple[str, ...]
    size: int | None
    size_ratio: str
    ms: float | None
    ms_ratio: str
    log: str
    exhibits: tuple[Exhibit, ...] = ()  # those whose pictures find room on the page
    exhibits_left: int = 0
    charts: int = 0  # distributions that find room
    warned: bool = False  # the file is proved, and figures of its tail are beyond what correct files have shown

    @property
    def blocks(self) -> bool:
        """Whether this cell by itself keeps the verdict from pass."""
        return self.state in BLOCKING or (self.state == "unavailable" and self.record.required)

    @property
    def findings(self) -> tuple[Said, ...]:
        """The cell's findings, less those that only repeat its diagnosis or its first divergence."""
        return tuple(_said(finding) for finding in self.record.findings if not repeats(self.record, finding))

    @property
    def executions(self) -> tuple[ExecutionView, ...]:
        """The cell's executions beside the host's that the run planned."""
        return execution_views(self.record)

    @property
    def state(self) -> State:
        """The record's own state."""
        return self.record.state


def cell_view(cell: CellRecord, reference: CellRecord | None, name: str, budget: Budget) -> CellView:
    """The view of one cell; `reference` is the fp32 cell of its model and target (size, latency)."""
    measured = [(check, check.share()) for check in cell.checks]
    grouped: dict[tuple[str, str], dict[str, Points]] = {}
    for check, share in measured:
        grouped.setdefault((check.kind, check.output), {}).setdefault(check.metric, []).append((check, share))
    ranked = sorted(
        (
            (max(rank(*point) for point in points), key, metric)
            for key, by_metric in grouped.items()
            for metric, points in by_metric.items()
        ),
        key=lambda item: item[0],
        reverse=True,
    )
    keep: dict[tuple[str, str], set[str]] = {}
    for _, key, metric in ranked[: budget.rows]:
        keep.setdefault(key, set()).add(metric)
    groups: list[Group] = []
    warned = warnings(cell)
    left = budget.cases
    for index, (key, metrics) in enumerate(keep.items()):
        reserved = 3 * (len(keep) - index - 1)
        listed = max(left - reserved, min(left, 3))
        groups.append(group(*key, grouped[key], metrics, listed, {s.metric: s for s in cell.natural}, warned))
        left -= len(groups[-1].lines)
    gates = {id(check) for check in gating(cell)}
    tight, tight_share = tightest([(check, share) for check, share in measured if id(check) in gates])
    bytes_, ms = _size(cell), cell.runtime.median_ms if cell.runtime else None
    seen = {check.kind for check in cell.checks if check.value is not None}
    return CellView(
        record=cell,
        anchor=name,
        tight=tight,
        share=tight_share,
        used=used(tight, tight_share),
        groups=tuple(groups),
        rows_left=max(0, len(ranked) - budget.rows),
        rows_left_failed=sum(failed for (failed, _), _, _ in ranked[budget.rows :]),
        unmeasured=tuple(kind for kind in cell.planned if kind not in seen or kind not in cell.measured),
        size=bytes_,
        size_ratio=text.ratio(bytes_, _size(reference)),
        ms=ms,
        ms_ratio=text.ratio(ms, reference.runtime.median_ms if reference and reference.runtime else None),
        log=text.clip(cell.log, budget.log, end=True),
        warned=bool(tail_warning(cell)),
    )


def _size(cell: CellRecord | None) -> int | None:
    if cell is None or cell.artifact is None or not cell.artifact.files:
        return None
    return sum(file.bytes for file in cell.artifact.files)


def views(record: RunRecord, budget: Budget) -> tuple[CellView, ...]:
    """All cells: by state, what blocks first; within a state the tightest first; then as planned."""
    references = {(c.model, c.target): c for c in reversed(record.cells) if c.precision == "fp32"}
    names: set[str] = set()
    found: list[CellView] = []
    for cell in record.cells:
        name, again = text.anchor(cell.id), 1
        while name in names:
            again += 1
            name = f"{text.anchor(cell.id)}~{again}"
        names.add(name)
        reference = references.get((cell.model, cell.target)) if cell.precision != "fp32" else None
        found.append(cell_view(cell, reference, name, budget))
    found.sort(key=lambda view: _tightness(view), reverse=True)
    found.sort(key=lambda view: STATE_ORDER.index(view.state))
    return _pictured(found, budget.pictures)


def _pictured(cells: Sequence[CellView], room: int) -> tuple[CellView, ...]:
    """The cells with as many of their worst cases as `room` bytes hold, in the order of the page."""
    found = []
    for view in cells:
        shown: list[Exhibit] = []
        for exhibit in view.record.exhibits:
            size = 1500 + sum(len(p.data) for p in pictures_of(exhibit))
            if size <= room:
                room -= size
                shown.append(exhibit)
        charts = min(len(view.record.distributions), room // CHART)
        room -= charts * CHART
        left = len(view.record.exhibits) - len(shown)
        found.append(replace(view, exhibits=tuple(shown), exhibits_left=left, charts=charts))
    return tuple(found)


_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def source_of(picture: Picture) -> str:
    """The picture as a data URL; empty where the record holds no base64, which no browser could show."""
    return f"data:{picture.mime};base64,{picture.data}" if _BASE64.fullmatch(picture.data) else ""


def shown_size(picture: Picture) -> tuple[int, int]:
    """Width and height on the page in CSS pixels: small maps are drawn larger by whole factors, none beyond 400."""
    width, height = (min(max(n, 1), 400) for n in (picture.width, picture.height))
    factor = max(1, round(128 / max(width, height)))
    return width * factor, height * factor


def pictures_of(exhibit: Exhibit) -> tuple[Picture, ...]:
    """All pictures of a worst case."""
    made = (exhibit.reference, exhibit.artefact, exhibit.difference)
    return (*exhibit.inputs, *(p for p in made if p is not None))


def _tightness(view: CellView) -> Rank:
    return (False, -2.0) if view.tight is None else rank(view.tight, view.share)


def verdict_sentence(record: RunRecord) -> str:
    """The record's own reason, or a sentence that says the same from the states of the cells."""
    if record.reason:
        return record.reason
    total = text.plural(len(record.cells), "cell")
    blocking = [cell.id for cell in record.cells if cell.state in BLOCKING]
    gaps = [cell.id for cell in record.cells if cell.state in ("missing", "unavailable")]
    if record.verdict == "pass":
        return f"All {total} are measured, and every gated check is inside its limit."
    if record.verdict == "partial":
        return f"A narrowed matrix ({record.partial or 'by an option'}): {total} ran; not a release verdict."
    if record.verdict == "incomplete" and gaps:
        return f"{len(gaps):,} of {total} without a measurement: {_names(gaps)}."
    return (
        f"{len(blocking):,} of {total} block the release: {_names(blocking)}." if blocking else "No cell was planned."
    )


def _names(ids: Sequence[str], most: int = 4) -> str:
    more = f" and {len(ids) - most:,} more" if len(ids) > most else ""
    return ", ".join(text.clip(name, 80) for name in ids[:most]) + more
