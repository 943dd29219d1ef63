"""Ways to damage a file, as a hypothesis strategy: bytes anywhere, and values where the format has places for them."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

NUMBERS = (0, -1, 1, 255, 1 << 31, (1 << 32) - 1, 1 << 63, -(1 << 63), 10**40, 0.5, -0.0, 1e308, 1e-320)
VALUES: tuple[Any, ...] = (
    None, True, False, *NUMBERS, float("nan"), float("inf"), "", "x", "x" * 5000, "../../../etc/passwd", "/etc/passwd",
    "a\nb\x00c", "\ud800", "\u202e", [], {}, [[]], {"": {}}, [None], ["a", 1], "NaN", "1e999", "C:\\x", "~",
)  # fmt: skip
TOML = (
    "true", "nan", "inf", "-1", "0", "1e400", "99999999999999999999999", '""', '"x"', "[]", "{}", "[[]]", "[1, 'a']",
    "{ a = 1 }", "1979-05-27", "1979-05-27T07:32:00Z", '"\\u0000"', '"../.."', "[nan]", "[0, 0]", "[1e308, -1e308]",
)  # fmt: skip
WORDS = (
    b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\1\0\0\0", b"\0", b"\n", b"/../../x",
    b"PK\5\6", b"PK\1\2", b"}" * 40, b"[" * 3000, b"\xff" * 9, b"%n%s", b"1" * 4400, b"1e999", b"-1", b'"',
)  # fmt: skip


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _drop(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.randint(1, 64)]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[at : at + rng.randint(1, 200)] * rng.randint(1, 20)


def _word(data: bytearray, rng: random.Random) -> None:
    at, word = rng.randrange(len(data) + 1), rng.choice(WORDS)
    data[at : at + rng.choice((0, len(word)))] = word


def _swap(data: bytearray, rng: random.Random) -> None:
    size = rng.randint(1, 32)
    if len(data) > 2 * size:
        a, b = (rng.randrange(len(data) - size) for _ in range(2))
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


EDITS: tuple[Callable[[bytearray, random.Random], None], ...] = (_flip, _byte, _cut, _drop, _repeat, _word, _swap)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from _places(value[key], (*path, key))


def _json(data: bytes, rng: random.Random) -> bytes:
    """One value of a JSON text replaced, removed, renamed or given twice."""
    value = json.loads(data)
    places = list(_places(value))
    if not places:
        raise ValueError("nothing of it is left")  # hypothesis's own complaint of an empty choice cannot be caught
    *path, last = rng.choice(places)
    holder = value
    for key in path:
        holder = holder[key]
    how = rng.randrange(5)
    if how == 0:
        del holder[last]
    elif how == 1:
        holder[last] = copy.deepcopy(_at(value, rng.choice(places)))
    elif how == 2 and isinstance(holder, dict):
        holder[str(rng.choice(VALUES))] = holder.pop(last)
    elif how == 3 and isinstance(holder, list):
        holder += holder * rng.randint(1, 3)
    else:
        holder[last] = rng.choice(VALUES)
    return json.dumps(value, indent=1).encode()


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _toml(data: bytes, rng: random.Random) -> bytes:
    """One value or key of a TOML text replaced, or a line lost, moved or doubled."""
    lines = data.decode().splitlines()
    at = rng.randrange(len(lines))
    how = rng.randrange(4)
    if how == 0:
        del lines[at]
    elif how == 1:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif how == 2:
        lines[at] = re.sub(r"= .*", lambda _: f"= {rng.choice(TOML)}", lines[at], count=1)
    else:
        values = list(re.finditer(r'"[^"]*"|-?\d+(?:\.\d+)?|true|false', lines[at]))
        if values:
            found = rng.choice(values)
            lines[at] = lines[at][: found.start()] + rng.choice(TOML) + lines[at][found.end() :]
    return "\n".join(lines).encode()


def damaged(seed: bytes, kind: str) -> st.SearchStrategy[bytes]:
    """`seed` with one to four edits; half of those of a text format keep the format."""
    fits = {".json": _json, ".toml": _toml}.get(kind[kind.rfind(".") :])

    def edit(rng: random.Random, count: int, keep: bool) -> bytes:
        data = seed
        for _ in range(count):
            if keep and fits is not None:
                try:
                    data = fits(data, rng)
                    continue
                except (ValueError, IndexError, TypeError, KeyError):  # nothing of the format is left
                    pass
            raw = bytearray(data)
            rng.choice(EDITS)(raw, rng)
            data = bytes(raw)
        return data

    return st.builds(edit, st.randoms(use_true_random=False), st.integers(1, 4), st.booleans())
