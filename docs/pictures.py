"""Take the README's two pictures again: `python docs/pictures.py [REPORT]`, after a whole `make parity` that passed.

`report-pass.png` is the top of REPORT (default: reports/parity.html), and refused unless that is of a whole run that
passed. `report-fail.png` is the failing cell of `parity demo`, which is run here. Needs Chromium.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests/report")]

from browser import Browser, browser  # noqa: E402
from PIL import Image  # noqa: E402

from parity.core.record import read  # noqa: E402

WIDTH, HEIGHT = 1180, 860


def take(chromium: Browser, report: Path, name: str, top: str) -> None:
    """Write what stands in a window from the element `top` on, in 256 colours."""
    page = chromium.page().view(WIDTH, HEIGHT)
    page.call("Emulation.setScrollbarsHidden", hidden=True)
    page.open(report)
    page.wait("document.documentElement.dataset.ready")
    y = page(f"document.querySelector('{top}').getBoundingClientRect().top + scrollY")
    path = DOCS / name
    page.screenshot(path, most=HEIGHT, top=y)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256)
    small.save(path, optimize=True)
    page.close()
    print(f"{path.relative_to(DOCS.parent)}: {small.width} x {small.height}, {path.stat().st_size:,} bytes")


def main(report: Path) -> int:
    record = read(report.with_suffix(".json"))
    if record.verdict != "pass" or record.partial:
        print(f"{report}: its verdict is {record.verdict}; the picture is of a whole run that passed", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        take(chromium, report.resolve(), "report-pass.png", "html")
        demo = Path(folder, "demo")
        subprocess.run([sys.executable, "-m", "parity.cli", "demo", str(demo)], check=True)
        take(chromium, demo / "reports" / "parity.html", "report-fail.png", "#s_fail")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "reports/parity.html")))
