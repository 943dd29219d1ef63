"""Routes: the first that works is taken, what failed before it is said, and is not paid for again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from parity.core.plan import Cell
from parity.core.record import ArtifactRecord
from parity.formats.target import Route, Step
from parity.process.isolate import Budget, ChildFailure
from parity.session.artefacts import Artifact
from parity.session.routes import FailedSteps, first_that_works
from parity.store.cache import Store

CELL = Cell("skin", "tflite", "int8")
ROUTES = tuple(Route(name, (Step(name, "f", "m:f", ()),)) for name in ("first", "second", "third"))


class Bench:
    """Three routes of one step each and a store; `broken` says which steps fail and how. `run` names the run."""

    def __init__(self, root: Path, broken: dict[str, ChildFailure]):
        self.broken, self.tried, self.version, self.run = broken, list[str](), "1", 0
        self.store, self.rebuilding = Store(root), False
        self.failed_steps = self.steps()

    def steps(self) -> FailedSteps:
        return FailedSteps(self.store, f"run {self.run}", Budget(), 0.0 if self.rebuilding else None)

    def export(self, routes: tuple[Route, ...] = ROUTES, *, same_run: bool = False) -> Artifact:
        self.tried.clear()
        self.run += not same_run
        self.failed_steps = self.steps()
        artifact, failed = first_that_works(routes, CELL, self.by, self.failed_steps)
        return replace(artifact, routes_failed=failed)

    def by(self, route: Route) -> Artifact:
        key = f"{route.steps[0].name} {self.version}"
        self.failed_steps.check([key])
        self.tried.append(route.name)
        if failure := self.broken.get(route.steps[0].name):
            raise self.failed_steps.noted(key, failure)
        return Artifact(Path("x"), {}, ArtifactRecord(), route.name)


CRASH = ChildFailure("crash", "convert", "SIGSEGV", "the log")


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    return lambda **broken: Bench(tmp_path, broken)


def test_a_route_that_works_is_the_only_one_tried(bench: Callable[..., Bench]) -> None:
    b = bench()
    made = b.export()
    assert (made.route, made.routes_failed, b.tried) == ("first", (), ["first"])


def test_a_failed_route_is_named_and_remembered(bench: Callable[..., Bench]) -> None:
    b = bench(first=CRASH)
    for tried in (["first", "second"], ["second"]):
        made = b.export()
        assert (made.route, made.routes_failed) == ("second", ("first: convert: SIGSEGV",))
        assert b.tried == tried


def test_another_version_or_a_rebuild_tries_again(bench: Callable[..., Bench]) -> None:
    b = bench(first=CRASH)
    b.export()
    b.version = "2"
    b.export()
    assert b.tried == ["first", "second"]
    b.broken.clear()
    b.rebuilding = True
    assert b.export().route == "first"


def test_a_timeout_is_not_remembered(bench: Callable[..., Bench]) -> None:
    b = bench(first=ChildFailure("timeout", "convert", "no answer"))
    b.export()
    b.export()
    assert b.tried == ["first", "second"]


def test_where_all_fail_the_first_failure_stands_with_its_log(bench: Callable[..., Bench]) -> None:
    b = bench(first=CRASH, second=ChildFailure("error", "convert", "no loop"), third=ChildFailure("error", "", "odd"))
    for _ in range(2):  # nothing delivered, so the next run tries again
        with pytest.raises(ChildFailure) as caught:
            b.export()
        assert b.tried == ["first", "second", "third"]
        assert (caught.value.state, caught.value.stage, caught.value.log) == ("crash", "convert", "the log")
        assert caught.value.reason == "SIGSEGV; second: convert: no loop; third: odd"


def test_a_remembered_failure_still_stands_first_where_the_rest_fail_later(bench: Callable[..., Bench]) -> None:
    b = bench(first=CRASH)
    b.export()
    b.broken |= {"second": ChildFailure("error", "", "gone"), "third": ChildFailure("error", "", "gone too")}
    with pytest.raises(ChildFailure, match="SIGSEGV; second: gone; third: gone too"):
        b.export()
    assert b.tried == ["second", "third"]


def test_a_run_does_not_try_a_step_twice_even_where_nothing_delivered(bench: Callable[..., Bench]) -> None:
    timeout = ChildFailure("timeout", "convert", "no answer")
    b = bench(first=CRASH, second=ChildFailure("error", "convert", "no loop"), third=timeout)
    for same_run, tried in ((False, ["first", "second", "third"]), (True, [])):
        with pytest.raises(ChildFailure, match="SIGSEGV; second: convert: no loop; third: convert: no answer"):
            b.export(same_run=same_run)
        assert b.tried == tried


def test_routes_that_fail_at_one_step_tell_it_once(bench: Callable[..., Bench]) -> None:
    b = bench(first=ChildFailure("error", "export", "unordered_map::at"), third=ChildFailure("error", "", "odd"))
    again = Route("first, loops unrolled", ROUTES[0].steps)
    made = b.export((ROUTES[0], again, ROUTES[1]))
    assert b.tried == ["first", "second"]
    assert made.routes_failed == ("first: export: unordered_map::at",)
    b.version = "2"
    with pytest.raises(ChildFailure) as caught:
        b.export((ROUTES[0], again, ROUTES[2]))
    assert caught.value.reason == "unordered_map::at; third: odd"
