"""The link `copies`: stored constants against the module's tensors by value, where the graph cannot be followed.

The audit knows from the graph what a constant is. Without it the values say: a constant that equals a tensor of the
module in most rows is a copy of it, so that the other rows are wrong, whether an input reaches them or not. A constant
that equals none may stand for an expression, and is no fault. Inputs that choose rows of such tables are named with the
number of rows, for the suite to try all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.core.case import Array
from parity.core.proof import Culprit, Link
from parity.formats.graph import TABLE, Constant, Graph
from parity.formats.survey import Survey, looks_up
from parity.formats.target import load_part
from parity.proof import audit
from parity.proof.match import Match
from parity.proof.messages import ProofRequest
from parity.proof.source import Source
from parity.reference import modelling
from parity.reference.look_ups import LookUp, used

MOSTLY = 0.5  # of the rows that tell something: a constant that has so many of a tensor's is a copy of it
FEWEST = 4  # rows that tell something
_LEAST = 64  # values of a constant that is no table: smaller ones resemble others by chance
_SAMPLE = 512  # values by which most tensors are told apart
_UNLIKE = 0.05  # of the largest value: what half of the values differ by, at least, in another tensor
_UNIT = 0.01  # a factor so near to 1 is 1; int8 moves a ratio by less
_NAMED = 8  # rows in a culprit's text
_AXES = 4  # a tensor with more is looked at in its own layout alone


@dataclass(frozen=True)
class Tensor:
    """What a constant may hold a copy of: float64 `values`, and what each was summed from."""

    name: str
    values: Array
    magnitude: Array


@dataclass(frozen=True)
class Copy:
    """A constant beside the tensor that it is most like, times `factor`. `wrong`, `telling`: by row of the tensor,
    whether it differs, and whether its values tell it from others."""

    constant: Constant
    name: str
    factor: float
    wrong: Array
    telling: Array
    excess: float

    @property
    def sound(self) -> bool:
        return not self.wrong.any()

    @property
    def readable(self) -> bool:
        """Whether a row looked up in it is the tensor's own. Where a factor is, an operator after it may undo the
        factor or not: only running the rows shows that."""
        return self.sound and self.factor == 1

    @property
    def changed(self) -> bool:
        """Whether most rows are the tensor's, so that the others were changed."""
        right = int((self.telling & ~self.wrong).sum())
        return not self.sound and right >= max(FEWEST, MOSTLY * int(self.telling.sum()))


def copies(request: ProofRequest, audited: Collection[str] | None, source: Source | None) -> Link | None:
    """The link for one file. `audited`: the names of the constants that the audit has held against the module's, None
    where it was not made; `source`: the module's export, where there is one.

    None where every table is audited. Raises NotPossible where the file cannot be read.
    """
    survey = _read(request.constants, request.folder, request.notes)
    pairs = survey.look_ups()
    ports = {entry["name"]: name for name, entry in request.notes.get("inputs", {}).items()}
    names = {given: ports.get(survey.ports.get(given, given), given) for given in survey.inputs}
    constants = survey.tables(pairs)
    made = {names.get(name, name): count for name, count in survey.made_tables().items()}
    known = {n for n, c in constants.items() if c.name in set(audited or ())}
    if audited is not None:
        tables = {table for _, table in pairs}
        constants = {n: c for n, c in constants.items() if n in tables - known}
        if not constants and not made:
            return None
    module = modelling.load(request.model)
    large = {n: c for n, c in constants.items() if _is_large(c)}
    tensors, module_pairs = _of_module(request, module, source, {c.stored.size for c in large.values()})
    nearest = {n: copy for n, c in large.items() if (copy := _nearest(c, tensors)) is not None}
    readable = known | {n for n, copy in nearest.items() if copy.readable}
    rows = dict(made)
    for given, table in pairs:
        if table not in readable:
            name = names.get(given, given)
            rows[name] = max(rows.get(name, 0), len(survey.stored[table].stored))
    if audited is None:
        held = {copy.name for copy in nearest.values() if copy.readable}
        for look_up in module_pairs:
            if look_up.table not in held:
                rows[look_up.given] = max(rows.get(look_up.given, 0), look_up.rows)
    culprits = [_culprit(copy) for copy in nearest.values() if copy.changed]
    figures = {
        "constants": len(large),
        "copies": sum(copy.sound for copy in nearest.values()),
        "unmatched": [c.name for n, c in large.items() if n not in nearest or not nearest[n].sound],
        "unaudited": rows,
    }
    return Link.judged("copies", figures, culprits)


