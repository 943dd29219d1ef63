"""Cells and the plan: the id grammar, narrowing, and parts that hold every cell exactly once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity import formats
from parity.core.errors import ConfigError
from parity.core.plan import PRECISIONS, Cell, Plan, PlannedCell, check_model_name, choose, did_you_mean

TARGETS = formats.names()

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: not any(token in name for token in (*TARGETS, *PRECISIONS))
)
CELLS = st.builds(Cell, NAMES, st.sampled_from(TARGETS), st.sampled_from(PRECISIONS))


def plan(*ids: str, partial: str | None = None) -> Plan:
    return Plan(tuple(PlannedCell(Cell.parse(i, TARGETS), ("golden",), cases=3) for i in ids), partial)


SMALL = plan("skin-onnx-fp32", "skin-onnx-int8", "skin-tflite-fp32", "det-onnx-fp32", "det-tflite-int8")


@given(CELLS)
def test_every_cell_is_read_back_from_its_id(cell: Cell) -> None:
    assert Cell.parse(cell.id, TARGETS) == cell and str(cell) == cell.id


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("skin", "is not a cell"),
        ("skin-onnx", "is not a cell"),
        ("skin-onnx-fp32-x", "is not a cell"),
        ("", "is not a cell"),
        ("--", "model name ''"),
        ("Skin-onnx-fp32", "lower-case"),
        ("skin-onx-fp32", "did you mean 'onnx'"),
        ("skin-onnx-fp23", "did you mean 'fp32'"),
        ("skin-onnx-FP32", "unknown precision"),
        ("onnxskin-onnx-fp32", "ambiguous"),
        ("skin\n-onnx-fp32", "lower-case"),
        ("skin-onnx-fp32\n", "unknown precision"),
    ],
)
def test_what_is_no_cell(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Cell.parse(text, TARGETS)


@pytest.mark.parametrize("token", [*TARGETS, *PRECISIONS])
def test_no_name_may_hold_a_word_that_selects(token: str) -> None:
    for name in (token, f"a{token}", f"{token}9", f"a_{token}_b"):
        with pytest.raises(ConfigError, match="ambiguous"):
            check_model_name(name, TARGETS)


def test_a_registered_target_is_a_word_that_selects_too() -> None:
    check_model_name("myrknn", TARGETS)
    with pytest.raises(ConfigError, match="ambiguous"):
        check_model_name("myrknn", (*TARGETS, "rknn"))
    assert Cell.parse("skin-rknn-fp32", (*TARGETS, "rknn")).target == "rknn"


def test_choose_says_what_is_known() -> None:
    assert choose("x", "a", ("a", "b")) == "a"
    with pytest.raises(ConfigError, match=r"unknown x 'c'; known: a, b"):
        choose("x", "c", ("a", "b"))


@pytest.mark.parametrize(("word", "answer"), [("onx", " (did you mean 'onnx'?)"), ("zzz", ""), ("", "")])
def test_did_you_mean(word: str, answer: str) -> None:
    assert did_you_mean(word, TARGETS) == answer


def test_the_plan_is_looked_up_by_id() -> None:
    assert SMALL["det-onnx-fp32"].cell == Cell("det", "onnx", "fp32")
    with pytest.raises(KeyError):
        SMALL["det-onnx-fp16"]


# Narrowing.


@pytest.mark.parametrize(
    ("chosen", "left", "note"),
    [
        ({"models": ("det",)}, ["det-onnx-fp32", "det-tflite-int8"], "models det"),
        ({"targets": ("tflite",)}, ["skin-tflite-fp32", "det-tflite-int8"], "targets tflite"),
        ({"precisions": ("int8",)}, ["skin-onnx-int8", "det-tflite-int8"], "precisions int8"),
        ({"models": ("skin",), "targets": ("onnx",), "precisions": ("fp32",)}, ["skin-onnx-fp32"],
         "models skin; targets onnx; precisions fp32"),
        ({"targets": ("tflite", "onnx")}, [p.cell.id for p in SMALL.cells], "targets tflite, onnx"),
    ],
)  # fmt: skip
def test_narrowing_keeps_order_and_says_how(chosen: dict[str, tuple[str, ...]], left: list[str], note: str) -> None:
    narrowed = SMALL.narrow(**chosen)
    assert [p.cell.id for p in narrowed.cells] == left and narrowed.partial == note


def test_narrowing_by_nothing_is_the_whole_plan() -> None:
    assert SMALL.narrow(models=(), targets=(), precisions=()) == SMALL


def test_a_name_that_is_not_in_the_plan_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown target 'onx' \(did you mean 'onnx'\?\)"):
        SMALL.narrow(targets=("onx",))
    with pytest.raises(ConfigError, match="unknown target 'coreml'"):
        SMALL.narrow(targets=("coreml",))


def test_narrowing_to_no_cell_is_refused() -> None:
    with pytest.raises(ConfigError, match="no cell of the plan has models skin; precisions int8; targets tflite"):
        SMALL.narrow(models=("skin",), precisions=("int8",), targets=("tflite",))


def test_narrowing_twice_says_both() -> None:
    assert SMALL.narrow(models=("det",)).narrow(targets=("onnx",)).partial == "models det; targets onnx"


# Sharding.

COSTS = st.floats(0, 1e6, allow_nan=False)


@given(st.lists(CELLS, min_size=1, max_size=30, unique=True), st.integers(1, 9), st.data())
def test_every_cell_is_in_exactly_one_part(cells: list[Cell], n: int, data: st.DataObject) -> None:
    cost = data.draw(st.dictionaries(st.sampled_from([c.id for c in cells]), COSTS))
    whole = Plan(tuple(PlannedCell(c, ("golden",)) for c in cells))
    parts = [whole.shard(k, n, cost) for k in range(1, n + 1)]
    assert sorted(p.cell.id for part in parts for p in part.cells) == sorted(c.id for c in cells)
    order = [c.id for c in cells]
    for part in parts:
        places = [order.index(p.cell.id) for p in part.cells]
        assert places == sorted(places)


@given(st.lists(CELLS, min_size=1, max_size=30, unique=True), st.integers(1, 9), st.data())
def test_parts_are_balanced(cells: list[Cell], n: int, data: st.DataObject) -> None:
    cost = {c.id: data.draw(st.floats(0.1, 100)) for c in cells}
    whole = Plan(tuple(PlannedCell(c, ("golden",)) for c in cells))
    loads = [sum(cost[p.cell.id] for p in whole.shard(k, n, cost).cells) for k in range(1, n + 1)]
    assert max(loads) - min(loads) <= max(cost.values()) + 1e-6


def test_without_costs_the_parts_differ_by_one_cell_at_most() -> None:
    for n in range(1, 8):
        sizes = [len(SMALL.shard(k, n).cells) for k in range(1, n + 1)]
        assert sum(sizes) == 5 and max(sizes) - min(sizes) <= 1


def test_a_cell_of_unknown_cost_counts_as_the_usual_one() -> None:
    cost = {"skin-onnx-fp32": 10.0, "skin-onnx-int8": 10.0, "skin-tflite-fp32": 10.0}
    assert sorted(len(SMALL.shard(k, 5, cost).cells) for k in range(1, 6)) == [1, 1, 1, 1, 1]


def test_sharding_does_not_depend_on_the_order_of_the_plan() -> None:
    turned = Plan(tuple(reversed(SMALL.cells)))
    for k in (1, 2):
        assert {p.cell for p in SMALL.shard(k, 2).cells} == {p.cell for p in turned.shard(k, 2).cells}


def test_a_part_says_that_it_is_one() -> None:
    assert SMALL.shard(2, 3).partial == "shard 2/3"
    assert SMALL.narrow(models=("skin",)).shard(1, 2).partial == "models skin; shard 1/2"


@pytest.mark.parametrize(("k", "n"), [(0, 2), (3, 2), (-1, 2), (1, 0)])
def test_a_part_that_does_not_exist_is_refused(k: int, n: int) -> None:
    with pytest.raises(ConfigError, match="K must be from 1 to N"):
        SMALL.shard(k, n)
