"""A browser and the pages that it opens, shared by the slow tests of the report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest
import records
from browser import INSTALL, Browser, Page, browser, executable

from parity.report import render


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
    """The source of axe-core, as pinned in `axe/package-lock.json`; fetched by npm once, into a folder git ignores."""
    folder = Path(__file__).parent / "axe"
    source = folder / "node_modules/axe-core/axe.min.js"
    wanted = json.loads((folder / "package-lock.json").read_text())["packages"]["node_modules/axe-core"]["version"]
    with filelock.FileLock(Path(tempfile.gettempdir()) / f"parity-axe-{os.getuid()}.lock"):
        if not (source.exists() and f"axe v{wanted}" in source.read_text(encoding="utf-8")[:200]):
            npm = shutil.which("npm")
            if npm is None:
                pytest.skip(f"axe-core {wanted} needs npm: apt-get install npm")
            command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
            if done.returncode:
                pytest.skip(f"npm could not fetch axe-core: {done.stderr.strip()[-200:]}")
    return source.read_text(encoding="utf-8")
