"""Every limit that the configuration accepts gates: set as tight as it can be, it makes a run of a wrong file fail.

Whole runs of a small project show it of what such a project can measure; what needs TFLite, Core ML, the chain of proof
or a video is shown on the functions that make its checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from parity.core.contract import OutputSpec
from parity.core.proof import Culprit, Link, Proof
from parity.core.record import CellRecord, Check
from parity.judging import judge
from parity.judging.gate import passes
from parity.judging.limits import Limit
from parity.judging.registry import METRICS, limitable
from parity.judging.spec import Family
from tests.plugin.tiny_project import MODEL, PYPROJECT, TARGET, Project

pytest_plugins = "pytester"

OWN_METRIC = """
import parity
parity.register_metric("half_row", lambda got, want: float(abs(got - want).max() / 2), sense="max", doc="half of it")
"""
SIX = {"class": 'labels = ["a", "b", "c", "d"]', "row": "[-1, -1, -1]]", "bias": "[.1, .2, .3, .4]"}

ONE_WAY = "one_way_decisions"  # the classifier decides nothing by its inputs
APART = (ONE_WAY, "drawn_cost")  # the second is of int8 alone: tests/plugin/test_calibration_reach.py
Checks = Callable[[str, dict[str, Limit]], list[Check]]


def tightest(name: str) -> float:
    """The limit that the fewest values of a metric keep."""
    spec = METRICS[name]
    if spec.sense == "min":
        return spec.high
    return spec.low if math.isfinite(spec.low) else 0.0


def table(*names: str) -> str:
    pairs = ", ".join(f"{name} = {tightest(name)!r}" for name in names)
    return f"\n[tool.parity.limits]\nfp32 = {{ {pairs} }}\n"


def classifier(project: Project) -> None:
    """One cell of a classifier of six labelled classes, drawn inputs, and a metric of the project's own."""
    text = PYPROJECT.replace('["fp32", "fp16"]', '["fp32"]').replace("examples = 0", "examples = 2")
    project.write("pyproject.toml", text.replace(SIX["class"], 'labels = ["a", "b", "c", "d", "e", "f"]'))
    model = MODEL.replace("Linear(3, 4)", "Linear(3, 6)").replace(SIX["bias"], "[.1, .2, .3, .4, .5, .6]")
    project.write("tinynet.py", model.replace(SIX["row"], "[-1, -1, -1], [1, 1, 1], [-2, 1, 1]]"))
    project.write("plain_target.py", TARGET.replace("[None, 4]", "[None, 6]"))
    project.add("conftest.py", OWN_METRIC)


INDICES = """
class Indices(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).argmax(-1)

scores = tiny

def tiny():
    net = Indices(3, 4)
    net.load_state_dict(scores().state_dict())
    return net
"""
INDEX_SESSION = """
class IndexSession(PlainSession):
    def describe(self):
        index = {"name": "logits", "shape": [None], "dtype": "int64"}
        return {**super().describe(), "outputs": [index]}

    def run(self, inputs):
        return {"logits": (super().run(inputs)["logits"].argmax(-1) + OFF) % 4}

Plain.session = "plain_target:IndexSession"
"""


def indices(project: Project, off: int) -> None:
    """One cell of a model whose output is the index of the best class, as an integer; the file's is
    wrong by `off`."""
    scores = '{ name = "logits", kind = "logits", labels = ["a", "b", "c", "d"] }'
    text = PYPROJECT.replace('["fp32", "fp16"]', '["fp32"]').replace(scores, '{ name = "logits" }')
    project.write("pyproject.toml", text)
    project.add("tinynet.py", INDICES)
    project.add("plain_target.py", INDEX_SESSION.replace("OFF", str(off)))


def spoilt(project: Project, line: str) -> None:
    """The runtime computes something else."""
    text = (project.path / "plain_target.py").read_text(encoding="utf-8")
    project.write("plain_target.py", text.replace('        return {"none"', f'        {line}\n        return {{"none"'))


def silent(cell: CellRecord, *names: str) -> list[str]:
    """The metrics of which no check fails under the limit that the configuration set."""
    failed = {
        check.metric
        for check in cell.checks
        if not passes(check) and check.limit is not None and check.source.startswith("pyproject.toml:")
    }
    return [name for name in names if name not in failed]


def in_whole_runs() -> list[str]:
    """What the classifier measures. Power is apart: under such limits every injected fault is noticed."""
    families: tuple[Family, ...] = ("difference", "decision", "noise", "accuracy", "drawn")
    return [name for name in limitable() if METRICS[name].family in families and name not in APART]


def test_every_limit_on_what_a_classifier_measures_gates(project: Project) -> None:
    classifier(project)
    spoilt(project, "y = -y")
    names = [*in_whole_runs(), "half_row"]
    project.add("pyproject.toml", table(*in_whole_runs()).replace(" }", ", half_row = 0.0 }"))
    run = project.run()
    assert (run.code, run.verdict) == (1, "fail"), run.text
    assert silent(run.record.cells[0], *names) == []


