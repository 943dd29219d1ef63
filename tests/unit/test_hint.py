"""What is suggested for a prebuilt file that calls or lays out a tensor otherwise: what fits, and nothing else."""

from __future__ import annotations

import pytest

from parity.contract import Contract, InputSpec, OutputSpec
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
    assert part in hint.renamed("image", candidates)


@pytest.mark.parametrize(
    ("name", "shape", "part"),
    [
        ("image", [1, 3, 8, 6], "--fixed"),
        ("image", [None, 3, 8, 6], "--fixed"),
        ("image", [None, 8, None, 3], "--tensor image=:NHWC "),
        ("img", [1, 8, 6, 3], '--tensor image=img:NHWC (in a table: "image" = { name = "img", layout = "NHWC" })'),
    ],
)
def test_another_layout_or_one_size(name: str, shape: list[int | None], part: str) -> None:
    assert part in hint.reshaped(CONTRACT, IMAGE, {"name": name, "shape": shape})


@pytest.mark.parametrize("shape", [[1, 3, 8, 9], [1, 3, 8], [1, 6, 8, 3], [2, 3, 8, 6]])
def test_what_neither_explains_gets_no_hint(shape: list[int]) -> None:
    assert hint.reshaped(CONTRACT, IMAGE, {"name": "image", "shape": shape}) == ""
