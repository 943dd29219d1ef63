"""Small charts as inline SVG: shares of a limit, coloured by the page's CSS, readable without colour.

Every chart uses one horizontal or vertical scale, `position`: linear up to the limit, compressed beyond it,
so that a hundredfold failure and a correct case fit into one picture. Charts carry role, title and nothing
that needs a style attribute (the page's content security policy forbids those).
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from parity.report.text import percent, plural, visible

LIMIT_AT = 0.7  # where the limit lies on the scale
STRIP_WIDTH, STRIP_HEIGHT, BIN = 150, 20, 3
LINE_WIDTH, LINE_HEIGHT = 720, 90


def position(share: float | None) -> float:
    """Where a share of a limit lies, 0 to 1: the limit at 0.7, infinity (or not finite at all) at 1."""
    if share is None:
        return 1.0
    if share <= 1:
        return LIMIT_AT * max(share, 0.0)
    return LIMIT_AT + (1 - LIMIT_AT) * (1 - 1 / share)


def bar(share: float | None) -> Markup:
    """A thin bar of the share used, the limit a notch; decoration: the share stands beside it as text."""
    if share is None:
        return Markup("")
    end = f"{max(position(share) * 100, 1):.0f}"
    return Markup(
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<path d="M0 4h100"/><path class="u" d="M0 4H{}"/><path class="l" d="M70 0v6"/></svg>'
    ).format(end)


def strip(
    points: Sequence[tuple[float | None, bool]], unit: str = "case", natural: tuple[float, float, float] | None = None
) -> Markup:
    """A histogram of (share of the limit, passed) over the cases, with the limit as a line.

    Heights are square roots of counts, so that one bad case beside thousands is still seen. `natural` are the shares
    that correct exports have in the median, at the 95th percentile and at most: a band behind the bars.
    """
    if not points:
        return Markup("")
    counts: dict[tuple[int, bool], int] = {}
    for share, passed in points:
        at = min(int(position(share) * STRIP_WIDTH), STRIP_WIDTH - 2) // BIN * BIN + 2
        counts[at, passed] = counts.get((at, passed), 0) + 1
    top = max(counts.values()) ** 0.5
    paths = {True: "", False: ""}
    for (at, passed), count in sorted(counts.items()):
        height = max(4, round((STRIP_HEIGHT - 3) * count**0.5 / top))
        paths[passed] += f"M{at} {STRIP_HEIGHT - 1}v-{height}"
    drawn = "".join(
        f'<path class="{name}" d="{paths[passed]}"/>' for passed, name in ((True, "p"), (False, "x")) if paths[passed]
    )
    described, band = _describe(points, unit), ""
    if natural is not None:
        median, high, most = (round(position(share) * STRIP_WIDTH) for share in natural)
        described += f"; correct exports: median {percent(natural[0])}, at most {percent(natural[2])} of the limit"
        band = f'<path class="b" d="M{median} 10H{max(most, median + 1)}"/>'
        band += f'<path class="m" d="M{median} 4v12M{high} 6v8"/>'
    return Markup('<svg class="strip" role="img" viewBox="0 0 150 20"><title>{}</title>{}</svg>').format(
        described, Markup(band + '<path class="l" d="M0 19.5h150M105.5 0v20"/>' + drawn)
    )


def _describe(points: Sequence[tuple[float | None, bool]], unit: str) -> str:
    finite = sorted(share for share, _ in points if share is not None)
    failed = sum(not passed for _, passed in points)
    words = [plural(len(points), unit)]
    if finite:
        if len(finite) > 1:
            words.append(f"median {percent(finite[len(finite) // 2])}")
        words.append(f"worst {percent(finite[-1])} of the limit")
    if len(finite) < len(points):
        words.append(f"{len(points) - len(finite):,} without a share")
    if failed:
        words.append(f"{failed:,} outside")
    return ", ".join(words)


def line(points: Sequence[tuple[str, float | None, bool]], metric: str) -> Markup:
    """Share of the limit over cases (label, share, passed) in order: frames of a video, steps of a sequence.

    More points than pixels are reduced to the worst of each column, so a single bad frame is never averaged
    away.
    """
    if len(points) < 2:
        return Markup("")
    columns: dict[int, tuple[str, float | None, bool]] = {}
    last = len(points) - 1
    for index, point in enumerate(points):
        at = round(index * (LINE_WIDTH - 12) / last) + 6
        held = columns.get(at)
        if held is None or (not point[2], position(point[1])) > (not held[2], position(held[1])):
            columns[at] = point
    height = LINE_HEIGHT - 12

    def y(share: float | None) -> str:
        return f"{LINE_HEIGHT - 4 - position(share) * height:.0f}"

    path = "M" + "L".join(f"{at} {y(point[1])}" for at, point in columns.items())
    marks = "".join(f"M{at} {y(point[1])}h.01" for at, point in columns.items() if not point[2])
    clips = [point[0].rpartition("#")[0] for point in points]  # frames of several clips stand in one line
    turns = "".join(
        f"M{round((i - 0.5) * (LINE_WIDTH - 12) / last) + 6} 0V{height + 8}" for i in range(1, len(points))
        if clips[i] != clips[i - 1]
    ) if 1 < len(set(clips)) <= 40 else ""  # fmt: skip
    worst_at, worst = max(columns.items(), key=lambda item: (not item[1][2], position(item[1][1]), -item[0]))
    side = "end" if worst_at > LINE_WIDTH / 2 else "start"
    title = f"{metric}, share of the limit over {len(points):,} cases in order; " + _describe(
        [point[1:] for point in points], "case"
    )
    return Markup(
        '<svg class="line" role="img" viewBox="0 0 {w} {h}"><title>{title}</title>'
        '<path class="l" d="M0 {zero}h{w}M0 {limit}h{w}{turns}"/><path class="p" d="{path}"/>{marks}'
        '<text x="{x}" y="10" text-anchor="{side}">{label}</text>'
        '<text x="{lx}" y="{ly}" text-anchor="{other}">limit</text></svg>'
    ).format(
        w=LINE_WIDTH,
        h=LINE_HEIGHT,
        title=visible(title),
        zero=y(0.0),
        turns=turns,
        limit=y(1.0),
        path=path,
        marks=Markup(f'<path class="x" d="{marks}"/>') if marks else "",
        x=worst_at + (-8 if side == "end" else 8),
        side=side,
        label=escape(visible(f"{worst[0][:60]} {percent(worst[1])}")),
        lx=2 if side == "end" else LINE_WIDTH - 2,
        ly=int(y(1.0)) - 3,
        other="start" if side == "end" else "end",
    )
