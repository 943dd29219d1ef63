"""`executors`: which cells are executed by what, beside the host."""

from __future__ import annotations

from collections.abc import Mapping

from parity.config.table import Table
from parity.core.errors import ConfigError
from parity.core.executors import CORES, FAMILIES, GPU_MODES, HOST, canonical_list, family_of
from parity.core.plan import PRECISIONS, Cell, did_you_mean
from parity.core.settings import TargetFacts

REQUIRABLE = (
    *(family for family in FAMILIES if family != HOST),
    *(f"arm64:{core}" for core in CORES),
    *(f"gpu:{mode}" for mode in GPU_MODES),
)
"""What `require` may name: all executions of a family, or those by one executor."""
ByScope = Mapping[str, tuple[str, ...]]
"""Executors by scope: "" (all), a target, or target-precision. Full names, `host` among them."""


def read_executors(table: Table) -> dict[str, tuple[str, ...]]:
    """The key `executors` of the project's or a model's table: a list, or lists by target or target-precision."""
    value = table.take("executors", (list, dict))
    if value is None:
        return {}
    if isinstance(value, list):
        return {"": _read_list(table, "executors")}
    scopes = table.table("executors", value)
    targets = table.reader.targets
    known = (*targets, *(f"{target}-{precision}" for target in targets for precision in PRECISIONS))
    by_scope = {}
    for scope in scopes.data:
        if scope not in known:
            raise scopes.error(scope, f"no target and no target-precision{did_you_mean(scope, known)}")
        by_scope[scope] = _read_list(scopes, scope)
        target = scope.partition("-")[0]
        offered = (HOST, *table.reader.facts[target].executors)
        for executor in by_scope[scope]:
            if family_of(executor) not in offered:
                raise scopes.error(scope, f"{target} files do not run on {executor!r}; on {', '.join(offered)}")
    return by_scope


def _read_list(table: Table, key: str) -> tuple[str, ...]:
    words = table.words(key) or ()
    try:
        return canonical_list(words)
    except ConfigError as error:
        raise table.error(key, str(error)) from None


def executors_of(
    cells: tuple[Cell, ...], project: ByScope, model: ByScope, facts: Mapping[str, TargetFacts]
) -> dict[str, tuple[str, ...]]:
    """By target-precision the executors of each cell beside the host, where it has any.

    The model's own word is stronger than the project's; in each of them target-precision is stronger than target, and
    that than the list for all. From a list for all a target takes those that can run its files.
    """
    chosen = {}
    for cell in cells:
        scopes = (f"{cell.target}-{cell.precision}", cell.target, "")
        lists = [table[scope] for table in (model, project) for scope in scopes if scope in table]
        offered = facts[cell.target].executors
        beside = tuple(e for e in (lists[0] if lists else ()) if family_of(e) in offered)
        if beside:
            chosen[scopes[0]] = beside
    return chosen
