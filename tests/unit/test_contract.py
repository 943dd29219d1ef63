"""Shapes with symbolic dimensions, the sizes that are tried for them, and which input a picture fills."""

from __future__ import annotations

import math

import pytest

from parity.core.contract import BATCH_SIZES, OTHER_SIZES, Contract, InputSpec, OutputSpec
from parity.core.errors import ConfigError

IMAGE = InputSpec("image", ("batch", 3, 24, 20))
OUT = (OutputSpec("y"),)


def test_sized_fills_every_symbol() -> None:
    spec = InputSpec("ids", ("batch", "time", 4))
    assert spec.sized({"batch": 2, "time": 7}) == (2, 7, 4)
    with pytest.raises(KeyError):
        spec.sized({"batch": 2})


@pytest.mark.parametrize(("kind", "decides"), [
    ("logits", True), ("probs", True), ("dense", False), ("boxes", False), ("embedding", False),
])  # fmt: skip
def test_which_outputs_decide(kind: str, decides: bool) -> None:
    assert OutputSpec("y", kind).decides is decides  # type: ignore[arg-type]


def test_the_example_takes_the_first_size_of_each_dimension() -> None:
    contract = Contract((InputSpec("ids", ("batch", "time")),), OUT)
    assert contract.sizes() == {"batch": BATCH_SIZES, "time": OTHER_SIZES}
    assert contract.example() == {"batch": 1, "time": OTHER_SIZES[0]}


def test_declared_sizes_come_first() -> None:
    contract = Contract((InputSpec("ids", ("batch", "time")),), OUT, dims={"time": (4, 9), "batch": (6,)})
    assert contract.sizes() == {"batch": (6,), "time": (4, 9)}
    assert contract.example() == {"batch": 6, "time": 4}


def test_without_symbols_there_is_nothing_to_try() -> None:
    contract = Contract((InputSpec("x", (1, 3)),), OUT)
    assert contract.sizes() == {} and contract.example() == {}


def test_sizes_are_pairwise_distinct_so_that_a_swap_shows() -> None:
    sizes = (*BATCH_SIZES, *OTHER_SIZES)
    assert len(set(sizes)) == len(sizes) and all(math.gcd(a, 19) in (1, 19) for a in sizes)
    assert BATCH_SIZES[0] == 1


@pytest.mark.parametrize(("shapes", "dim", "batch"), [
    ([("batch", 3)], "batch", True),
    ([("n", 3), ("n", 4)], "n", True),
    ([("batch", 3), (3, "batch")], "batch", False),
    ([("rows", 3)], "rows", False),
    ([(3, "batch")], "batch", False),
    ([("batch", 3), (7,)], "batch", True),
])  # fmt: skip
def test_what_counts_as_the_batch(shapes: list[tuple[int | str, ...]], dim: str, batch: bool) -> None:
    contract = Contract(tuple(InputSpec(f"x{i}", s) for i, s in enumerate(shapes)), OUT)
    assert contract.is_batch(dim) is batch


def test_a_leading_dimension_by_another_name_gets_other_sizes() -> None:
    assert Contract((InputSpec("x", ("rows", 3)),), OUT).sizes() == {"rows": OTHER_SIZES}


def test_the_picture_goes_to_the_only_input_with_four_dimensions() -> None:
    assert Contract((InputSpec("ids", ("batch", 4)), IMAGE), OUT).picture_input() is IMAGE


@pytest.mark.parametrize("inputs", [(), (InputSpec("ids", (1, 4)),), (IMAGE, InputSpec("second", (1, 1, 8, 9)))])
def test_pictures_need_exactly_one_such_input(inputs: tuple[InputSpec, ...]) -> None:
    with pytest.raises(ConfigError, match="exactly one 4-D input"):
        Contract(inputs, OUT).picture_input()