def _read(reader: str, folder: str, notes: Mapping[str, Any]) -> Survey:
    """All constants of a file, and what looks up in them; none where nothing reads files of its format."""
    survey: Survey = load_part(reader)(folder, notes) if reader else Survey(())
    return survey


def _of_module(
    request: ProofRequest, module: torch.nn.Module, source: Source | None, sizes: Collection[int]
) -> tuple[list[Tensor], list[LookUp]]:
    """What a constant may be a copy of, and the look-ups of the module or reference by its own inputs' names."""
    path = getattr(module, "path", None)
    if request.reference_constants and getattr(module, "no_twin", "") and path is not None:
        return _of_file(request, Path(path))
    seen = used(module, request.cases[0], sizes)
    tensors = [_tensor(*pair) for pair in seen.tables.items()]  # first, so that a copy bears the name of its look-up
    tensors += [_tensor(name, value) for name, value in _attributes(module) if value.is_floating_point()]
    tensors += [_computed(*pair) for pair in seen.computed.items()]
    if source is not None:
        tensors += [Tensor(t.name, t.values, t.magnitude) for t in source.terms]
        weights = [each for weight in source.weights for each in (weight, weight.unfolded) if each is not None]
        tensors += [Tensor(w.name, w.values, w.magnitude) for w in weights]
    return tensors, seen.look_ups


def _of_file(request: ProofRequest, path: Path) -> tuple[list[Tensor], list[LookUp]]:
    """The constants of a reference file that only its own runtime executes."""
    survey = _read(request.reference_constants, str(path.parent), {"entry": path.name})
    reals = {name: constant.real for name, constant in survey.stored.items()}
    tensors = [Tensor(name, real, np.abs(real)) for name, real in reals.items()]
    return tensors, [LookUp(given, table, len(reals[table])) for given, table in survey.look_ups() if reals[table].ndim]


