"""From a cell to its artefact by the first route that works, and the memory of those that do not.

A route may fail for good: a quantiser that segfaults on a model does so in every run. What failed is remembered under
the content address of what it was asked to make, once a later route has delivered, so that a warm run does not pay for
it again. A new version of a converter, of the model or of this project is another address, and `--parity-rebuild`
tries again. The record names the route and why those before it failed, remembered or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from parity.core.plan import Cell
from parity.formats.target import Route
from parity.process.isolate import ChildFailure
from parity.store.cache import key_of

if TYPE_CHECKING:
    from parity.session.exports import Artifact
    from parity.session.session import Session


def first_that_works(
    session: Session,
    cell: Cell,
    routes: Sequence[Route],
    by: Callable[[Route], Artifact],
    address: Callable[[Route], str],
) -> Artifact:
    """The artefact of the first route that delivers, with what went wrong before it. `address`: that of its result.

    Raises the first route's ChildFailure when none does: that is the one to mend; the others' reasons stand behind it.
    """
    failed: list[tuple[Route, ChildFailure]] = []
    for route in routes:
        known = _known(session, _spec(session, route, address(route)))
        if known:
            failed.append((route, known))
            continue
        try:
            artifact = by(route)
        except ChildFailure as failure:
            failed.append((route, failure))
            continue
        for earlier, why in failed:
            _remember(session, cell, _spec(session, earlier, address(earlier)), earlier, why)
        return replace(artifact, routes_failed=tuple(f"{earlier.name}: {why}" for earlier, why in failed))
    if not failed:
        raise ChildFailure("error", "export", f"no route exports {cell}")
    first, *others = (failure for _, failure in failed)
    more = "".join(f"; {route.name}: {f}" for (route, _), f in zip(failed[1:], others, strict=True))
    raise ChildFailure(first.state, first.stage, first.reason + more, first.log)


def _spec(session: Session, route: Route, address: str) -> dict[str, Any]:
    budget = session.children.budget
    return {"failed": route.name, "key": address, "budget": [budget.seconds, budget.memory]}


def _known(session: Session, spec: Mapping[str, Any]) -> ChildFailure | None:
    """How this route is known to fail; None when it is not, or is to be tried again."""
    if session.rebuild_since is not None:
        return None
    entry = session.store.get(key_of(spec))
    return ChildFailure(**entry.notes) if entry else None


def _remember(session: Session, cell: Cell, spec: Mapping[str, Any], route: Route, failure: ChildFailure) -> None:
    if failure.state == "timeout":  # a busy machine is no property of the route
        return
    notes = {"state": failure.state, "stage": failure.stage, "reason": failure.reason, "log": failure.log}
    session.store.build(spec, f"{cell.id}~failed {route.name}", lambda _: notes)
