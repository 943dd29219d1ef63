"""From a cell to its artefact by the first route that works, and the memory of steps that do not.

A step may fail for good: a quantiser that segfaults on a model does so in every run. Within a run, a step that failed
is not tried again: the cells of a model share their first steps, and one that takes a minute to fail would take it for
each of them. Once a later route has delivered, the failure is also kept in the store under the content address of what
the step was asked to make, so that a warm run does not pay for it either. A new version of a converter, of the model or
of this project is another address, and `--parity-rebuild` tries again. The record names the route and why those before
it failed, remembered or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from parity.core.plan import Cell
from parity.formats.target import Route
from parity.process.isolate import Budget, ChildFailure
from parity.store.cache import Store, key_of

T = TypeVar("T")


class StepFailure(ChildFailure):
    """A step of a route that did not deliver. `key`: the content address of what it was to make."""

    def __init__(self, key: str, failure: ChildFailure):
        super().__init__(failure.state, failure.stage, failure.reason, failure.log)
        self.key = key


class FailedSteps:
    """The steps that failed: in this run, told to all its processes, and in earlier ones, kept in the store.

    `rebuild_since`, where given, has steps that failed in earlier runs tried again.
    """

    def __init__(self, store: Store, run: str, budget: Budget, rebuild_since: float | None = None):
        self.store, self.run, self.budget, self.rebuild_since = store, run, budget, rebuild_since

    def check(self, keys: Iterable[str]) -> None:
        """Raise the StepFailure of the first of these steps that is known to fail."""
        for key in keys:
            notes = self.store.noted(self.run, self._note(key))
            if notes is None and self.rebuild_since is None:
                entry = self.store.get(key_of(self._spec(key)))
                notes = entry.notes if entry else None
            if notes is not None:
                raise StepFailure(key, ChildFailure(**notes))

    def noted(self, key: str, failure: ChildFailure) -> StepFailure:
        """The failure of the step, which all processes of the run now know."""
        if not isinstance(failure, StepFailure):
            self.store.note(self.run, self._note(key), failure.notes)
        return StepFailure(key, failure)

    def keep(self, name: str, failure: StepFailure) -> None:
        """Have later runs know it too. A time-out is not kept: a busy machine is no property of the step."""
        if failure.state != "timeout":
            self.store.build(self._spec(failure.key), name, lambda _: failure.notes, rebuild_since=self.rebuild_since)

    def _spec(self, key: str) -> dict[str, Any]:
        return {"failed step": key, "budget": [self.budget.seconds, self.budget.memory]}

    def _note(self, key: str) -> str:
        return f"failed step {key}"


def first_that_works(
    routes: Sequence[Route], cell: Cell, export_by: Callable[[Route], T], failed_steps: FailedSteps
) -> tuple[T, tuple[str, ...]]:
    """What the first route that delivers makes, and why each before it did not.

    `export_by` raises StepFailure. Routes that fail at one and the same step are told once, under the first's name.
    Raises the first route's failure when none delivers: that is the one to mend; the others' reasons stand behind it.
    """
    failed: list[tuple[Route, StepFailure]] = []
    for route in routes:
        try:
            made = export_by(route)
        except StepFailure as failure:
            failed.append((route, failure))
            continue
        for earlier, why in failed:
            failed_steps.keep(f"{cell.id}~failed {earlier.name}", why)
        return made, tuple(f"{earlier.name}: {why}" for earlier, why in _once(failed))
    if not failed:
        raise ChildFailure("error", "export", f"no route exports {cell}")
    first = failed[0][1]
    others = "".join(f"; {route.name}: {failure}" for route, failure in _once(failed)[1:])
    raise ChildFailure(first.state, first.stage, first.reason + others, first.log)


def _once(failed: Sequence[tuple[Route, StepFailure]]) -> list[tuple[Route, StepFailure]]:
    """Each failed step once, with the first route that came to it."""
    by_step: dict[str, tuple[Route, StepFailure]] = {}
    for route, failure in failed:
        by_step.setdefault(failure.key, (route, failure))
    return list(by_step.values())
