"""The ways that a model's decisions by data went in all that is measured, and inputs that turn those that went one.

A branch that is the same in every case says nothing of the other way, and a converter that traces leaves it out of the
file. So inputs are looked for on which the module goes the other way; what none of them reaches is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import TypeVar

from parity.cases.recipes import Recipe
from parity.cases.trials import trials
from parity.core.case import Case, spread
from parity.core.decisions import NO, YES
from parity.core.settings import ModelConfig
from parity.process.isolate import ChildFailure
from parity.reference.messages import Ways, WaysRequest
from parity.session.session import Session

WAYS = "parity.reference.ways:ways"
MOST_CASES = 96  # of what is measured, evenly spread: a decision that changes in fewer is looked for
BATCH = 8  # cases in one call
ROUNDS = 3  # behind a branch that was turned there may be another, which compares with other numbers
MOST_KEPT = 16  # inputs that are measured besides
MOST_SITES = 12  # whose outcomes are tried two by two


@dataclass
class Decided:
    """`one_way`: the sites that went one way only, with what was looked for counted in. `turning`: the inputs found, to
    be measured. `note`: why the module could not be watched."""

    one_way: list[str] = field(default_factory=list)
    turning: list[Recipe] = field(default_factory=list)
    note: str = ""


class _Outcomes:
    """The outcomes of sites over cases, each alone and those of one outcome a case two by two."""

    def __init__(self) -> None:
        self.by_site: dict[str, int] = {}
        self.pairs: set[frozenset[tuple[str, int]]] = set()

    def add(self, seen: Ways, case: int) -> bool:
        """Count a case in. Returns whether it showed an outcome, or two at once, that none before did."""
        row, news = seen.outcomes[case], False
        for site, outcome in row.items():
            before = self.by_site.get(site, 0)
            self.by_site[site] = before | (outcome & (YES | NO))
            news |= self.by_site[site] != before
        single = [(site, outcome) for site, outcome in row.items() if outcome in (YES, NO)][:MOST_SITES]
        fresh = {frozenset(pair) for pair in combinations(single, 2)} - self.pairs
        self.pairs |= fresh
        return news or bool(fresh)

    def guard(self, seen: Ways, case: int) -> None:
        """Count in the last decision of a case that the module then refused: there is no other way to be measured."""
        row = seen.outcomes[case]
        last = next(reversed(list(row)), "")
        for site in row:
            if _place(site) == _place(last):
                self.by_site[site] = self.by_site.get(site, 0) | (row[site] & (YES | NO))

    def one_way(self) -> list[str]:
        return [site for site, outcome in self.by_site.items() if outcome in (YES, NO)]

    @property
    def settled(self) -> bool:
        """Whether every site went both ways, and no two of them wait for being tried together."""
        scalar = {site for pair in self.pairs for site, _ in pair}
        return not self.one_way() and len(scalar) < 2


class _Turned:
    """The sides of bounds and the choices at some sites, over cases."""

    def __init__(self, sites: Iterable[str]) -> None:
        self.by_site: dict[str, set[int]] = {site: set() for site in sites}

    def add(self, seen: Ways, case: int) -> bool:
        """Count a case in. Returns whether it showed what none before did."""
        row = seen.turned[case]
        before = sum(map(len, self.by_site.values()))
        for site in self.by_site.keys() & row.keys():
            self.by_site[site].update(row[site])
        return sum(map(len, self.by_site.values())) > before

    def guard(self, seen: Ways, case: int) -> None:
        """A case that the module refused shows nothing."""

    def one_way(self) -> list[str]:
        return [site for site, ways in self.by_site.items() if len(ways) < 2]

    @property
    def settled(self) -> bool:
        return not self.one_way()


def turned(
    session: Session,
    model: ModelConfig,
    golden: Sequence[Case],
    recipes: Sequence[Recipe],
    driven: Sequence[Case],
    sites: Sequence[str],
) -> Decided:
    """What goes one way only at `sites` of bounds and choices, in `golden` and `driven` cases and in `recipes`; and
    what turns the rest."""
    watch, outcomes = _watcher(session, model), _Turned(sites)
    try:
        for part in _parts(driven):
            seen = watch(part)
            for case in range(len(part)):
                outcomes.add(seen, case)
        return _searched(watch, model, golden, recipes, outcomes)
    except ChildFailure as failure:  # the checks of the model itself say more
        return Decided(note=failure.reason)


def decided(session: Session, model: ModelConfig, golden: Sequence[Case], recipes: Sequence[Recipe]) -> Decided:
    """What the model decides on `golden` cases and `recipes`, which are measured anyway, and what turns the rest."""
    watch = _watcher(session, model)
    first = [*golden, *(recipe.case(model.contract) for recipe in recipes)][:1]
    try:
        seen = watch(first)
        if any(seen.refused):
            return Decided(note=seen.refused[0])
        if not any(seen.outcomes):
            return Decided()  # it decides nothing by its inputs, as most models do
        return _searched(watch, model, golden, recipes)
    except ChildFailure as failure:  # the checks of the model itself say more
        return Decided(note=failure.reason)


def _watcher(session: Session, model: ModelConfig) -> Callable[[Sequence[Case]], Ways]:
    def watch(cases: Sequence[Case]) -> Ways:
        request = WaysRequest(session.model_spec(model), [case.inputs for case in cases])
        call = partial(session.children.call, "torch", WAYS, request, Ways, stage="oracle")
        return session.waiting_once(f"decisions of {request.model}", call)

    return watch


def _searched(
    watch: Callable[[Sequence[Case]], Ways],
    model: ModelConfig,
    golden: Sequence[Case],
    recipes: Sequence[Recipe],
    outcomes: _Outcomes | _Turned | None = None,
) -> Decided:
    contract, thresholds = model.contract, set[float]()
    outcomes = _Outcomes() if outcomes is None else outcomes
    measured: list[Case | Recipe] = [*golden, *recipes]
    some = [measured[place] for place in spread(len(measured), MOST_CASES)]
    for part in _parts(some):
        seen = watch([item.case(contract) if isinstance(item, Recipe) else item for item in part])
        thresholds.update(seen.thresholds)
        for case, refused in enumerate(seen.refused):
            if not refused:
                outcomes.add(seen, case)
        if outcomes.settled:
            return Decided()
    result = Decided()
    known = {recipe.digest for recipe in recipes}
    for _ in range(ROUNDS):
        fresh = [recipe for recipe in trials(contract, sorted(thresholds)) if recipe.digest not in known]
        known.update(recipe.digest for recipe in fresh)
        for batch in _parts(fresh):
            if outcomes.settled:
                break
            seen = watch([recipe.case(contract) for recipe in batch])
            thresholds.update(seen.thresholds)
            for case, (recipe, refused) in enumerate(zip(batch, seen.refused, strict=True)):
                if refused:
                    outcomes.guard(seen, case)
                elif outcomes.add(seen, case) and len(result.turning) < MOST_KEPT:
                    result.turning.append(recipe)
    result.one_way = _places(outcomes.one_way())
    return result


T = TypeVar("T")


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _places(sites: Iterable[str]) -> list[str]:
    """One site a place: a branch on a comparison is told by the comparison."""
    by_place: dict[str, str] = {}
    for site in sorted(sites, key=lambda site: site.startswith("branch")):
        by_place.setdefault(_place(site), site)
    return list(by_place.values())


def _place(site: str) -> str:
    return site.partition(" at ")[2] or site
