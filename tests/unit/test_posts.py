"""What is done before comparing: values, sets in another order, and what a lost member looks like."""

from __future__ import annotations

import numpy as np
import pytest

from parity.core.contract import OutputSpec
from parity.core.errors import ParityError
from parity.judging.compare import compare
from parity.judging.metrics import iou
from parity.judging.post_processing import (
    addressed,
    boxes,
    overlap,
    post_process,
    register_match,
    register_post,
    unregistered,
)

BOXES = np.array([[[0, 0, 10, 10, 0.9, 1], [20, 0, 30, 10, 0.8, 2], [20, 0, 30, 10, 0.7, 3], [0, 0, 0, 0, 0, 0.0]]])


def test_values_are_changed_on_both_sides() -> None:
    spec = (OutputSpec("y", post="softmax"),)
    row = {"y": np.array([[1.0, 2.0, 3.0]]), "z": np.ones(2)}
    want = post_process(spec, row)
    assert want.outputs["y"].sum() == pytest.approx(1) and want.outputs["z"] is row["z"]
    shifted = post_process(spec, {"y": row["y"] + 100}, want)
    assert compare(shifted.outputs["y"], want.outputs["y"], max_abs=1e-12)
    assert post_process((OutputSpec("y", post="argmax"),), row).outputs["y"].tolist() == [2]
    assert post_process((OutputSpec("y", post="sigmoid"),), {"y": np.array([-1e4, 0.0])}).outputs["y"].tolist() == [
        0,
        0.5,
    ]


def test_boxes_in_another_order_are_the_same_boxes() -> None:
    for order in ([2, 0, 3, 1], [3, 2, 1, 0]):
        np.testing.assert_array_equal(boxes(BOXES[:, order], BOXES), BOXES)
    noise = BOXES + np.where(BOXES > 0, 0.01, 0)
    assert np.abs(boxes(noise[:, ::-1], BOXES) - BOXES).max() <= 0.011


def test_a_lost_moved_or_renamed_box_shows() -> None:
    lost = BOXES.copy()
    lost[0, 0] = 0
    assert np.abs(boxes(lost[:, ::-1], BOXES) - BOXES).max() == 10
    moved = BOXES.copy()
    moved[0, 0, [0, 2]] += 50
    assert np.abs(boxes(moved, BOXES) - BOXES).max() >= 50
    renamed = BOXES.copy()
    renamed[0, 0, 5] = 7
    assert np.abs(boxes(renamed, BOXES) - BOXES).max() == 6
    invented = BOXES.copy()
    invented[0, 3] = [40, 40, 50, 50, 0.6, 1]
    assert np.abs(boxes(invented[:, ::-1], BOXES) - BOXES).max() == 50


def test_overlap_and_masks() -> None:
    assert overlap(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [5, 5, 6, 6], [0, 0, 0, 0]])).tolist() == [
        [1 / 3, 0, 0]
    ]
    a = np.array([[1.0, 1, 0, 0]])
    assert iou(a, a) == 1 and iou(np.array([[1.0, 0, 0, 0]]), a) == 0.5 and iou(a * 0, a * 0) == 1
    assert iou(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert compare(a, a, iou=0.98) and not compare(np.array([[1.0, 0, 0, 0]]), a, iou=0.98)


def test_projects_name_their_own() -> None:
    register_post("halved_for_this_test", lambda a: a / 2)
    register_match("sorted_for_this_test", lambda got, want: np.sort(got))
    spec = (OutputSpec("y", post="halved_for_this_test", match="sorted_for_this_test"),)
    want = post_process(spec, {"y": np.array([2.0, 4.0])})
    assert post_process(spec, {"y": np.array([4.0, 2.0])}, want).outputs["y"].tolist() == [1, 2]
    assert post_process((OutputSpec("y", post="numpy:negative"),), {"y": np.ones(1)}).outputs["y"].tolist() == [-1]
    fails = r"output y: post = 'numpy:linalg' fails on \[1\]"
    for bad, why in (("absent", "nobody registered"), ("numpy:absent", "absent"), ("numpy:linalg", fails)):
        with pytest.raises(ParityError, match=why):
            post_process((OutputSpec("y", post=bad),), {"y": np.ones(1)})
    assert unregistered(spec) == set() and unregistered((OutputSpec("y", post="a:b"),)) == {"a:b"}
    with pytest.raises(ParityError, match="taken"):
        register_post("softmax", lambda a: a)


def of_this_test(array: np.ndarray) -> np.ndarray:
    return array


def test_a_registered_function_has_a_name_that_another_process_can_import() -> None:
    register_post("addressed_for_this_test", of_this_test)
    register_post("unnamed_for_this_test", lambda a: a)
    specs = [OutputSpec("y", post=name) for name in ("softmax", "addressed_for_this_test", "unnamed_for_this_test")]
    specs.append(OutputSpec("y", match="my_pkg:match"))
    posts = [spec.post for spec in addressed(specs)]
    assert posts == ["softmax", f"{__name__}:of_this_test", "unnamed_for_this_test", None]
    assert addressed(specs)[-1] == specs[-1]
