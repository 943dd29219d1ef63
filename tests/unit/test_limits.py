"""The cascade: the strongest scope wins, an output's own rule over all, and every limit knows who set it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity import formats
from parity.config import parse
from parity.core.plan import PRECISIONS, Cell
from parity.core.settings import Rule
from parity.judging.limits import DEFAULTS, defaults, resolve, scopes

CELL = Cell("skin", "tflite", "int8")
ORDER = ("default", "int8", "tflite", "tflite-int8", "skin", "skin-tflite-int8")
FOREIGN = ("fp32", "onnx", "onnx-int8", "tflite-fp32", "det", "skin-onnx-int8", "skin-tflite-fp32")


def test_the_scopes_of_a_cell_from_weak_to_strong() -> None:
    assert scopes(CELL) == ORDER


@pytest.mark.parametrize("stronger", range(1, len(ORDER)))
@pytest.mark.parametrize("turned", [False, True])
def test_each_scope_wins_over_the_one_before_it(stronger: int, turned: bool) -> None:
    rules = [Rule(ORDER[stronger - 1], "max_abs", 1.0, source="weak"), Rule(ORDER[stronger], "max_abs", 2.0, None, "s")]
    found = resolve(rules[::-1] if turned else rules, CELL)["max_abs"]
    assert (found.value, found.source) == (2.0, "s")


RULES = st.lists(
    st.builds(
        Rule,
        st.sampled_from((*ORDER, *FOREIGN)),
        st.sampled_from(["max_abs", "cosine", "sqnr"]),
        st.one_of(st.none(), st.floats(-5, 5)),
        st.sampled_from([None, "logits", "mask"]),
        st.uuids().map(str),
    ),
    max_size=25,
)


@given(RULES, st.sampled_from([None, "logits", "mask"]))
def test_the_strongest_rule_wins_whatever_the_order(rules: list[Rule], output: str | None) -> None:
    found = resolve(rules, CELL, output)
    for metric in ("max_abs", "cosine", "sqnr"):
        mine = [
            (rule.output is not None, ORDER.index(rule.scope), place, rule)
            for place, rule in enumerate(rules)
            if rule.metric == metric and rule.scope in ORDER and rule.output in (None, output)
        ]
        if not mine:
            assert found.get(metric) == defaults(CELL).get(metric)
            continue
        winner = max(mine, key=lambda entry: entry[:3])[3]
        assert (found[metric].value, found[metric].source) == (winner.value, winner.source)


@given(RULES)
def test_rules_of_other_cells_and_outputs_change_nothing(rules: list[Rule]) -> None:
    own = [r for r in rules if r.scope in ORDER and r.output in (None, "logits")]
    assert resolve(rules, CELL, "logits") == resolve(own, CELL, "logits")


def test_a_rule_of_an_output_wins_over_a_stronger_scope_without_one() -> None:
    rules = [Rule("default", "max_abs", 1.0, "logits", "output"), Rule(CELL.id, "max_abs", 2.0, None, "cell")]
    assert resolve(rules, CELL, "logits")["max_abs"].source == "output"
    assert resolve(rules, CELL, "mask")["max_abs"].source == "cell"
    assert resolve(rules, CELL)["max_abs"].source == "cell"


def test_false_takes_a_limit_away() -> None:
    found = resolve([Rule("int8", "cosine", None, source="user")], CELL)["cosine"]
    assert found.value is None and found.source == "user"


@pytest.mark.parametrize("target", ["onnx", "tflite", "coreml", "made_up"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_cell_has_default_limits_that_say_so(precision: str, target: str) -> None:
    found = resolve((), Cell("skin", target, precision), "logits")
    for metric, value in DEFAULTS[precision].items():
        assert found[metric].value == value and found[metric].source == f"built-in default for {precision}"
    assert found["flex_ops"].value == 0 and found["flex_ops"].source == "built-in default"
    assert all(limit.value is not None and limit.source for limit in found.values())
    assert {"noise_ratio", "rel_rms"} & set(found), "nothing limits the error of a case"


def test_the_weakest_rule_is_stronger_than_any_default() -> None:
    for metric in defaults(CELL):
        assert resolve([Rule("default", metric, 0.125, source="user")], CELL)[metric].source == "user"


def test_the_release_thresholds_are_the_stated_ones() -> None:
    assert DEFAULTS["fp32"]["cosine"] >= 0.99 and DEFAULTS["fp16"]["cosine"] >= 0.95
    assert DEFAULTS["fp16"]["top1_drop"] <= 0.01 and DEFAULTS["int8"]["top1_drop"] <= 0.05


def test_the_source_names_file_line_and_table() -> None:
    text = """\
[tool.parity.models.skin]
factory = "p:f"
inputs = [{ name = "x", shape = [1] }]
outputs = [{ name = "logits" }]

[tool.parity.limits]
fp32 = { cosine = 0.9 }

[tool.parity.limits."skin-onnx-fp32".logits]
# the reason
max_abs = 0.5
"""
    rules = parse(text, Path("/p/pyproject.toml"), formats.facts()).rules
    found = resolve(rules, Cell("skin", "onnx", "fp32"), "logits")
    assert found["cosine"].source == "pyproject.toml:7 [tool.parity.limits.fp32] cosine"
    assert found["max_abs"].source == "pyproject.toml:11 [tool.parity.limits.skin-onnx-fp32.logits] max_abs"
