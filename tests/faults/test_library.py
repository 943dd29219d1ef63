"""Every fault changes what some model computes; no benign change does; none leaves a trace in the module."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from parity.core.errors import ParityError
from parity.faults import Fault, faulty, library, register_fault, trial
from parity.faults.base import PRECISIONS, Subject, registered
from parity.faults.bench import Bench, Inapplicable
from parity.process import serialise
from tests.faults.small import BENCHES
from tests.faults.test_divergence import CONTRACT, EXAMPLE, SPEC

FAULTS = [f for f in registered() if not f.benign]
BENIGN = [f for f in registered() if f.benign]


@pytest.fixture(scope="module")
def benches() -> dict[str, Bench]:
    torch.set_num_threads(1)
    return {name: make("fp32") for name, make in BENCHES.items()}


def test_the_library_is_as_large_as_promised() -> None:
    assert len(FAULTS) >= 40
    assert len(BENIGN) >= 4
    assert {f.family for f in FAULTS} == {"input", "time", "graph", "weights", "precision", "output"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_a_fault_changes_a_model(fault: Fault, benches: dict[str, Bench]) -> None:
    states = {name: library.inject(bench, fault) for name, bench in benches.items()}
    assert any(one.state == "changed" for one in states.values()), {n: (o.state, o.reason) for n, o in states.items()}
    assert not [o.reason for o in states.values() if o.state == "broken"]


@pytest.mark.parametrize("fault", BENIGN, ids=lambda f: f.name)
def test_a_benign_change_moves_no_more_than_rounding(fault: Fault, benches: dict[str, Bench]) -> None:
    found = [library.inject(bench, fault) for bench in benches.values()]
    applied = [(one, bench) for one, bench in zip(found, benches.values(), strict=True) if one.rows]
    assert applied
    for one, bench in applied:
        assert library.distance(one.rows, bench.clean()) < 5e-6


def test_no_fault_leaves_a_trace_in_the_module(benches: dict[str, Bench]) -> None:
    for bench in benches.values():
        module = bench.module
        before = {k: v.clone() for k, v in module.state_dict().items()}
        clean = bench.run(bench.subject)
        for fault in FAULTS[::5]:
            library.inject(bench, fault)
        assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
        assert all(np.array_equal(a[k], b[k]) for a, b in zip(bench.run(bench.subject), clean, strict=True) for k in a)


def test_sentences_read_after_behaves_as_if() -> None:
    for fault in registered():
        assert not fault.sentence.endswith(".") and len(fault.sentence) < 120, fault.name
        assert fault.sentence[0].islower() or fault.sentence.split()[0] in ("GELU", "ReLU6", "ReLU", "SiLU"), fault.name


def test_what_a_model_has_no_place_for_is_said() -> None:
    bench = BENCHES["detector"]("fp32")
    one = library.inject(bench, registered(names=["swap_rgb_bgr"])[0])
    assert (one.state, one.reason) == ("inapplicable", "nothing in the model for it to act on")
    assert library.inject(bench, registered(names=["batch_norm_epsilon"])[0]).state == "inapplicable"


def test_a_fault_that_changes_nothing_is_told_by_the_oracle() -> None:
    """Grey pictures look the same with their channels exchanged."""
    bench = BENCHES["drawings"]("fp32")
    grey = tuple({"image": np.repeat(case["image"][:, :1], 3, 1)} for case in bench.subject.inputs)
    same = Bench(bench.module, bench.subject.contract, grey)
    assert library.inject(same, registered(names=["swap_rgb_bgr"])[0]).state == "equivalent"


def test_a_fault_that_leaves_every_input_as_it_is_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = BENCHES["drawings"]("fp32")
    bench.clean()
    ran: list[Subject] = []
    run = Bench.run
    monkeypatch.setattr(Bench, "run", lambda self, subject, *more: ran.append(subject) or run(self, subject, *more))

    def found(name: str, change: Callable[[Subject], Subject]) -> str:
        ran.clear()
        return library.inject(bench, Fault(name, "x", "input", "input", change)).state

    def each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Subject], Subject]:
        return lambda s: s.with_inputs(lambda case: {name: change(value) for name, value in case.items()})

    assert (found("same", each(np.copy)), ran) == ("equivalent", [])
    assert found("nan", each(lambda v: v + np.float32("nan"))) == "changed" and ran
    assert found("after", lambda s: s.then(list)) == "equivalent" and ran
    assert found("other type", each(lambda v: v.astype(np.float64))) and ran
    assert found("fewer", lambda s: replace(s, inputs=s.inputs[1:])) == "broken" and ran


def test_two_faults_are_one_after_the_other() -> None:
    bench = BENCHES["drawings"]("fp32")
    mirrored, upside_down, turned = registered(names=["mirrored", "upside_down", "turned"])
    both = upside_down.on(mirrored.on(bench.subject))
    assert library.distance(bench.run(both), bench.run(turned.on(bench.subject, 180))) < 1e-12


@pytest.mark.parametrize("before", ["kernels_transposed", "kernel_transposed", "depthwise_reversed"])
def test_a_fault_is_put_after_one_that_turned_a_tensor_round(before: str, benches: dict[str, Bench]) -> None:
    """Pairs of a diagnosis: what a transposed kernel leaves is no longer laid out as its elements go."""
    bench = benches["drawings"]
    first = registered(names=[before])[0].on(bench.subject)
    assert first is not None
    for fault in [f for f in FAULTS if f.family == "weights"]:
        offered = (
            fault.parameter.choices(bench.subject, None) if fault.parameter and fault.parameter.choices else [None]
        )
        for value in offered:
            both = trial.put(fault, first, value)
            assert both is None or bench.run(both)


def test_batches_and_single_runs_agree(benches: dict[str, Bench]) -> None:
    for bench in benches.values():
        groups = bench._groups(bench.subject, list(range(len(bench.subject.inputs))))
        assert bench._batches() and len(groups) == 1


def test_a_model_whose_rows_see_each_other_is_run_case_by_case() -> None:
    class Mixing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(0, keepdim=True) + x.square()

    bench = BENCHES["recurrent"]("fp32")
    assert not Bench(Mixing(), bench.subject.contract, bench.subject.inputs)._batches()


def test_a_name_is_taken_once_and_precisions_are_known() -> None:
    with pytest.raises(ParityError, match="exists"):
        register_fault(FAULTS[0])
    with pytest.raises(ParityError, match="no precision 'fp8'"):
        register_fault(Fault("mine", "x", "input", "input", lambda s: s, precisions=("fp8",)))
    with pytest.raises(ParityError, match="no fault 'nope'"):
        registered(names=["nope"])


def test_each_fault_can_occur_somewhere() -> None:
    assert all(set(f.precisions) <= set(PRECISIONS) and f.precisions for f in registered())


def test_a_fault_that_stops_the_model_is_said() -> None:
    bench = BENCHES["recurrent"]("fp32")
    broken = bench.subject.with_inputs(lambda case: {"x": case["x"][..., :3]})
    with pytest.raises(Inapplicable, match="does not run"):
        bench.run(broken)


@pytest.mark.parametrize(("name", "operator"), [("first_layer_noise", "aten::randn"), ("same_padding", "aten::size")])
def test_a_fault_in_a_file_is_the_one_that_a_hypothesis_is(name: str, operator: str) -> None:
    """A draw that a file makes anew at each call is none that a hypothesis can have; pnnx takes a padding that is
    computed from sizes for none."""
    module = faulty.module(serialise.to_builtins(SPEC), CONTRACT, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, torch.from_numpy(EXAMPLE["image"]), check_trace=False)
    assert operator not in str(traced.inlined_graph)
