"""A limit that nothing would measure is refused when the configuration is read or the plan is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity import formats
from parity.commands import gate
from parity.config import parse
from parity.core.errors import ConfigError
from parity.core.plan import Plan
from parity.core.record import CellRecord, Check, Environment, RunRecord, State
from parity.core.settings import Rule
from parity.judging.applicable import unapplied
from parity.judging.registry import METRICS, limitable
from parity.session.planning import make_plan, shown
from parity.suite import planned_kinds

HEAD = """
[tool.parity]
targets = ["onnx", "tflite"]
precisions = ["fp32"]
[tool.parity.limits]
"""
PLAIN = """
[tool.parity.models.plain]
factory = "m:plain"
inputs = [{ name = "x", shape = [1, 3] }]
outputs = [{ name = "map" }, { name = "scores", kind = "logits" }]
golden = "golden"
properties = { examples = 0 }
"""
CLASSES = """
[tool.parity.models.classes]
factory = "m:classes"
inputs = [{ name = "x", shape = [1, 3] }]
outputs = [{ name = "map" }, { name = "scores", kind = "logits", labels = ["a", "b"] }]
golden = "golden"
"""


def planned(folder: Path, limits: str, *models: str) -> Plan:
    (folder / "golden" / "a").mkdir(parents=True, exist_ok=True)
    (folder / "golden" / "a" / "0.npz").write_bytes(b"")
    config = parse(HEAD + limits + "".join(models), folder / "pyproject.toml", formats.facts())
    return make_plan(config, {}, planned_kinds)


REFUSED = {
    "accuracy without labels": ("plain-onnx-fp32 = { top1_drop = 0.0 }", "output map does not decide"),
    "accuracy of an output without labels": (
        "plain-onnx-fp32.scores = { top1_drop = 0.0 }",
        "no golden case has a true class: declare labels of scores",
    ),
    "accuracy of a model": ("plain.scores = { top1_accuracy = 0.9 }", "no golden case has a true class"),
    "top1 of a map": ("plain.map = { top1 = 0.9 }", 'output map does not decide between classes: declare kind = "log'),
    "flips of a map": ("fp32.map = { decision_flips = 0 }", "output map does not decide"),
    "a resizer without video": ("default = { resize_area = 0.1 }", 'no video: set video = "folder"'),
    "Flex operators of ONNX": ("onnx = { flex_ops = 0 }", "onnx files have no Flex operators"),
    "lowering of TFLite": ("tflite = { lowering_db = 90 }", "tflite files are not executed with no activation rounded"),
}


@pytest.mark.parametrize(("limits", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_limit_that_nothing_measures_is_refused(tmp_path: Path, limits: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        planned(tmp_path, limits, PLAIN)
    assert str(error.value).startswith("pyproject.toml:6 [tool.parity.limits")
    assert reason in str(error.value)


def test_the_best_five_of_two_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the best five of 2 classes always agree"):
        planned(tmp_path, "classes.scores = { top5 = 0.9 }", CLASSES)


@pytest.mark.parametrize("metric", ["links_failed", "lift_faults"])
def test_a_limit_on_a_proof_that_is_switched_off_is_refused(tmp_path: Path, metric: str) -> None:
    with pytest.raises(ConfigError, match="proof = false"):
        planned(tmp_path, f"plain-onnx-fp32 = {{ {metric} = 0 }}", PLAIN + "proof = false\n")


ALLOWED = [
    "fp32 = { top1_drop = 0.05, flex_ops = 0 }",
    "default = { top1 = 0.9 }",
    "fp32.scores = { top1_drop = 0.01 }",
    "classes-onnx-fp32 = { top1_drop = 0.0 }",
    "plain = { flex_ops = 1 }",
    "int8 = { resize_area = 0.1 }",
    "plain-onnx-fp32 = { top1_drop = false }",
    "plain = { noise_ratio_drawn = 3 }",
    "plain-onnx-fp32 = { power = 0.9, max_abs = 0.1, noise_ratio = 2, links_failed = 0 }",
]


@pytest.mark.parametrize("limits", ALLOWED)
def test_a_limit_that_one_cell_of_its_scope_measures_is_allowed(tmp_path: Path, limits: str) -> None:
    planned(tmp_path, limits, PLAIN, CLASSES)


@pytest.mark.parametrize("name", [name for name in METRICS if name not in limitable()])
@pytest.mark.parametrize("value", ["1", "false"])
def test_a_figure_that_no_project_limits_is_refused_by_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"pyproject.toml:6 .* {name} .*(limit|take)"):
        planned(tmp_path, f"fp32 = {{ {name} = {value} }}", PLAIN)


def test_a_metric_that_nothing_measures_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no metric 'repeat'"):
        planned(tmp_path, "fp32 = { repeat = 0 }", PLAIN)


@pytest.mark.parametrize("metric", ["power", "flex_ops", "links_failed"])
def test_a_figure_of_the_cell_is_not_limited_for_one_output(tmp_path: Path, metric: str) -> None:
    with pytest.raises(ConfigError, match=f"{metric} is a figure of the whole cell"):
        planned(tmp_path, f"plain.scores = {{ {metric} = 1 }}", PLAIN)


def test_the_plan_shows_no_limit_that_would_not_be_applied(tmp_path: Path) -> None:
    (tmp_path / "golden" / "a").mkdir(parents=True)
    config = parse(HEAD + PLAIN, tmp_path / "pyproject.toml", formats.facts())
    text = shown(config, make_plan(config, {}, planned_kinds), {})
    assert "top1_drop" not in text and "noise_ratio" in text
    assert text.count("flex_ops") == 2, "both outputs of the TFLite cell, and none of the ONNX cell"


# What only a run shows.

RULE = Rule("fp32", "noise_ratio_channel", 2.0, source="pyproject.toml:7")


def cell(id: str, *metrics: str, state: State = "pass") -> CellRecord:
    """A cell with a check of each of some metrics, within its limit."""
    checks = tuple(Check("golden", "all", "logits", m, 1.0, 2.0, "max", True) for m in (*metrics, "max_abs"))
    return CellRecord(id, *id.split("-"), state, checks=checks)


def test_a_limit_that_no_check_of_a_run_measured_is_an_error() -> None:
    judged = unapplied([cell("a-onnx-fp32"), cell("b-onnx-fp16")], [RULE])
    assert [cell.state for cell in judged] == ["error", "pass"]
    assert judged[0].reason.startswith("no check measured noise_ratio_channel, which pyproject.toml:7 limits")


def test_a_limit_that_one_cell_measured_holds() -> None:
    cells = (cell("a-onnx-fp32", "noise_ratio_channel"), cell("b-onnx-fp32"))
    assert unapplied(cells, [RULE]) == cells


@pytest.mark.parametrize("state", ["fail", "unavailable", "crash"])
def test_a_cell_that_does_not_pass_keeps_its_reason(state: State) -> None:
    broken = cell("a-onnx-fp32", state=state)
    assert unapplied([broken], [RULE]) == (broken,)


def test_a_limit_that_a_stronger_one_takes_away_is_not_missed() -> None:
    passing = cell("a-onnx-fp32")
    off = Rule("onnx", "noise_ratio_channel", None, source="pyproject.toml:8")
    assert unapplied([passing], [RULE, off]) == (passing,)


@pytest.mark.parametrize(("limits", "verdict"), [("max_abs = 2", "pass"), ("max_abs = 2, mean_abs = 1", "fail")])
def test_a_record_that_lacks_a_limited_figure_is_no_pass_when_judged_again(
    tmp_path: Path, limits: str, verdict: str
) -> None:
    (tmp_path / "golden").mkdir()
    file = tmp_path / "pyproject.toml"
    file.write_text(HEAD + f"fp32 = {{ {limits} }}" + PLAIN, encoding="utf-8")
    check = Check("golden", "a", "scores", "max_abs", 1.0, 2.0, "max", True)
    whole = CellRecord(
        "plain-onnx-fp32",
        "plain",
        "onnx",
        "fp32",
        "pass",
        planned=("golden",),
        measured=("golden",),
        planned_cases=1,
        planned_outputs=("scores",),
        checks=(check,),
    )
    record = RunRecord("pass", (whole,), Environment("3", {}, "m"))
    judged = gate.judged(record, file)
    assert judged.verdict == verdict, judged.cells
