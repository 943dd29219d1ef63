"""Write the pages of the documentation site into a folder, for the generator that `make site` runs next.

Pages are written to be read in the repository, where they name each other by path, as `docs/gate.md`. On the site such
a name is a link under the page's title. Links to files that are no pages are left out: the site does not hold them.

    python docs/site.py build/pages
"""

from __future__ import annotations

import html
import posixpath
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "RELEASING.md": "releasing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/parity-npz/README.md": "example-npz.md",
    "fixtures/README.md": "fixtures.md",
    "research/README.md": "research.md",
}
"""Files of the repository that the site shows too, with their names there."""

CODE_BLOCK = re.compile(r"^(?:```|~~~).*?^(?:```|~~~)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<path>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
TABLE_ROW = re.compile(r"^\|.*$", re.MULTILINE)
NAMED = re.compile(r"`(?P<path>[\w./-]+\.md)`")


def pages() -> dict[str, str]:
    """The site's pages: path in the repository to name on the site."""
    inside = {f"docs/{page.name}": page.name for page in sorted((ROOT / "docs").glob("*.md"))}
    return {**inside, **{path: name for path, name in OUTSIDE.items() if (ROOT / path).is_file()}}


def title(path: str) -> str:
    """The first heading of a page."""
    heading = re.search(r"^# (.+)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    if heading is None:
        raise ValueError(f"{path} has no heading")
    return heading[1].replace("`", "")


def _row(row: re.Match[str]) -> str:
    r"""A row of a table with `a\|b` as HTML: the generator would show the backslash, as GitHub does not."""
    return re.sub(r"`([^`]*\\\|[^`]*)`", lambda code: f"<code>{_bars(code[1])}</code>", row[0])


def _bars(code: str) -> str:
    return html.escape(code, quote=False).replace("\\|", "&#124;")


def on_site(text: str, path: str) -> str:
    """The Markdown of the page at `path` of the repository with links that hold on the site."""
    parts, end = [], 0
    for block in CODE_BLOCK.finditer(text):
        parts += [_prose(text[end : block.start()], path), block[0]]
        end = block.end()
    return "".join([*parts, _prose(text[end:], path)])


def _prose(text: str, path: str) -> str:
    folder = posixpath.dirname(path)
    parts, end = [], 0
    for link in LINK.finditer(text):
        parts += [_named(text[end : link.start()]), _link(link, folder)]
        end = link.end()
    return TABLE_ROW.sub(_row, "".join([*parts, _named(text[end:])]))


def _link(link: re.Match[str], folder: str) -> str:
    """A Markdown link of a page in `folder`, as it is written on the site."""
    path, anchor = link["path"], link["anchor"] or ""
    if not path or re.match(r"[a-z]+:", path):
        return link[0]
    target = posixpath.normpath(posixpath.join(folder, path))
    if target in pages():
        return f"[{link['text']}]({pages()[target]}{anchor})"
    if target.startswith("docs/"):
        return f"{link['image']}[{link['text']}]({target.removeprefix('docs/')}{anchor})"
    return link["text"]


def _named(text: str) -> str:
    """Pages that prose names by their path, as links."""

    def linked(name: re.Match[str]) -> str:
        page = pages().get(name["path"])
        return f"[{title(name['path'])}]({page})" if page else name[0]

    return NAMED.sub(linked, text)


def main(folder: Path) -> None:
    """Write every page, the pictures and the style into a folder, which is emptied first."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for path, name in pages().items():
        text = (ROOT / path).read_text(encoding="utf-8")
        (folder / name).write_text(on_site(text, path), encoding="utf-8")
    for beside in (path for ending in ("png", "css", "js") for path in (ROOT / "docs").glob(f"*.{ending}")):
        shutil.copy(beside, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
