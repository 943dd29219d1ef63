"""Ties: what a right file may decide otherwise is no error, and a file that is wrong gets nothing by it."""

from __future__ import annotations

import numpy as np
import pytest

from parity.core.contract import OutputSpec
from parity.core.plan import Cell
from parity.core.record import Check
from parity.judging import single
from parity.judging.check_cases import check_cases
from parity.judging.floor import floor
from parity.judging.judge import check_lost
from parity.judging.limits import BUILT_IN, Limit, fallback, resolve
from parity.judging.post_processing import PostProcessed
from parity.judging.ties import JUMP, MOVED, excused, largest_jump, tied, with_jumps

IDS = np.array([[3, 1, 4, 1]])
TRIES = [np.array([[3, 1, 1, 4]]), IDS]  # the last two are a tie
SCORES = np.array([[0.9, 0.5, 0.2]])


def ids_of(got: np.ndarray, tries: list[np.ndarray], **limits: Limit) -> Check:
    """The check of class ids, with the tries of tie breakers."""
    spec = OutputSpec("ids")
    in_force = {"ids": {"differing_share": Limit("differing_share", 0.05, BUILT_IN), **limits}}
    alternatives = [[PostProcessed({"ids": each})] for each in tries]
    judged = check_cases(
        "golden", [spec], ["a"], [{"ids": got}], [PostProcessed({"ids": IDS})], {}, in_force, fallback("fp16"),
        alternatives=alternatives,
    )  # fmt: skip
    (check,) = [check for check in judged.checks if check.metric == "differing_share"]
    return check


def test_class_ids_are_counted_and_not_measured() -> None:
    check = ids_of(np.array([[3, 1, 4, 100]]), [])
    assert check.value == 0.25 and not check.passed
    assert check.detail == "1 of 4 elements differ"


def test_ties_are_no_error_and_anything_else_is() -> None:
    swapped = ids_of(TRIES[0], TRIES)
    assert swapped.value == 0 and swapped.passed
    assert swapped.detail == "2 of 4 elements differ, 2 of them ties at this precision"
    assert ids_of(np.array([[1, 3, 4, 1]]), TRIES).value == 0.5


def test_what_every_try_decides_otherwise_is_lost_and_no_tie() -> None:
    assert not tied(IDS, TRIES[:1]).any()
    assert ids_of(TRIES[0], TRIES[:1]).value == 0.5


def test_what_the_tries_decide_in_several_ways_is_a_tie_among_many() -> None:
    """Scores that are all 1.0 in float32: every try has another order, and none has the oracle's first."""
    tries = [np.array([[1, 3, 4, 2]]), np.array([[4, 1, 3, 2]])]
    assert not tied(IDS, tries)[0, 0]
    assert tied(IDS, tries, among_many=True)[0, 0]
    assert not tied(IDS, [tries[0], tries[0]], among_many=True).any()


# Labels of the best twenty places of a flat picture, whose scores are one: by the oracle, and by tries of tie breakers.
RANKS = np.array([[3, 3, 2, 3, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 2, 2, 2, 3, 3, 3]])
REORDERED = [
    np.array([[3, 2, 3, 2, 2, 2, 3, 2, 2, 2, 2, 3, 2, 2, 2, 3, 2, 2, 2, 3]]),
    np.array([[2, 3, 3, 2, 2, 3, 2, 2, 2, 2, 2, 2, 3, 2, 2, 2, 2, 3, 3, 3]]),
    np.array([[3, 3, 2, 2, 2, 2, 2, 3, 2, 2, 2, 2, 3, 2, 2, 3, 2, 2, 3, 3]]),
    np.array([[3, 2, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 2, 2, 3, 2, 3, 2]]),
]


def _drawn(got: np.ndarray, precision: str = "fp32") -> float:
    """The share of the ranks of a flat picture that is wrong, after the tie breakers."""
    usual = single.Usual(1e-7, 1e-7, 1.0, precision)
    return single.settle_tie(single.judge(got, RANKS, usual), got, RANKS, REORDERED, usual).ratio


