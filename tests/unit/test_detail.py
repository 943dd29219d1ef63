"""What tests tell of a cell ends in the field of its record that has its name."""

from __future__ import annotations

import pytest

from parity.core.errors import ParityError
from parity.core.exhibits import Spread
from parity.core.record import Divergence, Drift
from parity.judging import detail


def test_the_last_word_counts_and_what_is_gathered_adds_up() -> None:
    known: dict[str, object] = {}
    spread = {"metric": "noise_ratio", "median": 1.0, "p95": 1.5, "largest": 1.8, "count": 21}
    detail.merge(known, {"route": "a", "natural": [spread]})
    detail.merge(known, {"route": "b", "natural": [spread, {**spread, "metric": "noise_ratio_case"}]})
    found = detail.fields(known)
    assert found["route"] == "b"
    assert found["natural"] == (
        Spread("noise_ratio", 1.0, 1.5, 1.8, 21),
        Spread("noise_ratio_case", 1.0, 1.5, 1.8, 21),
    )


def test_drift_and_divergence_become_records() -> None:
    found = detail.fields(
        {"drift": [{"layer": "stem", "error": 0.1, "floor": 0.02}], "divergence": {"layer": "stem", "introduced": 0.1}}
    )
    assert found["drift"] == (Drift("stem", 0.1, 0.02),)
    assert found["first_divergence"] == Divergence("stem", 0.1)


def test_what_no_record_holds_is_refused_with_its_place() -> None:
    with pytest.raises(ParityError, match=r"drift: unknown field 'where'"):
        detail.fields({"drift": [{"layer": "stem", "error": 0.1, "floor": 0.1, "where": 1}]})
