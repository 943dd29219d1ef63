"""Diagnosis where there is little to go by: broken references, outputs that are no numbers, one case, one value."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from parity.core.contract import Contract, InputSpec, OutputSpec
from parity.core.settings import ModelSpec
from parity.faults import Fault, register_fault
from parity.faults import base as registry
from parity.faults.base import Parameter, Rows, registered
from parity.faults.bench import Bench
from parity.faults.causes import Diagnosis
from parity.faults.diagnose import LIMITS, Search, explain
from parity.faults.messages import DiagnosisRequest
from tests.faults.small import BENCHES, drawn

ROOT = Path(__file__).resolve().parents[2]


class Scores(nn.Module):
    """[batch, 5] -> `size` scores; and the class that they decide for."""

    def __init__(self, size: int = 4, decides: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.decides = nn.Linear(5, 16), nn.Linear(16, size), decides

    def forward(self, x: Tensor) -> Any:
        y = self.two(torch.relu(self.one(x)))
        return y.argmax(-1) if self.decides else y


def bench(module: nn.Module, cases: int, kind: Any = "logits") -> Bench:
    torch.set_num_threads(1)
    contract = Contract((InputSpec("x", ("batch", 5)),), (OutputSpec("y", kind),))
    rng = np.random.default_rng(1)
    inputs = [{"x": rng.standard_normal((1, 5)).astype(np.float32)} for _ in range(cases)]
    return Bench(drawn(module), contract, inputs, "fp32")


def noisy(rows: Rows, seed: int = 0, size: float = 1e-7) -> Rows:
    rng = np.random.default_rng(seed)
    return [{k: v + size * rng.standard_normal(v.shape) for k, v in row.items()} for row in rows]


def diagnosis(on: Bench, artefact: Rows, names: Sequence[str] | None = None) -> Diagnosis:
    known = [f for f in registered("fp32", names) if not f.benign]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Search(on, artefact, noisy(on.clean(), 9), known, LIMITS["fp32"], seconds=60).diagnose()


@pytest.fixture
def own() -> Iterator[None]:
    before = dict(registry._registry)
    yield
    registry._registry.clear()
    registry._registry.update(before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_all_no_numbers_are_not_explained(value: float) -> None:
    on = bench(Scores(), 6)
    found = diagnosis(on, [{"y": np.full((1, 4), value)} for _ in range(6)])
    assert (found.state, found.causes) == ("unexplained", ()), found.sentence
    assert found.sentence.startswith("no known fault explains this") and "\n" not in found.sentence


def test_one_nan_is_named() -> None:
    on = bench(Scores(), 6)
    rows = noisy(on.clean())
    rows[2]["y"][0, 3] = np.nan
    found = diagnosis(on, rows)
    assert found.causes[0].faults == ("one_not_finite",) and found.causes[0].values == ((2, 3),)


def test_one_case_is_enough_for_a_fault_without_a_parameter() -> None:
    on = bench(Scores(12), 1)
    assert diagnosis(on, noisy([{"y": r["y"][:, ::-1]} for r in on.clean()])).causes[0].faults == ("labels_reversed",)
    assert diagnosis(on, noisy(on.clean())).state == "sound"


@pytest.mark.parametrize(("size", "seed"), [(1, 0), (1, 1), (2, 0), (3, 0)])
def test_what_any_number_would_explain_is_no_diagnosis(size: int, seed: int) -> None:
    """A fitted gain or offset meets one value exactly, and a wrong class one of two: that says nothing."""
    on = bench(Scores(size), 1, "dense")
    rng = np.random.default_rng(seed)
    wrong = [{"y": r["y"] * (1 + 0.3 * rng.random(r["y"].shape))} for r in on.clean()]
    fitted = [f.name for f in registered("fp32") if f.parameter and not f.parameter.choices]
    found = diagnosis(on, wrong, fitted)
    assert found.state == "unexplained", found.sentence


def test_outputs_that_are_decisions_are_said_not_to_be_comparable() -> None:
    on = bench(Scores(decides=True), 5, "classes")
    assert on.clean()[0]["y"].dtype.kind == "i"
    found = Search(on, [{"y": 1 - r["y"]} for r in on.clean()], on.clean(), registered("fp32"), LIMITS["fp32"])
    assert found.diagnose().sentence == "no output holds real numbers"


def test_a_contract_without_preprocessing_is_diagnosed_all_the_same() -> None:
    on = BENCHES["recurrent"]("fp32")
    assert on.subject.contract.preprocess is None
    rows = on.run(registered(names=["gru_gate_order"])[0].on(on.subject))  # type: ignore[arg-type]
    assert diagnosis(on, noisy(rows)).causes[0].faults == ("gru_gate_order",)


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("a custom kernel is missing\nand more lines")


def test_a_reference_that_cannot_run_is_an_error_with_its_reason() -> None:
    spec = ModelSpec(str(ROOT), "tests.faults.test_attacks:Raises")
    contract = Contract((InputSpec("x", ("batch", 5)),), (OutputSpec("y"),))
    case, row = {"x": np.ones((1, 5), np.float32)}, {"y": np.ones((1, 4))}
    with pytest.raises(Exception, match="a custom kernel is missing"):
        explain(DiagnosisRequest(spec, contract, [case], [row], [row], "fp32"))


def test_a_reference_of_nan_has_nothing_to_be_compared_with() -> None:
    on = bench(Scores(), 4)
    on.module.two.bias.data.fill_(np.nan)  # type: ignore[union-attr]
    on = Bench(on.module, on.subject.contract, on.subject.inputs, "fp32")
    found = diagnosis(on, [{"y": np.ones((1, 4))}] * 4)
    assert (found.state, found.sentence) == ("incomparable", "the oracle itself gives NaN")


def test_faults_of_others_that_fail_are_left_out_and_told(own: None) -> None:
    def add(name: str, apply: Any, **more: Any) -> None:
        register_fault(Fault(name, "it is there", "output", "output", apply, **more))

    add("own_raises", lambda s: 1 / 0)
    add("own_text", lambda s: s.then(lambda rows: "rows"))
    add("own_wide", lambda s: s.then(lambda rows: [{"y": np.tile(r["y"], 2)} for r in rows]))
    add("own_fit", lambda s, v: s.then(lambda rows: [{"y": r["y"] / (v > 2)} for r in rows]),
        parameter=Parameter("v", usual=3.0, low=1.0, high=4.0))  # fmt: skip
    on = bench(Scores(), 6)
    names = ["own_raises", "own_text", "own_wide", "own_fit", "labels_rotated", "output_gain"]
    with np.errstate(all="ignore"):
        found = diagnosis(on, noisy([{"y": np.roll(r["y"], 1, -1)} for r in on.clean()]), names)
    assert found.causes[0].faults == ("labels_rotated",)
    assert found.broken == (
        "own_raises: ZeroDivisionError: division by zero",
        "own_text: it gave no list of 6 cases",
    )
    assert "own_raises" not in found.sentence


def test_two_names_of_one_function_are_told_together(own: None) -> None:
    register_fault(Fault("own_turned", "it is turned round", "output", "output",
                         lambda s: s.then(lambda rows: [{"y": r["y"][..., ::-1]} for r in rows])))  # fmt: skip
    on = bench(Scores(), 6)
    found = diagnosis(on, noisy([{"y": r["y"][:, ::-1]} for r in on.clean()]))
    assert {c.faults for c in found.causes[:2]} == {("labels_reversed",), ("own_turned",)}
    assert found.causes[0].same == found.causes[1].faults and "the same function of this model: " in found.sentence


def test_a_layer_of_another_draw_is_not_explained_by_what_draws_itself() -> None:
    """Dropout that drew anew in the twin made a floor so large that it explained anything."""
    on = BENCHES["drawings"]("fp32")
    name = "gate.1.weight"
    weight = on.subject.tensor(name)
    other = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)) * weight.std()
    artefact = noisy(on.run(on.subject.with_tensors({name: other})))
    found = diagnosis(on, artefact, ["dropout_live", "channels_swapped", "depthwise_reversed"])
    assert found.state == "unexplained" and found.sentence.startswith("no known fault explains this"), found.sentence
    live = registered(names=["dropout_live"])[0].on(on.subject)
    assert live is not None
    one, again = on.run(live), on.run(live)
    assert all(np.array_equal(a["y"], b["y"]) for a, b in zip(one, again, strict=True))
    assert not np.allclose(one[0]["y"], on.clean()[0]["y"])


class Steps(nn.Module):
    """[batch, 5] -> its mean three times, by way of what a fault may round."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.abs(torch.tanh(x)).mean(-1, keepdim=True) * torch.tensor([1.0, 2.0, 3.0])


