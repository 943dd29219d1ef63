"""Every relative link, anchor and named page of the documentation resolves, in the repository and on the site."""

from __future__ import annotations

import importlib.util
import posixpath
import re
from types import ModuleType
from typing import Any

import pytest

from tests.docs.blocks import PAGES, ROOT

yaml = pytest.importorskip("yaml")


def _site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "docs" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = _site()
WRITTEN = sorted({page.relative_to(ROOT).as_posix() for page in PAGES} | set(SITE.pages()))


def prose(path: str) -> str:
    return re.sub(SITE.CODE_BLOCK, "", (ROOT / path).read_text(encoding="utf-8"))


def anchors(path: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(path: str) -> list[str]:
    """The links and named pages of the page at `path` that lead nowhere."""
    text, folder = prose(path), posixpath.dirname(path)
    lost = [name for name in SITE.NAMED.findall(text) if "/" in name and not (ROOT / name).exists()]
    for link in SITE.LINK.finditer(text):
        if re.match(r"[a-z]+:", link["path"]):
            continue
        target = posixpath.normpath(posixpath.join(folder, link["path"])) if link["path"] else path
        anchor = (link["anchor"] or "").removeprefix("#")
        if not (ROOT / target).exists() or (anchor and anchor not in anchors(target)):
            lost.append(link[0])
    return lost


@pytest.mark.parametrize("path", WRITTEN)
def test_links_anchors_and_named_pages_exist(path: str) -> None:
    assert broken(path) == []


def test_a_broken_link_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[a](nope.md) [b](gate.md#nope) [c](gate.md#waivers) ![d](no.png) [e](https://a.b/c) `docs/no.md` `x.md`"
    monkeypatch.setitem(globals(), "prose", lambda path: text if path == "docs/x.md" else "## Waivers\n")
    assert broken("docs/x.md") == ["docs/no.md", "[a](nope.md)", "[b](gate.md#nope)", "![d](no.png)"]


def listed(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in listed(entry)]


def test_every_page_is_once_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(listed(nav)) == sorted(SITE.pages().values())
    assert listed(nav)[0] == "index.md"


@pytest.mark.parametrize(
    ("path", "text", "shown"),
    [
        ("README.md", "see [gate](docs/gate.md#waivers)", "see [gate](gate.md#waivers)"),
        ("README.md", "see `docs/scale.md`.", "see [At scale](scale.md)."),
        ("README.md", "![a](docs/report-pass.png)", "![a](report-pass.png)"),
        ("docs/ci.md", "[`coreml.yml`](../.github/workflows/coreml.yml)", "`coreml.yml`"),
        ("docs/ci.md", "[start](../README.md)", "[start](index.md)"),
        ("docs/ci.md", "[a](https://a.b/c) [b](#c)", "[a](https://a.b/c) [b](#c)"),
        ("docs/ci.md", "```text\n`docs/scale.md`\n```\n", "```text\n`docs/scale.md`\n```\n"),
        ("docs/ci.md", "| `a <b\\|c` | d |", "| <code>a &lt;b&#124;c</code> | d |"),
    ],
)
def test_pages_are_written_for_the_site(path: str, text: str, shown: str) -> None:
    assert SITE.on_site(text, path) == shown
