"""Words that follow from a number. Imports nothing, so that every room may use it."""

from __future__ import annotations


def plural(count: int, one: str, many: str = "") -> str:
    """`1 cell`, `2 cells`, `1,000 cells`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def size(count: int) -> str:
    """Bytes in words, as in 1.5 GiB."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} GiB"
