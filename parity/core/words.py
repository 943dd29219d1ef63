"""Words that follow from a number. Imports nothing, so that every room may use it."""

from __future__ import annotations


def plural(count: int, one: str, many: str = "") -> str:
    """`1 cell`, `2 cells`, `1,000 cells`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
