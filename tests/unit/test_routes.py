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
from parity.session.routes import first_that_works
from parity.store.cache import Store

CELL = Cell("skin", "tflite", "int8")
ROUTES = tuple(Route(name, (Step(name, "f", "m:f", ()),)) for name in ("first", "second", "third"))


class Bench:
    """Three routes and a store; `broken` says which routes fail and how."""

    def __init__(self, root: Path, broken: dict[str, ChildFailure]):
        self.broken, self.tried, self.version = broken, list[str](), "1"
        self.store, self.rebuilding = Store(root), False

    def export(self) -> Artifact:
        self.tried.clear()
        artifact, failed = first_that_works(
            ROUTES,
            CELL,
            self.by,
            lambda route: f"{route.name} {self.version}",
            self.store,
            Budget(),
            rebuild_since=0.0 if self.rebuilding else None,
        )
        return replace(artifact, routes_failed=failed)

    def by(self, route: Route) -> Artifact:
        self.tried.append(route.name)
        if route.name in self.broken:
            raise self.broken[route.name]
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
    for _ in range(2):  # nothing delivered, so nothing is remembered
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
