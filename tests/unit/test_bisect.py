"""`parity bisect`: the search, by a function that says what came of each version; which versions there are; what the
command says and refuses."""

from __future__ import annotations

import pytest

from parity.commands.bisect import hints, sentence_of
from parity.core.errors import ConfigError
from parity.core.record import Check
from parity.process.toolchains.versions import Base, moved, ordered
from parity.session.bisecting import Change, Measure, Range, Trial, first_change, ranges, tried_ends

TEN = tuple(f"1.{i}" for i in range(10))


def check(value: float | None, metric: str = "noise_ratio", sense: str = "max", output: str = "logits") -> Check:
    return Check("golden", "0", output, metric, value, 1.4, sense, (value or 0) <= 1.4)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", range(1, 10))
def test_the_first_version_that_differs_is_found_in_few_trials(first: int) -> None:
    asked: list[str] = []

    def side(version: str) -> str:
        asked.append(version)
        return "pass" if TEN.index(version) < first else "fail"

    assert first_change(TEN, side) == Change(TEN[first - 1], TEN[first])
    assert len(asked) == len(set(asked)) <= 5 and TEN[-1] not in asked


def test_ends_that_are_swapped_are_a_fault_that_was_mended() -> None:
    assert first_change(TEN, lambda v: "fail" if v < "1.7" else "pass") == Change("1.6", "1.7")


@pytest.mark.parametrize("holes", [{"1.4"}, {"1.4", "1.5", "1.3"}, {"1.1", "1.2", "1.8"}, set(TEN[1:-1])])
def test_versions_that_cannot_be_tried_are_passed_over_and_told(holes: set[str]) -> None:
    change = first_change(TEN, lambda v: None if v in holes else ("pass" if v < "1.4" else "crash"))
    tried = [version for version in TEN if version not in holes]
    assert change.before == max(version for version in tried if version < "1.4")
    assert change.after == min(version for version in tried if version >= "1.4")
    assert set(change.untried) == {v for v in holes if change.before < v < change.after}


def test_of_several_changes_one_away_from_the_first_side_is_found() -> None:
    states = dict(zip(TEN, "ppffpefffp", strict=True))
    states["1.9"] = "f"
    change = first_change(TEN, states.__getitem__)
    assert states[change.before] == "p" != states[change.after] and not change.untried


def test_ends_are_what_was_named_else_the_one_in_use_and_then_the_outermost() -> None:
    def pairs(current: str, good: str = "", bad: str = "") -> list[tuple[str, str]]:
        return [(r.versions[0], r.versions[-1]) for r in ranges(TEN, TEN[2:9], current, good, bad)]

    assert pairs("1.5") == [("1.5", "1.8"), ("1.2", "1.5")]
    assert pairs("1.8") == [("1.2", "1.8")]
    assert pairs("") == pairs("9.9") == [("1.2", "1.8")]
    assert pairs("1.5", good="1.3") == [("1.3", "1.5")] and pairs("1.5", bad="1.7") == [("1.5", "1.7")]
    assert pairs("1.5", good="1.5") == [("1.5", "1.8")] and pairs("1.5", bad="1.5") == [("1.2", "1.5")]
    assert pairs("1.5", good="1.9", bad="1.0") == pairs("1.5", good="1.0", bad="1.9") == [("1.0", "1.9")]
    named = next(ranges(TEN, TEN, "1.5", "1.9", ""))
    assert (named.is_low_named, named.is_high_named) == (False, True)
    with pytest.raises(ConfigError, match=r"^--bad 1\.11: the index offers no such release for this Python \(did you"):
        list(ranges(TEN, TEN, "1.5", "", "1.11"))
    with pytest.raises(ConfigError, match=r"^--good and --bad are both 1\.3$"):
        list(ranges(TEN, TEN, "1.5", "1.3", "1.3"))


