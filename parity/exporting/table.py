"""What an export cost and gave, as measured here: size, latency, accuracy drop, and every file with its hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a file that was made, sizes and times also against the same format's first; then paths and sha256."""
    made = [r for r in results if r["files"]]
    if not made:
        return []
    rows = [("file", "bytes", "", "median ms", "", "accuracy drop", "noise ratio")]
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for result in made:
        anchor = first.setdefault((result["model"], result["target"]), result)
        worst = result.get("worst") or {}
        rows.append((
            result["published"],
            f"{_bytes(result):,}",
            _share(_bytes(result), _bytes(anchor)) if result is not anchor else "",
            f"{result['median_ms']:.2f}" if result.get("median_ms") else "-",
            _share(result.get("median_ms"), anchor.get("median_ms")) if result is not anchor else "",
            f"{100 * worst['top1_drop']:+.1f} %" if "top1_drop" in worst else "-",
            f"{worst['noise_ratio']:.2f}" if "noise_ratio" in worst else "-",
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in rows]  # fmt: skip
    files = [f"{e['sha256']}  {e['bytes']:>12,}  {e['path']}" for r in made for e in r["files"]]
    return [*(row.rstrip() for row in table), "", *files]


def _bytes(result: Mapping[str, Any]) -> int:
    return sum(entry["bytes"] for entry in result["files"])


def _share(value: float | None, whole: float | None) -> str:
    return f"x {value / whole:.2f}" if value and whole else ""
