"""Do the grids fit the data? Clipping on golden data at int8, distance to overflow at fp16, levels that are left.

The values are those of the lifted graph, so that an activation that is meant to be clipped (ReLU6, sigmoid) is not
counted, and clipping upstream does not hide clipping downstream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from parity.core.proof import Culprit, Link
from parity.formats.graph import FLOAT_MAX, Array, Artefact, Graph, Grid, Run, Values, feed, relative_rms
from parity.formats.kept import known
from parity.proof import levels
from parity.proof.audit import CLIP_COST
from parity.proof.calibration import calibrated, clamped
from parity.proof.lift import Case, whole_error

CLIPPED = 0.03  # share of a tensor's elements, as surely more (two standard errors over cases)
FELT = 0.1  # of the file's own error, from which on clipping is felt in the outputs
BEYOND = 1.01  # steps outside the grid that count: sigmoid's and softmax's fixed grids end one step below 1
FP16_MAX = 65504.0
BLURRED = 1e-3  # of the output; grids are held to a hundredth of what they reach
PASSING = (
    "Add",
    "Where",
    "Cast",
    "Reshape",
    "ADD",
    "SELECT",
    "SELECT_V2",
    "RESHAPE",
    "add",
    "select",
    "cast",
    "reshape",
)


@dataclass
class _Seen:
    """What one tensor did: its reach, and case by case the share that clipping hit and the energy that it took."""

    low: float = 0.0
    high: float = 0.0
    shares: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    finite: bool = True

    def add(self, values: Array, grid: Grid | None) -> None:
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if grid is None or not (grid.scale > 0).all():  # the audit speaks of such a grid
            return
        flat, lost = values.astype(np.float64).reshape(-1), np.zeros(0)
        least, most = grid.low - BEYOND, grid.high + BEYOND
        if grid.per_channel or not least <= grid.steps(np.array(low)) <= grid.steps(np.array(high)) <= most:
            steps = grid.steps(flat.reshape(values.shape))
            lost = (steps - np.clip(steps, least, most)).reshape(-1) * grid.scale[0]
        self.shares.append(np.count_nonzero(lost) / flat.size)
        self.losses.append(float(lost @ lost) / flat.size)
        self.energies.append(float(flat @ flat) / flat.size)

    @property
    def share(self) -> float:
        return float(np.mean(self.shares)) if self.shares else 0.0

    @property
    def clipped(self) -> bool:
        """Whether clipping is surely beyond a limit; few elements on few cases prove nothing."""
        energy = float(np.mean(self.energies)) if self.energies else 0.0
        return surely(self.shares) > CLIPPED or surely(self.losses) > CLIP_COST**2 * energy > 0

    def used(self, grid: Grid) -> float:
        """Share of the grid's reach that the values use."""
        reach = float(grid.scale[0] * (grid.high - grid.low))
        return (self.high - self.low) / reach if reach > 0 else 0.0


def surely(samples: Sequence[float]) -> float:
    """The mean less two standard errors."""
    if not samples:
        return 0.0
    return float(np.mean(samples) - 2 * np.std(samples) / np.sqrt(len(samples)))


def range_(
    artefact: Artefact,
    weights: Values,
    cases: Sequence[Case],
    precision: str,
    calibration: Sequence[Case] = (),
    kept: float = 0.0,
) -> Link:
    """Judge the ranges on `cases`, and at int8 the grids on `calibration` data, with the lift's `weights` in place.

    `kept`: what the rounding of constants that no tensor of the module replaces may cost the lift. From `BLURRED` on
    the lifted graph does not see what calibration saw, and the grids are not held to it.
    """
    graph = artefact.graph
    watch = [name for name in graph.activations if name in graph.grids or precision == "fp16"]
    if not watch:
        return Link.judged("range", {"cases": 0}, [])
    run = artefact.lift(weights, list(dict.fromkeys([*watch, *sorted(_whole(graph))])))
    seen, outputs = _watched(artefact, weights, watch, cases, run)
    broken = [name for name in watch if not seen[name].finite]
    culprits = [Culprit("tensor", name, "not finite in the lifted graph") for name in broken[:1]]
    figures: dict[str, object] = {"cases": len(cases)}
    if precision == "int8":
        shares = {name: s.share for name, s in seen.items() if not clamped(graph, name)}
        worst = max(shares, key=lambda name: shares[name], default="")
        figures["clip_share"] = float(np.mean(list(shares.values()) or [0.0]))
        figures["clip_share_worst"] = shares.get(worst, 0.0)
        figures["clip_worst_tensor"] = worst
        figures["range_used_median"] = float(np.median([s.used(graph.grids[n]) for n, s in seen.items()] or [1.0]))
        clipped = [name for name in shares if seen[name].clipped]
        figures["clipped"] = clipped
        for name in sorted(clipped, key=lambda n: -shares[n]):
            s, grid = seen[name], graph.grids[name]
            low, high = (float((q - grid.zero[0]) * grid.scale[0]) for q in (grid.low, grid.high))
            what = f"values reach {s.low:.4g} to {s.high:.4g}, the grid {low:.4g} to {high:.4g}"
            culprits.append(Culprit("tensor", name, f"{100 * shares[name]:.3g} % clipped: {what}"))
        for port in graph.outputs:
            culprits += levels.lost(graph, port, outputs)
        more, odd = calibrated(graph, run, calibration)
        figures |= more
        culprits += odd if kept < BLURRED else []
    elif precision == "fp16":
        reach = {name: max(-s.low, s.high) for name, s in seen.items()}
        widest = max(reach, key=lambda name: reach[name], default="")
        figures["largest"] = reach.get(widest, 0.0)
        figures["largest_tensor"] = widest
        figures["headroom"] = FP16_MAX / reach[widest] if reach.get(widest) else None
        culprits += [Culprit("tensor", name, f"reaches {value:.4g}; fp16 ends at {FP16_MAX:.0f}")
                     for name, value in reach.items() if value > FP16_MAX]  # fmt: skip
    return Link.judged("range", figures, culprits)


