"""The ledger: what got worse by a ratio and a floor is regressed, and nothing else is."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity.core.errors import ConfigError, ParityError
from parity.core.kinds import BY_NAME
from parity.core.record import (
    STATES,
    Check,
    FileRecord,
    Power,
    Regression,
    RunRecord,
    RuntimeRecord,
    ToolchainRecord,
)
from parity.judging import baseline
from parity.judging.baseline import FLOORS, RATIO, Baseline, attach, compare, load, of, save
from parity.judging.gate import judge
from parity.session import ledger
from parity.session.ledger import Keeper
from tests.unit.ledgers import CASES, PACKAGES, cell, edited, figure, run

INT8 = "skin-tflite-int8"


def changes(after: RunRecord, before: RunRecord | None = None) -> list[tuple[str, str]]:
    """(what, state) of everything that changed in the int8 cell since the usual run."""
    found = compare(load(save(before or run())), after).regressions
    assert all(c.cell == INT8 for c in found), found
    return [(c.what, c.state) for c in found]


def int8(**other: Any) -> RunRecord:
    return run(cell("skin-tflite-fp32"), cell(**other))


def test_the_same_run_has_no_change() -> None:
    assert changes(run()) == []


@pytest.mark.parametrize(
    ("metric", "worse"),
    [
        ("rel_rms", 0.016),  # from 0.01, and a sixteenth of the limit
        ("cosine", 0.998),  # from 0.999: twice the distance from 1
        ("sqnr", 36.0),  # from 40 dB: 4 dB are 1.58 times the error
        ("max_abs", 0.16),  # from 0.1, and 6 % of the limit 1
    ],
)
@pytest.mark.parametrize("case", CASES)
def test_an_error_half_as_large_again_is_regressed_in_one_case_of_many(metric: str, worse: float, case: str) -> None:
    before = run()
    after = figure(worse, metric, case)
    assert after.verdict == "pass", "the limits alone let it through"
    assert changes(after, before) == [(f"{metric} of logits", "regressed")]
    assert judge(attach(of(before), after)).verdict == "fail"
    assert changes(before, after) == [(f"{metric} of logits", "improved")]


def test_a_flipped_decision_is_regressed() -> None:
    assert changes(figure(0.95, "top1", "all")) == [("top1 of logits", "regressed")]


@pytest.mark.parametrize(
    ("metric", "value", "before"),
    [
        ("rel_rms", 0.0145, 0.01),  # 1.45 times
        ("rel_rms", 3e-6, 3e-7),  # ten times, and as small as reordered sums
        ("cosine", 1 - 9e-7, 1.0),
        ("cosine", 1 + 1e-12, 1.0),
        ("sqnr", 37.0, 40.0),  # 1.41 times
        ("sqnr", 120.0, 150.0),  # 1e-6 of the signal
        ("max_abs", 0.05, 0.01),  # five times, and 4 % of the limit
        ("top1", 0.996, 1.0),
        ("rel_rms", 0.0, 0.0),
    ],
)
def test_what_is_small_by_ratio_or_by_floor_is_no_change(metric: str, value: float, before: float) -> None:
    def at(v: float) -> RunRecord:
        one = edited(cell(), lambda c: c.metric == metric, value=v)
        return run(cell("skin-tflite-fp32"), one)

    assert changes(at(value), at(before)) == []


def test_an_error_from_nothing_counts_beyond_its_floor() -> None:
    def at(v: float) -> RunRecord:
        return run(cell("skin-tflite-fp32"), edited(cell(), lambda c: c.metric == "rel_rms", value=v))

    assert changes(at(5e-6), at(0.0)) == [("rel_rms of logits", "regressed")]


def test_a_metric_of_the_project_counts_by_a_share_of_its_limit() -> None:
    def at(v: float, sense: str, limit: float) -> RunRecord:
        own = Check("golden", "a", "logits", "own", v, limit, sense, True)  # type: ignore[arg-type]
        return int8(checks=(*cell().checks, own))

    assert changes(at(9.0, "max", 100.0), at(3.0, "max", 100.0)) == [("own of logits", "regressed")]
    assert changes(at(7.0, "max", 100.0), at(3.0, "max", 100.0)) == []
    assert changes(at(0.7, "min", 0.5), at(0.9, "min", 0.5)) == [("own of logits", "regressed")]
    assert changes(at(20.0, "min", 10.0), at(60.0, "min", 10.0)) == [("own of logits", "regressed")]
    assert changes(at(40.0, "min", 10.0), at(50.0, "min", 10.0)) == []


@pytest.mark.parametrize("metric", ["noise_ratio", "noise_ratio_channel"])
def test_a_noise_ratio_counts_beyond_what_correct_files_have(metric: str) -> None:
    def at(v: float) -> RunRecord:
        return int8(checks=(*cell().checks, Check("golden", "a", "logits", metric, v, 4.0, "max", True)))

    assert changes(at(3.0), at(1.2)) == [(f"{metric} of logits", "regressed")]
    assert changes(at(1.4), at(0.001)) == [], "a noisier twin is no merit of the file"
    assert changes(at(2.1), at(1.5)) == []


# What a cell costs.


def sized(count: int) -> RunRecord:
    artifact = cell().artifact
    assert artifact
    return int8(artifact=replace(artifact, files=(FileRecord("model.bin", count, "0" * 64),)))


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [
        (1_000_000, 1_060_000, "regressed"),
        (1_000_000, 2_000_000, "regressed"),  # fp16 that was not applied
        (1_000_000, 500_000, "improved"),
        (1_000_000, 1_040_000, None),  # below the ratio
        (10_000, 13_000, None),  # below the floor
    ],
)
def test_size(before: int, after: int, state: str | None) -> None:
    assert changes(sized(after), sized(before)) == ([("size in bytes", state)] if state else [])


def timed(int8_ms: float | None, fp32_ms: float | None = 40.0) -> RunRecord:
    return run(
        cell("skin-tflite-fp32", runtime=RuntimeRecord("ai-edge-litert", "2.1.0", fp32_ms)),
        cell(runtime=RuntimeRecord("ai-edge-litert", "2.1.0", int8_ms)),
    )


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((20, 40), (100, 40), [("latency class against fp32", "slower")]),
        ((20, 40), (45, 40), []),  # one class: it may have been at the edge of it
        ((20, 40), (80, 160), []),  # a slower machine
        ((20, 40), (20, 10), []),  # the fp32 cell got faster
        ((100, 40), (20, 40), [("latency class against fp32", "improved")]),
        ((0.1, 0.1), (3, 0.1), []),  # the scheduler
        ((20, None), (100, None), [("latency class in ms", "slower")]),
        ((20, 40), (None, 40), []),
    ],
)
def test_latency(before: Any, after: Any, expected: list[tuple[str, str]]) -> None:
    found = compare(load(save(timed(*before))), timed(*after)).regressions
    assert [(c.what, c.state) for c in found if c.cell == INT8] == expected


@pytest.mark.parametrize(("blocks", "state"), [(False, "slower"), (True, "regressed")])
def test_a_slower_cell_blocks_only_where_the_project_says_so(tmp_path: Path, blocks: bool, state: str) -> None:
    (tmp_path / "kept.json").write_text(save(timed(20)))
    keeper = Keeper.prepare(tmp_path, None, {"baseline": "kept.json"}, {}, latency_blocks=blocks)
    judged = keeper.judge(timed(100))
    assert [c.state for c in judged.baseline.regressions] == [state]
    assert ("regression" in judged.reason) == blocks
    assert keeper.lines[0] == ("red" if blocks else "yellow", f"{INT8}: latency class against fp32 0.5 -> 2 ({state})")


@pytest.mark.parametrize(
    ("killed", "expected"),
    [
        (38, None),
        (37, None),  # one fault of forty: below the floor
        (35, "regressed"),
        (40, "improved"),
    ],
)
def test_power(killed: int, expected: str | None) -> None:
    found = changes(int8(power=Power(40, killed)))
    assert [state for _, state in found] == ([expected] if expected else [])
    assert changes(int8(power=None)) == [], "power that was not measured is not lost"


# What can be compared.


def test_new_and_removed_cells_and_figures() -> None:
    both, one = run(), run(cell())
    assert compare(of(one), both).regressions == (Regression("skin-tflite-fp32", "cell", None, None, "new"),)
    assert compare(of(both), one).regressions == (Regression("skin-tflite-fp32", "cell", None, None, "removed"),)
    narrowed = replace(one, partial="precisions int8")
    assert compare(of(both), narrowed).regressions == (), "what was narrowed away was not removed"
    without = int8(checks=tuple(c for c in cell().checks if c.metric != "sqnr"))
    assert changes(without) == [("sqnr of logits", "removed")]
    assert changes(run(), without) == [("sqnr of logits", "new")]


@pytest.mark.parametrize(
    "other",
    [
        {"python": "3.12.1"},
        {"machine": "darwin-arm64"},
        {"packages": {**PACKAGES, "numpy": "2.0.0"}},
        {"packages": {k: v for k, v in PACKAGES.items() if k != "pillow"}},
        {"packages": {**PACKAGES, "opencv-python-headless": "5.0.0.93"}},
    ],
)
def test_another_instrument_is_incomparable_and_not_regressed(other: dict[str, Any]) -> None:
    worse = figure(0.2)
    after = replace(worse, environment=replace(worse.environment, **other))
    found = compare(of(run()), after).regressions
    assert [c.state for c in found] == ["incomparable"] * 2
    assert judge(replace(after, baseline=compare(of(run()), after))).verdict == "pass"
    assert "regressed" in {c.state for c in compare(of(run()), after, any_environment=True).regressions}


@pytest.mark.parametrize(("times", "change"), [(1.6, None), (2.9, None), (3.1, "regressed")])
def test_on_another_processor_drift_counts_from_three_times_on(times: float, change: str | None) -> None:
    before = of(run())
    was = before.cells["skin-tflite-int8"].drift["golden"]["logits"]["rel_rms"]
    after = figure(was * times)
    elsewhere = replace(after, environment=replace(after.environment, processor="another"))
    assert [c.state for c in compare(before, elsewhere).regressions] == ([change] if change else [])
    assert [c.state for c in compare(before, after).regressions] == ["regressed"], "on the same one, from 1.5 times on"


@pytest.mark.parametrize("package", ["pytest", "onnx2tf"])
def test_what_does_not_measure_does_not_hide_a_regression(package: str) -> None:
    """A new converter is what the ledger is there to judge."""
    worse = figure(0.2)
    after = replace(worse, environment=replace(worse.environment, packages={**PACKAGES, package: "99"}))
    assert changes(after) == [("rel_rms of logits", "regressed")]


def test_another_runtime_makes_only_its_own_cells_incomparable() -> None:
    after = int8(runtime=RuntimeRecord("ai-edge-litert", "3.0.0", 20.0))
    assert changes(after) == [("ai-edge-litert 2.1.0 -> ai-edge-litert 3.0.0", "incomparable")]


def test_another_toolchain_is_said_and_its_figures_are_compared_all_the_same() -> None:
    onnx2tf = ToolchainRecord("onnx2tf", "fdb8" + "0" * 60, "3.11.7")
    litert = ToolchainRecord("litert", "af44" + "0" * 60, "3.13.0")
    before, worse = int8(toolchain=onnx2tf), figure(0.9).cells[1]
    label = "toolchain: onnx2tf fdb80000, Python 3.11 -> litert af440000, Python 3.13"
    assert changes(int8(toolchain=litert), before) == [(label, "changed")]
    assert changes(run(cell("skin-tflite-fp32"), replace(worse, toolchain=litert)), before) == [
        (label, "changed"),
        ("rel_rms of logits", "regressed"),
    ]
    assert changes(int8(toolchain=replace(onnx2tf, python="3.11.9")), before) == []  # makes the same files
    assert changes(int8(toolchain=onnx2tf)) == []  # the ledger is of before it was kept


def test_other_cases_are_incomparable() -> None:
    fewer = tuple(c for c in cell().checks if c.case != "b")
    assert changes(int8(checks=fewer, planned_cases=1)) == [("golden: 2 -> 1 cases", "incomparable")]
    renamed = tuple(replace(c, case="z") if c.case == "b" else c for c in cell().checks)
    assert changes(int8(checks=renamed)) == [("golden: other cases or outputs", "incomparable")]


@pytest.mark.parametrize("state", ["crash", "timeout", "error", "unavailable"])
def test_a_cell_that_measured_nothing_is_the_gates_and_not_the_ledgers(state: Any) -> None:
    assert changes(int8(state=state, checks=())) == []


# Limits.


def test_a_widened_limit_is_said_and_does_not_block() -> None:
    wide = edited(cell(), lambda c: c.metric == "cosine", limit=0.9)
    after = judge(attach(of(run()), run(cell("skin-tflite-fp32"), wide)))
    assert after.verdict == "pass"
    (said,) = after.cell(INT8).findings
    assert said.level == "warning"
    assert said.text == (
        "the limit of cosine of logits was widened since the baseline: 0.95 -> 0.9, "
        "set by pyproject.toml:31 [tool.parity.limits] int8"
    )
    higher = edited(cell(), lambda c: c.metric == "rel_rms", limit=0.3)
    assert "0.25 -> 0.3" in attach(of(run()), run(higher)).cell(INT8).findings[0].text


def test_a_tightened_limit_is_silent_and_a_limit_that_is_gone_is_not() -> None:
    tight = edited(cell(), lambda c: c.metric == "cosine", limit=0.99)
    assert attach(of(run()), run(tight)).cell(INT8).findings == ()
    free = edited(cell(), lambda c: c.metric == "cosine", limit=None)
    (said,) = attach(of(run()), run(free)).cell(INT8).findings
    assert said.text == "the limit of cosine of logits, 0.95 in the baseline, is gone"


def test_a_change_is_one_line_of_the_file() -> None:
    def lines(record: RunRecord) -> list[str]:
        return save(record).splitlines()

    def differing(other: RunRecord) -> list[tuple[str, str]]:
        assert len(lines(other)) == len(lines(run()))
        return [(a.strip(), b.strip()) for a, b in zip(lines(run()), lines(other), strict=True) if a != b]

    wide = edited(cell(), lambda c: c.metric == "cosine", limit=0.9)
    assert differing(run(cell("skin-tflite-fp32"), wide)) == [('"cosine": 0.95,', '"cosine": 0.9,')]
    assert differing(figure(0.02)) == [('"rel_rms": 0.01,', '"rel_rms": 0.02,')]
    assert differing(figure(0.0100001)) == [], "the last bits make no line of a review"
    assert differing(sized(1_000_001)) == [('"bytes": 1000000,', '"bytes": 1000001,')]


def test_the_file_is_in_one_order_whatever_the_runs_was() -> None:
    cells = (cell("skin-tflite-fp32"), cell())
    assert save(run(*cells)) == save(run(*reversed(cells)))


# The file.


def test_there_and_back() -> None:
    for record in (run(), figure(0.2), run(cell(power=None, artifact=None, runtime=None)), run(cell(checks=()))):
        assert load(save(record)) == of(record)


def edited_file(edit: Any) -> str:
    data = json.loads(save(run()))
    edit(data["cells"][INT8], data)
    return json.dumps(data)


BROKEN = {
    "empty": "",
    "a list": "[]",
    "no schema": "{}",
    "another schema": '{"schema": "parity.baseline/2"}',
    "a run's record": '{"schema": "parity.run/1"}',
    "conflict markers": "<<<<<<< ours\n" + save(run()),
    "a key twice": save(run()).replace('"bytes": 1000000,', '"bytes": 1000000, "bytes": 1,', 1),
    "an unknown field": edited_file(lambda c, d: c.update(extra=1)),
    "no environment": edited_file(lambda c, d: d.pop("environment")),
    "a figure that is a text": edited_file(lambda c, d: c["drift"]["golden"]["logits"].update(cosine="0.9")),
    "a figure that is true": edited_file(lambda c, d: c["drift"]["golden"]["logits"].update(cosine=True)),
    "NaN": edited_file(lambda c, d: c["limits"]["golden"]["logits"].update(cosine=math.nan)),
    "a number beyond all": save(run()).replace("1000000", "1" + "0" * 5000, 1),
    "a limit without a drift": edited_file(lambda c, d: c["drift"]["golden"]["logits"].pop("cosine")),
    "a drift without a limit": edited_file(lambda c, d: c["limits"]["golden"].pop("logits")),
    "a kind that was not measured": edited_file(lambda c, d: c["measured"].pop("golden")),
    "no case": edited_file(lambda c, d: c["measured"]["golden"].update(cases=0)),
    "raw milliseconds": edited_file(lambda c, d: c.update(latency_ms=20.3)),
    "bytes below 0": edited_file(lambda c, d: c.update(bytes=-1)),
    "more killed than injected": edited_file(lambda c, d: c.update(power={"injected": 1, "killed": 2})),
    "too deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_what_is_no_ledger_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ParityError) as caught:
        load(text, "reports/baseline.json")
    assert str(caught.value).startswith("reports/baseline.json: ")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_reading_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="--parity-save-baseline"):
        baseline.read(tmp_path / "no.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParityError, match="cannot be read"):
        baseline.read(tmp_path / "b.json")


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "reports" / "baseline.json"
    assert ledger.write(file, run()) == 2
    before = file.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda self, to: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(ParityError, match="No space left"):
        ledger.write(file, figure(0.02))
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


# Whatever the run.

NUMBERS = st.one_of(
    st.none(), st.floats(), st.sampled_from([0.0, 1.0, -1.0, 1e-308, 5e-324, 1e308, 1 - 2**-53]), st.floats(0, 1)
)
TEXTS = st.sampled_from(["logits", "", "a", "all", "\ud800", "é\n", "x" * 200])
CHECKS = st.builds(
    Check,
    kind=st.sampled_from([*BY_NAME]), case=TEXTS, output=TEXTS, metric=st.sampled_from([*FLOORS, "max_abs", "own"]),
    value=NUMBERS, limit=NUMBERS.filter(lambda v: v is None or math.isfinite(v)),
    sense=st.sampled_from(["max", "min"]), passed=st.booleans(), nonfinite=st.integers(0, 2),
)  # fmt: skip


@st.composite
def runs(draw: Any) -> RunRecord:
    cells = []
    for id in draw(st.lists(st.sampled_from(["m-onnx-fp32", "m-onnx-int8", "n-onnx-fp16"]), unique=True)):
        ms = draw(st.one_of(st.none(), st.floats(0, 1e308)))
        injected = draw(st.integers(0, 50))
        cells.append(
            cell(
                id,
                state=draw(st.sampled_from(STATES)),
                checks=tuple(draw(st.lists(CHECKS, max_size=8))),
                runtime=draw(st.sampled_from([None, RuntimeRecord("r", "1", ms)])),
                power=draw(st.sampled_from([None, Power(injected, draw(st.integers(0, injected)))])),
            )
        )
    return replace(run(), cells=tuple(cells), partial=draw(st.sampled_from([None, "shard 1/2"])))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs())
def test_no_run_changed_since_itself(record: RunRecord) -> None:
    assert compare(load(save(record)), record).regressions == ()
    assert attach(load(save(record)), record).cells == record.cells, "and no limit was widened"


def test_of_several_limits_of_one_metric_the_widest_is_kept() -> None:
    checks = [Check("golden", case, "logits", "max_rel", 0.0, limit, "max", True) for case, limit in
              (("a", 0.0), ("b", 1.0), ("c", 0.5))]  # fmt: skip
    record = replace(run(), cells=(replace(run().cells[0], checks=tuple(checks)),))
    ledger = of(record)
    assert ledger.cells[record.cells[0].id].limits["golden"]["logits"]["max_rel"] == 1.0
    assert attach(ledger, record).cells == record.cells


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs(), runs())
def test_any_two_runs_can_be_compared_and_what_is_new_one_way_is_removed_the_other(a: RunRecord, b: RunRecord) -> None:
    opposite = {"regressed": "improved", "improved": "regressed", "new": "removed", "removed": "new"}
    there = {(c.cell, c.what, c.state) for c in compare(of(a), b).regressions if c.what != "cell"}
    back = {(c.cell, c.what, opposite.get(c.state, c.state)) for c in compare(of(b), a).regressions if c.what != "cell"}
    assert all(state in ("regressed", "improved", "new", "removed", "incomparable") for _, _, state in there)
    if not (a.partial or b.partial):
        moved = ("new", "removed")
        assert {c for c in there if c[2] in moved} == {c for c in back if c[2] in moved}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    for key in value if isinstance(value, dict) else ():
        found += _paths(value[key], (*path, key))
    return found


PATHS = _paths(json.loads(save(run())))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PATHS), JSON, st.booleans())
def test_a_damaged_ledger_is_read_or_refused_and_never_a_traceback(path: Any, value: Any, gone: bool) -> None:
    data = json.loads(save(run()))
    if not path:
        data = value
    else:
        parent = data
        for key in path[:-1]:
            parent = parent[key]
        if gone:
            del parent[path[-1]]
        else:
            parent[path[-1]] = value
    with contextlib.suppress(ParityError):
        found = load(json.dumps(data))
        assert isinstance(found, Baseline)
        compare(found, run())
        attach(found, run())


@given(st.text(max_size=40) | st.integers(0, len(save(run()))).map(lambda n: save(run())[:n]))
def test_a_cut_or_foreign_text_is_refused(text: str) -> None:
    if text.strip() != save(run()).strip():
        with pytest.raises(ParityError):
            load(text)


def test_the_constants_ask_for_both() -> None:
    """A ratio of one, or a floor of nothing, would block releases on noise."""
    assert RATIO >= 1.2 and all(floor > 0 for floor in FLOORS.values())


# The options.


def keeper(tmp_path: Path, environ: dict[str, str] | None = None, partial: str | None = None, **options: Any) -> Keeper:
    return Keeper.prepare(tmp_path, partial, options, environ or {})


def test_saving_and_comparing(tmp_path: Path) -> None:
    first = keeper(tmp_path, save_baseline=True)
    assert first.judge(run()).verdict == "pass" and not first.refused
    assert first.lines == [("", "baseline: wrote reports/baseline.json, 2 cells; review its lines and commit it")]
    later = keeper(tmp_path)
    record = later.judge(figure(0.2))
    assert record.verdict == "fail" and record.baseline.path == "reports/baseline.json"
    assert ("red", f"{INT8}: rel_rms of logits 0.01 -> 0.2 (regressed)") in later.lines
    kept = (tmp_path / "reports" / "baseline.json").read_bytes()
    assert keeper(tmp_path).judge(run()).verdict == "pass"
    assert (tmp_path / "reports" / "baseline.json").read_bytes() == kept, "nothing is written unasked"


def test_saving_accepts_what_changed_and_says_it(tmp_path: Path) -> None:
    keeper(tmp_path, save_baseline=True).judge(run())
    again = keeper(tmp_path, save_baseline=True)
    assert again.judge(figure(0.2)).verdict == "pass"
    assert ("yellow", f"  accepted: {INT8}: rel_rms of logits 0.01 -> 0.2 (regressed)") in again.lines
    assert keeper(tmp_path).judge(figure(0.2)).verdict == "pass"


@pytest.mark.parametrize(
    "record", [figure(0.9), run(cell(measured=())), replace(run(), partial="-k x")], ids=["fail", "missing", "partial"]
)
def test_only_a_whole_pass_is_kept(tmp_path: Path, record: RunRecord) -> None:
    keeper(tmp_path, save_baseline=True).judge(run())
    kept = (tmp_path / "reports" / "baseline.json").read_bytes()
    asked = keeper(tmp_path, save_baseline=True)
    assert asked.judge(record).verdict != "pass" and asked.refused
    assert len(asked.lines) == 1 and "not written: the verdict is" in asked.lines[0][1]
    assert (tmp_path / "reports" / "baseline.json").read_bytes() == kept


def test_ci_saves_only_to_a_named_path(tmp_path: Path) -> None:
    for ci in ("true", "1", "yes"):
        with pytest.raises(ConfigError, match="refused where CI is set"):
            keeper(tmp_path, {"CI": ci}, save_baseline=True)
    assert keeper(tmp_path, {"CI": "false"}, save_baseline=True).save
    named = keeper(tmp_path, {"CI": "true"}, save_baseline=True, baseline="mine.json")
    assert named.judge(run()).verdict == "pass" and (tmp_path / "mine.json").exists()
    assert not keeper(tmp_path, {"CI": "true"}).save


def test_what_cannot_end_well_is_refused_before_it_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="narrowed"):
        keeper(tmp_path, partial="shard 1/2", save_baseline=True)
    with pytest.raises(ParityError, match="cannot be read"):
        keeper(tmp_path, baseline="absent.json")
    assert keeper(tmp_path).known is None, "the default file need not be there"
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "baseline.json").write_text("<<<<<<< ours")
    with pytest.raises(ParityError, match="not a baseline"):
        keeper(tmp_path)
