"""Shards of one plan make one record; a missing, doubled or foreign one never makes a pass."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.commands.gate import judged
from parity.core.errors import ParityError
from parity.core.plan import Cell, Plan, PlannedCell
from parity.core.record import CellRecord, Check, Environment, RunRecord, dumps, loads
from parity.judging import gate
from parity.judging.shards import merge

WHOLE = Plan(tuple(PlannedCell(Cell("skin", t, p), ("golden",), cases=1, outputs=("logits",))
                   for t in ("onnx", "tflite", "ncnn") for p in ("fp32", "fp16")))  # fmt: skip

ORIGIN = {"commit": "c0ffee", "golden data of skin": "60"}
MODELS = {"skin": {"source": "5", "weights": "3"}}


def measured(planned: PlannedCell, value: float = 1.0) -> CellRecord:
    cell = planned.cell
    check = Check("golden", "a", "logits", "noise_ratio", value, 2.0, "max", value <= 2)
    return gate.settle(
        CellRecord(
            cell.id, cell.model, cell.target, cell.precision, "missing",
            planned=("golden",), measured=("golden",), planned_cases=1, planned_outputs=("logits",), checks=(check,),
        )
    )  # fmt: skip


def shard(k: int, n: int, *, plan: Plan = WHOLE, value: float = 1.0, text: str = "") -> RunRecord:
    part = plan.shard(k, n, configuration=text)
    assert part.part is not None
    made = replace(part.part, origin=ORIGIN, models=MODELS)
    cells = tuple(measured(p, value) for p in part.cells)
    record = RunRecord(
        "incomplete", cells, Environment("3.11.7", {"torch": "2.13.0"}, "linux"), partial=part.partial, shard=made
    )
    return gate.judge(record)


def named(*records: RunRecord) -> list[tuple[str, RunRecord]]:
    return [(f"{chr(97 + i)}.json", r) for i, r in enumerate(records)]


def test_shards_that_converted_with_another_lock_are_no_one_run() -> None:
    first, second = shard(1, 2), shard(2, 2)

    def made_with(record: RunRecord, **chains: str) -> RunRecord:
        return replace(record, environment=replace(record.environment, toolchains=chains))

    fdb8, af44 = "fdb8ba4ebe9e, Python 3.11.7", "af44a3f03537, Python 3.11.7"
    with pytest.raises(ParityError, match=r"b.json: converted with toolchain onnx2tf af44.*, and a.json with fdb8"):
        merge(named(made_with(first, onnx2tf=fdb8), made_with(second, onnx2tf=af44)))
    merged = merge(named(made_with(first, onnx2tf=fdb8), made_with(second)))  # one that does without it
    assert judged(merged).verdict == "pass"


@given(st.integers(1, 6), st.randoms())
def test_all_parts_in_any_order_are_the_whole_plan(n: int, order: random.Random) -> None:
    parts = [loads(dumps(shard(k, n))) for k in range(1, n + 1)]
    order.shuffle(parts)
    merged = judged(merge(named(*parts)))
    assert [c.id for c in merged.cells] == [p.cell.id for p in WHOLE.cells]
    assert merged.verdict == "pass" and merged.partial is None and merged.shard is None


def test_one_part_alone_is_partial() -> None:
    assert shard(1, 2).verdict == "partial"


def test_a_failing_part_fails_the_whole() -> None:
    merged = merge(named(shard(1, 2), shard(2, 2, value=3.0)))
    assert merged.verdict == "fail" and "noise_ratio 3 > 2" in merged.cells[1].reason + merged.cells[0].reason


@pytest.mark.parametrize("absent", [1, 2, 3])
def test_a_missing_part_is_incomplete_and_says_which(absent: int) -> None:
    merged = judged(merge(named(*(shard(k, 3) for k in (1, 2, 3) if k != absent))))
    assert merged.verdict == "incomplete" and gate.exit_code(merged) == 1
    lost = [c for c in merged.cells if c.state == "missing"]
    assert len(lost) == 2 and {c.reason for c in lost} == {f"shard {absent}/3 was not given"}


def test_a_cell_that_a_part_lost_is_missing() -> None:
    first = shard(1, 2)
    merged = judged(merge(named(replace(first, cells=first.cells[1:]), shard(2, 2))))
    assert merged.verdict == "incomplete" and first.cells[0].id in merged.reason


def test_a_narrowed_plan_stays_narrowed() -> None:
    plan = WHOLE.narrow(targets=("onnx", "tflite"))
    merged = merge(named(shard(1, 2, plan=plan), shard(2, 2, plan=plan)))
    assert merged.verdict == "partial" and merged.partial == "targets onnx, tflite"


FIRST = shard(1, 2)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (shard(1, 2), "b.json: shard 1/2 is given twice, also by a.json"),
        (shard(2, 3), "b.json: a shard of another plan"),
        (shard(2, 2, text="other limits"), "b.json: a shard of another plan"),
        (shard(2, 2, plan=WHOLE.narrow(targets=("onnx",))), "b.json: a shard of another plan"),
        (replace(shard(2, 2), profile="quick"), "b.json: a shard of another plan"),
        (replace(shard(2, 2), shard=None), "b.json: not the record of a shard"),
        (replace(shard(2, 2), environment=Environment("3.11.7", {"torch": "2.12.0"}, "linux")), "torch 2.12.0"),
        (replace(shard(2, 2), environment=Environment("3.12.0", {"torch": "2.13.0"}, "linux")), "Python 3.12.0"),
        (replace(shard(2, 2), cells=FIRST.cells), "was measured by another shard too"),
        (replace(shard(2, 2), cells=(replace(FIRST.cells[0], id="skin-onnx-int8"),)), "is not in the plan"),
    ],
)
def test_what_does_not_belong_together_is_refused(other: RunRecord, message: str) -> None:
    with pytest.raises(ParityError, match=message):
        merge(named(FIRST, other))


@pytest.mark.parametrize(
    "forged",
    [{"part": 0}, {"part": 3}, {"parts": 10**12}, {"parts": -1}, {"cells": ("skin",)}],
)
def test_a_shard_that_no_plan_has_is_refused_at_once(forged: dict[str, object]) -> None:
    assert FIRST.shard is not None
    with pytest.raises(ParityError, match="of cells that no plan has: parity did not make it"):
        merge(named(replace(FIRST, shard=replace(FIRST.shard, **forged))))


def of(record: RunRecord, processor: str = "", **changed: object) -> RunRecord:
    assert record.shard is not None
    place = replace(record.environment, processor=processor)
    return replace(record, shard=replace(record.shard, **changed), environment=place)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (of(shard(2, 2), origin={**ORIGIN, "commit": "dead"}), r"another commit than a.json \(dead and c0ffee\): run"),
        (of(shard(2, 2), origin={**ORIGIN, "golden data of skin": "61"}), "another golden data of skin"),
        (of(shard(2, 2), origin={"golden data of skin": "60"}), r"another commit than a.json \(none and c0ffee\)"),
        (of(shard(2, 2), origin={**ORIGIN, "artefact b-onnx-fp32": "1"}), "another artefact b-onnx-fp32"),
        (of(shard(2, 2), origin={}), "b.json: does not say which commit and files it was made from"),
        (of(shard(2, 2), models={"skin": {"source": "5", "weights": "4"}}), "another model skin, by its weights,"),
        (of(shard(2, 2), "other", models={"skin": {"source": "6"}}), "another model skin, by its source,"),
    ],
)
def test_a_shard_that_was_made_from_something_else_is_refused(other: RunRecord, message: str) -> None:
    with pytest.raises(ParityError, match=message):
        merge(named(FIRST, other))


def test_a_file_that_models_of_both_shards_read_is_the_same_in_both() -> None:
    first, second = (replace(shard(k, 2), read={"w.npz": "1", f"{k}.npz": str(k)}) for k in (1, 2))
    assert merge(named(first, second)).read == {"w.npz": "1", "1.npz": "1", "2.npz": "2"}
    changed = replace(second, read={"w.npz": "2"})
    with pytest.raises(ParityError, match=r"b.json: made from another w.npz, which a model reads, than a.json"):
        merge(named(first, changed))


@pytest.mark.parametrize(
    "other",
    [
        of(shard(2, 2), models={}),
        of(shard(2, 2), models={"pose": {"weights": "4"}}),
        of(shard(2, 2), "another processor", models={"skin": {"source": "5", "weights": "4"}}),
    ],
)
def test_what_only_one_shard_knows_and_what_a_processor_rounds_are_no_difference(other: RunRecord) -> None:
    assert merge(named(FIRST, other)).verdict == "pass"


def test_nothing_is_not_a_pass() -> None:
    with pytest.raises(ParityError, match="nothing to merge"):
        merge([])
