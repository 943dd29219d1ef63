"""What a module was seen to decide by its inputs, and the inputs that turn what went one way: real modules, watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parity.core.case import Case
from parity.core.contract import Contract, InputSpec, OutputSpec
from parity.core.decisions import MANY, NO, YES, place_of_bound
from parity.core.settings import ModelSpec
from parity.reference import modelling
from parity.reference.decisions import watched
from parity.reference.messages import Ways
from parity.session import ways

X = InputSpec("x", (1, 4), "float32", (0.0, 1.0))
MODE, FLAG = (InputSpec(name, (1,), "int64", (0, 9)) for name in ("mode", "flag"))


class Decides(nn.Module):
    """Gives what `rule` makes of its inputs."""

    def __init__(self, rule: Any):
        super().__init__()
        self.rule = rule

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        return self.rule(*given)  # type: ignore[no-any-return]


def outcomes(module: nn.Module, *given: Any) -> dict[str, int]:
    seen, error = watched(module.eval(), {str(place): np.asarray(value) for place, value in enumerate(given)})
    assert error is None
    return {site.partition(" at ")[0]: outcome for site, outcome in seen.outcomes.items()}


def searched(rule: Any, inputs: Sequence[InputSpec], golden: Sequence[Mapping[str, Any]]) -> ways.Decided:
    """The search on golden cases, with a watch in this process."""
    module = Decides(rule)

    def watch(cases: Sequence[Case]) -> Ways:
        seen = [watched(module, case.inputs) for case in cases]
        numbers = sorted(set[float]().union(*(behaviour.thresholds for behaviour, _ in seen)))
        return Ways([b.outcomes for b, _ in seen], [repr(e) if e else "" for _, e in seen], numbers)

    model: Any = SimpleNamespace(contract=Contract(tuple(inputs), (OutputSpec("y"),)))
    cases = [Case(str(n), {s.name: np.asarray(row[s.name], s.dtype) for s in inputs}) for n, row in enumerate(golden)]
    return ways._searched(watch, model, cases, [])


GREY = [{"x": np.full((1, 4), level)} for level in (0.4, 0.45, 0.5)]
PICTURE = np.zeros((1, 3, 16, 16), np.float32)
IN_PLACE: Any = lambda x: torch.zeros(4).copy_(x[0]).mul_(2).gt(1)  # noqa: E731


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Hardswish(), nn.MaxPool2d(2), nn.GELU()),
        nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(256, 4, 32, batch_first=True), nn.Softmax(2)),
        nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.PReLU(), nn.LocalResponseNorm(2)),
        Decides(lambda x: torch.where(torch.arange(16) > 3, x, x * 2)),
        Decides(lambda x: torch.where(x.new_zeros(16) == 0, x, torch.zeros_like(x) != 1)),
        Decides(lambda x: torch.where(x > -1e9, x, x).masked_fill(x != x, 0)),
    ],
)
def test_what_does_not_depend_on_the_inputs_or_only_guards_is_no_decision(module: nn.Module) -> None:
    assert outcomes(module, PICTURE) == {}


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        (lambda x: x if x.mean() > 0.5 else -x, {"aten.gt with 0.5": NO}),
        (lambda x: torch.where(x > 0.5, x, -x), {"aten.gt with 0.5": YES | NO | MANY}),
        (IN_PLACE, {"aten.gt with 1": YES | NO | MANY}),
        (lambda x: x if (x.mean() > 0.9) | (x.min() < 0) else -x,
         {"aten.gt with 0.9": NO, "aten.lt with 0": NO, "branch": NO}),
        (lambda x: x if x.sum().item() / 4 > 0.5 else -x, {"number.gt with 0.5": NO}),
        (lambda x: x[:, : (x > 0.5).sum().item()], {"aten.gt with 0.5": YES | NO | MANY}),
    ],
)  # fmt: skip
def test_what_depends_on_the_inputs_is(rule: Any, want: dict[str, int]) -> None:
    assert outcomes(Decides(rule), np.float32([[0.1, 0.9, 0.4, 0.2]])) == want


def test_a_decision_is_told_with_its_place_and_module() -> None:
    module = nn.Sequential(nn.Identity(), Decides(lambda x: x if x.mean() > 0.5 else -x))
    seen, _ = watched(module, {"x": np.zeros((1, 4), np.float32)})
    line = Path(__file__).read_text().splitlines().index(next(
        line for line in Path(__file__).read_text().splitlines() if "nn.Identity(), Decides" in line
    )) + 1  # fmt: skip
    assert list(seen.outcomes) == [f"aten.gt with 0.5 at test_ways.py:{line} (1)"]


@pytest.mark.parametrize(
    "rule",
    [
        lambda x: x if x.mean() > 0.99 else -x,
        lambda x: x if x.std() > 0.5 else -x,
        lambda x: x if x[0, :2].mean() - x[0, 2:].mean() > 0.9 else -x,
        lambda x: x if x.std().item() < 1e-6 else -x,
        lambda x: (x if x.min() > 0.6 else -x) if x.mean() > 0.55 else x + 1,
    ],
)
def test_a_threshold_is_reached_from_both_sides(rule: Any) -> None:
    uneven = np.array([[0, 0.1, 0.02, 0.05]])
    golden = [{"x": row["x"] + uneven} for row in GREY]
    found = searched(rule, [X], golden)
    assert found.one_way == [] and found.turning


def test_two_inputs_are_tried_together() -> None:
    golden = [{"mode": [m], "flag": [f]} for m, f in ((3, 0), (0, 5), (1, 1))]
    found = searched(lambda mode, flag: torch.where((mode == 3) & (flag == 5), mode, flag), [MODE, FLAG], golden)
    contract = Contract((MODE, FLAG), (OutputSpec("y"),))
    assert (3, 5) in {tuple(int(v.item()) for v in recipe.arrays(contract).values()) for recipe in found.turning}


def test_what_nothing_turns_is_left_and_a_refusal_is_no_other_way() -> None:
    def refuses(x: torch.Tensor) -> torch.Tensor:
        if x.mean() > 0.9:
            raise ValueError("too bright")
        return x

    assert searched(lambda x: x if x.sum() > 100 else -x, [X], GREY).one_way[0].startswith("aten.gt with 100 at ")
    assert searched(refuses, [X], GREY).one_way == []


def test_every_input_that_is_tried_is_within_the_declared_range() -> None:
    found = searched(lambda x: x if x.mean() > 0.7 else -x, [X], GREY)
    for recipe in found.turning:
        (x,) = recipe.arrays(Contract((X,), (OutputSpec("y"),))).values()
        assert x.min() >= 0 and x.max() <= 1 and recipe == type(recipe).parse(recipe.json(), Contract((X,), ()))


def test_a_branch_of_an_onnx_reference_is_told_by_its_node(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    branches = {
        f"{name}_branch": helper.make_graph([helper.make_node(kind, ["x"], [name])], name, [],
                                            [helper.make_tensor_value_info(name, FLOAT, [1, 4])])
        for name, kind in (("then", "Sin"), ("else", "Relu"))
    }  # fmt: skip
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0),
             helper.make_node("Greater", ["m", "t"], ["c"], "bright"),
             helper.make_node("If", ["c"], ["y"], "choice", **branches)]  # fmt: skip
    ports = [[helper.make_tensor_value_info(name, FLOAT, [1, 4])] for name in "xy"]
    weights = [onnx.numpy_helper.from_array(np.float32(0.5), "t")]
    graph = helper.make_graph(nodes, "g", *ports, weights)
    file = tmp_path / "ref.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(file))
    module = modelling.load(ModelSpec(str(tmp_path), "", {"inputs": ["x"], "outputs": ["y"]}, reference=str(file)))
    seen, error = watched(module, {"x": np.zeros((1, 4), np.float32)})
    assert error is None and all(" at ref.onnx:" in site for site in seen.outcomes), seen.outcomes
    assert any("bright" in site or "choice" in site for site in seen.outcomes), seen.outcomes


LOW, BOTH = np.linspace(0.1, 0.9, 4, dtype=np.float32)[None], np.linspace(0.1, 2.0, 4, dtype=np.float32)[None]
OTHERS: Mapping[str, Any] = {
    "number.ne with 0": lambda x: x * 2 if torch.trunc(x).sum() else x,
    "aten.bool": lambda x: torch.where(x.long().bool(), 2 * x, x),
    "aten.sign": lambda x: torch.sign(torch.relu(x - 1)),
    "aten.heaviside with 0": lambda x: torch.heaviside(x - 1, torch.zeros(())),
    "aten.threshold with 1": lambda x: nn.functional.threshold(x, 1.0, 0.0),
    "aten.hardshrink with 1": lambda x: nn.functional.hardshrink(x, 1.0),
    "aten.softshrink with 1": lambda x: nn.functional.softshrink(x, 1.0),
    "aten.bucketize with 1": lambda x: torch.bucketize(x, torch.tensor([1.0])),
    "aten.isin": lambda x: torch.isin(x.long(), torch.tensor([1, 2])),
}


@pytest.mark.parametrize("name", OTHERS)
def test_steps_and_truths_of_numbers_have_two_ways(name: str) -> None:
    low, both = (outcomes(Decides(OTHERS[name]), x) for x in (LOW, BOTH))
    assert low.keys() == both.keys() == {name}
    assert low[name] & (YES | NO) == NO
    assert both[name] & YES


IN_PLACE_BOUND: Any = lambda x: (x * 1).clamp_(max=0.5)  # noqa: E731


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        (lambda x: x.clamp(-7, 0.5), {"aten.clamp below -7": {0}, "aten.clamp above 0.5": {0, 1}}),
        (IN_PLACE_BOUND, {"aten.clamp above 0.5": {0, 1}}),
        (lambda x: torch.minimum(torch.tensor(-1.0), x), {"aten.minimum above -1": {1}}),
        (nn.functional.relu6, {"aten.hardtanh below 0": {0}, "aten.hardtanh above 6": {0}}),
        (lambda x: nn.functional.hardtanh(x * 2), {"aten.hardtanh below -1": {0}, "aten.hardtanh above 1": {0, 1}}),
        (lambda x: nn.functional.normalize(x).clamp(max=1e9).clamp(x.mean(), x.max()), {}),
        (lambda x: x * torch.ones(3).clamp(max=2).max(), {}),
    ],
)
def test_the_sides_of_bounds_are_seen(rule: Any, want: dict[str, set[int]]) -> None:
    seen, error = watched(Decides(rule), {"x": np.float32([[0.1, 0.9, 0.4]])})
    assert error is None
    assert {site.partition(" at ")[0]: ways for site, ways in seen.turned.items()} == want


def test_a_choice_is_seen_and_named_by_its_module() -> None:
    module = nn.Sequential(nn.Identity(), Decides(lambda x: x.argmax(1)))
    first, other = (watched(module, {"x": np.float32([row])})[0] for row in ([0.1, 0.9], [0.9, 0.1]))
    (site,) = first.turned
    assert site.startswith("aten.argmax at test_ways.py:") and site.endswith(" (1)")
    assert len(first.turned[site]) == len(other.turned[site]) == 1 and first.turned != other.turned


def test_the_place_of_a_bound_is_read_from_its_site() -> None:
    assert place_of_bound("aten.clamp above 50 at model.py:12 (head)") == "at model.py:12 (head)"
    assert place_of_bound("aten.hardtanh below -1 (0)") == "(0)"
    assert place_of_bound("aten.argmax at model.py:12 (head)") == place_of_bound("aten.clamp above 1") == ""


def test_each_layer_has_a_bound_of_its_own() -> None:
    module = nn.Sequential(nn.ReLU6(), nn.Linear(3, 3), nn.ReLU6())
    seen, _ = watched(module, {"x": np.zeros((1, 3), np.float32)})
    assert {site.rpartition(" ")[2] for site in seen.turned} <= {"(0)", "(2)"} and len(seen.turned) == 4, seen.turned
