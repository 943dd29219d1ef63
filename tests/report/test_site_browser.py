"""The documentation site: it builds without a warning, shows Markdown as GitHub does, and axe-core passes it."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import Page
from test_report_browser import AXE

ROOT = Path(__file__).parents[2]
RAW = re.compile(r"<p>[^<]*\n[-*] |<p>\||\\\||<p>```")  # a list, a table, an escaped bar, a fence left as text

pytestmark = pytest.mark.nightly  # it fetches the generator once


@pytest.fixture(scope="module")
def site() -> Path:
    done = subprocess.run(["make", "site"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING -" not in done.stdout + done.stderr
    return ROOT / "build" / "site"


def test_nothing_is_left_as_markdown(site: Path) -> None:
    pages = sorted(site.glob("*.html"))
    assert len(pages) > 30
    raw = {page.name: found[0] for page in pages if (found := RAW.search(page.read_text(encoding="utf-8")))}
    assert not raw


def test_it_is_searched_and_fetches_nothing_from_elsewhere(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "noise ratio" in index
    fetched = r'<(?:script|img|iframe)[^>]* src="https?:|<link[^>]* rel="(?:stylesheet|preconnect)"[^>]* href="https?:'
    assert not [page.name for page in site.glob("*.html") if re.search(fetched, page.read_text(encoding="utf-8"))]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site served on this machine: from files the theme's search wants a script of another host."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def visit(page: Page, url: str) -> None:
    page.call("Page.navigate", url=url)
    page.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "tutorial-int8", "gate", "glossary", "ci", "targets"])
def test_axe_finds_no_violation(page: Page, address: str, axe: str, name: str, theme: str) -> None:
    page.view(theme=theme)
    forget = "localStorage.clear()"  # the theme keeps the scheme that another tab had
    page.call("Page.addScriptToEvaluateOnNewDocument", source=forget)
    visit(page, f"{address}{name}.html")
    page.wait(f"document.body.dataset.mdColorScheme === '{'slate' if theme == 'dark' else 'default'}'")
    page(axe + ";0")
    assert page(AXE) == []
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith(address)] == []
