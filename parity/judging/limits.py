"""The cascade of limits: default < precision < target < target-precision < model < cell < output. Pure.

Every resolved limit remembers who set it, so that a message can name the line of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from parity.core.plan import Cell
from parity.core.settings import Rule
from parity.judging.floor import drawn, natural


@dataclass(frozen=True)
class Limit:
    """The limit in force for one metric of one output, and where it comes from."""

    metric: str
    value: float | None
    source: str


BUILT_IN, MEASURED = "built-in default", "measured on"  # how the source of a limit that nobody set begins

# The release thresholds that mobile export guides state. A project sets its own beside or over them.
DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "default": {"flex_ops": 0.0},
    "fp32": {"cosine": 0.99, "top1_drop": 0.0},
    "fp16": {"cosine": 0.95, "top1_drop": 0.01},
    "dynamic": {"top1_drop": 0.02},
    "int8": {"top1_drop": 0.05},
}
# What stands in where an output has no measured noise floor: orders of magnitude of what each precision costs on
# trained networks, with room.
FALLBACK: Mapping[str, float] = {"fp32": 1e-4, "fp16": 2e-2, "dynamic": 0.15, "int8": 0.25}

# Metric of the noise ratio -> the statistic of the natural table that limits it.
NOISE: Mapping[str, str] = {
    "noise_ratio": "pooled",
    "noise_ratio_case": "worst",
    "noise_ratio_channel": "channel",
    "noise_ratio_peak": "peak",
}
DRAWN = "noise_ratio_drawn"  # the error of one drawn input over its own floor
# Integer outputs of drawn inputs: the share of elements that may decide otherwise where no twin does. Ties are common
# there (a constant picture), and rounding breaks them. Set by hand: what may flip depends on margins that an index does
# not show, and no example model has such an output to measure. An output with fewer than 100 elements (5 at int8) must
# be right in all of them.
DIFFERING: Mapping[str, float] = {"fp32": 0.01, "fp16": 0.05, "dynamic": 0.1, "int8": 0.2}


# What the chain of proof counts: culprits by link, and links that failed. None is allowed.
PROOF = ("links_failed", "match_faults", "audit_faults", "lift_faults", "local_faults", "range_faults")

# Core ML files executed with no activation rounded, in decibels against the oracle. Right conversions of 34 networks
# keep 113 to 150 dB, since fp32 weights are all that is rounded; the least of the known faults falls to 90. A file
# without an fp32 sibling is held to four times what storing its weights costs, as everywhere at fp32.
LOWERING: Mapping[str, float] = {"lowering_db": 100.0, "lowering_ratio": 4.0}


def is_default(source: str) -> bool:
    """Whether nobody set the limit with this source."""
    return source.startswith((BUILT_IN, MEASURED))


def scopes(cell: Cell) -> tuple[str, ...]:
    """The cascade keys of a cell, weakest first."""
    return (
        "default",
        cell.precision,
        cell.target,
        f"{cell.target}-{cell.precision}",
        cell.model,
        cell.id,
    )


def defaults(cell: Cell) -> dict[str, Limit]:
    """The limits of a cell that nobody configured: stated release thresholds, and noise ratios as measured on correct
    exports; without such a measurement for its target and precision, a relative error. A limit on what is not measured
    of the cell, such as the chain of proof of a format that none can be made of, applies to nothing."""
    found = {
        metric: Limit(metric, value, BUILT_IN + (f" for {scope}" if scope != "default" else ""))
        for scope in ("default", cell.precision)
        for metric, value in DEFAULTS[scope].items()
    }
    found |= {metric: Limit(metric, 0.0, f"{BUILT_IN} for the chain of proof") for metric in PROOF}
    found |= {metric: Limit(metric, value, f"{BUILT_IN} for lowering") for metric, value in LOWERING.items()}
    found[DRAWN] = _drawn(cell)
    source = f"{BUILT_IN} for {cell.precision}"
    found["differing_share"] = Limit("differing_share", DIFFERING[cell.precision], source)
    measured = natural(cell.target, cell.precision)
    if measured is None:
        return found | {"rel_rms": fallback(cell.precision)}
    source = f"{MEASURED} {measured.count} correct exports to {cell.target} {cell.precision}"
    return found | {
        metric: Limit(metric, measured.limits[statistic], source)
        for metric, statistic in NOISE.items()
        if statistic in measured.limits
    }


def _drawn(cell: Cell) -> Limit:
    """What one drawn input may be off by, in units of its own floor, as measured on correct exports."""
    found = drawn(cell.target, cell.precision)
    return Limit(DRAWN, found.limit, f"{MEASURED} {found.inputs} inputs drawn for {found.files} correct files")


def fallback(precision: str) -> Limit:
    """The limit on the relative error of an output that has no measured noise floor."""
    return Limit("rel_rms", FALLBACK[precision], f"{BUILT_IN} for {precision} without a noise floor")


def resolve(rules: Iterable[Rule], cell: Cell, output: str | None = None) -> dict[str, Limit]:
    """The limits in force for one output of one cell, by metric.

    Anything configured is stronger than any default; among what is configured the later scope wins, and an output's
    own rule over all.
    """
    order = {scope: rank for rank, scope in enumerate(scopes(cell))}
    found = defaults(cell)
    ranks: dict[str, tuple[int, int]] = {}
    for rule in rules:
        if rule.scope not in order or rule.output not in (None, output):
            continue
        rank = (int(rule.output is not None), order[rule.scope])
        if rank >= ranks.get(rule.metric, (-1, -1)):
            ranks[rule.metric] = rank
            found[rule.metric] = Limit(rule.metric, rule.value, rule.source)
    return found
