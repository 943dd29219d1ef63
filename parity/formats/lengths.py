"""Enumerated sizes where a format has only fixed ones: one file a size, side by side in one artefact.

A TFLite file of a recurrent or attention model takes one length. Where a model lists axes as `enumerated`, its route
makes a file for each of their sizes; the first has the plain name, the others carry their sizes in it. In the child.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.cases import draw
from parity.core.contract import Contract, InputSpec
from parity.formats.target import Array


def variants(contract: Mapping[str, Any], example: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """An example by suffix: "" for the export example itself, "_100" and so on for the other enumerated sizes.

    Several axes go together, each at its own n-th size, as Core ML pairs them.
    """
    found = {"": dict(example)}
    axes = contract.get("enumerated", [])
    if not axes:
        return found
    declared = Contract(tuple(
        InputSpec(s["name"], tuple(s["shape"]), s["dtype"], tuple(s["range"]) if s.get("range") else None)
        for s in contract["inputs"]
    ), ())  # fmt: skip
    first = {name: sizes[0] for name, sizes in contract.get("sizes", {}).items()}
    for sizes in list(zip(*(contract["sizes"][axis] for axis in axes), strict=False))[1:]:
        dims = {**first, **dict(zip(axes, sizes, strict=True))}
        found["_" + "_".join(map(str, sizes))] = draw.inputs(declared, dims, 0)
    return found


def enumerated(contract: Mapping[str, Any]) -> dict[str, list[int]]:
    """The sizes of each enumerated axis, for the notes."""
    return {axis: list(contract["sizes"][axis]) for axis in contract.get("enumerated", [])}


def named(file: str, suffix: str) -> str:
    """`model.tflite` for "", `model_100.tflite` for "_100"."""
    return f"{Path(file).stem}{suffix}{Path(file).suffix}"
