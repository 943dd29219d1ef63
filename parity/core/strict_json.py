"""JSON from files and pipes that anybody may have written. Imports the standard library only."""

from __future__ import annotations

import json
import sys
from typing import Any

DEEP = 3000  # frames; a text nested deeper than that is not ours


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no key occurs twice, as a merge by hand can leave one; `json` would keep the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {twice!r:.60} occurs twice in one object")
    return found


def loads(text: str | bytes, **options: Any) -> Any:
    """`json.loads`, with RecursionError for a text nested too deeply, whatever the recursion limit is.

    The parser recurses in C and trusts Python's limit. Libraries raise that limit (hypothesis, onnx2tf, torch), and
    then a file of a hundred thousand brackets is a segmentation fault.
    """
    before = sys.getrecursionlimit()
    if before <= DEEP:
        return json.loads(text, **options)
    sys.setrecursionlimit(DEEP)
    try:
        return json.loads(text, **options)
    finally:
        sys.setrecursionlimit(before)
