"""The cascade of limits: default < precision < target < target-precision < model < cell < output. Pure.

Every resolved limit remembers who set it, so that a message can name the line of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from parity.core.plan import PRECISIONS, Cell
from parity.core.settings import Rule
from parity.judging.floor import drawn, natural
from parity.judging.registry import METRICS
from parity.judging.spec import CHAIN_OF_PROOF, LOWERING


@dataclass(frozen=True)
class Limit:
    """The limit in force for one metric of one output, and where it comes from."""

    metric: str
    value: float | None
    source: str


BUILT_IN, MEASURED = "built-in default", "measured on"  # how the source of a limit that nobody set begins

# What holds where nobody set a limit: by "default", precision, or a check that only some targets have.
DEFAULTS: Mapping[str, Mapping[str, float]] = {
    scope: {spec.name: spec.limits[scope] for spec in METRICS.values() if scope in spec.limits}
    for scope in ("default", *PRECISIONS, CHAIN_OF_PROOF, LOWERING)
}
# Metric of the noise ratio -> the statistic of the natural table that limits it.
NOISE: Mapping[str, str] = {spec.name: spec.statistic for spec in METRICS.values() if spec.statistic}
DRAWN = "noise_ratio_drawn"  # the error of one drawn input over its own floor


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
        for scope in ("default", cell.precision, CHAIN_OF_PROOF, LOWERING)
        for metric, value in DEFAULTS[scope].items()
    }
    found[DRAWN] = _drawn(cell)
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
    value = METRICS["rel_rms"].fallback[precision]
    return Limit("rel_rms", value, f"{BUILT_IN} for {precision} without a noise floor")


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