def test_what_falls_to_the_other_side_of_a_rounding_is_noise_of_the_fault(own: None) -> None:
    """It does in one case of many, which need not be one of those that candidates are chosen on."""

    def rounds(call: Any, args: Any, kwargs: Any) -> Tensor:
        return torch.round(call(*args, **kwargs) * 8) / 8

    register_fault(Fault("own_rounds", "it rounds to eighths", "precision", "module",
                         lambda s: s.with_patch(lambda: {"abs": rounds})))  # fmt: skip
    rng = np.random.default_rng(1)
    inputs = [{"x": rng.standard_normal((1, 5)).astype(np.float32)} for _ in range(30)]
    edge = next(  # on a tie in float32, beyond it in float64
        x for tie in (0.0625, 0.3125, 0.5625, 0.8125)
        for x in (torch.arange(-40, 40) * 2.0**-24 + float(np.arctanh(tie))).float()
        if torch.tanh(x) == tie < torch.tanh(x.double()) - 1e-9
    )  # fmt: skip
    contract = Contract((InputSpec("x", ("batch", 5)),), (OutputSpec("y", "dense"),))
    inputs[2]["x"][0, 0] = float(edge)
    on = Bench(Steps(), contract, inputs, "fp32")
    (fault,) = registered(names=["own_rounds"])
    faulty = fault.on(on.subject)
    assert faulty is not None
    artefact = noisy(on.run(faulty, exact=False))
    assert abs(float(artefact[2]["y"][0, 0] - on.run(faulty)[2]["y"][0, 0])) > 0.02, "it falls to the other side"
    search = Search(on, artefact, noisy(on.clean(exact=False)), [fault], LIMITS["fp32"], seconds=60)
    found = search.diagnose()
    assert 2 not in search.sample
    assert found.causes and found.causes[0].faults == ("own_rounds",), found.sentence