def _attributes(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, buffers, and what parts of the module hold or compute under the name of a parameter."""
    yield from module.named_parameters()
    yield from module.named_buffers()
    for prefix, part in module.named_modules():
        start = f"{prefix}." if prefix else ""
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor):
                yield start + name, value
        for name in getattr(part, "parametrizations", ()):
            yield start + name, getattr(part, name)


def _tensor(name: str, value: torch.Tensor) -> Tensor:
    values = np.asarray(value.detach().double().numpy())
    return Tensor(name, values, np.abs(values))


def _computed(name: str, value: torch.Tensor) -> Tensor:
    """A tensor that the module computes in float32, and a converter in an order of its own: its values round by what
    they were summed from, which is as large as the largest (a weight less its mean, over its deviation)."""
    plain = _tensor(name, value)
    return Tensor(name, plain.values, np.full_like(plain.values, plain.magnitude.max(initial=0.0)))


def _is_large(constant: Constant) -> bool:
    if constant.slot("weight"):
        return constant.stored.ndim > 0
    squeezed = [n for n in constant.stored.shape if n > 1]
    floats = constant.stored.dtype.kind == "f" or constant.grid is not None
    return floats and len(squeezed) > 1 and constant.stored.size >= _LEAST


def _nearest(constant: Constant, tensors: Sequence[Tensor]) -> Copy | None:
    """The copy that a constant is: one that can be read as it stands, else a sound one, else that with the fewest wrong
    rows; None where it is like none."""
    best: Copy | None = None
    for tensor in tensors:
        for candidate in _compared(constant, tensor):
            if candidate.readable:
                return candidate
            if best is None or candidate.wrong.mean() < best.wrong.mean():
                best = candidate
    return best


def _compared(constant: Constant, tensor: Tensor) -> Iterator[Copy]:
    """The constant against the tensor in every layout that has its shape, or with rows more or less at the end."""
    for stored, values, magnitude, axis in _layouts(constant, tensor):
        factor = _factor(stored.real, values)
        if factor is None:
            continue
        graph = Graph((), {}, {}, (), (), channels_last=False, symmetric_weights=False, flushes=True)
        match = Match(stored, tensor.name, values * factor, magnitude * abs(factor))
        excess = np.nan_to_num(audit.exact(graph, match).excess, nan=np.inf, posinf=1e30)
        by_row = np.moveaxis(excess, axis, 0).reshape(excess.shape[axis], -1).max(1, initial=-1.0)
        yield Copy(constant, tensor.name, factor, by_row > 0, _telling(values, stored.real, axis), float(by_row.max()))


def _layouts(constant: Constant, tensor: Tensor) -> Iterator[tuple[Constant, Array, Array, int]]:
    """(constant, values and magnitude in its shape, axis of the tensor's rows there)."""
    shape, values, magnitude = constant.stored.shape, tensor.values.squeeze(), tensor.magnitude.squeeze()
    squeezed = tuple(n for n in shape if n > 1)
    if not squeezed or values.ndim != len(squeezed):
        return
    if sorted(values.shape) == sorted(squeezed):
        own = tuple(range(values.ndim))
        places = [axis for axis, n in enumerate(shape) if n > 1]
        for order in itertools.permutations(own) if values.ndim <= _AXES else (own,):
            if tuple(values.shape[axis] for axis in order) == squeezed:
                turned, reach = (v.transpose(order).reshape(shape) for v in (values, magnitude))
                yield constant, turned, reach, places[order.index(0)]
        return
    by_row = constant.grid is not None and constant.grid.per_channel and constant.grid.axis == 0
    if constant.slot("weight") and constant.stored.ndim == values.ndim and not by_row and shape[1:] == values.shape[1:]:
        rows = min(shape[0], len(values))
        yield replace(constant, stored=constant.stored[:rows]), values[:rows], magnitude[:rows], 0


def _factor(real: Array, values: Array) -> float | None:
    """What the tensor is multiplied by in the constant, as most values have it; None for another tensor."""
    flat = np.linspace(0, real.size - 1, min(real.size, _SAMPLE)).astype(int)
    got, want = real.reshape(-1)[flat], values.reshape(-1)[flat]
    largest = float(np.abs(want).max(initial=0))
    clear = np.abs(want) > 0.1 * largest
    if not largest or not clear.any():
        return 1.0 if not np.any(got) and not largest else None
    factor = float(np.median(got[clear] / want[clear]))
    if not np.isfinite(factor) or not factor:
        return None
    factor = 1.0 if abs(factor - 1) < _UNIT else factor
    unlike = float(np.median(np.abs(got - factor * want)[clear])) > _UNLIKE * largest * abs(factor)
    return None if unlike else factor


def _telling(values: Array, real: Array, axis: int) -> Array:
    """By row, whether both sides have different values in it: rows of zeros, or of ones, are alike everywhere."""
    sides = (np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1) for v in (values, real))
    single = values.size == values.shape[axis]
    return np.asarray(np.all([side.any(1) if single else np.ptp(side, axis=1) > 0 for side in sides], axis=0))


def _culprit(copy: Copy) -> Culprit:
    rows = [int(row) for row in np.flatnonzero(copy.wrong)]
    named = ", ".join(map(str, rows[:_NAMED])) + (f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")
    where = "" if copy.constant.name == copy.name else f"{copy.constant.name} in the file, "
    kind = "steps" if copy.constant.grid is not None else "ulp"
    words = f"{where}a copy but for {len(rows)} of {len(copy.wrong)} rows: {named}; the worst off by {copy.excess:.3g}"
    return Culprit("tensor", copy.name, f"{words} {kind}")


def open_tables(graph: Graph, audited: Iterable[str]) -> bool:
    """Whether the graph looks something up in a constant that was not audited, or in what it computes from some."""
    known = set(audited)
    data = {port.tensor for port in graph.inputs}
    made: set[str] = set()
    for operator in graph.operators:  # each stands behind those that it reads
        if data.isdisjoint(operator.inputs):
            made.update(operator.outputs)
        elif looks_up(operator.kind) and not made.isdisjoint(operator.inputs):
            return True
        else:
            data.update(operator.outputs)
    return any(slot.layout == TABLE for name, c in graph.constants.items() if name not in known for slot in c.slots)
