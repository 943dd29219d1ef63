"""Where in a TOML file each key stands, so that a message can say which line set a limit.

The standard parser keeps no positions. This reads only table headers and key names, after the standard parser has
accepted the text, so it may trust that the syntax is right. Keys inside inline tables take the line of their key.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

# From inside a multi-line string to its end; up to two more quotes belong to the string.
_ENDS = {
    '"""': re.compile(r'(?:[^"\\]|\\.|\\$|"(?!""))*"{3,5}'),
    "'''": re.compile(r"(?:[^']|'(?!''))*'{3,5}"),
}
_PART = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*""")


def loads(text: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises ValueError, one line, also for what the parser itself did not foresee: brackets
    nested too deep, a number of thousands of digits."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except ValueError as error:
        raise ValueError(str(error).partition("; use sys.")[0]) from None


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Line numbers (from 1) by dotted path; entries of an array of tables carry their index, as in ('waive', '0')."""
    lines: dict[tuple[str, ...], int] = {}
    counts: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, statement in _statements(text):
        if statement.startswith("[["):
            path, _ = _dotted(statement, 2)
            index = counts.get(path, 0)
            counts[path] = index + 1
            table = (*path, str(index))
            lines[table] = number
        elif statement.startswith("["):
            table, _ = _dotted(statement, 1)
            lines.setdefault(table, number)
        else:
            path, end = _dotted(statement, 0)
            full = (*table, *path)
            for depth in range(len(table) + 1, len(full) + 1):
                lines.setdefault(full[:depth], number)
            value = statement[end:].lstrip("= \t")
            if value.startswith("{"):
                for inner in re.finditer(r"""[{,]\s*(?:"([^"]+)"|'([^']+)'|([A-Za-z0-9_-]+))\s*=""", value):
                    name = next(g for g in inner.groups() if g)
                    lines.setdefault((*full, name), number)
    return lines


def _dotted(statement: str, start: int) -> tuple[tuple[str, ...], int]:
    parts, at = [], start
    while found := _PART.match(statement, at):
        parts.append(next(g for g in found.groups() if g is not None))
        at = found.end()
        if at >= len(statement) or statement[at] != ".":
            break
        at += 1
    return tuple(parts), at


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each header or key-value statement with its first line; a value may run over several lines."""
    number, start, pending, depth, quote = 0, 0, "", 0, ""
    for line in text.splitlines():
        number += 1
        if not pending and not quote:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            start = number
        depth, quote = _scan(line, depth, quote)
        pending += line.strip() + " "
        header = pending.startswith("[")
        if quote == "" and (depth <= 0 or header):
            yield start, pending
            pending, depth = "", 0


def _scan(line: str, depth: int, quote: str) -> tuple[int, str]:
    """Bracket depth and open multi-line quote at the end of `line`."""
    at = 0
    while at < len(line):
        if quote:
            string = _ENDS[quote].match(line, at)
            if not string:
                return depth, quote
            at, quote = string.end(), ""
        elif line[at : at + 3] in ('"""', "'''"):
            quote, at = line[at : at + 3], at + 3
        elif line[at] == '"':
            string = re.compile(r'"(?:[^"\\]|\\.)*"').match(line, at)
            at = string.end() if string else len(line)
        elif line[at] == "'":
            at = line.find("'", at + 1) + 1 or len(line)
        elif line[at] == "#":
            break
        else:
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(line[at], 0)
            at += 1
    return depth, quote