def test_an_order_among_many_equals_decides_nothing() -> None:
    """The fifth rank keeps its label in every try, for most places have that one."""
    got = np.array([[3, 3, 2, 2, 3, 2, 2, 2, 2, 2, 2, 2, 3, 2, 2, 2, 2, 3, 3, 2]])
    assert not any((other[0, 4] != RANKS[0, 4]) for other in REORDERED)
    assert _drawn(got) == 0 and _drawn(got, "fp16") == 0


def test_other_labels_among_many_equals_are_wrong() -> None:
    swapped = np.where(RANKS == 3, 2, 3)  # a label fault holds other numbers of each
    assert _drawn(swapped) > 0
    assert _drawn(np.where(RANKS == 2, 1, RANKS)) > 0  # and a label that no try gives is none of theirs
    lost = [np.where(other == 3, 2, other) for other in REORDERED]  # what the precision loses is no tie
    assert not excused(np.full_like(RANKS, 2), RANKS, lost).any()


def test_a_few_ties_make_no_row_of_equals() -> None:
    want = np.arange(20)[None] % 5  # class ids along a line of pixels, of which two are ties
    other = want.copy()
    other[0, [2, 17]] = 4, 0
    assert not excused(np.roll(want, 5), want, [want, other])[0, 3:17].any()


def always(got: list[np.ndarray], tries: list[np.ndarray] | None = None) -> Check | None:
    """The check of elements that are wrong in every case; the oracle counts from the number of the case."""
    want = [np.arange(1024).reshape(32, 32) % 7 + i for i in range(len(got))]
    rows = [PostProcessed({"ids": w}) for w in want]
    others = [[PostProcessed({"ids": t}) for t in tries]] if tries else ()
    in_force = {"ids": resolve((), Cell("m", "onnx", "int8"), "ids")}
    judged = check_cases(
        "golden", [OutputSpec("ids")], [str(i) for i in range(len(got))], [{"ids": g} for g in got], rows, {}, in_force,
        fallback("int8"), alternatives=others,
    )  # fmt: skip
    assert all(check.passed for check in judged.checks if check.metric == "differing_share")
    return next((check for check in judged.checks if check.metric == "always_differing"), None)


def pictures(wrong: int, cases: int = 4) -> list[np.ndarray]:
    """Class ids of which the first `wrong` are wrong in every case."""
    want = [np.arange(1024).reshape(32, 32) % 7 + i for i in range(cases)]
    return [np.where(np.arange(1024).reshape(32, 32) < wrong, w + 1, w) for w in want]


def test_an_element_that_is_wrong_in_every_case_is_no_share() -> None:
    check = always(pictures(8))
    assert check is not None and check.value == 8 and not check.passed
    assert check.detail == "8 of 1024 elements differ in each of 4 cases"
    assert always(pictures(8, 3)) is None  # so few may be chance
    right = [np.roll(np.where(np.arange(1024) < 8, 1, 0), 8 * i).reshape(32, 32) for i in range(4)]
    elsewhere = always([p + r for p, r in zip(pictures(0), right, strict=True)])
    assert elsewhere is not None and elsewhere.passed


def test_an_element_that_the_precision_loses_too_is_not_the_files_fault() -> None:
    check = always(pictures(8), pictures(8))
    assert check is not None and check.value == 0


def lost(got: list[np.ndarray], want: list[np.ndarray], tries: list[list[np.ndarray]]) -> Check:
    in_force = resolve((), Cell("m", "onnx", "int8"), "ids")
    (check,) = check_lost("golden", OutputSpec("ids"), got, want, in_force, tries)
    return check


def test_a_class_that_the_precision_keeps_and_the_file_never_gives_is_lost() -> None:
    want = [np.where(np.arange(400) < 10, 4, np.arange(400) % 4) for _ in range(2)]
    got = [np.minimum(w, 3) for w in want]
    check = lost(got, want, [[w] for w in want])
    assert (check.value, check.passed) == (1, False)
    assert check.detail == "the oracle gives 4 in 20 elements, the file never"
    assert lost([got[0], want[1]], want, [[w] for w in want]).value == 0  # given in another case
    assert lost(got, want, [[g] for g in got]).value == 0  # the precision loses it too
    rare = [np.where(np.arange(400) < 3, 4, np.arange(400) % 4) for _ in range(2)]
    assert lost([np.minimum(w, 3) for w in rare], rare, [[w] for w in rare]).value == 0


