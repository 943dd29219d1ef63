"""The fenced code blocks of the documentation, with the page and line that each stands on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = ("README.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md")
PAGES = sorted([*(ROOT / name for name in TOP), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")])


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if match[1] == language:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(page.relative_to(ROOT).as_posix(), line, language, match[2]))
    return found


def commands(text: str) -> list[str]:
    """The lines that a person types: after a `$ `, with continuations joined."""
    typed, open_line = [], False
    for line in text.splitlines():
        if open_line:
            typed[-1] += " " + line.removeprefix("> ").strip().removesuffix("\\")
        elif line.startswith("$ "):
            typed.append(line[2:].removesuffix("\\"))
        else:
            continue
        open_line = line.endswith("\\")
    return typed
