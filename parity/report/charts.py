"""Larger charts as inline SVG: how errors are spread, drift along the network, the values of a small output.

Logarithmic scales carry their decades as text. Like the small charts of `svg`, each has role and title, says in words
what it shows, and needs no style attribute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from parity.core.exhibits import Distribution, Exhibit
from parity.core.record import Divergence, Drift
from parity.report.text import clip, number, plural, visible

WIDTH, HEIGHT, FOOT = 520, 110, 16  # FOOT: room for the text of the scale
POINTS = 260  # of a drift curve; of more layers the worst of each column is kept


def _svg(name: str, title: str, body: str, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    return Markup('<svg class="chart {}" role="img" viewBox="0 0 {} {}"><title>{}</title>{}</svg>').format(
        name, width, height, visible(title), Markup(body)
    )


def power_of_ten(exponent: int) -> str:
    """1, 0.1, 10, 1e-5: what a tick of a logarithmic scale says."""
    return number(10.0**exponent) if -3 <= exponent <= 3 else f"1e{exponent}"


def spread(found: Distribution) -> Markup:
    """Errors of the file's elements as bars, those of the precision alone as a line, on one logarithmic scale.

    Heights are square roots of shares, so that one wrong element of a million is still seen.
    """
    bins = len(found.artefact)
    if not bins or not found.elements or len(found.twin) not in (0, bins):
        return Markup("")
    every = [i for i in range(bins) if found.artefact[i] or (found.twin and found.twin[i])]
    if not every:
        return Markup("")
    low, high = max(0, every[0] - 2), min(bins, every[-1] + 3)
    slot = (WIDTH - 20) / (high - low)
    top = max(*found.artefact, *(found.twin or (0,))) ** 0.5
    base = HEIGHT - FOOT

    def tall(count: int) -> int:
        return max(2, round((base - 6) * count**0.5 / top)) if count else 0

    def at(index: float) -> float:
        return 10 + (index - low) * slot

    bars = "".join(
        f"M{at(i) + 1:.0f} {base}v-{tall(found.artefact[i])}h{slot - 2:.0f}V{base}z"
        for i in range(low, high)
        if found.artefact[i]
    )
    body = f'<path class="p f" d="{bars}"/>'
    if found.twin:
        steps = "".join(f"L{at(i):.0f} {base - tall(found.twin[i])}H{at(i + 1):.0f}" for i in range(low, high))
        body += f'<path class="t" d="M{steps[1:]}"/>'
    body += f'<path class="l" d="M0 {base}h{WIDTH}"/>'
    per, ticks = 1 / found.step, []
    decade = math.ceil(found.first + low * found.step - 1e-9)
    while found.first + high * found.step >= decade:
        x = at((decade - found.first) * per)
        if 14 <= x <= WIDTH - 14:
            ticks.append(f'<text x="{x:.0f}" y="{HEIGHT - 3}" text-anchor="middle">{power_of_ten(decade)}</text>')
        decade += 1
    body += "".join(ticks[:: math.ceil(len(ticks) / 10)] if ticks else "")
    return _svg("spread", spread_words(found), body)


def spread_words(found: Distribution) -> str:
    """What the chart shows, in words: typical and largest error, what the precision alone has, what is exact."""
    said = [f"{found.kind} {found.output}: {plural(found.elements, 'element')}", f"half within {_quantile(found, 0.5)}"]
    said.append(f"99 % within {_quantile(found, 0.99)}")
    if found.twin:
        said.append(f"the precision alone: 99 % within {_quantile(found, 0.99, twin=True)}")
    if found.exact:
        said.append(f"{found.exact:,} exact")
    if found.nonfinite:
        said.append(f"{found.nonfinite:,} not finite")
    return ", ".join(said)


def _quantile(found: Distribution, share: float, twin: bool = False) -> str:
    counts, seen = (found.twin, found.twin_exact) if twin else (found.artefact, found.exact)
    total = sum(counts) + seen
    for index, count in enumerate(counts):
        if seen >= share * total:
            return number(10 ** (found.first + index * found.step), 2) if index else "0"
        seen += count
    return number(10 ** (found.first + len(counts) * found.step), 2)


def place(points: Sequence[Drift], first: Divergence | None) -> int | None:
    """Where on the curve the first divergence is: at its own tensor, or else at the first one of its layer."""
    if first is None:
        return None
    own = [i for i, p in enumerate(points) if first.tensor and p.tensor == first.tensor]
    return next(iter(own or [i for i, p in enumerate(points) if p.layer == first.layer]), None)


def drift(points: Sequence[Drift], first: Divergence | None = None) -> Markup:
    """The error along the network on a logarithmic scale, and what the precision alone makes of it, dashed.

    `first` is marked. An error that is not finite is drawn at the top.
    """
    if len(points) < 2:
        return Markup("")
    known = [v for p in points for v in (p.error, p.floor) if v is not None and v > 0]
    if not known:
        return Markup("")
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    low, high = max(low, high - 16), max(high, low + 1)
    base, left = HEIGHT - FOOT, 40

    def y(value: float | None) -> float:
        exponent = high if value is None else math.log10(value) if value > 0 else low
        return 6 + (base - 6) * (high - min(max(exponent, low), high)) / (high - low)

    kept, marked = _columns(points), place(points, first)
    last = max(len(points) - 1, 1)

    def x(index: int) -> float:
        return left + (WIDTH - left - 10) * index / last

    def name(index: int) -> str:
        return first.layer if first is not None and index == marked else points[index].layer

    line = "L".join(f"{x(i):.0f} {y(points[i].error):.0f}" for i in kept)
    floor = "L".join(f"{x(i):.0f} {y(points[i].floor):.0f}" for i in kept)
    step = max(1, math.ceil((high - low) / 4))
    scale = [e for e in range(low, high + 1) if (e - low) % step == 0]
    body = '<path class="l" d="' + "".join(f"M{left} {y(10.0**e):.0f}H{WIDTH}" for e in scale) + '"/>'
    body += "".join(f'<text x="0" y="{y(10.0**e) + 4:.0f}">{power_of_ten(e)}</text>' for e in scale)
    body += f'<path class="t" d="M{floor}"/><path class="p" d="M{line}"/>'
    ends = ((left, "start", 0), (WIDTH, "end", last))
    body += "".join(
        f'<text x="{at}" y="{HEIGHT - 3}" text-anchor="{side}">{escape(visible(_end(name(i))))}</text>'
        for at, side, i in ends
    )
    if marked is not None:
        body += f'<path class="x" d="M{x(marked):.0f} {y(points[marked].error):.0f}h.01"/>'
    return _svg("drift", _drift_words(points, first, marked), body)


def _end(name: str, most: int = 22) -> str:
    """The end of a path: what tells one layer from the next."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _columns(points: Sequence[Drift]) -> list[int]:
    """Indices to draw: all, or the worst of each column where there are more than fit."""
    if len(points) <= POINTS:
        return list(range(len(points)))
    best: dict[int, int] = {}
    for index, point in enumerate(points):
        column = index * POINTS // len(points)
        held = best.get(column)
        if held is None or _worse(point) > _worse(points[held]):
            best[column] = index
    return list(best.values())


