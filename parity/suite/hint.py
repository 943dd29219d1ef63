"""What to write where a prebuilt file calls or lays out a tensor otherwise than the model: nothing is guessed for a
verdict, but the user need not look it up either. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from parity.core.contract import Contract, InputSpec

CHANNELS_LAST = {3: "NLC", 4: "NHWC", 5: "NDHWC"}


def renamed(name: str, candidates: Sequence[str], side: str) -> str:
    """For one of the `side`, inputs or outputs, that the file has under none of the known names; `candidates` are the
    file's own."""
    if len(candidates) == 1:
        return f"hint: if the file's {candidates[0]!r} is the model's {name!r}: {_written(side, name, candidates[0])}"
    if not candidates:
        return f"hint: the file has nothing else that could be the model's {name!r}"
    return f"hint: say which is the model's {name!r}, one of {', '.join(candidates)}: {_written(side, name, 'THEIRS')}"


def reshaped(contract: Contract, spec: InputSpec, found: Mapping[str, Any], layout: str = "") -> str:
    """For an input of another shape: another layout than the `layout` already given, dynamic axes at one size, or both.
    Empty where neither explains it."""
    have = [d if isinstance(d, int) else None for d in found["shape"]]
    if len(have) != len(spec.shape):
        return ""
    example, last = contract.example(), CHANNELS_LAST.get(len(have), "")
    axes = [(example[d], True) if isinstance(d, str) else (d, False) for d in spec.shape]
    moved = [axes[0], *axes[2:], *axes[1:2]]

    def fits(sizes: Sequence[tuple[int, bool]]) -> bool:
        return all(h in (size, None) for h, (size, _) in zip(have, sizes, strict=True))

    one_size = '--fixed (in a table: artifacts."..." = { ..., fixed = true })'
    if fits(moved if layout and layout == last else axes):
        return f"hint: if one size is meant: {one_size}"
    if last and not layout and fits(moved):
        own = found["name"] if found["name"] != spec.name else ""
        held = any(dynamic and h is not None for h, (_, dynamic) in zip(have, moved, strict=True))
        also = f", at one size: {one_size}" if held else ""
        return f"hint: it looks like {last}: {_written('inputs', spec.name, own, last)}{also}"
    return ""


def turned(name: str, own: str, have: Sequence[int], want: Sequence[int]) -> str:
    """For an output of another shape than the model's: `have` is `want` with its channels last. Else empty."""
    layout = CHANNELS_LAST.get(len(want), "")
    if not layout or tuple(have) != (want[0], *want[2:], want[1]) or tuple(have) == tuple(want):
        return ""
    return f"hint: it looks like {layout}: {_written('outputs', name, own if own != name else '', layout)}"


def unheld(contract: Contract, notes: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """For a case that a file of fixed sizes refused: the axis that the file has at other sizes only; else empty."""
    for spec in contract.inputs:
        sizes = notes.get("fixed", {}).get(spec.name, ())
        for dim, own, here in zip(spec.shape, sizes, inputs[spec.name].shape, strict=False):
            held = notes.get("enumerated", {}).get(dim, [own])
            if isinstance(dim, str) and here not in held:
                lengths = f'dims = {{ {dim} = [{here}, ...] }} with enumerated = ["{dim}"]'
                one = "store one row a case" if contract.is_batch(dim) else f"say which the app uses, {lengths}"
                return f"it has {dim} = {here}, and this file only {', '.join(map(str, held))}: {one}"
    return ""


def _written(side: str, mine: str, name: str = "", layout: str = "") -> str:
    """The option of `parity verify`, and what the entry of the file in `artifacts` says in its place."""
    option = f"--tensor {mine}={name}{':' * bool(layout)}{layout}"
    fields = {k: v for k, v in (("name", name), ("layout", layout)) if v}
    table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in fields.items())
    return f'{option} (in a table: artifacts."..." = {{ ..., {side} = {{ {json.dumps(mine)} = {{ {table} }} }} }})'