def test_an_end_that_cannot_be_tried_moves_inwards_unless_it_was_named() -> None:
    absent = {"1.0", "1.1", "1.9"}

    def run(version: str) -> Trial:
        return Trial(version, "" if version in absent else "pass", "no wheel" if version in absent else "")

    assert tried_ends(Range(TEN), run) == Range(TEN[2:9])
    assert tried_ends(Range(TEN[:2]), run) is None
    with pytest.raises(ConfigError, match=r"^1\.9 could not be tried: no wheel$"):
        tried_ends(Range(TEN, is_high_named=True), run)


def test_versions_are_ordered_as_versions_without_pre_releases_and_local_builds() -> None:
    listed = ["1.10.0", "1.9", "2.0rc1", "1.9.0.post1", "2.13.0+cpu", "2.13.0", "junk!", " 1.2.0.dev3"]
    assert ordered(listed) == ("1.9", "1.9.0.post1", "1.10.0", "2.13.0")


def test_a_limit_makes_a_change_of_a_figure() -> None:
    trials = [Trial("1.0", "pass", checks=(check(0.9), check(1.2))), Trial("1.1", "pass", checks=(check(1.3),))]
    state, limit = Measure(), Measure(limit=1.25)
    assert [state.side(trial) for trial in trials] == ["pass", "pass"]
    assert [limit.side(trial) for trial in trials] == ["inside", "outside"]
    assert state.figure(trials[0]) == "noise_ratio 1.2 (logits)"
    assert limit.side(Trial("1.2", "crash", "signal 11")) == "crash"
    nothing = Trial("1.3", "fail", checks=(check(None),))
    assert limit.worst(nothing) is None and limit.side(nothing) == "fail"
    cosine = Trial("1.4", "pass", checks=(check(0.9, "cosine", "min"), check(0.99, "cosine", "min")))
    assert Measure("cosine", 0.95).side(cosine) == "outside"
    assert sentence_of("a-onnx-int8", "tool", limit, *trials, ()) == (
        "a-onnx-int8 is inside noise_ratio 1.25 with tool 1.0 and is outside noise_ratio 1.25 from 1.1 on: "
        "noise_ratio 1.3 (logits)"
    )


def test_the_sentence_and_its_hints() -> None:
    before = Trial("1.28.5", "pass", "a warning", moved={"numpy": ("1.26.4", "2.0.0")}, route="a")
    after = Trial("1.29.0", "fail", "logits: noise_ratio 3.1 > 1.4", route="b", moved={"onnx": ("", "1.19")})
    newest = Trial("1.29.9", "error", "no")
    assert sentence_of("skin-tflite-int8", "onnx2tf", Measure(), before, after, ()) == (
        "skin-tflite-int8 passes with onnx2tf 1.28.5 and fails from 1.29.0 on: logits: noise_ratio 3.1 > 1.4"
    )
    assert sentence_of("c", "p", Measure(), after, before, ("1.28.9",)) == (
        "c fails with p 1.29.0 (logits: noise_ratio 3.1 > 1.4) and passes from 1.28.5 on (1.28.9 could not be tried)"
    )
    assert hints("onnx2tf", Measure(), before, after, newest) == [
        "onnx2tf 1.29.0 brings others along, which may be the cause: numpy 2.0.0 -> 1.26.4, onnx absent -> 1.19",
        "the file is made otherwise: by a, then by b",
        "it changes again: with 1.29.9 it ends in an error; --good 1.29.0 --bad 1.29.9 finds where",
    ]
    assert hints("onnx2tf", Measure(), before, before, before) == []


def test_what_a_version_moves_beside_itself() -> None:
    base = Base("project", "python", "3.11", {"Tool_A": "1.0", "numpy": "1.26.4", "pip": "23"})
    now = {"tool-a": "2.0", "numpy": "2.0.0", "New.One": "3", "pip": "24"}
    assert moved(base, now, "tool.a") == {"numpy": ("1.26.4", "2.0.0"), "new-one": ("", "3")}