def weighed(link: Link, artefact: Artefact, weights: Values, cases: Sequence[Case], oracle: Sequence[Case]) -> Link:
    """The link without clipping that the outputs do not feel: the mean of a LayerNorm is subtracted from values that
    are a hundred times as large. What it costs shows in a run in which the clipped tensors alone lie on their grids.
    """
    clipped = link.figures.get("clipped", ())
    if link.state != "failed" or not clipped:
        return link
    graph = artefact.graph
    exact, rounded = artefact.lift(weights), artefact.rounded(weights, {name: graph.grids[name] for name in clipped})
    effect = 0.0
    fed = [feed(graph, case) for case in cases]
    for before, after in ((exact(values), rounded(values)) for values in fed):
        for port in graph.outputs:
            want, got = (np.asarray(row[port.tensor], np.float64) for row in (before, after))
            effect = max(effect, relative_rms(got, want))
    figures = {**link.figures, "clipping_costs": effect}
    error = whole_error(artefact, cases, oracle)
    if not np.isfinite(error) or effect > FELT * error:
        return replace(link, figures=figures)
    return Link.judged("range", figures, [culprit for culprit in link.culprits if culprit.name not in clipped])


def _watched(
    artefact: Artefact, weights: Values, watch: Sequence[str], cases: Sequence[Case], run: Run
) -> tuple[dict[str, _Seen], Sequence[Values]]:
    """What each watched tensor did, and case by case the outputs with their parts. Only tensors on grids that the same
    lifted graph was not seen with before are run for."""
    graph = artefact.graph
    ends = getattr(artefact, "widened_ends", False)  # where the lift holds float32's, the file holds fp16's own
    fed = [feed(graph, case) for case in cases]
    kept = known(run, fed)
    whole = _whole(graph)
    seen: dict[Any, _Seen] = kept.setdefault("seen", {})
    keys = {name: (name, _identity(graph.grids.get(name))) for name in watch}
    missing = [name for name in watch if keys[name] not in seen]
    if missing or not whole <= kept["outputs"][0].keys():
        masked = {name for name in missing if name not in graph.grids and _masks(graph, name)}
        found = {name: _Seen() for name in missing}
        outputs = []
        for values in map(
            run
            if len(missing) == len(watch)
            else artefact.lift(weights, list(dict.fromkeys([*missing, *sorted(whole)]))),
            fed,
        ):
            outputs.append({name: values[name] for name in whole})
            for name, one in found.items():
                value = values[name]
                if value.dtype.kind != "f" or not value.size:
                    continue
                value = value[value != -np.inf] if name in masked else value
                value = value[np.abs(value) != FLOAT_MAX] if ends else value
                if not np.isfinite(value).all():
                    one.finite = False
                elif value.size:
                    one.add(np.maximum(value, 0) if name in masked else value, graph.grids.get(name))
        seen |= {keys[name]: one for name, one in found.items()}
        kept["outputs"] = outputs
    return {name: seen[keys[name]] for name in watch}, kept["outputs"]


def _whole(graph: Graph) -> set[str]:
    """The outputs, and the tensors that are joined in them."""
    joined = {part.tensor for port in graph.outputs for part in levels.parts(graph, port)}
    return joined | {port.tensor for port in graph.outputs}


def _identity(grid: Grid | None) -> tuple[object, ...]:
    return () if grid is None else (grid.scale.tobytes(), grid.zero.tobytes(), grid.low, grid.high)


def _masks(graph: Graph, name: str) -> bool:
    """Whether a tensor goes to a softmax and nowhere else, over sums and choices: there the least number of fp16, or
    minus infinity, says "not this one", and to fall below it changes nothing."""
    readers = [op for op in graph.operators if name in op.inputs]
    return bool(readers) and all(
        op.kind.lower() == "softmax" or (op.kind in PASSING and all(_masks(graph, n) for n in op.outputs))
        for op in readers
    )
