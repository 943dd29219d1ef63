"""The page as a program reads it: tags in order, text of elements, sections of cells. Standard library only."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "img", "path", "circle", "use"}
OPTIONAL_END = {"tr", "td", "th", "thead", "tbody", "li", "dt", "dd", "p", "option"}


@dataclass
class Node:
    """One element with its attributes and its whole text."""

    tag: str
    attrs: dict[str, str]
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def all(self, tag: str = "", **attrs: str) -> list[Node]:
        """Every element below, in document order, by tag and attribute (class_ for class, contained as a word)."""
        found = []
        for child in self.children:
            wanted = {k.rstrip("_").replace("_", "-"): v for k, v in attrs.items()}
            fits = all(
                v in child.attrs.get(k, "").split() if k == "class" else child.attrs.get(k) == v
                for k, v in wanted.items()
            )
            if fits and tag in ("", child.tag):
                found.append(child)
            found += child.all(tag, **attrs)
        return found

    def one(self, tag: str = "", **attrs: str) -> Node:
        """The first such element."""
        return self.all(tag, **attrs)[0]


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.stack = [self.root]
        self.shape: list[tuple[str, tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shape.append((tag, tuple(name for name, _ in attrs)))
        node = Node(tag, {name: value or "" for name, value in attrs})
        closes = {"tr": ("tr", "td", "th"), "td": ("td", "th"), "th": ("td", "th")}.get(tag, ())
        if tag in ("tbody", "thead"):
            closes = ("tr", "td", "th", "thead", "tbody")
        while self.stack[-1].tag in closes:
            self.stack.pop()
        self.stack[-1].children.append(node)
        if tag not in VOID:
            self.stack.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shape.append((tag, tuple(name for name, _ in attrs)))
        self.stack[-1].children.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        while self.stack[-1].tag != tag and self.stack[-1].tag in OPTIONAL_END:
            self.stack.pop()
        assert self.stack[-1].tag == tag, f"</{tag}> closes <{self.stack[-1].tag}>"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        for node in self.stack:
            node.text += data


def read(page: str) -> Node:
    """The tree of a page; AssertionError where an element is closed out of turn or not at all."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    assert [node.tag for node in builder.stack] == [""], "an element is left open"
    return builder.root


def shape(page: str) -> list[tuple[str, tuple[str, ...]]]:
    """The tags of a page with the names of their attributes: all that text must not be able to change."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    return builder.shape


def cells(tree: Node) -> list[tuple[str, str, str]]:
    """(id as shown, state, HTML id) of each section of a cell, in the order of the page."""
    return [
        (section.one("h4").one("a").text, section.attrs["data-state"], section.attrs["id"])
        for section in tree.all("section", class_="cell")
    ]


def unescaped(markdown: str) -> str:
    """The text that a line of our Markdown stands for."""
    return html.unescape(re.sub(r"\\([\\*\[\]#~$!{}|`_])", r"\1", markdown))
