"""What to write where a prebuilt file calls or lays out a tensor otherwise than the model: nothing is guessed for a
verdict, but the user need not look it up either. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from parity.contract import Contract, InputSpec

CHANNELS_LAST = {3: "NLC", 4: "NHWC", 5: "NDHWC"}


def renamed(name: str, candidates: Sequence[str]) -> str:
    """For an input or output that the file has under none of the known names; `candidates` are the file's own."""
    if len(candidates) == 1:
        return f"hint: if the file's {candidates[0]!r} is the model's {name!r}: {_written(name, candidates[0])}"
    if not candidates:
        return f"hint: the file has nothing else that could be the model's {name!r}"
    return f"hint: say which is the model's {name!r}, one of {', '.join(candidates)}: {_written(name, 'THEIRS')}"


def reshaped(contract: Contract, spec: InputSpec, found: Mapping[str, Any]) -> str:
    """For an input of another shape: another layout, or dynamic axes at one size. Empty where neither explains it."""
    have = [d if isinstance(d, int) else None for d in found["shape"]]
    if len(have) != len(spec.shape):
        return ""
    example = contract.example()
    sizes = [example[d] if isinstance(d, str) else d for d in spec.shape]
    fits = all(h in (s, None) for h, s in zip(have, sizes, strict=True))
    if fits:
        return 'hint: if one size is meant: --fixed (in a table: artifacts."..." = { ..., fixed = true })'
    last = [sizes[0], *sizes[2:], *sizes[1:2]]
    if len(have) in CHANNELS_LAST and all(h in (s, None) for h, s in zip(have, last, strict=True)):
        own = found["name"] if found["name"] != spec.name else ""
        return f"hint: it looks like {CHANNELS_LAST[len(have)]}: {_written(spec.name, own, CHANNELS_LAST[len(have)])}"
    return ""


def _written(mine: str, name: str = "", layout: str = "") -> str:
    """The option of `parity verify`, and what a table of `artifacts` says in its place."""
    option = f"--tensor {mine}={name}{':' * bool(layout)}{layout}"
    fields = {k: v for k, v in (("name", name), ("layout", layout)) if v}
    table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in fields.items())
    return f"{option} (in a table: {json.dumps(mine)} = {{ {table} }})"
