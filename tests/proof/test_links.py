"""Lift, local and range on an artefact made up here: one operator, y = 2 x, on the grid of its output."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parity.core.proof import Link
from parity.formats.graph import Array, Graph, Grid, Operator, Port, Run, Values
from parity.formats.kept import Lifted
from parity.proof import _weighed
from parity.proof.lift import blind, kept, lift
from parity.proof.local import _culprits, _Score, local, weighed
from parity.proof.range import range_
from parity.proof.range import weighed as weighed_range

X = Grid(np.array([0.05]), np.array([0.0]), 0, -128, 127)
Y = Grid(np.array([0.1]), np.array([0.0]), 0, -128, 127)


class Double:
    """Doubles its input; `off` are steps that a kernel set is wrong by, `factor` is what the file really computes."""

    kernels = ("fast", "plain")

    def __init__(self, off: Mapping[str, int] | None = None, factor: float = 2.0, kind: str = "MUL"):
        self.off, self.factor = off or {}, factor
        operators = (Operator(0, kind, ("x",), ("y",)),)
        self.graph = Graph(operators, {}, {"x": X, "y": Y}, (Port("a", "x"),), (Port("b", "y"),), False, True)

    def trace(self, case: Values, names: Collection[str] | None = None) -> Values:
        x = X.nearest(case["x"]).astype(np.int8)
        return {"x": x, "y": Y.nearest(self.factor * X.real(x)).astype(np.int8)}

    def whole(self, kernels: str) -> Run:
        return lambda case: {"y": Y.real(self.trace(case)["y"])}

    def lift(self, weights: Mapping[str, Array], watch: Sequence[str] = ()) -> Run:
        return lambda case: {"x": case["x"], "y": self.factor * case["x"]}

    def alone(self, kernels: str, operators: Sequence[Operator]) -> Run:
        if kernels == "broken":
            raise RuntimeError("no such operator")
        move = self.off.get(kernels, 0)
        return lambda values: {"y": (values["y"].astype(int) + move).clip(-128, 127).astype(np.int8)}

    def alone_lifted(self, operators: Sequence[Operator]) -> Run:
        return lambda values: {"y": self.factor * values["x"]}

    def reread(self) -> bool:
        return False


class Asked(Double):
    """Notes the kernel sets that it is run on."""

    def __init__(self, off: Mapping[str, int] | None = None):
        super().__init__(off)
        self.asked: list[str] = []

    def alone(self, kernels: str, operators: Sequence[Operator]) -> Run:
        self.asked.append(kernels)
        return super().alone(kernels, operators)


class Costs(Double):
    """Is off by `errors` of its outputs, by kernel set."""

    def __init__(self, off: Mapping[str, int], errors: Mapping[str, float]):
        super().__init__(off)
        self.errors = errors

    def whole(self, kernels: str) -> Run:
        return self.off_by(self.errors[kernels])

    def rounded(self, weights: Mapping[str, Array], grids: Mapping[str, Grid]) -> Run:
        return self.off_by(self.errors["clipped"])

    def off_by(self, error: float) -> Run:
        port = self.graph.outputs[0].tensor
        return lambda case: {port: (1 + error) * self.factor * case["x"].astype(np.float64)}


class Remembered(Double):
    """Says which graph it lifts to, and notes what it is run for."""

    def __init__(self, factor: float = 2.0, y: Grid = Y):
        super().__init__(factor=factor)
        self.graph = replace(self.graph, grids={"x": X, "y": y})
        self.ran: list[tuple[str, ...]] = []

    def lift(self, weights: Mapping[str, Array], watch: Sequence[str] = ()) -> Run:
        plain = super().lift(weights, watch)

        def run(case: Values) -> Values:
            self.ran.append(tuple(sorted(set(watch))))
            return plain(case)

        return Lifted(f"times {self.factor}".encode(), lambda: run)


class Torch:
    """The torch side of a module without weights."""

    weights: tuple[Any, ...] = ()

    def run(self, case: Sequence[Array], watch: Sequence[str] = ()) -> Values:
        return {}


def cases(count: int = 8, reach: float = 5.0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    return [{"a": rng.uniform(-reach, reach, (1, 50)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize(("factor", "state"), [(2.0, "proved"), (2.0001, "failed")])
def test_lift_fails_on_a_ten_thousandth(factor: float, state: str) -> None:
    inputs = cases()
    oracle = [{"b": 2.0 * case["a"].astype(np.float64)} for case in inputs]
    link = lift(Double(factor=factor), Torch(), {}, inputs, oracle, 1e-7)  # type: ignore[arg-type]
    assert link.state == state
    assert link.figures["limit"] == 1e-5


def test_lift_is_widened_by_what_float32_itself_costs() -> None:
    inputs = cases()
    oracle = [{"b": 2.0 * case["a"].astype(np.float64)} for case in inputs]
    link = lift(Double(factor=2.0001), Torch(), {}, inputs, oracle, 1e-4)  # type: ignore[arg-type]
    assert link.state == "proved"
    assert link.figures["limit"] > 1e-4


@pytest.mark.parametrize(
    ("factor", "eager", "state"),
    [(2.2, 1e-2, "proved"), (2.2, 2e-2, "not possible"), (2.0, 2e-2, "proved"), (4.0, 2e-2, "failed")],
)
def test_a_module_that_float32_cannot_compute_leaves_the_lift_blind(factor: float, eager: float, state: str) -> None:
    """Ties of a detector: eager float32 was off by 97 %, and a file that is off by 79 % counted as proved."""
    inputs = cases()
    oracle = [{"b": 2.0 * case["a"].astype(np.float64)} for case in inputs]
    link = blind(lift(Double(factor=factor), Torch(), {}, inputs, oracle, eager), None)  # type: ignore[arg-type]
    assert link.state == state
    assert blind(Link("local", "proved", {}), None).state == "proved"


@pytest.mark.parametrize(("factor", "state"), [(0.0, "not possible"), (1e-3, "failed")])
def test_an_output_that_never_moves_proves_nothing(factor: float, state: str) -> None:
    inputs = cases()
    oracle = [{"b": np.zeros((1, 50))} for _ in inputs]
    link = blind(lift(Double(factor=factor), Torch(), {}, inputs, oracle, 1e-7), None)  # type: ignore[arg-type]
    assert link.state == state
    widened = replace(link, figures={**link.figures, "widened_by": {"w": 0.0}})
    assert kept([widened]) == np.inf, "what a constant may cost is not seen"
    assert kept([link]) == 0


def test_lift_fails_on_an_output_of_another_shape() -> None:
    inputs = cases()
    oracle = [{"b": np.zeros((2, 50))} for _ in inputs]
    link = lift(Double(), Torch(), {}, inputs, oracle, 1e-7)  # type: ignore[arg-type]
    assert link.state == "failed"


def test_one_step_is_legal() -> None:
    link = local(Double({"fast": 1, "plain": -1}), cases(2, reach=4))
    assert link.state == "proved"
    assert (link.figures["within"], link.figures["operators"]) == (1, 1)


def test_two_steps_on_the_first_kernel_set_are_the_runtimes_fault() -> None:
    link = local(Double({"fast": 2}), cases(2, reach=4))
    assert link.state == "failed"
    assert (link.culprits[0].kind, link.culprits[0].name) == ("runtime", "fast MUL")


@pytest.mark.parametrize(
    ("off", "errors", "state"),
    [
        ({"fast": 2}, {"fast": 0.12, "plain": 0.1}, "not possible"),
        ({"fast": 2}, {"fast": 0.2, "plain": 0.1}, "failed"),
        ({"fast": 2}, {"fast": np.nan, "plain": 0.1}, "failed"),
        ({"fast": 2}, {"fast": 0.0, "plain": 0.0}, "not possible"),
        ({"fast": 2}, {"fast": 0.1, "plain": 0.0}, "failed"),
        ({"fast": 2, "plain": 2}, {"fast": 0.1, "plain": 0.1}, "failed"),
        ({}, {"fast": 0.12, "plain": 0.1}, "proved"),
    ],
)
def test_a_fault_of_the_runtime_that_costs_little_is_told(
    off: dict[str, int], errors: dict[str, float], state: str
) -> None:
    artefact, inputs = Costs(off, errors), cases(2, reach=4)
    oracle = [{"b": 2.0 * case["a"].astype(np.float64)} for case in inputs]
    link = weighed(local(artefact, inputs), artefact, inputs, oracle)
    assert link.state == state
    if state == "not possible":
        cost = "1.20 times as far off as on plain" if errors["fast"] else "the outputs are exact all the same"
        assert "right on plain" in link.reason and cost in link.reason


@pytest.mark.parametrize(("cost", "state"), [(0.005, "proved"), (0.02, "failed"), (np.inf, "failed")])
def test_clipping_that_the_outputs_do_not_feel_is_no_fault(cost: float, state: str) -> None:
    artefact, inputs = Costs({}, {"fast": 0.1, "clipped": cost}), cases(4, reach=100)
    oracle = [{"b": 2.0 * case["a"].astype(np.float64)} for case in inputs]
    link = range_(artefact, {}, inputs, "int8")
    assert link.state == "failed" and "clipped" in str(link.culprits[0])
    assert weighed_range(link, artefact, {}, inputs, oracle).state == state


def test_clipping_in_a_file_that_is_not_finite_is_a_fault() -> None:
    artefact, inputs = Costs({}, {"fast": np.inf, "clipped": 0.5}), cases(4, reach=100)
    oracle = [{"b": 2.0 * case["a"].astype(np.float64)} for case in inputs]
    assert weighed_range(range_(artefact, {}, inputs, "int8"), artefact, {}, inputs, oracle).state == "failed"


def test_a_fault_that_cannot_be_weighed_stays_one() -> None:
    artefact, inputs = Double({"fast": 2}), cases(4, reach=100)  # Double does not run with grids alone
    oracle = [{"b": 2.0 * case["a"].astype(np.float64)} for case in inputs]
    link = range_(artefact, {}, inputs, "int8")
    assert _weighed(link, lambda: weighed_range(link, artefact, {}, inputs, oracle)) is link


def test_two_steps_on_every_kernel_set_are_the_files_fault() -> None:
    link = local(Double({"fast": 2, "plain": 2}), cases(2, reach=4))
    assert link.culprits[0].kind == "operator"


def copying(kind: str, scale: float, zero: float, errors: Mapping[str, float], off: int = 2) -> Costs:
    """Three operators of which the middle one is wrong by `off` steps on every kernel set, and writes on another grid
    than it reads from."""
    artefact = Costs({"fast": off, "plain": off}, errors)
    ends = [Operator(0, "MUL", ("x",), ("a",)), Operator(2, "MUL", ("b",), ("z",))]
    operators = (ends[0], Operator(1, kind, ("a",), ("b",)), ends[1])
    grids = {**dict.fromkeys(("x", "a", "z"), Y), "b": replace(Y, scale=Y.scale * scale, zero=Y.zero + zero)}
    artefact.graph = replace(artefact.graph, operators=operators, grids=grids, outputs=(Port("b", "z"),))
    return artefact


@pytest.mark.parametrize(
    ("kind", "scale", "zero", "errors", "off", "state"),
    [
        ("REVERSE_V2", 1.005, 1, {"fast": 0.12, "clipped": 0.1}, 2, "not possible"),
        ("REVERSE_V2", 1.005, 1, {"fast": 0.2, "clipped": 0.1}, 2, "failed"),  # the outputs feel it
        ("REVERSE_V2", 1.005, 1, {"fast": 0.12, "clipped": 0.1}, 9, "failed"),  # more than copying explains
        ("REVERSE_V2", 1.02, 0, {"fast": 0.12, "clipped": 0.1}, 2, "failed"),  # no calibration of the same values
        ("REVERSE_V2", 1.0, 3, {"fast": 0.12, "clipped": 0.1}, 2, "failed"),
        ("ADD", 1.005, 1, {"fast": 0.12, "clipped": 0.1}, 2, "failed"),  # changes grids for a living
    ],
)
def test_a_copy_between_nearly_equal_grids_is_weighed_by_the_outputs(
    kind: str, scale: float, zero: float, errors: Mapping[str, float], off: int, state: str
) -> None:
    artefact, inputs = copying(kind, scale, zero, errors, off), cases(2, reach=4)
    link = copied_link(artefact, off)
    oracle = [{"b": 2.0 * case["a"].astype(np.float64)} for case in inputs]
    weighed_link = weighed(link, artefact, inputs, oracle)
    assert (link.state, weighed_link.state) == ("failed", state), weighed_link
    if state == "not possible":
        assert "1.20 times as far off as with every operator exact on its grids" in weighed_link.reason


@pytest.mark.parametrize("port", ["a", "b"])
def test_a_copy_to_or_from_what_an_app_reads_is_a_fault(port: str) -> None:
    artefact = copying("REVERSE_V2", 1.005, 1, {"fast": 0.12, "clipped": 0.1})
    artefact.graph = replace(artefact.graph, outputs=(Port("b", port),))
    assert copied_link(artefact, 2).culprits[0].kind == "operator"


def copied_link(artefact: Costs, off: int) -> Link:
    scores = {kernels: _Score(worst={0: 0.0, 1: float(off), 2: 0.0}) for kernels in artefact.kernels}
    culprits, _ = _culprits(artefact, scores)  # type: ignore[arg-type]
    return Link.judged("local", {"right_on": []}, [culprit for _, culprit in culprits])


def test_a_fault_of_kernels_on_demand_is_told_and_does_not_fail() -> None:
    link = local(Double({"plain": 9}), cases(2, reach=4))
    assert link.state == "proved"
    assert "plain MUL: off by 9" in link.figures["elsewhere"][0]


@pytest.fixture
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.formats.kept._known", {})


@pytest.mark.usefixtures("nothing_known")
def test_the_same_lifted_graph_is_run_once_and_only_for_grids_that_are_new() -> None:
    inputs, narrow = cases(reach=9.0), replace(Y, scale=Y.scale / 2)
    for artefact, ran in ((Remembered(), [("x", "y")] * 8), (Remembered(), []), (Remembered(y=narrow), [("y",)] * 8),
                          (Remembered(factor=3.0), [("x", "y")] * 8), (Remembered(), [])):  # fmt: skip
        fresh = Double(factor=artefact.factor)
        fresh.graph = artefact.graph
        assert range_(artefact, {}, inputs, "int8") == range_(fresh, {}, inputs, "int8")
        assert artefact.ran == ran
    other = Remembered()
    range_(other, {}, cases(reach=8.0), "int8")
    assert len(other.ran) == 8, "other cases"


@pytest.mark.usefixtures("nothing_known")
def test_a_lift_is_judged_by_what_the_same_graph_gave_before_against_the_oracle_that_is_asked_about() -> None:
    inputs = cases()
    for artefact, factor, state in ((Remembered(), 2.0, "proved"), (Remembered(), 2.1, "failed"),
                                    (Remembered(factor=2.1), 2.1, "proved")):  # fmt: skip
        oracle = [{"b": factor * case["a"].astype(np.float64)} for case in inputs]
        assert lift(artefact, Torch(), {}, inputs, oracle, 1e-7, whole=False).state == state  # type: ignore[arg-type]
        assert len(artefact.ran) == (0 if factor == 2.1 and artefact.factor == 2.0 else 8)


@pytest.mark.parametrize("off", [{}, {"fast": 2}, {"plain": 9}, {"fast": 2, "plain": 2}])
def test_half_a_link_is_judged_on_the_first_kernels_and_is_in_the_same_state(off: dict[str, int]) -> None:
    artefact = Asked(off)
    link = local(artefact, cases(2, reach=4), whole=False)
    assert link.state == local(Double(off), cases(2, reach=4)).state
    assert artefact.asked == ["fast"]


def test_half_a_link_is_judged_on_the_other_kernels_where_the_first_refuse() -> None:
    for off, state in (({"plain": 2}, "failed"), ({}, "proved")):
        artefact = Asked(off)
        artefact.kernels = ("broken", "plain")  # type: ignore[assignment]
        assert local(artefact, cases(2, reach=4), whole=False).state == state
        assert artefact.asked == ["broken", "plain"]


def test_a_file_without_grids_or_fp16_has_no_range_to_run_for() -> None:
    artefact = Double()
    artefact.graph = replace(artefact.graph, grids={})
    artefact.lift = None  # type: ignore[method-assign, assignment]
    link = range_(artefact, {}, cases(), "fp32")
    assert (link.state, link.figures) == ("proved", {"cases": 0})


def test_kernels_that_refuse_are_named_and_none_at_all_is_not_possible() -> None:
    artefact = Double()
    artefact.kernels = ("fast", "broken")  # type: ignore[assignment]
    assert local(artefact, cases(1)).figures["refused"] == {"broken": "no such operator"}
    artefact.kernels = ("broken",)  # type: ignore[assignment]
    assert local(artefact, cases(1)).state == "not possible"


@pytest.mark.parametrize(("reach", "state"), [(6.0, "proved"), (9.0, "failed")])
def test_values_beyond_the_grid_are_clipped(reach: float, state: str) -> None:
    link = range_(Double(), {}, cases(reach=reach), "int8")
    assert link.state == state
    if state == "failed":
        assert {c.name for c in link.culprits} == {"x", "y"}


def test_what_only_a_clamp_reads_may_be_clipped() -> None:
    artefact = Double(kind="RELU6")
    assert "x" not in {c.name for c in range_(artefact, {}, cases(reach=9.0), "int8").culprits}


def test_fp16_ends_at_65504() -> None:
    assert range_(Double(), {}, cases(reach=1e4), "fp16").state == "proved"
    link = range_(Double(), {}, cases(reach=6e4), "fp16")
    assert link.state == "failed"
    assert "65504" in link.culprits[0].what


def test_a_mask_may_fall_below_what_fp16_holds() -> None:
    """Scores with the least number added where they are masked out, and minus infinity, go to a softmax and nowhere
    else: on the way to anything else the same values are an overflow."""
    for end, state in (("Softmax", "proved"), ("MatMul", "failed")):
        artefact = Double(kind="Add")
        first = artefact.graph.operators[0]
        last = Operator(1, end, first.outputs, ("z",))
        artefact.graph = replace(artefact.graph, grids={}, operators=(first, last))
        inputs = [{"a": np.array([[1.0, -7e4]], np.float32)}, {"a": np.array([[1.0, -np.inf]], np.float32)}]
        port = artefact.graph.outputs[0].tensor

        def through(weights: Any, watch: Any = (), out: str = port) -> Any:
            return lambda case: {**dict.fromkeys([*watch, out], next(iter(case.values()))), "z": np.ones((1, 2))}

        artefact.lift = through  # type: ignore[method-assign]
        link = range_(artefact, {}, inputs, "fp16")
        assert link.state == state, (end, link)
