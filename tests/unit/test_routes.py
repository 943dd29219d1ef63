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
from parity.session.routes import FailedSteps, Passed, StepFailure, StepKey, first_that_works
from parity.store.cache import Store

CELL = Cell("skin", "tflite", "int8")
ROUTES = tuple(Route(name, (Step(name, "f", f"m:{name}", ()),)) for name in ("first", "second", "third"))


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
        step = route.steps[0]
        key = StepKey(step, f"{step.name} {self.version}", f"{step.name} {self.version} at any precision")
        self.failed_steps.check([key])
        self.tried.append(route.name)
        if route.operators:
            raise Passed(route.name)
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
        assert caught.value.reason == "SIGSEGV (2 other routes failed too)"
        assert caught.value.routes_failed == ("first: convert: SIGSEGV", "second: convert: no loop", "third: odd")


def test_a_remembered_failure_still_stands_first_where_the_rest_fail_later(bench: Callable[..., Bench]) -> None:
    b = bench(first=CRASH)
    b.export()
    b.broken |= {"second": ChildFailure("error", "", "gone"), "third": ChildFailure("error", "", "gone too")}
    with pytest.raises(ChildFailure, match="SIGSEGV") as caught:
        b.export()
    assert caught.value.routes_failed[1:] == ("second: gone", "third: gone too")
    assert b.tried == ["second", "third"]


def test_a_run_does_not_try_a_step_twice_even_where_nothing_delivered(bench: Callable[..., Bench]) -> None:
    timeout = ChildFailure("timeout", "convert", "no answer")
    b = bench(first=CRASH, second=ChildFailure("error", "convert", "no loop"), third=timeout)
    for same_run, tried in ((False, ["first", "second", "third"]), (True, [])):
        with pytest.raises(ChildFailure, match="SIGSEGV") as caught:
            b.export(same_run=same_run)
        assert caught.value.routes_failed[1:] == ("second: convert: no loop", "third: convert: no answer")
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
    assert caught.value.reason == "unordered_map::at (1 other route failed too)"
    assert caught.value.routes_failed == ("first: export: unordered_map::at", "third: odd")


EXHAUSTED = {
    "timeout": ChildFailure("timeout", "convert", "no answer within 600 s, ended"),
    "cap": ChildFailure("crash", "convert", "used more than 8.0 GiB, ended"),
    "kernel": ChildFailure("crash", "convert", "SIGKILL (killed: out of memory, or by hand)"),
    "python": ChildFailure("error", "convert", "MemoryError"),
}


@pytest.mark.parametrize("how", EXHAUSTED)
def test_a_converter_that_ran_out_is_not_tried_by_other_variants(bench: Callable[..., Bench], how: str) -> None:
    variant = Route("first, uncorrected", (Step("variant", "f", "m:first", ()),))
    b = bench(first=EXHAUSTED[how])
    for _ in range(2):  # the second time for another precision, by what the run knows
        made = b.export((ROUTES[0], variant, ROUTES[1]), same_run=True)
        assert made.route == "second" and "first, uncorrected" not in b.tried


def test_a_converter_that_failed_otherwise_is_tried_by_its_variants(bench: Callable[..., Bench]) -> None:
    variant = Route("first, uncorrected", (Step("variant", "f", "m:first", ()),))
    b = bench(first=ChildFailure("error", "convert", "axes do not match"))
    assert b.export((ROUTES[0], variant, ROUTES[1])).route == "first, uncorrected"


def test_what_lacks_an_operator_is_not_tried_by_variants_of_what_goes_before(bench: Callable[..., Bench]) -> None:
    export, other, last = (Step(name, "f", f"m:{name}", ()) for name in ("export", "other", "last"))
    variants = [Route(name, (Step(name, "f", "m:saved", ()), last)) for name in ("plain", "variant")]
    plain, variant = (Route(r.name, (export, *r.steps)) for r in variants)
    by_other = Route("by another export", (other, *variants[0].steps))
    key, tried = StepKey(last, "k", "k at any precision"), list[str]()

    def by(route: Route) -> Artifact:
        tried.append(route.name)
        raise StepFailure(key, ChildFailure("error", "convert", "lacks ResizeBicubic", of_input=True))

    with pytest.raises(ChildFailure, match="lacks ResizeBicubic"):
        first_that_works((plain, variant, by_other), CELL, by, bench().steps())
    assert tried == ["plain", "by another export"]


def test_a_route_that_is_not_for_the_model_leaves_no_trace(bench: Callable[..., Bench]) -> None:
    b = bench(first=CRASH)
    unrolled = Route("first, unrolled", ROUTES[1].steps, operators=("GRU",))
    assert b.export((ROUTES[0], unrolled, ROUTES[2])).routes_failed == ("first: convert: SIGSEGV",)


STEP = Step("int8", "f", "m:convert", ())
SPEC = {"step": "int8", "function": "m:convert", "after": "a", "calibration": "c", "options": {"precision": "int8"}}


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"step": "fp32", "calibration": "", "options": {"precision": "fp32"}}, True),
        ({"after": "b"}, False),
        ({"options": {"precision": "int8", "decomposed": True}}, False),
    ],
)
def test_a_failure_at_what_a_step_was_given_is_shared_by_the_precisions(
    tmp_path: Path, change: dict[str, object], shared: bool
) -> None:
    steps = FailedSteps(Store(tmp_path), "run", Budget())
    other = StepKey.of(STEP, {**SPEC, **change})
    lacks = ChildFailure("error", "convert", "no operator ResizeBicubic", of_input=True)
    steps.noted(StepKey.of(STEP, SPEC), lacks)
    if not shared:
        steps.check([other])
        return
    with pytest.raises(ChildFailure, match="ResizeBicubic"):
        steps.check([other])


def test_a_failure_of_one_precision_is_not_shared(tmp_path: Path) -> None:
    steps = FailedSteps(Store(tmp_path), "run", Budget())
    steps.noted(StepKey.of(STEP, SPEC), ChildFailure("crash", "convert", "SIGSEGV"))
    steps.check([StepKey.of(STEP, {**SPEC, "step": "fp32", "options": {"precision": "fp32"}})])
