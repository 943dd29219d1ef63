"""Real ONNX files that are right at every declared size and wrong at others, and right ones that go no further."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from parity.cases.sizes import (
    batches_beside,
    beyond,
    covering,
    crowds,
    equal_sizes,
    far_lengths,
    further,
    lengths_beside,
)
from parity.core.contract import Contract, InputSpec, OutputSpec
from tests.plugin.onnx_project import prepared
from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"


@pytest.mark.parametrize(
    ("sizes", "larger"),
    [((1, 2, 3, 5), 8), ((7, 12, 19), 29), ((320,), 480), ((224, 256, 288), 448), ((1,), 2), ((32, 7, 300), 450)],
)
def test_the_size_beyond_is_larger_by_half_and_keeps_what_the_declared_ones_are_multiples_of(
    sizes: tuple[int, ...], larger: int
) -> None:
    assert further(sizes) == larger


@pytest.mark.parametrize(
    ("factory", "wrong", "failing"),
    [
        ("picture", "rows", ["batch=8", "batch=17", "batch=32", "batch=64"]),
        ("picture", "four rows", ["batch=4"]),
        ("picture", "many rows", ["batch=17", "batch=32", "batch=64"]),
        ("picture", "32 rows", ["batch=32"]),
        ("picture", "64 rows", ["batch=64"]),
        ("steps", "steps", ["batch=1,steps=24", "batch=1,steps=48"]),
        ("steps", "many steps", ["batch=1,steps=48"]),
        ("steps", "one step", ["batch=1,steps=1"]),
        ("steps", "alike", ["batch=12,steps=12"]),
        ("view", "odd", ["batch=1,height=33,width=35", "batch=1,height=31,width=29"]),
        ("square_view", "tall", ["batch=1,height=96,width=64", "batch=1,height=31,width=29"]),
        ("square_view", "wide", ["batch=1,height=64,width=96", "batch=1,height=33,width=35"]),
    ],
)
def test_a_file_that_is_wrong_at_sizes_that_nobody_declared_fails(
    project: Project, factory: str, wrong: str, failing: list[str]
) -> None:
    run = prepared(project, factory, wrong).run("-k", "batch")
    (cell,) = run.record.cells
    assert run.code == 1 and {c.case for c in cell.checks if not c.passed} == set(failing), run.text
    for case in failing:
        assert any(f.text.startswith(f"{case} is none of the sizes in dims") for f in cell.findings), run.text


@pytest.mark.parametrize("factory", ["picture", "steps", "view"])
def test_a_right_file_passes_at_sizes_that_nobody_declared(project: Project, factory: str) -> None:
    run = prepared(project, factory).run("-k", "batch")
    assert run.code == 0 and {"batch=4", "batch=8", "batch=17"} <= {c.case for c in run.record.cells[0].checks}, (
        run.text
    )


@pytest.mark.parametrize(
    ("dims", "others"),
    [
        ({"h": (32,), "w": (32,)}, [{"h": 96, "w": 64}, {"h": 33, "w": 35}, {"h": 31, "w": 29}]),
        ({"h": (7, 12, 19), "w": (1,)}, [{"h": 2, "w": 29}, {"h": 8, "w": 4}, {"h": 6, "w": 1}]),
    ],
)
def test_lengths_beside_the_example_are_odd_and_both_axes_are_once_the_longer(
    dims: dict[str, tuple[int, ...]], others: list[dict[str, int]]
) -> None:
    contract = Contract((InputSpec("x", ("batch", 3, "h", "w")),), (OutputSpec("y"),), None, dims)
    assert lengths_beside(contract, beyond(contract)) == others
    assert batches_beside(contract, beyond(contract)) == [{"batch": 4}, {"batch": 17}]
    assert lengths_beside(contract, beyond(contract, ("h", "w"))) == []


@pytest.mark.parametrize(
    ("dims", "far", "alike"),
    [
        ({"h": (224,), "w": (224,)}, [1, 448, 896], 32),
        ({"h": (32, 7, 100), "w": (50,)}, [1, 200, 400], 50),
        ({"h": (3, 7), "w": (5, 4)}, [1, 14, 28], 3),
    ],
)
def test_sizes_far_from_the_declared_ones_are_one_and_more_and_those_alike_suit_every_axis(
    dims: dict[str, tuple[int, ...]], far: list[int], alike: int
) -> None:
    contract = Contract((InputSpec("x", ("batch", 3, "h", "w")),), (OutputSpec("y"),), None, dims)
    larger = beyond(contract)
    assert [sizes["h"] for sizes in far_lengths(contract, larger)] == far
    assert equal_sizes(contract, larger) == {"batch": alike, "h": alike, "w": alike}
    assert crowds(contract, larger) == [{"batch": 32}, {"batch": 64}]
    assert crowds(contract, {"h": 8}) == [] and far_lengths(contract, {}) == []
    assert equal_sizes(contract, {"h": 8}) == {}


def test_few_combinations_of_declared_sizes_are_all_tried() -> None:
    sizes = {"h": (16, 24, 32, 40), "w": (16, 24, 32, 40), "fixed": (7,)}
    tried = [{"batch": 1, "h": size, "w": size, "fixed": 7} for size in sizes["h"]]
    pairs = {(dims["h"], dims["w"]) for dims in covering(sizes, tried)}
    assert len(pairs) == 12 and (24, 40) in pairs and (16, 16) not in pairs
    assert covering({"h": (16, 24), "fixed": (7,)}, []) == []


def test_of_many_combinations_every_two_sizes_of_two_axes_meet() -> None:
    sizes = {"h": (16, 24, 32), "w": (8, 9, 10), "t": (1, 2, 3)}
    chosen = covering(sizes, [{"h": 16, "w": 8, "t": 1}])
    assert len(chosen) <= 14
    for a, b in itertools.combinations(sizes, 2):
        met = {(dims[a], dims[b]) for dims in chosen} | {(sizes[a][0], sizes[b][0])}
        assert met == set(itertools.product(sizes[a], sizes[b]))


def test_a_file_that_is_wrong_at_one_declared_pair_fails(project: Project) -> None:
    dims = "dims = { height = [16, 24, 32, 40], width = [16, 24, 32, 40] }"
    run = prepared(project, "view", "pair", dims).run("-k", "batch")
    (cell,) = run.record.cells
    assert run.code == 1 and {c.case for c in cell.checks if not c.passed} == {"batch=1,height=24,width=40"}, run.text


def test_a_batch_of_many_large_rows_is_not_tried_and_says_so(project: Project) -> None:
    prepared(project, "view")
    for path in (project.path / "golden").rglob("*.npz"):
        np.savez(path, view=np.random.default_rng(0).uniform(0, 1, (1, 3, 160, 160)).astype(np.float32))
    run = project.run("-k", "batch")
    (cell,) = run.record.cells
    assert run.code == 0 and "batch=17" not in {check.case for check in cell.checks}, run.text
    assert any(f.text.startswith("batch=17, none of the sizes in dims, was not measured") for f in cell.findings), (
        run.text
    )


def test_a_size_that_the_model_itself_refuses_says_nothing(project: Project) -> None:
    run = prepared(project, "few_steps").run("-k", "batch")
    notes = [f.text for f in run.record.cells[0].findings if "was not measured" in f.text]
    assert run.code == 0 and len(notes) == 1 and "steps=24, none of the sizes in dims" in notes[0], run.text
