"""A file for each enumerated size: the first has the plain name, axes go together."""

from __future__ import annotations

from parity.formats.lengths import enumerated, named, variants

CONTRACT = {
    "inputs": [
        {"name": "x", "shape": ["batch", "time", 3], "dtype": "float32", "range": [-1, 1]},
        {"name": "ids", "shape": ["batch", "words"], "dtype": "int32", "range": None},
    ],
    "sizes": {"batch": [2, 3], "time": [4, 9, 1], "words": [5, 7, 6]},
}


def test_without_enumerated_axes_there_is_the_example_alone() -> None:
    assert variants(CONTRACT, {}) == {"": {}} and enumerated(CONTRACT) == {}


def test_every_size_has_an_example_and_the_batch_stays() -> None:
    made = variants({**CONTRACT, "enumerated": ["time"]}, {})
    assert list(made) == ["", "_9", "_1"]
    assert {n: v.shape for n, v in made["_9"].items()} == {"x": (2, 9, 3), "ids": (2, 5)}


def test_several_axes_go_together() -> None:
    made = variants({**CONTRACT, "enumerated": ["time", "words"]}, {})
    assert list(made) == ["", "_9_7", "_1_6"]
    assert {n: v.shape for n, v in made["_1_6"].items()} == {"x": (2, 1, 3), "ids": (2, 6)}
    assert made["_1_6"]["ids"].dtype == "int32"


def test_names_carry_the_size() -> None:
    assert (named("model.tflite", ""), named("model.tflite", "_100")) == ("model.tflite", "model_100.tflite")
