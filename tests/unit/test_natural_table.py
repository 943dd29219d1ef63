"""The table of default limits: wrong exports stay out of it, and correct ones that are noisy stay in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from research import natural_table
from research.natural_table import Line, fitted, left_out, nearest, read, refused, taken, write


def lines(
    ratios: dict[str, float], target: str = "onnx", precision: str = "fp16", flavour: str = "storage"
) -> list[Line]:
    return [
        Line(name, target, precision, flavour, "y", 1e-4, False, r, 1.2 * r, float("nan"), 1.1 * r, 1.0, "not possible")
        for name, r in ratios.items()
    ]


@pytest.fixture
def correct() -> list[Line]:
    rng = np.random.default_rng(0)
    return lines({f"m{i}": float(r) for i, r in enumerate(rng.uniform(0.9, 1.4, 30))})


def test_one_wrong_export_moves_no_limit(correct: list[Line]) -> None:
    poisoned = [*correct, *lines({"wrong": 40.0})]
    assert set(refused(poisoned)) == {"wrong-onnx-fp16"}
    assert "40" in refused(poisoned)["wrong-onnx-fp16"]
    assert fitted(taken(poisoned)) == fitted(taken(correct))


def test_two_wrong_exports_do_not_cover_each_other(correct: list[Line]) -> None:
    assert len(refused([*correct, *lines({"wrong": 40.0, "other": 45.0})])) == 2


def test_a_failed_proof_keeps_a_cell_out_whatever_its_ratio(correct: list[Line]) -> None:
    failed = replace(correct[0], proof="failed: audit: fc.weight: 1 of 8 values off")
    out = refused([failed, *correct[1:]])
    assert set(out) == {failed.cell}
    assert "fc.weight" in out[failed.cell]


def test_twice_the_usual_ratio_is_no_outlier(correct: list[Line]) -> None:
    """Winograd and other summation orders are as correct."""
    assert not refused([*correct, *lines({"noisy": 2.2})])
    assert fitted(taken([*correct, *lines({"noisy": 2.2})]))["onnx-fp16"]["pooled"] >= 2.2


def test_what_is_proved_is_taken_in_whatever_its_ratio(correct: list[Line]) -> None:
    """Winograd costs a few networks eight times the floor, and is no fault."""
    far = [replace(line, proof="proved") for line in lines({"winograd": 40.0})]
    assert not refused([*correct, *far])
    assert fitted(taken([*correct, *far]))["onnx-fp16"]["pooled"] > 40


def test_kinds_without_lines_speak_by_their_earlier_spread(correct: list[Line]) -> None:
    spread = {s: {"median": 1.0, "p95": 3.8, "max": 4.0} for s in ("pooled", "worst", "channel", "peak")}
    both = fitted(correct, {"coreml-fp16": spread, "onnx-fp16": spread})
    assert both["coreml-fp16"]["pooled"] == natural_table.MARGIN * 4
    assert both["onnx-fp16"]["pooled"] < natural_table.MARGIN * 4  # lines before an earlier spread


def test_a_long_tail_of_one_target_does_not_loosen_the_others(correct: list[Line]) -> None:
    tail = {f"m{i}": 1.0 + i / 4 for i in range(30)}
    others = [line for t in ("tflite", "exported") for line in (replace(c, target=t) for c in correct)]
    alone = fitted([*correct, *others])["onnx-fp16"]
    beside = fitted([*correct, *others, *lines(tail, "ncnn")])
    assert beside["onnx-fp16"] == alone
    assert beside["ncnn-fp16"]["pooled"] > 8


def test_a_target_with_a_short_tail_gets_the_middle_one(correct: list[Line]) -> None:
    correct = [replace(line, precision="int8", flavour="split") for line in correct]
    exact = lines(dict.fromkeys((f"m{i}" for i in range(30)), 1.0), "ncnn", "int8", "split")
    others = [replace(c, target="tflite") for c in correct]
    assert fitted([*correct, *others])["onnx-int8"] == fitted([*correct, *others, *exact])["onnx-int8"]
    assert fitted([*correct, *others, *exact])["ncnn-int8"]["worst"] > fitted(exact)["ncnn-int8"]["worst"]


def test_left_out_counts_a_correct_export_that_the_others_limits_refuse(correct: list[Line]) -> None:
    far = lines({"far": 6.0})
    assert left_out([*correct, *far], "far") == ["far-onnx-fp16"]
    assert left_out([*correct, *far], "m0") == []
    failed = [replace(line, proof="failed: lift: x: y") for line in far]
    assert left_out([*correct, *failed], "far") == []


def test_the_flavour_is_the_one_that_errs_as_the_files_do(correct: list[Line]) -> None:
    other = [replace(line, flavour="compute", pooled=line.pooled / 5) for line in correct]
    assert {line.flavour for line in nearest([*correct, *other])} == {"storage"}


def test_lines_survive_their_file(correct: list[Line], tmp_path) -> None:
    write(correct, tmp_path / "lines.csv")
    again = read(tmp_path / "lines.csv")
    assert [line.cell for line in again] == sorted(line.cell for line in correct)
    assert np.isnan(again[0].channel) and again[0].absolute is False


def test_the_committed_table_is_what_the_committed_lines_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["natural_table.py", "--check"])
    assert natural_table.main() == 0
