"""A cell's record as a notebook shows it: its state, why, and the worst of every figure beside its limit."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Protocol

from parity.core.visible import visible


class Figure(Protocol):
    """What is shown of a check."""

    @property
    def metric(self) -> str: ...
    @property
    def output(self) -> str: ...
    @property
    def case(self) -> str: ...
    @property
    def value(self) -> float | None: ...
    @property
    def limit(self) -> float | None: ...
    @property
    def sense(self) -> str: ...
    @property
    def passed(self) -> bool: ...
    def share(self) -> float | None:
        """Share of the limit that is used up."""


_COLOURS = {"pass": "#2e7d32", "waived": "#b26a00"}
_ELSE = "#c62828"


def html(title: str, state: str, sentences: Iterable[str], checks: Iterable[Figure]) -> str:
    """A fragment without scripts or styles of its own class names; everything foreign in it is escaped."""
    colour = _COLOURS.get(state, _ELSE)
    head = f'<strong>{_text(title)}: <span style="color:{colour}">{_text(state)}</span></strong>'
    lines = "".join(f"<p>{_text(line)}</p>" for line in dict.fromkeys(sentences) if line)
    rows = "".join(map(_row, worst(checks)))
    if rows:
        titles = "".join(f"<th>{title}</th>" for title in ("metric", "output", "worst", "limit", "case"))
        lines += f"<table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<div>{head}{lines}</div>"


def worst(checks: Iterable[Figure]) -> list[Figure]:
    """The check of each metric and output that uses most of its limit, broken ones first."""
    chosen: dict[tuple[str, str], Figure] = {}
    for check in checks:
        if check.limit is None:
            continue
        key = (check.metric, check.output)
        if key not in chosen or _weight(check) > _weight(chosen[key]):
            chosen[key] = check
    return sorted(chosen.values(), key=_weight, reverse=True)


def _weight(check: Figure) -> tuple[bool, float]:
    return not check.passed, check.share() or 0.0


def _row(check: Figure) -> str:
    value = "not finite" if check.value is None else f"{check.value:.4g}"
    sign = "at most" if check.sense == "max" else "at least"
    cells = (check.metric, check.output, value, f"{sign} {check.limit:.4g}", check.case)
    style = "" if check.passed else f' style="color:{_ELSE}"'
    return f"<tr{style}>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>"


def _text(text: str) -> str:
    return escape(visible(text))