def test_a_limit_on_integer_outputs_gates(project: Project) -> None:
    indices(project, off=1)
    project.add("pyproject.toml", table("differing_share"))
    run = project.run()
    assert (run.code, run.verdict) == (1, "fail"), run.text
    assert silent(run.record.cells[0], "differing_share") == []


def test_a_limit_on_power_gates(project: Project) -> None:
    """Limits so loose that faults are not noticed."""
    classifier(project)
    off = [name for name in limitable() if METRICS[name].family in ("difference", "decision", "noise", "accuracy")]
    loose = ", ".join(f"{name} = false" for name in off if name != "max_abs")
    project.add("pyproject.toml", f"\n[tool.parity.limits]\nfp32 = {{ {loose}, max_abs = 1e6, power = 1 }}\n")
    run = project.run()
    assert run.code == 1, run.text
    assert silent(run.record.cells[0], "power") == []


def test_a_limit_that_only_a_run_shows_unmeasured_is_no_pass(project: Project) -> None:
    indices(project, off=0)
    project.add("pyproject.toml", "\n[tool.parity.limits]\ntiny = { noise_ratio = 2 }\n")
    run = project.run()
    assert run.code == 1, run.text
    assert "no check measured noise_ratio, which pyproject.toml:" in run.record.cells[0].reason


def test_a_limit_that_nothing_can_measure_stops_before_any_test(project: Project) -> None:
    project.add("pyproject.toml", '\n[tool.parity.limits]\n"tiny-plain-fp32" = { resize_area = 0.1 }\n')
    run = project.run()
    assert run.code == 4, run.text
    assert "[tool.parity.limits.tiny-plain-fp32] resize_area: not measured by tiny-plain-fp32: " in run.text


# What a small project cannot measure.

OUTPUT = OutputSpec("y")


def proof(metric: str, limits: dict[str, Limit]) -> list[Check]:
    names = ("match", "audit", "lift", "local", "range", "operators", "copies")
    culprit = Culprit("tensor", "w", "is no tensor of the model")
    links = tuple(Link(name, "failed", culprits=(culprit,)) for name in names)
    listed = judge.check_unexplained(["If at n"], limits), judge.check_constants(["constant: c"], limits)
    return [*judge.check_proof(Proof("int8", links), limits), *listed]


def lowering(metric: str, limits: dict[str, Limit]) -> list[Check]:
    return [judge.lowered(OUTPUT, metric, {"lowering_db": 399.0, "lowering_ratio": 0.1}[metric], limits, "")]


def resizing(metric: str, limits: dict[str, Limit]) -> list[Check]:
    return [judge.described("video", OUTPUT, metric, 1e-6, limits, "")]


def operators(metric: str, limits: dict[str, Limit]) -> list[Check]:
    return [judge.counted("operators", metric, 1.0, limits)]


def indeed(metric: str, limits: dict[str, Limit]) -> list[Check]:
    return [judge.measured_power(0.99, limits, "")]


def integers(metric: str, limits: dict[str, Limit]) -> list[Check]:
    """Of four cases, which the small project has not."""
    want = [np.arange(4) + i for i in range(4)]
    got = [w + 1 for w in want]
    each = judge.check_output("golden", "a", OUTPUT, got[0], want[0], limits)
    many = [np.repeat(np.arange(2), 20)] * 4
    lost = judge.check_lost("golden", OUTPUT, [0 * each for each in many], many, limits, [[]] * 4)
    return [*each, *judge.check_always("golden", OUTPUT, got, want, limits, [[]] * 4), *lost]


MADE_BY: dict[str, Checks] = {
    "integers": integers,
    "proof": proof,
    "lowering": lowering,
    "resizing": resizing,
    "operators": operators,
    "power": indeed,
}


@pytest.mark.parametrize("name", [name for name in limitable() if METRICS[name].family in MADE_BY])
def test_a_limit_on_what_needs_more_than_a_small_project_gates(name: str) -> None:
    limits = {name: Limit(name, tightest(name), "pyproject.toml:1")}
    checks = [c for c in MADE_BY[METRICS[name].family](name, limits) if c.metric == name]
    assert checks and not any(map(passes, checks))


def test_a_limit_on_decisions_that_went_one_way_gates() -> None:
    limits = {ONE_WAY: Limit(ONE_WAY, tightest(ONE_WAY), "pyproject.toml:1")}
    assert not passes(judge.check_one_way(["module: gt at net.py:7"], limits))


def test_no_limit_escapes_these_tests() -> None:
    shown = {*in_whole_runs(), "differing_share", *APART} | {n for n in limitable() if METRICS[n].family in MADE_BY}
    assert shown == set(limitable())


def test_every_figure_of_a_run_is_in_the_registry(project: Project) -> None:
    classifier(project)
    run = project.run()
    assert run.code == 0, run.text
    assert {check.metric for check in run.record.cells[0].checks} <= set(METRICS)
