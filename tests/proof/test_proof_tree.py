"""What a user reads of a proof, and that it is JSON."""

from __future__ import annotations

import json

import pytest

from parity.core.proof import Culprit, Link, Proof
from parity.process import serialise
from parity.proof.range import surely


def links(**changed: Link) -> tuple[Link, ...]:
    made = {
        "match": Link("match", "proved"),
        "audit": Link("audit", "proved", {"tensors": 49, "within": 49, "unit": "half a step"}),
        "lift": Link("lift", "proved", {"relative_rms": 2.2e-7}),
        "local": Link("local", "proved", {"operators": 72, "within": 72, "unit": "one"}),
        "range": Link("range", "proved", {"clip_share": 0.0013}),
    }
    return tuple((made | changed).values())


def test_a_faithful_file_in_one_line() -> None:
    assert Proof("int8", links(), 0.053).summary == (
        "int8: faithful (49/49 tensors within half a step, lift 2.2e-07, 72/72 operators within one); "
        "quantisation costs 5.3 % rms (calibration fine: 0.13 % clipped)"
    )


def test_a_fault_names_link_tensor_and_channels() -> None:
    culprit = Culprit("tensor", "features.0.0.weight", "2 of 9 values off", (3, 1))
    proof = Proof("int8", links(audit=Link("audit", "failed", {}, (culprit, culprit))))
    assert proof.state == "failed"
    assert proof.summary == (
        "int8: not faithful: audit: features.0.0.weight channels 3, 1: 2 of 9 values off (and 1 more)"
    )


def test_what_cannot_be_proved_is_not_faithful() -> None:
    proof = Proof("int8", links(lift=Link("lift", "not possible", reason="the plain interpreter cannot run FlexErf")))
    assert proof.state == "not possible"
    assert "faithful" not in proof.summary
    assert "lift not possible: the plain interpreter cannot run FlexErf" in proof.summary


def test_a_link_is_failed_when_somebody_is_to_blame() -> None:
    assert Link.judged("audit", {}, []).state == "proved"
    assert Link.judged("audit", {}, [Culprit("structure", "a", "b")]).state == "failed"


def test_a_link_is_found_by_its_name_and_one_that_was_not_made_is_not() -> None:
    proof = Proof("int8", links())
    assert proof.link("local").figures["unit"] == "one"
    with pytest.raises(KeyError):
        Proof("int8", proof.links[:2]).link("lift")


def test_a_proof_is_stored_and_read_back_as_it_was() -> None:
    culprit = Culprit("tensor", "features.0.0.weight", "2 of 9 values off", (3, 1))
    worst = {"worst": {"XNNPACK": 0.5, "builtin": None}, "unmatched": ["a"]}
    changed = links(audit=Link("audit", "failed", worst, (culprit,)), lift=Link("lift", "not possible", reason="r"))
    proof = Proof("int8", changed, None, 1.5)
    again = json.loads(json.dumps(serialise.to_builtins(proof), allow_nan=False))
    assert serialise.from_builtins(Proof, again) == proof


@pytest.mark.parametrize(("samples", "want"), [([], 0.0), ([0.2] * 9, 0.2), ([0.0] * 8 + [1.0], -0.1)])
def test_surely_is_the_mean_less_two_standard_errors(samples: list[float], want: float) -> None:
    assert surely(samples) == pytest.approx(want, abs=0.01)
