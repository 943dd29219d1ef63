"""What is suggested for a prebuilt file that calls or lays out a tensor otherwise: what fits, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from parity.core.contract import Contract, InputSpec, OutputSpec
from parity.suite import hint

IMAGE = InputSpec("image", ("batch", 3, 8, "width"))
CONTRACT = Contract((IMAGE,), (OutputSpec("y"),), dims={"width": (6, 9)})


@pytest.mark.parametrize(
    ("candidates", "part"),
    [
        (["x0"], "the file's 'x0' is the model's 'image': --tensor image=x0 "),
        (["x0", "x1"], "one of x0, x1: --tensor image=THEIRS "),
        ([], "nothing else"),
    ],
)
def test_another_name(candidates: list[str], part: str) -> None:
    assert part in hint.renamed("image", candidates, "inputs")


def test_the_hint_says_where_in_the_table_it_goes() -> None:
    said = hint.renamed("y", ["theirs"], "outputs")
    assert said.endswith('(in a table: artifacts."..." = { ..., outputs = { "y" = { name = "theirs" } } })')


@pytest.mark.parametrize(
    ("name", "shape", "part"),
    [
        ("image", [1, 3, 8, 6], "--fixed"),
        ("image", [None, 3, 8, 6], "--fixed"),
        ("image", [None, 8, None, 3], "--tensor image=:NHWC "),
        ("img", [1, 8, 6, 3], '..., inputs = { "image" = { name = "img", layout = "NHWC" } } })'),
        ("image", [1, 8, 6, 3], "at one size: --fixed"),
    ],
)
def test_another_layout_or_one_size(name: str, shape: list[int | None], part: str) -> None:
    assert part in hint.reshaped(CONTRACT, IMAGE, {"name": name, "shape": shape})


@pytest.mark.parametrize("shape", [[1, 3, 8, 9], [1, 3, 8], [1, 6, 8, 3], [2, 3, 8, 6]])
def test_what_neither_explains_gets_no_hint(shape: list[int]) -> None:
    assert hint.reshaped(CONTRACT, IMAGE, {"name": "image", "shape": shape}) == ""


def test_a_layout_that_is_given_is_not_suggested_again() -> None:
    said = hint.reshaped(CONTRACT, IMAGE, {"name": "image", "shape": [1, 8, 6, 3]}, "NHWC")
    assert "--fixed" in said and "--tensor" not in said


@pytest.mark.parametrize(
    ("have", "want", "part"),
    [
        ((1, 82, 2), (1, 2, 82), "it looks like NLC: --tensor y=theirs:NLC "),
        ((1, 6, 9, 3), (1, 3, 6, 9), 'layout = "NHWC"'),
        ((1, 4, 5, 6, 3), (1, 3, 4, 5, 6), 'layout = "NDHWC"'),
    ],
)
def test_the_layout_of_an_output(have: tuple[int, ...], want: tuple[int, ...], part: str) -> None:
    assert part in hint.turned("y", "theirs", have, want)


@pytest.mark.parametrize("have", [(1, 2, 82), (1, 164), (1, 82, 3), (82, 1, 2)])
def test_an_output_of_another_shape_gets_no_layout(have: tuple[int, ...]) -> None:
    assert hint.turned("y", "y", have, (1, 2, 82)) == ""
    assert hint.turned("y", "y", (2, 3), (3, 2)) == ""


@pytest.mark.parametrize(
    ("shape", "enumerated", "part"),
    [
        (
            (1, 3, 8, 9),
            {},
            "it has width = 9, and this file only 6: say which the app uses, dims = { width = [9, ...] }",
        ),
        ((4, 3, 8, 6), {}, "it has batch = 4, and this file only 1: store one row a case"),
        ((1, 3, 8, 7), {"width": [6, 9]}, "this file only 6, 9"),
        ((1, 3, 8, 9), {"width": [6, 9]}, ""),
        ((1, 3, 8, 6), {}, ""),
    ],
)
def test_a_case_of_a_size_that_the_file_lacks(
    shape: tuple[int, ...], enumerated: dict[str, list[int]], part: str
) -> None:
    said = hint.unheld(
        CONTRACT, {"fixed": {"image": [1, 3, 8, 6]}, "enumerated": enumerated}, {"image": np.zeros(shape)}
    )
    assert part in said and bool(part) == bool(said)


def test_a_file_of_any_size_lacks_none() -> None:
    assert hint.unheld(CONTRACT, {}, {"image": np.zeros((4, 3, 8, 9))}) == ""
