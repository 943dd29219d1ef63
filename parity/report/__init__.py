"""The report: one `RunRecord` in, one self-contained page or one Markdown summary out.

Pure functions of the record: same record, same bytes. Imports Jinja2 and the record, and neither pytest nor
NumPy nor a converter, so that `parity report FILE.json` works wherever the package is installed.
"""

from __future__ import annotations

from parity.report.render import render
from parity.report.summary import markdown

__all__ = ["markdown", "render"]
