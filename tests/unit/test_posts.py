"""What is done before comparing: values, sets in another order, and what a lost member looks like."""

from __future__ import annotations

import numpy as np
import pytest

from parity.core.contract import OutputSpec
from parity.core.errors import ParityError
from parity.judging.compare import compare
from parity.judging.post_processing import boxes, iou, overlap, register_match, register_post, seen

BOXES = np.array([[[0, 0, 10, 10, 0.9, 1], [20, 0, 30, 10, 0.8, 2], [20, 0, 30, 10, 0.7, 3], [0, 0, 0, 0, 0, 0.0]]])


def test_values_are_changed_on_both_sides() -> None:
    spec = (OutputSpec("y", post="softmax"),)
    row = {"y": np.array([[1.0, 2.0, 3.0]]), "z": np.ones(2)}
    want = seen(spec, row)
    assert want["y"].sum() == pytest.approx(1) and want["z"] is row["z"]
    shifted = seen(spec, {"y": row["y"] + 100}, want)
    assert compare(shifted["y"], want["y"], max_abs=1e-12)
    assert seen((OutputSpec("y", post="argmax"),), row)["y"].tolist() == [2]
    assert seen((OutputSpec("y", post="sigmoid"),), {"y": np.array([-1e4, 0.0])})["y"].tolist() == [0, 0.5]


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
    assert seen(spec, {"y": np.array([4.0, 2.0])}, {"y": np.array([1.0, 2.0])})["y"].tolist() == [1, 2]
    assert seen((OutputSpec("y", post="numpy:negative"),), {"y": np.ones(1)})["y"].tolist() == [-1]
    for bad, why in (("absent", "nobody registered"), ("numpy:absent", "absent")):
        with pytest.raises(ParityError, match=why):
            seen((OutputSpec("y", post=bad),), {"y": np.ones(1)})
    with pytest.raises(ParityError, match="taken"):
        register_post("softmax", lambda a: a)
