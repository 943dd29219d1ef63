"""Numbers, units and charts: rounding never crosses a limit, and every chart is well-formed and named."""

from __future__ import annotations

import dataclasses
import math
import re
import xml.etree.ElementTree as ET

import looks
import pytest
import records
from hypothesis import given
from hypothesis import strategies as st

from parity.core.record import Divergence, Drift
from parity.report import charts, render, svg, text

FIRST = Divergence("net.stem.conv", 0.02)
SHARES = st.one_of(st.none(), st.floats(0, 1e9, allow_nan=False))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0"),
        (912_345.0, "912,345"),
        (0.123456, "0.1235"),
        (1.2e-7, "1.2e-7"),
        (0.99999987, "1 − 1.3e-7"),
        (-0.25, "-0.25"),
        (3e12, "3e12"),
        (math.inf, "inf"),
    ],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (None, "–"),
        (0.0, "0 %"),
        (1e-5, "<0.1 %"),
        (0.0123, "1.2 %"),
        (0.41, "41 %"),
        (0.9999, "99 %"),
        (1.0, "100 %"),
        (1.0001, "101 %"),
        (2.205, "221 %"),
        (31.4, "31×"),
        (1e7, "1e7×"),
        (-2.0, "0 %"),
    ],
)
def test_shares(share: float | None, shown: str) -> None:
    assert text.percent(share) == shown


@given(st.floats(0, 10, allow_nan=False))
def test_a_share_is_never_rounded_across_the_limit(share: float) -> None:
    found = re.match(r"<?([\d.]+)", text.percent(share))
    assert found
    assert (float(found[1]) > 100) == (share > 1)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_value_and_limit_read_differently_when_they_differ(value: float, limit: float) -> None:
    shown = text.against(value, limit)
    assert (shown[0] == shown[1]) == (value == limit)


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, "–"), (0, "0 B"), (999, "999 B"), (246_333, "246 kB"), (999_600, "1 MB"), (7 * 10**12, "7,000 GB")],
)
def test_sizes(count: int | None, shown: str) -> None:
    assert text.size(count) == shown


@pytest.mark.parametrize(
    ("amount", "shown"), [(None, "–"), (0.00208, "2.08 ms"), (3.2, "3.2 s"), (161.0, "3 min"), (9000.0, "2 h 30 min")]
)
def test_durations(amount: float | None, shown: str) -> None:
    assert text.seconds(amount) == shown


def test_clipping_says_how_much_is_left_out() -> None:
    assert text.clip("abcdef", 6) == "abcdef"
    assert text.clip("abcdef", 4) == "abcd [… 2 more characters in parity.json]"
    assert text.clip("abcdef", 4, end=True) == "[… 2 more characters in parity.json]\ncdef"


def _parse(drawing: str) -> ET.Element:
    root = ET.fromstring(drawing)
    assert root.tag == "svg"
    if root.get("aria-hidden") != "true":
        assert root.get("role") == "img"
        assert root[0].tag == "title"
        assert root[0].text
    assert not any("style" in node.attrib for node in root.iter())
    return root


@given(st.lists(st.tuples(SHARES, st.booleans()), min_size=1, max_size=300))
def test_a_strip_is_well_formed_and_inside_its_box(points: list[tuple[float | None, bool]]) -> None:
    root = _parse(str(svg.strip(points)))
    for path in root.findall("path")[1:]:
        for x, top in re.findall(r"M(\d+) (\d+)v", path.get("d", "")):
            assert 0 <= int(x) <= svg.STRIP_WIDTH
            assert 0 <= int(top) <= svg.STRIP_HEIGHT
    classes = {path.get("class") for path in root.findall("path")}
    assert ("x" in classes) == any(not passed for _, passed in points)


@given(st.lists(st.tuples(st.text(max_size=80), SHARES, st.booleans()), min_size=2, max_size=2000))
def test_a_line_is_well_formed_and_keeps_the_worst(points: list[tuple[str, float | None, bool]]) -> None:
    drawn = str(svg.line(points, "noise_ratio"))
    root = _parse(drawn)
    assert ("x" in {p.get("class") for p in root.findall("path")}) == any(not p[2] for p in points)


def test_one_bad_frame_of_a_million_is_drawn() -> None:
    points = [(f"f{i}", 0.2, True) for i in range(100_000)]
    points[77_777] = ("the_bad_one", 9.0, False)
    drawn = str(svg.line(points, "max_abs"))
    assert "the_bad_one" in drawn
    assert len(drawn) < 20_000


@given(SHARES, SHARES)
def test_the_scale_is_monotone_and_meets_the_limit(a: float | None, b: float | None) -> None:
    low, high = sorted((math.inf if s is None else s) for s in (a, b))
    assert svg.position(None if low == math.inf else low) <= svg.position(None if high == math.inf else high) <= 1
    assert svg.position(1.0) == pytest.approx(svg.LIMIT_AT)


@pytest.mark.parametrize("name", ["failing", "hostile"])
def test_every_chart_of_a_page_is_well_formed(name: str) -> None:
    found = re.findall(r"<svg\b.*?</svg>", render(getattr(records, name)()), re.DOTALL)
    assert len(found) > 30
    for drawing in found:
        _parse(drawing)


def test_larger_charts_are_well_formed_and_say_what_they_show() -> None:
    curve = str(charts.drift(looks.drift(), FIRST))
    assert "first divergence at net.stem.conv, 10 of 24" in curve
    assert 'class="x"' in curve
    many = str(charts.drift([*looks.drift(5000, 4000), Drift("end", None, 0.1)], FIRST))
    assert len(many) < 12_000
    for drawn in (
        curve, many, str(charts.spread(looks.distribution())), str(charts.values(looks.classified("golden", "a")))
    ):  # fmt: skip
        _parse(drawn)
    assert "half within" in str(charts.spread(looks.distribution()))


def test_charts_of_nothing_are_nothing() -> None:
    assert charts.drift(looks.drift(1)) == ""
    assert charts.drift([Drift("a", None, 0.0), Drift("b", 0.0, 0.0)]) == ""
    assert charts.spread(dataclasses.replace(looks.distribution(), artefact=(), twin=())) == ""
    assert charts.values(dataclasses.replace(looks.classified("golden", "a"), want=(None,), got=(None,))) == ""


def test_a_natural_spread_is_a_band_on_the_scale_of_the_limit() -> None:
    drawn = str(svg.strip([(0.5, True)], "case", (0.45, 0.7, 0.8)))
    _parse(drawn)
    assert "correct exports: median 45 %, at most 80 % of the limit" in drawn
    assert f'd="M{round(0.45 * 0.7 * 150)} 10H{round(0.8 * 0.7 * 150)}"' in drawn
