"""The bar of the report: 500 cells of 48 cases and five metrics, at most 3 MB, rendered in 3 s, interactive in 1 s.

Run `python benchmarks/report.py [CELLS]`. Exit code 1 when a bar is missed. Without Chromium the last figure is left
out and said to be. Seconds are the median of five; time to interactive is counted from navigation until filter, links
and keys answer.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/report")]

import records  # noqa: E402
from browser import INSTALL, browser, executable  # noqa: E402

from parity.report import markdown, render  # noqa: E402

ROUNDS = 5


def main(cells: int = 500) -> int:
    """Print the figures beside their bars; the exit code."""
    record = records.large(cells)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        page = render(record)
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    summary = markdown(record)
    summary_seconds = time.perf_counter() - start
    checks = sum(len(cell.checks) for cell in record.cells)
    print(f"{cells} cells, {checks:,} checks")
    good = _say("page", len(page.encode()) / 1e6, 3.0, "MB")
    good &= _say("render, first", times[0], 3.0, "s")
    good &= _say("render, median", statistics.median(times), 3.0, "s")
    print(f"  {'summary':<18}{len(summary.encode()) / 1e3:8.1f} kB in {summary_seconds:.2f} s")
    if executable() is None:
        print(f"  interactive: {INSTALL}")
        return 0 if good else 1
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        path = Path(folder) / "report.html"
        path.write_text(page, encoding="utf-8")
        ready = []
        for _ in range(ROUNDS):
            tab = chromium.page().view().open(path)
            tab.wait("document.documentElement.dataset.ready")
            ready.append(float(tab("document.documentElement.dataset.ready")) / 1000)
            tab.close()
    good &= _say("interactive", statistics.median(ready), 1.0, "s")
    return 0 if good else 1


def _say(name: str, value: float, bar: float, unit: str) -> bool:
    print(f"  {name:<18}{value:8.2f} {unit:<3} bar {bar:g} {unit}  {'held' if value <= bar else 'MISSED'}")
    return value <= bar


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
