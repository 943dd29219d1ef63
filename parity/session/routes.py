"""From a cell to its artefact by the first route that works, and the memory of those that do not.

A route may fail for good: a quantiser that segfaults on a model does so in every run. What failed
is remembered under the content address of what it was asked to make, once a later route has
delivered, so that a warm run does not pay for it again. A new version of a converter, of the model
or of this project is another address, and `--parity-rebuild` tries again. The record names the
route and why those before it failed, remembered or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from parity.core.plan import Cell
from parity.formats.target import Route
from parity.process.isolate import Budget, ChildFailure
from parity.store.cache import Store, key_of

T = TypeVar("T")


def first_that_works(
    routes: Sequence[Route],
    cell: Cell,
    export_by: Callable[[Route], T],
    address: Callable[[Route], str],
    store: Store,
    budget: Budget,
    *,
    rebuild_since: float | None = None,
) -> tuple[T, tuple[str, ...]]:
    """What the first route that delivers makes, and why each before it did not.

    `address`: that of a route's result. `rebuild_since`, where given, has routes that are known to
    fail tried again.
    Raises the first route's ChildFailure when none delivers: that is the one to mend; the others'
    reasons stand behind it.
    """
    failed: list[tuple[Route, ChildFailure]] = []
    for route in routes:
        known = _remembered(store, _spec(budget, route, address(route)))
        if known and rebuild_since is None:
            failed.append((route, known))
            continue
        try:
            made = export_by(route)
        except ChildFailure as failure:
            failed.append((route, failure))
            continue
        for earlier, why in failed:
            spec = _spec(budget, earlier, address(earlier))
            _remember(store, spec, f"{cell.id}~failed {earlier.name}", why, rebuild_since)
        return made, tuple(f"{earlier.name}: {why}" for earlier, why in failed)
    if not failed:
        raise ChildFailure("error", "export", f"no route exports {cell}")
    first = failed[0][1]
    others = "".join(f"; {route.name}: {failure}" for route, failure in failed[1:])
    raise ChildFailure(first.state, first.stage, first.reason + others, first.log)


def _spec(budget: Budget, route: Route, address: str) -> dict[str, Any]:
    return {"failed": route.name, "key": address, "budget": [budget.seconds, budget.memory]}


def _remembered(store: Store, spec: Mapping[str, Any]) -> ChildFailure | None:
    """How a route failed in an earlier run; None where it did not."""
    entry = store.get(key_of(spec))
    return ChildFailure(**entry.notes) if entry else None


def _remember(
    store: Store,
    spec: Mapping[str, Any],
    name: str,
    failure: ChildFailure,
    rebuild_since: float | None,
) -> None:
    if failure.state == "timeout":  # a busy machine is no property of the route
        return
    store.build(spec, name, lambda _: failure.notes, rebuild_since=rebuild_since)
