"""A browser and the pages that it opens, shared by the slow tests of the report."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import records
from browser import INSTALL, Browser, Page, browser, executable

from parity.report import render

AXE = "4.14.1"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if executable() is None:
        pytest.skip(INSTALL)
    with browser() as running:
        yield running


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of the page of a record, by the record's name in `records`."""
    folder = tmp_path_factory.mktemp("pages")

    def page_of(name: str) -> Path:
        path = folder / f"{name}.html"
        if not path.exists():
            path.write_text(render(getattr(records, name)()), encoding="utf-8")
        return path

    return page_of


@pytest.fixture
def page(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A tab. With PARITY_SCREENSHOTS set, what it shows at the end is kept in that folder."""
    tab = chromium.page()
    tab.view()
    yield tab
    if folder := os.environ.get("PARITY_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in request.node.name)
        tab.screenshot(Path(folder) / f"{name}.png")
    tab.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core: from node_modules, else fetched once by npm into a folder that is kept."""
    kept = Path(tempfile.gettempdir()) / f"parity-axe-{AXE}"
    roots = [Path(__file__).parents[2], kept]
    for root in roots:
        found = root / "node_modules/axe-core/axe.min.js"
        if found.exists():
            return found.read_text(encoding="utf-8")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("axe-core needs npm: apt-get install npm, or npm install axe-core where it is")
    kept.mkdir(exist_ok=True)
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(kept), f"axe-core@{AXE}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        pytest.skip(f"npm could not fetch axe-core: {done.stderr.strip()[-200:]}")
    return (kept / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")