def test_at_fp32_nothing_but_ties_may_differ() -> None:
    assert resolve((), Cell("m", "onnx", "fp32"), "ids")["differing_share"].value == 0


def test_an_output_of_another_kind_or_shape_has_no_share() -> None:
    assert ids_of(IDS.astype(np.float32), TRIES).value is None
    assert ids_of(IDS[:, :3], TRIES).value is None


def jumping(share: float) -> np.ndarray:
    return SCORES * (1 + share)


@pytest.mark.parametrize(("cost", "jumps"), [(1e-6, True), (0.5, False)])
def test_a_jump_is_further_than_moves_and_than_the_usual_cost(cost: float, jumps: bool) -> None:
    least = JUMP * MOVED["fp16"]
    assert largest_jump(SCORES, [jumping(0.5 * least)], "fp16", 1e-6) is None
    far = [jumping(0.5 * least), jumping(4 * least), jumping(2 * least)]
    found = largest_jump(SCORES, far, "fp16", cost)
    assert (found is far[1]) if jumps else (found is None)


def test_tries_that_are_not_finite_or_of_another_shape_show_nothing() -> None:
    assert largest_jump(SCORES, [SCORES * np.nan, SCORES[:, :2]], "fp16", 1e-6) is None


def test_the_floor_of_a_case_that_jumps_is_its_jump_and_others_keep_theirs() -> None:
    want = [SCORES, SCORES + 1, SCORES + 2]
    twin = [w * (1 + 1e-4) for w in want]
    known = floor(want, twin, "fp16", 1)
    alternatives = [[PostProcessed({"y": rows}) for rows in (want[0], np.flip(want[1]), want[2] * (1 + 1e-3))]]
    floors, cases = with_jumps({"y": known}, [OutputSpec("y")], alternatives)
    assert cases == {"y": [1]}
    assert floors["y"].by_case[0] == known.by_case[0] and floors["y"].by_case[2] == known.by_case[2]
    assert floors["y"].by_case[1] > 1000 * known.by_case[1]


@pytest.mark.parametrize(("source", "applied"), [(BUILT_IN, False), ("pyproject.toml:7", True)])
def test_a_default_limit_that_the_model_itself_breaks_is_not_applied(source: str, applied: bool) -> None:
    limits = {"y": {"cosine": Limit("cosine", 0.95, source)}}
    other = np.flip(SCORES)
    judged = check_cases(
        "golden", [OutputSpec("y")], ["a"], [{"y": other}], [PostProcessed({"y": SCORES})], {}, limits,
        fallback("fp16"), alternatives=[[PostProcessed({"y": other})]],
    )  # fmt: skip
    (cosine,) = [check for check in judged.checks if check.metric == "cosine"]
    assert (cosine.limit is not None) is applied and cosine.passed is not applied


def test_a_drawn_input_on_which_the_model_jumps_says_nothing_unless_the_file_is_further_off() -> None:
    usual = single.Usual(1e-4, 1e-6, 1.0, "fp16")
    other = np.flip(SCORES)
    judged = single.judge(other, SCORES, usual)
    assert judged.ratio > 1000
    assert single.settle_tie(judged, other, SCORES, [SCORES, other], usual).silent
    assert not single.settle_tie(judged, other, SCORES, [SCORES, SCORES * (1 + 1e-3)], usual).silent
    further = single.judge(SCORES * 20, SCORES, usual)
    assert not single.settle_tie(further, SCORES * 20, SCORES, [other], usual).silent
    nan = single.judge(SCORES * np.nan, SCORES, usual)
    assert not single.settle_tie(nan, SCORES * np.nan, SCORES, [other], usual).silent
