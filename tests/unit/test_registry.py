"""The registry of metrics: whatever is said of a metric anywhere is said from its one entry."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from parity.core.plan import PRECISIONS
from parity.judging import baseline
from parity.judging.limits import DEFAULTS, NOISE
from parity.judging.metrics import DECIDED, SUMMED
from parity.judging.registry import BUILT_IN, METRICS, limitable
from parity.judging.spec import MetricSpec
from parity.report.glossary import METRIC_WORDS

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("spec", BUILT_IN, ids=lambda spec: spec.name)
def test_a_metric_says_what_it_is(spec: MetricSpec) -> None:
    assert spec.name in METRIC_WORDS
    assert spec.doc.endswith(".")
    assert spec.low < spec.high
    assert spec.ledger_floor is None or spec.ledger_floor > 0
    for limit in (*spec.limits.values(), *spec.fallback.values()):
        assert not spec.impossible(limit), "a default limit that no project could set"


def test_what_compare_measures_is_in_the_registry() -> None:
    assert {*SUMMED, *DECIDED} <= {spec.name for spec in BUILT_IN if spec.compared}


def test_the_readme_names_metrics_that_a_limit_can_have() -> None:
    text = README.read_text(encoding="utf-8")
    (paragraph,) = re.findall(r"Metrics that a limit can name: (.+?)\n\n", text, re.S)
    names = re.findall(r"`(\w+)`", paragraph.partition(", and ")[0])
    assert len(names) > 10
    assert set(names) <= set(limitable())
    assert "docs/glossary.md" in paragraph


@pytest.mark.parametrize(
    ("metric", "limit", "reason"),
    [
        ("cosine", -1.0, "judges nothing"),
        ("iou", 0.0, "judges nothing"),
        ("lowering_db", 0.0, "judges nothing"),
        ("top1_drop", 1.0, "judges nothing"),
        ("differing_share", 1.0, "judges nothing"),
        ("top1_drop", -1.5, "from -1 to 1"),
        ("max_abs", -0.1, "at least 0"),
        ("sqnr", 500.0, "from -400 to 400"),
        ("power", 1.5, "from 0 to 1"),
    ],
)
def test_a_limit_beyond_the_range_is_refused(metric: str, limit: float, reason: str) -> None:
    assert reason in METRICS[metric].impossible(limit)


@pytest.mark.parametrize("name", limitable())
def test_the_tightest_limit_is_one_that_can_be_set(name: str) -> None:
    assert not METRICS[name].impossible(tightest(name))


def tightest(name: str) -> float:
    """The limit that the fewest values keep."""
    spec = METRICS[name]
    if spec.sense == "min":
        return spec.high
    return spec.low if math.isfinite(spec.low) else 0.0


# What was written by hand in five places until there was a registry.


def test_the_default_limits_are_the_stated_ones() -> None:
    assert DEFAULTS["default"] == {
        "flex_ops": 0.0, "unmeasured_signatures": 0.0, "precision_cost": 0.8, "always_differing": 0.0,
        "lost_classes": 0.0, "flips_beyond_noise": 0.0,
    }  # fmt: skip
    assert {p: DEFAULTS[p]["top1_drop"] for p in PRECISIONS} == {
        "fp32": 0.0,
        "fp16": 0.01,
        "dynamic": 0.02,
        "int8": 0.05,
    }
    assert set(NOISE.values()) == {"pooled", "worst", "channel", "peak"}


def test_the_ledger_s_floors_are_those_of_its_page() -> None:
    page = (README.parent / "docs" / "gate.md").read_text(encoding="utf-8")
    for name, floor in baseline.FLOORS.items():
        assert floor in (4e-6, 1e-6, 0.005, 0.5, 0.25)
        assert name in page or name.startswith("noise_ratio") or name == "decision_flips"
