"""What a person wants to see of a cell's outputs beside the figures that gate: the worst cases, how the errors are
spread, and where the cell stands among correct exports. Pure; nothing made here decides anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.core.case import Array, Case
from parity.core.contract import Contract, OutputSpec
from parity.core.exhibits import Distribution, Exhibit, Picture, Spread
from parity.core.kinds import Kind
from parity.core.plan import Cell
from parity.core.record import Check, plain
from parity.judging.floor import Floor, differences, natural
from parity.judging.gate import passes
from parity.judging.limits import NOISE
from parity.suite import pictures

FEW = 32  # values of an output that are told one by one; more become a picture, or the foremost of a decision
FOREMOST, FURTHEST = 4, 4  # of a long vector of scores: the largest, and those that moved most
FIRST, STEP, BINS = -10.0, 0.5, 24  # of a distribution: from 1e-10 to 1e2 of the output's rms

# Of the metrics of one case, the one that says best how bad it is: what the precision explains is taken out first.
_TELLING = ("noise_ratio_case", "rel_rms", "max_abs")


def gather(
    kind: Kind,
    cell: Cell,
    contract: Contract,
    cases: Sequence[Case],
    got: Sequence[Mapping[str, Array]],
    want: Sequence[Mapping[str, Array]],
    floors: Mapping[str, Floor],
    checks: Sequence[Check],
) -> dict[str, Any]:
    """What the record of a cell shows of one kind of check, by the name of its field, as builtins.

    `got` and `want` are {output: array}, one a case; an output that is missing or of another shape in any case is left
    out of what needs all of them.
    """
    spread = []
    for spec in contract.outputs:
        pairs = [(g.get(spec.name), w[spec.name]) for g, w in zip(got, want, strict=True)]
        same = [(g, w) for g, w in pairs if g is not None and g.shape == w.shape]
        if len(same) == len(pairs) and pairs:
            rows = [g for g, _ in same], [w for _, w in same]
            spread.append(distribution(kind, spec.name, *rows, floors.get(spec.name)))
    return {
        "exhibits": plain(worst_cases(kind, contract, cases, got, want, checks)),
        "distributions": plain(spread),
        "natural": plain(spreads(cell.target, cell.precision)),
    }


def worst_cases(
    kind: str,
    contract: Contract,
    cases: Sequence[Case],
    got: Sequence[Mapping[str, Array]],
    want: Sequence[Mapping[str, Array]],
    checks: Sequence[Check],
) -> tuple[Exhibit, ...]:
    """The worst cases to look at: three of frames and of what fails, one of what passes; each case once."""
    mine = [c for c in checks if c.kind == kind and c.case != "all"]
    most = 3 if kind == "video" or not all(passes(c) for c in checks if c.kind == kind) else 1
    specs = {o.name: o for o in contract.outputs}
    index = {case.id: i for i, case in enumerate(cases)}
    chosen: dict[str, Check] = {}
    for check in sorted(_leading(mine), key=_badness, reverse=True):
        if check.case in index and check.output in specs and len(chosen) < most:
            chosen.setdefault(check.case, check)
    found = []
    for check in chosen.values():
        i = index[check.case]
        found.append(
            _exhibit(check, contract, cases[i], specs[check.output], got[i].get(check.output), want[i][check.output])
        )
    return tuple(found)


def _leading(checks: Sequence[Check]) -> list[Check]:
    """For each case and output the check that says best how bad it is; one that fails before any other."""
    found: dict[tuple[str, str], Check] = {}
    for check in checks:
        key = check.case, check.output
        if check.metric in _TELLING or not passes(check):
            held = found.get(key)
            if held is None or _order(check) < _order(held):
                found[key] = check
    return list(found.values())


def _order(check: Check) -> tuple[bool, bool, int]:
    telling = _TELLING.index(check.metric) if check.metric in _TELLING else len(_TELLING)
    return passes(check), check.limit is None, telling


def _badness(check: Check) -> tuple[bool, bool, float]:
    """What fails first, then what has a limit by its share of it, then what has none by its value."""
    share = check.share()
    if not passes(check):
        return True, True, math.inf if check.value is None or share is None else share
    return False, share is not None, share if share is not None else check.value or 0.0


def _exhibit(check: Check, contract: Contract, case: Case, spec: OutputSpec, got: Array | None, want: Array) -> Exhibit:
    shown, words = [], []
    for declared in contract.inputs:
        value = case.inputs[declared.name]
        how = contract.preprocess if len(declared.shape) == 4 else None
        picture = pictures.photograph(value, how, declared.name) or _input_map(value, declared.name)
        if picture is None:
            words.append(_told(declared.name, value))
        else:
            shown.append(picture)
    if case.label is not None:
        words.append(f"labelled {spec.labels[case.label] if case.label < len(spec.labels) else case.label}")
    told: dict[str, Any] = {
        "kind": check.kind, "case": check.case, "output": check.output, "metric": check.metric, "value": check.value,
        "inputs": tuple(shown), "words": "; ".join(words),
    }  # fmt: skip
    if got is None or got.shape != want.shape or not want.size:
        return Exhibit(**told)
    picked = _picked(spec, got, want)
    if picked is None:
        return Exhibit(**told | _maps(spec, got, want))
    names, order = picked
    flat_want, flat_got = want.reshape(-1), got.reshape(-1)
    return Exhibit(
        **told,
        names=names,
        want=tuple(_finite(flat_want[i]) for i in order),
        got=tuple(_finite(flat_got[i]) for i in order),
        left=flat_want.size - len(order),
    )


def _told(name: str, value: Array) -> str:
    flat = value.reshape(-1)
    more = f" … ({flat.size} values)" if flat.size > 24 else ""
    return f"{name}: " + " ".join(f"{v:.4g}" if value.dtype.kind == "f" else str(v) for v in flat[:24]) + more


def _input_map(value: Array, name: str) -> Picture | None:
    """A map of real numbers in rows, such as key points over time; None for ids and for what is too narrow."""
    if value.dtype.kind != "f" or value.ndim < 3 or value.size < 2 * FEW:
        return None
    values = pictures.plane(value)
    return pictures.value_map(values, *_range(values), f"{name} {' × '.join(map(str, value.shape))}")


def _picked(spec: OutputSpec, got: Array, want: Array) -> tuple[tuple[str, ...], list[int]] | None:
    """Names and flat indices of the values to tell one by one; None where a picture says more."""
    size, rows = want.size, want.size // want.shape[-1] if want.ndim else 1
    if size <= FEW:
        order = list(range(size))
    elif spec.decides and rows == 1:
        flat, moved = want.reshape(-1), np.abs(np.nan_to_num(got - want, nan=np.inf)).reshape(-1)
        foremost = [*np.argsort(-flat, kind="stable")[:FOREMOST], np.nan_to_num(got, nan=-np.inf).argmax()]
        order = [int(i) for i in dict.fromkeys([*foremost, *np.argsort(-moved, kind="stable")[:FURTHEST]])]
    else:
        return None
    named = rows == 1 and len(spec.labels) == want.shape[-1] if want.ndim else False
    return tuple(spec.labels[i] if named else str(i) for i in order), order


def _maps(spec: OutputSpec, got: Array, want: Array) -> dict[str, Picture]:
    """Reference and artefact on one scale, their difference on its own; planes with the largest difference."""
    with np.errstate(invalid="ignore", over="ignore"):
        moved = np.asarray(got, np.float64) - np.asarray(want, np.float64)
    chosen = pictures.channels(moved)
    parts = [pictures.plane(np.asarray(a, np.float64), chosen) for a in (want, got, moved)]
    low, high = _range(parts[0])
    most = max(abs(v) for v in _range(parts[2]))
    of = f", channels {', '.join(map(str, chosen))}" if chosen and len(chosen) > 1 else ""
    scale = f"{low:.3g} to {high:.3g}"
    return {
        "reference": pictures.value_map(parts[0], low, high, f"{spec.name}{of}, {scale}"),
        "artefact": pictures.value_map(parts[1], low, high, f"{spec.name}{of}, {scale}"),
        "difference": pictures.difference_map(parts[2], most, f"within ±{most:.3g}"),
    }


def _range(values: Array) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def distribution(
    kind: str, output: str, got: Sequence[Array], want: Sequence[Array], floor: Floor | None = None
) -> Distribution:
    """How the errors of an output's elements are spread over all cases, and those of the precision's twin beside it.

    `got` and `want` are one array a case, of the same shapes. Errors are relative to the rms of `want`.
    """
    squares = sum(float(np.square(w[np.isfinite(w)].astype(np.float64)).sum()) for w in want)
    count = sum(w.size for w in want)
    magnitude = math.sqrt(squares / count) if count else 0.0
    own, exact, bad = _binned(differences(got, want), magnitude)
    twin: tuple[int, ...] = ()
    twin_exact = 0
    if floor is not None and floor.twin:
        twin, twin_exact, _ = _binned(differences(floor.twin, floor.want), magnitude)
    return Distribution(kind, output, count, magnitude, FIRST, STEP, own, exact, bad, twin, twin_exact)


def _binned(errors: Sequence[Array], magnitude: float) -> tuple[tuple[int, ...], int, int]:
    """Counts by bin, elements without an error, elements that are not finite."""
    flat = np.abs(np.concatenate([e.reshape(-1) for e in errors])) if errors else np.zeros(0)
    finite = flat[np.isfinite(flat)]
    some = finite[finite > 0] / (magnitude or 1.0)
    places = np.clip(np.floor((np.log10(np.maximum(some, 1e-300)) - FIRST) / STEP), 0, BINS - 1).astype(int)
    counts = tuple(int(n) for n in np.bincount(places, minlength=BINS))
    return counts, len(finite) - len(some), len(flat) - len(finite)


def spreads(target: str, precision: str) -> tuple[Spread, ...]:
    """What correct exports of this target and precision were measured to have; empty where nobody measured."""
    measured = natural(target, precision)
    if measured is None:
        return ()
    found = []
    for metric, statistic in NOISE.items():
        seen = measured.spread.get(statistic)
        if seen is not None:
            found.append(Spread(metric, seen["median"], seen["p95"], seen["max"], measured.count))
    return tuple(found)
