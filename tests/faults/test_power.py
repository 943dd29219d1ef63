"""Power: the count of what a gate notices, on a small model whose limits the test sets."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from parity.core.contract import Contract, InputSpec, OutputSpec
from parity.core.record import plain
from parity.core.settings import ModelSpec
from parity.faults import library
from parity.faults import measure as measuring
from parity.faults.base import Rows, Subject, registered
from parity.faults.bench import Bench
from parity.faults.messages import CellGate, PowerRequest
from parity.faults.power import CellPower, Gate, Tally, badness, between, figure
from parity.judging.limits import Limit
from tests.faults.small import BENCHES

NAMES = ("swap_rgb_bgr", "scaled_by_256", "bias_dropped", "labels_rotated", "weights_bfloat16", "gru_gate_order")


def noisy(clean: Rows, relative: float) -> Rows:
    rng = np.random.default_rng(0)
    return [
        {k: v + relative * np.abs(v).mean() * rng.standard_normal(v.shape) for k, v in row.items()} for row in clean
    ]


def power_of(bench: Bench, noise: float, limits: dict[str, float], names: tuple[str, ...] = NAMES) -> CellPower:
    clean = bench.clean()
    twin = noisy(clean, noise)
    ids = [f"case_{i}" for i in range(len(clean))]
    bounds = {"y": {m: Limit(m, v, "the test") for m, v in limits.items()}}
    gate = Gate(bench.subject.contract, ids, clean, twin, "fp32", bounds)
    tally = Tally("small-onnx-fp32", "fp32", gate, twin)
    for fault in (*registered(names=names), *(f for f in registered() if f.benign)):
        one = library.inject(bench, fault)
        if one.state == "changed":
            tally.add(fault, one.value, one.behind(twin, clean, replace(bench.subject, precision="fp32")))
        else:
            tally.without(fault, one.state)
    return tally.result()


@pytest.fixture(scope="module")
def bench() -> Bench:
    torch.set_num_threads(1)
    return BENCHES["drawings"]("fp32")


def test_tight_limits_notice_everything_and_no_benign_change(bench: Bench) -> None:
    found = power_of(bench, 1e-5, {"noise_ratio": 3.0})
    assert (found.killed, found.injected, found.share) == (5, 5, 1.0)
    assert found.inapplicable == 1 and not found.survivors and not found.false_alarms and not found.loose
    assert found.killed_by["noise_ratio"] == 5 and found.killed_by_kind == {"golden": 5}
    assert found.summary().killed == 5


def test_a_survivor_says_which_limit_would_have_caught_it(bench: Bench) -> None:
    found = power_of(bench, 1e-5, {"cosine": 0.9, "max_abs": 1e9})
    assert found.loose == ("max_abs",)
    lost = {s.fault: s for s in found.survivors}
    assert "scaled_by_256" in lost
    survivor = lost["scaled_by_256"]
    assert "would catch it" in str(survivor) and survivor.would_catch is not None
    tighter = power_of(bench, 1e-5, {survivor.metric: survivor.would_catch})
    assert tighter.faults["scaled_by_256"] == "killed" and not tighter.false_alarms


def test_noise_hides_faults_and_power_says_so(bench: Bench) -> None:
    found = power_of(bench, 0.5, {"noise_ratio": 3.0})
    assert found.share < 1
    hidden = next(s for s in found.survivors if s.fault == "scaled_by_256")
    assert hidden.would_catch is None and "hidden in the noise" in str(hidden)


def test_limits_below_the_noise_raise_false_alarms(bench: Bench) -> None:
    found = power_of(bench, 1e-3, {"rel_rms": 1e-6})
    assert found.false_alarms and "benign" in str(found)


def test_goldens_that_add_no_power_are_named(bench: Bench) -> None:
    found = power_of(bench, 1e-5, {"rel_rms": 1e-4})
    assert found.cover and set(found.cover) | set(found.spare_cases) | set(found.idle_cases) == {
        f"case_{i}" for i in range(5)
    }
    assert len(found.cover) < 5


def test_the_report_is_plain_json(bench: Bench) -> None:
    found = power_of(bench, 1e-5, {"cosine": 0.9})
    assert json.loads(json.dumps(plain(found), allow_nan=False))["cell"] == "small-onnx-fp32"


def test_an_output_that_is_not_finite_is_noticed() -> None:
    contract = Contract((InputSpec("x", ("batch", 3)),), (OutputSpec("y"),))
    bench = Bench(torch.nn.Linear(3, 2), contract, [{"x": np.ones((1, 3), np.float32) * i} for i in range(3)], "fp32")
    found = power_of(bench, 1e-3, {"noise_ratio": 2.0}, ("one_not_finite",))
    assert found.faults == {"one_not_finite": "killed"}


@pytest.mark.parametrize(("metric", "value"), [("max_abs", 0.25), ("cosine", 0.99), ("sqnr", 40.0), ("top1", 0.9)])
def test_badness_and_figure_are_inverse(metric: str, value: float) -> None:
    assert math.isclose(figure(metric, badness(metric, value)), value)


def test_a_proposed_limit_lies_between_noise_and_fault() -> None:
    assert between("max_abs", 0.01, 1.0) == pytest.approx(0.1)
    assert between("sqnr", 80.0, 40.0) == pytest.approx(60.0)
    assert 0.9 < (between("cosine", 0.9999, 0.9) or 0) < 0.9999
    assert between("max_abs", 0.01, math.inf) is None


def test_a_part_of_a_gate_judges_its_cases_as_the_whole_does(bench: Bench) -> None:
    """The twin is right by chance on two cases: judged by what it costs on these alone, the right file would fail."""
    clean = bench.clean()
    lucky = noisy(clean, 1e-5)
    lucky[:2] = noisy(clean, 1e-9)[:2]
    ids = [f"case_{i}" for i in range(len(clean))]
    bounds = {"y": {m: Limit(m, 3.0, "the test") for m in ("noise_ratio", "noise_ratio_case", "noise_ratio_peak")}}
    gate = Gate(bench.subject.contract, ids, clean, lucky, "fp32", bounds)
    few = [0, 1]

    def by_case(rows: Rows, judged: Gate) -> dict[str, float | None]:
        return {c.case: c.value for c in judged.checks(rows) if c.metric == "noise_ratio_case" and c.case in ids[:2]}

    for rows in (noisy(clean, 2e-5), noisy(clean, 1e-3)):
        whole, part = by_case(rows, gate), by_case([rows[i] for i in few], gate.part(few))
        assert part == pytest.approx(whole) and len(part) == 2
    alone = Gate(bench.subject.contract, ids[:2], clean[:2], lucky[:2], "fp32", bounds)
    assert all(c.passed for c in gate.part(few).checks(noisy(clean, 2e-5)[:2]) if c.limit is not None)
    assert not all(c.passed for c in alone.checks(noisy(clean, 2e-5)[:2]) if c.limit is not None)


def test_a_fault_that_few_cases_show_is_tried_on_no_other_and_judged_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BENCHES["drawings"]("fp32")
    inputs = [*model.subject.inputs] * 2
    on = Bench(model.module, model.subject.contract, inputs)
    ran: list[int] = []
    rows = Bench._rows

    def counted(self: Bench, subject: Subject, chosen: list[int], dtype: torch.dtype) -> Rows:
        ran.append(len(chosen))
        return rows(self, subject, chosen, dtype)

    monkeypatch.setattr(Bench, "_rows", counted)
    monkeypatch.setattr(measuring, "bench", lambda *_: on)
    limits = {"y": {"noise_ratio_case": 3.0, "noise_ratio": 2.0}}
    cells = [CellGate(f"small-onnx-{p}", p, noisy(on.clean(), noise), limits)
             for p, noise in (("fp32", 1e-5), ("int8", 0.1))]  # fmt: skip
    ids = [f"case_{i}" for i in range(len(inputs))]

    def found(cells: list[CellGate]) -> tuple[list[CellPower], int]:
        ran.clear()
        request = PowerRequest(ModelSpec("", ""), on.subject.contract, inputs, ids, cells, faults=NAMES)
        return list(measuring.measure(request).cells), sum(ran)

    (staged, less), (_, once) = found(cells), found(cells[:1])
    monkeypatch.setattr(measuring, "FIRST", len(inputs))
    whole, more = found(cells)
    assert once < 0.8 * more < less, "the noisy cell needs all cases, the other does not"
    for a, b in zip(staged, whole, strict=True):
        assert (a.faults, a.equivalent, a.absent, a.survivors) == (b.faults, b.equivalent, b.absent, b.survivors)
        assert set(a.killed_by) <= set(b.killed_by)
        assert {*a.cover, *a.spare_cases, *a.idle_cases} == set(ids)
    assert staged[0].killed == 5 and "survived" in staged[1].faults.values()
