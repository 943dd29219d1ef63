"""Match and audit of files that keep the module's names: parameters and buffers by name, the rest by content.

A name that the file has and the module has not may have a prefix more or less, as wrapped modules give it; the prefix
is the same for all. By name nothing is folded, so a stored value is the module's, rounded once to the file's type. The
numbers in the code are held against those of the module's own export where both have an operator equally often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from parity.core.proof import Culprit, Link
from parity.formats.graph import Constant, Graph
from parity.proof.audit import Audited, audit, exact
from parity.proof.match import Match, match
from parity.proof.source import Source

_SAME_NUMBER = 1e-6  # relative: a number of the code may have gone through float32
_HALF_NUMBER = 1e-3  # or through float16


def match_and_audit(graph: Graph, source: Source, precision: str) -> tuple[dict[str, Audited], Link, Link]:
    """Every constant audited, and the links `match` and `audit`."""
    names = names_of(graph, source)
    by_name = {name: exact(graph, _match(graph.constants[name], theirs, source)) for name, theirs in names.items()}
    rest = {name: c for name, c in graph.constants.items() if name not in names and c.slots}
    unnamed = replace(graph, constants=rest)
    matches, matched = match(unnamed, source)
    by_content, sound = audit(unnamed, matches, precision)
    audited = by_name | by_content
    wrong = [_culprit(a, precision) for a in by_name.values() if not a.sound or _coarse(a, precision)]
    compared, odd = _literals(graph, source, precision)
    held = {*names.values(), *(part for m in matches.values() for part in (m.name, m.weight.name if m.weight else ""))}
    figures = {
        **matched.figures,
        "constants": len(names) + int(matched.figures["constants"]),
        "matched": len(audited),
        "by_name": len(names),
        "literals_of": compared,
        "unused": [name for name in source.tensors if name not in held],
    }
    worst = [a.worst for a in audited.values()]
    audit_figures = {
        **sound.figures,
        "tensors": len(audited),
        "within": len(audited) - len(wrong) - len(sound.culprits),
        "unit": "half a unit" if precision == "fp16" else "float32 rounding",
        "worst": round(max(worst, default=0.0), 6),
        "unreduced": _unreduced(audited),
    }
    return (
        audited,
        Link.judged("match", figures, [*matched.culprits, *odd]),
        Link.judged("audit", audit_figures, [*wrong, *sound.culprits]),
    )


def names_of(graph: Graph, source: Source) -> dict[str, str]:
    """The module's tensor by the constant of the same name and shape, under the prefix that fits the most."""
    best: dict[str, str] = {}
    for theirs, ours in _prefixes(graph, source):
        found = {}
        for name, constant in graph.constants.items():
            other = ours + name.removeprefix(theirs)
            fits = name.startswith(theirs) and other in source.tensors
            if fits and tuple(source.tensors[other].shape) == constant.stored.shape:
                found[name] = other
        if len(found) > len(best):
            best = found
    return best


def _prefixes(graph: Graph, source: Source) -> Iterator[tuple[str, str]]:
    """Pairs (what the file's names begin with besides, what the module's do)."""
    yield "", ""
    for name in dict.fromkeys(_heads(graph.constants)):
        yield name, ""
    for name in dict.fromkeys(_heads(source.tensors)):
        yield "", name


def _heads(names: Mapping[str, object]) -> Iterator[str]:
    for name in names:
        parts = name.split(".")
        yield from (".".join(parts[:depth]) + "." for depth in (1, 2) if len(parts) > depth)


def _match(constant: Constant, name: str, source: Source) -> Match:
    """By name; no magnitude, for nothing is summed."""
    values = np.asarray(source.tensors[name].detach().to(torch.float64).numpy())
    return Match(constant, name, values, np.zeros(values.shape))


def _coarse(audited: Audited, precision: str) -> bool:
    """Whether a float tensor of an fp32 file is stored as float16."""
    return precision == "fp32" and audited.match.constant.stored.dtype == np.float16


def _culprit(audited: Audited, precision: str) -> Culprit:
    stored, want = audited.match.constant.stored, audited.match.values
    if audited.sound and _coarse(audited, precision):
        return Culprit("tensor", audited.match.name, f"stored as {stored.dtype.name} in an {precision} file")
    wrong = np.nan_to_num(audited.excess, nan=np.inf) > 0
    difference = float(np.nan_to_num(np.abs(stored.astype(np.float64) - want), nan=np.inf).max(initial=0))
    what = f"{int(wrong.sum())} of {wrong.size} values are not the module's, the worst by {difference:.3g}"
    rows = np.unique(np.nonzero(np.atleast_1d(wrong))[0])
    return Culprit("tensor", audited.match.name, what, tuple(int(i) for i in rows[:32]) if wrong.ndim else ())


def _unreduced(audited: Mapping[str, Audited]) -> float:
    floats = [a.match.constant.stored for a in audited.values() if a.match.constant.stored.dtype.kind == "f"]
    whole = sum(v.size for v in floats)
    return round(sum(v.size for v in floats if v.dtype != np.float16) / (whole or 1), 6)


def _literals(graph: Graph, source: Source, precision: str) -> tuple[dict[str, int], list[Culprit]]:
    """The operators whose numbers were compared, with how many of each there are, and those that differ. The least and
    the largest number of a type stand for one another: the module says `finfo(x.dtype).min`."""
    tolerance = _HALF_NUMBER if precision == "fp16" else _SAME_NUMBER
    ends = [float(torch.finfo(dtype).max) for dtype in (torch.float64, torch.float32)]
    ends += [float(torch.finfo(torch.float16).max)] if precision == "fp16" else []
    ours, compared, culprits = source.literals(), {}, []
    for kind, theirs in graph.literals.items():
        mine = ours.get(kind, [])
        if len(mine) != len(theirs) or Counter(map(len, mine)) != Counter(map(len, theirs)) or not any(theirs):
            continue
        compared[kind] = len(theirs)
        for got, want in zip(sorted(theirs), sorted(mine), strict=True):
            if not np.allclose(_endless(got, ends), _endless(want, ends), rtol=tolerance, atol=0):
                culprits.append(Culprit("operator", kind, f"has {_listed(got)}, the module {_listed(want)}"))
                break
    return compared, culprits


def _endless(values: tuple[float, ...], ends: Sequence[float]) -> list[float]:
    """The values, those at an end of a type as infinities."""
    return [np.copysign(np.inf, value) if abs(value) in ends else value for value in values]


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
