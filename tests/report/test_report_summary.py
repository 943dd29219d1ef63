"""The Markdown summary: its text, and that a name or a reason cannot become markup."""

from __future__ import annotations

import re

import pytest
import records
from hypothesis import given
from hypothesis import strategies as st
from reading import unescaped
from test_report_page import frozen

from parity.report import markdown
from parity.report.summary import escape
from parity.report.text import visible


@pytest.mark.parametrize("name", ["passing", "failing", "crashed"])
def test_the_summary_of_a_record_is_kept_byte_for_byte(name: str) -> None:
    frozen(f"{name}.md", markdown(getattr(records, name)()))


def test_the_table_has_one_width_whatever_the_names() -> None:
    for record in (records.failing(), records.hostile()):
        table = [line for line in markdown(record).splitlines() if line.startswith("|")]
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
        assert len(widths) == 1


def test_hostile_text_makes_no_markup() -> None:
    text = markdown(records.hostile())
    assert "<script" not in text
    assert "<img" not in text
    assert "://" not in text
    assert not re.search(r"(?<!\\)`|(?<!\\)\[|@", text)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    text.encode("utf-8")


def test_long_lists_end_on_how_many_more() -> None:
    record = records.run([records.cell(f"m{i}-onnx-fp32", "crash") for i in range(140)])
    assert "- and 40 more, in parity.json" in markdown(record)


@given(st.text(st.characters(codec=None), max_size=200))
def test_escaped_text_is_one_line_and_reads_back(text: str) -> None:
    escaped = escape(text)
    assert "\n" not in escaped
    assert unescaped(escaped) == visible(text)


def test_a_run_without_cells_says_so() -> None:
    assert "No cell was planned." in markdown(records.run())
