"""The HTML page of a run: one file, no network, no inline style, readable without JavaScript.

The content security policy admits exactly the page's own style sheet and script, by hash. Templates are
autoescaped and every string of the record passes `text.visible` first, so that a hostile name stays the text
that it is.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from parity.core.record import RunRecord
from parity.report import charts, executions, glossary, svg, text
from parity.report.matrix import matrix, tally
from parity.report.view import Budget, CellView, shown_size, source_of, verdict_sentence, views

TEMPLATES = Path(__file__).parent / "templates"
LARGEST = 3_000_000  # bytes of a page, kept by listing less of each cell
LISTED = 400  # rows of the tables of changes and waivers


def render(record: RunRecord, digest: str = "") -> str:
    """The self-contained page of `record`: same record, same bytes.

    `digest`, the sha256 of the record's `parity.json`, is told on the page where it is given.
    """
    for squeeze in (1, 2, 4, 6):
        page = _page(record, digest, Budget.for_cells(len(record.cells), squeeze))
        if len(page) * 4 <= LARGEST or len(page.encode()) <= LARGEST:
            break
    return page


def _page(record: RunRecord, digest: str, budget: Budget) -> str:
    cells = views(record, budget)
    style, script = _asset("style.css"), _asset("page.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            record=record,
            digest=digest,
            cells=cells,
            groups=[(state, list(own)) for state, own in groupby(cells, key=lambda cell: cell.state)],
            matrix=matrix(cells),
            tally=tally(cells),
            blocking=[cell for cell in cells if cell.blocks],
            regressed=record.regressions_that_block,
            unheld=record.waivers_that_block,
            unmeasured=_by_reason([cell for cell in cells if cell.state == "unavailable" and not cell.blocks]),
            sentence=verdict_sentence(record),
            anchors={cell.record.id: cell.anchor for cell in reversed(cells)},
            budget=budget,
            listed=LISTED,
            changes=sorted(record.baseline.regressions, key=lambda c: _CHANGES.index(c.state)),
            style=Markup(style),
            script=Markup(script),
            policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
            "img-src data:; base-uri 'none'; form-action 'none'",
            icon=_icon(glossary.VERDICT_TONES[record.verdict]),
        )
    )


_CHANGES = ("regressed", "slower", "removed", "incomparable", "changed", "new", "improved")


def _by_reason(cells: Sequence[CellView]) -> list[tuple[str, list[CellView]]]:
    found: dict[str, list[CellView]] = {}
    for cell in cells:
        found.setdefault(cell.record.reason, []).append(cell)
    return list(found.items())


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _icon(tone: str) -> str:
    colour = {"ok": "#17713a", "bad": "#b3261e", "gap": "#8a5300"}.get(tone, "#5b4bb0")
    circle = f'<circle cx="4" cy="4" r="4" fill="{colour}"/>'
    drawing = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">{circle}</svg>'
    return "data:image/svg+xml," + quote(drawing)


class _Loader(jinja2.FileSystemLoader):
    """Templates without the indentation of their lines: that is for people, and 500 cells repeat it."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Any]:
        source, path, fresh = super().get_source(environment, template)
        return re.sub(r"^[ ]+", "", source, flags=re.MULTILINE), path, fresh


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=_Loader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: text.visible(value) if type(value) is str else value,
    )
    environment.globals.update(
        glossary=glossary,
        execution_note=executions.NOTE,
        tones=glossary.TONES,
        verdict_tones=glossary.VERDICT_TONES,
        svg=svg,
        charts=charts,
        source_of=source_of,
        shown_size=shown_size,
        t=text,
    )
    environment.filters["clip"] = text.clip
    environment.filters["log"] = lambda value: Markup(escape(text.visible(value, lines=True)))
    return environment


@cache
def _asset(name: str) -> str:
    """A style sheet or script as it stands in the page; its text takes part in the policy by hash."""
    source = (TEMPLATES / name).read_text(encoding="utf-8")
    if name.endswith(".css"):
        source = source.replace("/* DARK */", (TEMPLATES / "dark.css").read_text(encoding="utf-8").strip())
        source = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    return re.sub(r"\n\s+", "\n", source).strip()