def test_an_int8_file_takes_no_input_beyond_its_grid() -> None:
    """Pixels that were not scaled end at the largest value that the calibration data had."""
    on = BENCHES["encoded"]("int8")
    calibration = [dict(case) for case in on.subject.inputs]
    low, high = (float(f([f(c["image"]) for c in calibration])) for f in (np.min, np.max))
    (fault,) = registered(names=["not_scaled"])
    faulty = fault.on(on.subject)
    assert faulty is not None and max(float(c["image"].max()) for c in faulty.inputs) > 10 * high
    scale = 0.02 * float(np.std([r["y"] for r in on.clean()]))
    artefact = noisy(on.run(faulty.with_inputs(lambda c: {"image": c["image"].clip(low, high)})), size=scale)
    known = registered("int8", ["not_scaled", "input_offset", "scaled_by_256"])
    twin = noisy(on.clean(), 9, scale)
    found = Search(on, artefact, twin, known, LIMITS["int8"], seconds=60, calibration=calibration).diagnose()
    assert found.causes and found.causes[0].faults == ("not_scaled",), found.sentence
    blind = Search(BENCHES["encoded"]("int8"), artefact, twin, known, LIMITS["int8"], seconds=60).diagnose()
    assert not blind.causes or blind.causes[0].faults != ("not_scaled",)


def test_an_int8_file_s_grids_end_where_its_calibration_did() -> None:
    """At every operator: behind a fault that makes pictures brighter, most of the outputs are those ends."""
    on = BENCHES["encoded"]("int8")
    calibration = [dict(case) for case in on.subject.inputs]
    cases = range(len(calibration))
    (fault,) = registered(names=["half_for_mean_std"])
    faulty = fault.on(on.subject)
    assert faulty is not None
    twin = on.twin(on.subject, cases, None, calibration)
    scale = 0.1 * float(np.std([t["y"] - r["y"] for t, r in zip(twin, on.clean(), strict=True)]))
    artefact = noisy(on.twin(faulty, cases, None, calibration), size=scale)
    known = registered("int8", ["half_for_mean_std", "not_scaled", "mean_missing", "std_missing", "input_offset"])
    found = Search(on, artefact, twin, known, LIMITS["int8"], seconds=60, calibration=calibration).diagnose()
    assert found.causes and found.causes[0].faults == ("half_for_mean_std",), found.sentence
    assert found.causes[0].residual < 0.5
    alone, together = (on.twin(faulty, cases, None, calibration, ranges) for ranges in (None, {}))
    assert all(np.allclose(a["y"], b["y"], atol=scale) for a, b in zip(alone, together, strict=True))