def _worse(point: Drift) -> float:
    return math.inf if point.error is None else point.error


def _drift_words(points: Sequence[Drift], first: Divergence | None, marked: int | None) -> str:
    end = points[-1]
    said = f"error over {plural(len(points), 'layer')}, at the end {number(end.error, 2)} of the rms"
    said += f", the precision alone {number(end.floor, 2)}"
    if first is not None and marked is not None:
        said += f"; first divergence at {clip(first.layer, 60)}, {marked + 1} of {len(points)}"
    return said


def values(shown: Exhibit) -> Markup:
    """The values of a small output: the oracle's as bars from 0, the file's as a mark on each."""
    pairs = list(zip(shown.want, shown.got, strict=False))
    finite = [v for pair in pairs for v in pair if v is not None]
    if not finite:
        return Markup("")
    low, high = min(0.0, *finite), max(0.0, *finite)
    span = (high - low) or 1.0
    slot = min(34.0, 330 / len(pairs))
    width, tall = round(slot * len(pairs)) + 8, 96

    def y(value: float) -> float:
        return 4 + (tall - 8) * (high - value) / span

    bars = marks = lost = ""
    for index, (want, got) in enumerate(pairs):
        x = 4 + index * slot
        if want is not None:
            bars += f"M{x + slot * 0.2:.1f} {y(0):.1f}V{y(want):.1f}h{slot * 0.6:.1f}V{y(0):.1f}z"
        if got is not None:
            marks += f"M{x + slot * 0.05:.1f} {y(got):.1f}h{slot * 0.9:.1f}"
        else:
            lost += f"M{x + slot / 2:.1f} 8h.01"
    body = f'<path class="o" d="{bars}"/><path class="l" d="M0 {y(0):.1f}h{width}"/><path class="p" d="{marks}"/>'
    body += f'<path class="x" d="{lost}"/>' if lost else ""
    title = f"{clip(shown.output, 60)}: {plural(len(pairs), 'value')}, the oracle's as bars, the file's as marks"
    return _svg("values", title, body, width, tall)


def furthest(shown: Exhibit, most: int = 4) -> list[tuple[str, float | None, float | None]]:
    """(name, oracle, file) of the values that say most: both decisions, then what moved furthest."""
    triples = list(zip(shown.names, shown.want, shown.got, strict=False))
    if not triples:
        return []

    def large(value: float | None) -> float:
        return -math.inf if value is None else value

    first = [max(triples, key=lambda t: large(t[1])), max(triples, key=lambda t: large(t[2]))]
    moved = sorted(
        triples,
        key=lambda t: math.inf if t[1] is None or t[2] is None else abs(t[2] - t[1]),
        reverse=True,
    )
    return list(dict.fromkeys([*first, *moved]))[:most]
