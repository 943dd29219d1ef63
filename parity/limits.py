"""The cascade of limits: default < precision < target < target-precision < model < cell < output. Pure.

Every resolved limit remembers who set it, so that a message can name the line of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from parity.plan import Cell


@dataclass(frozen=True)
class Rule:
    """One limit that somebody set: `scope` is a cascade key, `value` None means "record it, do not gate"."""

    scope: str
    metric: str
    value: float | None
    output: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Limit:
    """The limit in force for one metric of one output, and where it comes from."""

    metric: str
    value: float | None
    source: str


# Cosine and accuracy drop are the release thresholds that mobile export guides state. The others are orders of
# magnitude: what each precision costs on trained networks, with room. A project sets its own beside or over them.
DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "default": {"flex_ops": 0.0},
    "fp32": {"cosine": 0.99, "rel_rms": 1e-4, "sqnr": 80.0, "top1": 1.0, "top1_drop": 0.0},
    "fp16": {"cosine": 0.95, "rel_rms": 2e-2, "sqnr": 34.0, "top1": 0.98, "top1_drop": 0.01},
    "dynamic": {"cosine": 0.95, "rel_rms": 0.15, "sqnr": 16.0, "top1": 0.95, "top1_drop": 0.02},
    "int8": {"cosine": 0.95, "rel_rms": 0.25, "sqnr": 12.0, "top1": 0.9, "top1_drop": 0.05},
}


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


def default_rules() -> tuple[Rule, ...]:
    return tuple(
        Rule(
            scope,
            metric,
            value,
            source=f"built-in default for {scope}" if scope != "default" else "built-in default",
        )
        for scope, metrics in DEFAULTS.items()
        for metric, value in metrics.items()
    )


def resolve(rules: Iterable[Rule], cell: Cell, output: str | None = None) -> dict[str, Limit]:
    """The limits in force for one output of one cell, by metric: a later scope wins, an output's own rule over all."""
    order = {scope: rank for rank, scope in enumerate(scopes(cell))}
    found: dict[str, tuple[tuple[int, int], Limit]] = {}
    for rule in (*default_rules(), *rules):
        if rule.scope not in order or rule.output not in (None, output):
            continue
        rank = (int(rule.output is not None), order[rule.scope])
        if rule.metric not in found or rank >= found[rule.metric][0]:
            found[rule.metric] = (rank, Limit(rule.metric, rule.value, rule.source))
    return {metric: limit for metric, (_, limit) in found.items()}
