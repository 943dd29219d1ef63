"""The checks of a cell as tables: worst case of each metric, headroom in words, cases in order of badness.

Of one kind and output, what has a limit comes first, the tightest on top; what is only recorded follows.

A failing check always ranks before a passing one, a check without a finite value before every measured one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from parity.core.exhibits import Spread
from parity.core.kinds import BY_NAME
from parity.core.record import Check
from parity.report import svg, text

MOST = 8  # metrics of a table of cases

Rank = tuple[bool, float]
Points = list[tuple[Check, float | None]]  # checks with their share of the limit


def rank(check: Check, share: float | None) -> Rank:
    """Sort key of a check, larger is worse."""
    if not check.passed:
        return True, float("inf") if check.value is None or share is None else share
    return False, -1.0 if share is None else share


@dataclass(frozen=True)
class Row:
    """All cases of one metric of one output, stood for by the worst."""

    metric: str
    worst: Check
    rank: Rank
    value: str
    limit: str
    headroom: str
    strip: Markup
    count: int
    failed: int
    where: str  # the worst case, and what is known of it; as above where it is the same
    natural: str = ""  # in words, what correct exports have


@dataclass(frozen=True)
class CaseLine:
    """One case with its value of each metric of the group (text, passed), None where it has none."""

    case: str
    values: tuple[tuple[str, bool] | None, ...]
    failed: bool


@dataclass(frozen=True)
class Group:
    """The checks of one kind on one output."""

    kind: str
    output: str
    rows: tuple[Row, ...]
    cases: int
    metrics: tuple[str, ...]
    lines: tuple[CaseLine, ...]
    lead: str  # the metric of the line
    line: Markup


def used(check: Check | None, share: float | None) -> str:
    """The share of the limit in words: never a figure under the limit for a check that failed."""
    if check is None:
        return ""
    if check.value is None or check.nonfinite:
        return "not finite"
    if not check.passed and (share is None or share <= 1):
        return "over"
    return text.percent(share)


def headroom(check: Check, share: float | None) -> str:
    """What is left of the limit, or how far over."""
    if check.nonfinite:
        return f"{check.nonfinite:,} not finite"
    if check.value is None:
        return "not measured"
    if check.undecided is not None:
        return f"undecided: too few cases for {text.number(check.undecided)}"
    if check.limit is None:
        return "not gated"
    if not check.passed:
        over = share is not None and share > 1
        return f"{text.percent(share)} of limit" if over else "over the limit"
    if _is_fact(check):
        return "holds"
    return "–" if share is None else f"{100 - int(-(-max(share, 0.0) * 100 // 1))} %"


def _is_fact(check: Check) -> bool:
    """Whether the limit leaves no room: the check holds or it does not, and a share of it means nothing."""
    return check.limit == (0 if check.sense == "max" else 1)


def tightest(checks: Iterable[tuple[Check, float | None]]) -> tuple[Check | None, float | None]:
    """The gated check with the least headroom, failing ones before all others."""
    best: tuple[Rank, Check | None, float | None] = ((False, -2.0), None, None)
    for check, share in checks:
        if check.limit is None and check.passed:
            continue
        key = rank(check, share)
        if key > best[0]:
            best = key, check, share
    return best[1], best[2]


def _row(metric: str, points: Sequence[tuple[Check, float | None]], unit: str, spread: Spread | None) -> Row:
    worst, share = max(points, key=lambda point: rank(*point))
    if worst.limit is None and worst.passed:
        sign = -1 if worst.sense == "min" else 1
        worst, share = max(points, key=lambda point: sign * (point[0].value or 0.0))
    value, limit = text.against(worst.value, worst.limit)
    gated = [(share, check.passed) for check, share in points if check.limit is not None or not check.passed]
    if len(points) == 1 and _is_fact(worst):
        gated = []
    band = None
    if spread is not None and worst.limit and worst.sense == "max":
        band = (spread.median / worst.limit, spread.p95 / worst.limit, spread.largest / worst.limit)
    return Row(
        metric,
        worst,
        rank(worst, share),
        "not finite" if worst.value is None and worst.nonfinite else "none" if worst.value is None else value,
        ("" if worst.limit is None else "≤ " if worst.sense == "max" else "≥ ") + limit,
        headroom(worst, share),
        svg.strip(gated, unit, band),
        len(points),
        sum(not check.passed for check, _ in points),
        " · ".join(part for part in (worst.case, worst.detail) if part),
        ""
        if spread is None
        else f"correct exports: median {text.number(spread.median, 3)}, "
        f"largest {text.number(spread.largest, 3)}, of {text.plural(spread.count, 'export')}",
    )


def _unrepeated(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, with a worst case that is the one above said as such."""
    found: list[Row] = []
    for at, row in enumerate(rows):
        same = at > 0 and row.where and row.where == rows[at - 1].where
        found.append(replace(row, where="as above") if same else row)
    return tuple(found)


def group(
    kind: str,
    output: str,
    by_metric: dict[str, Points],
    keep: set[str],
    cases: int,
    natural: Mapping[str, Spread],
    warned: Sequence[Check] = (),
) -> Group:
    """The group of one kind and output: rows for the metrics in `keep`, at most `cases` cases listed. `warned` are
    checks outside their limits that refuse nothing, because the file is proved."""
    metrics = tuple(by_metric)
    about = BY_NAME[kind]
    spreads = natural if about.pooled else {}
    made = [_row(metric, by_metric[metric], about.unit, spreads.get(metric)) for metric in metrics if metric in keep]
    made = [replace(row, headroom=f"{row.headroom}: warning") if row.worst in warned else row for row in made]
    made.sort(key=lambda row: (row.rank, row.worst.limit is not None), reverse=True)
    rows = _unrepeated(made)
    table: dict[str, dict[str, tuple[Check, float | None]]] = {}
    for metric, points in by_metric.items():
        for check, share in points:
            table.setdefault(check.case, {}).setdefault(metric, (check, share))
    ranked = sorted(table.items(), key=lambda item: max(rank(*p) for p in item[1].values()), reverse=True)
    own = [row.metric for row in made if any(check.case != "all" for check, _ in by_metric[row.metric])]
    shown = tuple(own[:MOST])  # what blocks is on the left; figures over all cases stand in the rows above
    ranked = [item for item in ranked if item[0] != "all" and not item[1].keys().isdisjoint(shown)]
    several = any(len(points) > 1 for points in by_metric.values())
    lines = tuple(
        CaseLine(
            case,
            tuple(_value(found[m][0]) if m in found else None for m in shown),
            any(not check.passed for check, _ in found.values()),
        )
        for case, found in (ranked[:cases] if several else ())
    )
    lead, chart = "", Markup("")
    if about.ordered and rows:
        several_of = [row for row in rows if row.count > 1]
        if several_of:
            lead = max(several_of, key=lambda row: row.rank).metric
            told = [(check.case, share, check.passed) for check, share in by_metric[lead]]
            if not all(share == 0 and passed for _, share, passed in told):  # else there is nothing to see
                chart = svg.line(told, lead)
    return Group(kind, output, rows, len(table.keys() - {"all"}) or len(table), shown, lines, lead, chart)


def _value(check: Check) -> tuple[str, bool]:
    shown = "not finite" if check.value is None else text.number(check.value)
    return shown, check.passed
