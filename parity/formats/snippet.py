"""A failing input as a script of at most ten lines: plain NumPy, and the runtime that ran the file. Imports neither.

Each format writes its own part in `formats/NAME/script.py`. A target that has none is run through the class that the
suite runs it with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.cases.recipes import Layout, Recipe, variable
from parity.core.contract import Contract
from parity.formats.target import Target, load_part

MOST = 10
_CANONICAL = {3: "NCL", 4: "NCHW", 5: "NCDHW"}


def lines(
    target: Target,
    folder: Path,
    notes: Mapping[str, Any],
    contract: Contract,
    recipe: Recipe,
    dims: Mapping[str, int],
    output: str,
    place: str,
    want: str,
    description: Mapping[str, Any] | None = None,
) -> list[str]:
    """The script. It prints the artefact's `output` at `place`, and beside it what the oracle has there, `want`.

    `description`: what the opened file says of itself, as the suite's own session describes it.
    """
    sizes = {**recipe.dims, **dims}
    shapes = {s.name: s.sized(sizes) for s in contract.inputs}
    made = [recipe.inputs[s.name].line(s, shapes[s.name]) for s in contract.inputs]
    names = {n: notes["inputs"].get(n, {}).get("name", n) for n in shapes}
    layouts = recipe.layouts()
    fed = {
        names[n]: _viewed(_fed(notes["inputs"].get(n, {}), n, len(shape)), layouts.get(n, "plain"))
        for n, shape in shapes.items()
    }
    entry = notes["outputs"].get(output, {"name": output})
    integers = {names[s.name] for s in contract.inputs if "int" in s.dtype}
    own = {names[n]: _turned(notes["inputs"].get(n, {}), shape) for n, shape in shapes.items()}
    failing = Failing(target.session, folder, notes, description or {}, own, integers)
    run: Writer = load_part(target.script) if target.script else by_session
    body = run(failing, fed, entry["name"])
    back = _back(entry.get("layout"))
    script = ["import numpy as np", *made, *body, f"print(got{back}{place}, 'the float64 oracle:', {want!r})"]
    while len(script) > MOST:  # many inputs: several a line
        script[1:3] = ["; ".join(script[1:3])]
    return script


@dataclass(frozen=True)
class Failing:
    """The file that failed: the shapes of its inputs, and which of them hold integers, by its own names."""

    session: str
    folder: Path
    notes: Mapping[str, Any]
    description: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    integers: Collection[str]

    def path(self, key: str = "entry") -> str:
        return str(self.folder / self.notes[key])


Writer = Callable[[Failing, Mapping[str, str], str], list[str]]
"""(the file, an expression for each of its inputs, the output by the file's name) -> the lines that set `got`."""


def _viewed(value: str, layout: Layout) -> str:
    """The same elements in another place of memory, where that is what the artefact failed on."""
    if layout == "strided":
        return f"np.repeat({value}, 2, -1)[..., ::2]"
    if layout == "channels_last":
        return f"np.moveaxis(np.ascontiguousarray(np.moveaxis({value}, 1, -1)), -1, 1)"
    return value


def _order(entry: Mapping[str, Any], rank: int) -> list[int]:
    """The axes of an input in the order of the artefact's own layout."""
    layout, canonical = entry.get("layout"), _CANONICAL.get(rank, "")
    if not layout or sorted(layout) != sorted(canonical):
        return list(range(rank))
    return [canonical.index(axis) for axis in layout]


def _turned(entry: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _order(entry, len(shape)))


def _fed(entry: Mapping[str, Any], name: str, rank: int) -> str:
    order = _order(entry, rank)
    if order == sorted(order):
        return variable(name)
    return f"np.ascontiguousarray({variable(name)}.transpose({', '.join(map(str, order))}))"


def _back(layout: str | None) -> str:
    canonical = _CANONICAL.get(len(layout or ""), "")
    if not layout or sorted(layout) != sorted(canonical):
        return ""
    return f".transpose({', '.join(str(layout.index(a)) for a in canonical)})"


def mapping(fed: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{n!r}: {v}" for n, v in fed.items()) + "}"


def by_session(a: Failing, fed: Mapping[str, str], output: str) -> list[str]:
    module, _, name = a.session.partition(":")
    opened = f"{name}({str(a.folder)!r}, {dict(a.notes)!r})"
    return [f"from {module} import {name}", f"got = {opened}.run({mapping(fed)})[{output!r}]"]


def element(got: Any, want: Any) -> tuple[str, str]:
    """Where to look, as Python writes it after an array, and what the oracle has there: the element that is furthest
    off, or not finite; the shape or dtype where that differs. Without `got`, the oracle's largest element."""
    import numpy as np

    if not want.size or (got is not None and got.shape != want.shape):
        return ".shape", str(want.shape)
    if got is not None and (got.dtype.kind == "f") != (want.dtype.kind == "f"):
        return ".dtype", str(want.dtype)
    with np.errstate(invalid="ignore"):
        gap = np.abs(np.asarray(want, np.float64) - (0 if got is None else np.asarray(got, np.float64)))
    index = tuple(map(int, np.unravel_index(int(np.where(np.isfinite(gap), gap, np.inf).argmax()), gap.shape)))
    return str(list(index)) if index else "", f"{float(want[index]):.9g}"
