"""From a cell to its artefact by the first route that works, and the memory of steps that do not.

A step may fail for good: a quantiser that segfaults on a model does so in every run. Within a run, a step that failed
is not tried again: the cells of a model share their first steps, and one that takes a minute to fail would take it for
each of them. Once a later route has delivered, the failure is also kept in the store under the content address of what
the step was asked to make, so that a warm run does not pay for it either. A new version of a converter, of the model or
of this project is another address, and `--parity-rebuild` tries again. The record names the route and why those before
it failed, remembered or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from parity.core.plan import Cell
from parity.formats.target import Route, Step
from parity.process.isolate import Budget, ChildFailure
from parity.store.cache import Store, key_of

T = TypeVar("T")


class StepFailure(ChildFailure):
    """A step of a route that did not deliver. `made` is what it was to make."""

    def __init__(self, made: StepKey, failure: ChildFailure):
        super().__init__(**failure.notes)
        self.made = made

    @property
    def key(self) -> str:
        """The address by which it is remembered: of what the step was given, where it fails at that."""
        return self.made.of_input if self.of_input else self.made.key

    def foretells(self, route: Route, other: Route) -> bool:
        """Whether `other` would fail as `route` did.

        A converter that ran out of time or memory does so again, whatever its options. What a step lacks an operator
        for is lacking in every variant of the steps before it that begins with the same export.
        """
        if self.exhausted:
            return self.made.step.function in {step.function for step in other.steps}
        same_export = route.steps[0] == other.steps[0]
        return self.of_input and same_export and self.made.step in other.steps[1:]


class Passed(Exception):
    """A route that is not for this model."""


@dataclass(frozen=True)
class StepKey:
    """What a step is to make. `key` is its content address, `of_input` the address without the precision: of what the
    step is given and does."""

    step: Step
    key: str
    of_input: str

    @classmethod
    def of(cls, step: Step, spec: Mapping[str, Any]) -> StepKey:
        """The addresses of a step by its specification."""
        general = {name: value for name, value in spec.items() if name not in ("step", "calibration")}
        general["options"] = {name: value for name, value in spec["options"].items() if name != "precision"}
        return cls(step, key_of(spec), key_of({"at every precision": general}))


class FailedSteps:
    """The steps that failed: in this run, told to all its processes, and in earlier ones, kept in the store.

    `rebuild_since`, where given, has steps that failed in earlier runs tried again.
    """

    def __init__(self, store: Store, run: str, budget: Budget, rebuild_since: float | None = None):
        self.store, self.run, self.budget, self.rebuild_since = store, run, budget, rebuild_since

    def check(self, steps: Iterable[StepKey]) -> None:
        """Raise the StepFailure of the first of these steps that is known to fail."""
        for step in steps:
            for key in (step.key, step.of_input):
                notes = self._notes(key)
                if notes is not None:
                    raise StepFailure(step, ChildFailure(**notes))

    def _notes(self, key: str) -> Any:
        notes = self.store.noted(self.run, self._note(key))
        if notes is None and self.rebuild_since is None:
            entry = self.store.get(key_of(self._spec(key)))
            notes = entry.notes if entry else None
        return notes

    def noted(self, step: StepKey, failure: ChildFailure) -> StepFailure:
        """The failure of the step, which all processes of the run now know."""
        known = StepFailure(step, failure)
        if not isinstance(failure, StepFailure):
            self.store.note(self.run, self._note(known.key), failure.notes)
        return known

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

    `export_by` raises StepFailure, or Passed for a route that is not for this model. Routes that fail at one and the
    same step are told once, under the first's name; what an earlier failure foretells is not tried. Raises the first
    route's failure when none delivers: that is the one to mend; with it goes why each failed.
    """
    failed: list[tuple[Route, StepFailure]] = []
    for route in routes:
        if any(failure.foretells(earlier, route) for earlier, failure in failed):
            continue
        try:
            made = export_by(route)
        except Passed:
            continue
        except StepFailure as failure:
            failed.append((route, failure))
            continue
        for earlier, why in failed:
            failed_steps.keep(f"{cell.id}~failed {earlier.name}", why)
        return made, _told(failed)
    if not failed:
        raise ChildFailure("error", "export", f"no route exports {cell}")
    first, reasons = failed[0][1], _told(failed)
    others = len(reasons) - 1
    if not others:
        raise ChildFailure(first.state, first.stage, first.reason, first.log)
    more = f" ({others} other route{'s' if others > 1 else ''} failed too)"
    raise ChildFailure(first.state, first.stage, first.reason + more, first.log, routes_failed=reasons)


def _told(failed: Sequence[tuple[Route, StepFailure]]) -> tuple[str, ...]:
    """Why each route failed."""
    return tuple(f"{route.name}: {failure}" for route, failure in _once(failed))


def _once(failed: Sequence[tuple[Route, StepFailure]]) -> list[tuple[Route, StepFailure]]:
    """Each failed step once, with the first route that came to it."""
    by_step: dict[str, tuple[Route, StepFailure]] = {}
    for route, failure in failed:
        by_step.setdefault(failure.key, (route, failure))
    return list(by_step.values())
