"""The sentence that a broken cell begins with: the cause and its place by the best evidence, then how far over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from parity.core.record import CellRecord, Check, Divergence, Explanation, Finding, ProofRecord
from parity.judging.answer import UNEXPLAINED, cause, describe, repeats
from parity.judging.gate import settle

BGR = Explanation("swap", 1.0, "behaves as if BGR: residual 1.1x", "the channels are in the opposite order")
PROOF = ProofRecord("failed", "fp32: not faithful: audit: stem.weight channels 5: 9 of 40 values off")
STEP = Divergence("stem", 0.11, "net.py:15", "Conv", allowed=0.06)


def check(metric: str, value: float | None, limit: float, **more: Any) -> Check:
    return Check("golden", more.pop("case", "all"), "y", metric, value, limit, "max", False, **more)


def test_a_diagnosis_names_the_cause_and_the_divergence_its_place() -> None:
    assert cause((BGR,), PROOF, STEP) == (
        "the file behaves as if the channels are in the opposite order; first wrong at stem (net.py:15)"
    )


def test_a_record_without_the_cause_in_words_gives_its_whole_sentence() -> None:
    assert cause((replace(BGR, cause=""),), None, None) == "behaves as if BGR: residual 1.1x"


def test_without_a_diagnosis_the_chain_of_proof_says_what_is_wrong() -> None:
    assert cause((), PROOF, STEP) == f"{PROOF.summary}; first wrong at stem (net.py:15)"
    assert cause((), replace(PROOF, state="proved"), STEP).startswith(
        "first wrong at stem (net.py:15): Conv introduces"
    )


def test_without_either_the_first_divergence_does() -> None:
    assert cause((), None, STEP) == (
        "first wrong at stem (net.py:15): Conv introduces 0.11, where its precision allows 0.06"
    )
    assert "no counterpart" in cause((), None, replace(STEP, introduced=None))
    assert cause((), None, None) == ""


def test_the_error_of_all_cases_is_told_before_a_worse_case() -> None:
    told = describe([check("noise_ratio_case", 90.0, 2.8, case="3"), check("noise_ratio", 16.16, 1.9)], "why")
    assert told == (
        "why; y: 16.2 times as far off as its precision explains: noise_ratio 16.16 > 1.9 (case all); and 1 more"
    )


def test_what_is_not_finite_is_told_before_every_figure() -> None:
    told = describe([check("max_abs", None, 1.0, case="3", nonfinite=4), check("noise_ratio", 16.16, 1.9)])
    assert told.startswith("y: max_abs has no finite value (4 not finite)")


def test_a_broken_contract_comes_before_any_cause() -> None:
    shape = check("shape_matches", 0.0, 1.0, source="the contract", detail="[1, 4] for [1, 5]")
    assert describe([check("noise_ratio", 16.16, 1.9), shape], "why").startswith("y: shape_matches: [1, 4] for [1, 5]")


def test_a_failing_cell_has_its_cause_in_its_reason() -> None:
    cell = CellRecord(
        "m-onnx-fp32", "m", "onnx", "fp32", state="missing", planned=("golden",), measured=("golden",),
        checks=(check("noise_ratio", 16.0, 4.0),), diagnosis=(BGR,), first_divergence=STEP,
    )  # fmt: skip
    assert settle(cell).reason.startswith("the file behaves as if the channels are in the opposite order; first wrong")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("diagnosis: behaves as if BGR: residual 1.1x", True),
        (f"diagnosis: {UNEXPLAINED} (16x the noise floor)", True),
        ("diagnosis: a fault could not be tried: mine", False),
        ("first divergence: stem (net.py:15): Conv introduces 0.11", True),
        ("first divergence: head: Gemm introduces 0.3", False),
        ("by the way", False),
    ],
)
def test_findings_that_repeat_the_record_are_left_out(text: str, hidden: bool) -> None:
    cell = CellRecord(
        "m-onnx-fp32", "m", "onnx", "fp32", state="fail", diagnosis=(BGR,), first_divergence=STEP, proof=PROOF
    )
    assert repeats(cell, Finding(text)) is hidden


def test_a_search_without_a_result_is_told_where_nothing_else_has_one() -> None:
    cell = CellRecord("m-onnx-fp32", "m", "onnx", "fp32", state="fail")
    assert not repeats(cell, Finding(f"diagnosis: {UNEXPLAINED} (16x the noise floor)"))
