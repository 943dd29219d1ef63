"""Whole runs of outputs that are post-processed or matched before they are compared: the suite, power, a capsule and an
export all judge what the declared `post` and `match` leave of an output, and nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parity.core.record import CellRecord, read
from tests.plugin.tiny_project import PYPROJECT, Project, Run

pytest_plugins = "pytester"

OUTPUT = '{ name = "logits", kind = "logits", labels = ["a", "b", "c", "d"] }'
LABELS = 'labels = ["a", "b", "c", "d"]'
SOFTMAX = f'{{ name = "logits", kind = "logits", {LABELS}, post = "softmax" }}'
INDICES = '{ name = "logits", kind = "dense", post = "argmax" }'
CLASSES = f'{{ name = "logits", kind = "logits", {LABELS}, post = "argmax" }}'
BOXES = '{ name = "logits", kind = "boxes", match = "boxes" }'
KINDS = {"softmax": SOFTMAX, "argmax": INDICES, "argmax of classes": CLASSES, "boxes": BOXES}

# Two boxes a row: left, top, right, bottom, score, class. They move with the input and keep their classes.
BOXES_MODEL = """
import torch

class Boxes(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).reshape(-1, 2, 6)

def tiny():
    net = Boxes(3, 12)
    with torch.no_grad():
        moved = torch.tensor([[1.] * 4 + [.1, 0]] * 2).reshape(12, 1)
        net.weight.copy_(moved * torch.tensor([[.5, -.25, .125]]))
        net.bias.copy_(torch.tensor([0., 0, 10, 10, .9, 1, 20, 0, 32, 10, .8, 2]))
    return net
"""
# A runtime that lists the same boxes in another order, as detectors do.
IN_ANY_ORDER = "y = (inputs['x'] @ self.w.T + self.b).reshape(-1, 2, 6)[:, ::-1].copy()"

# The command line knows the project's own target only when something registers it.
MAIN = """
import sys, plain_target
from parity.formats import register_target
register_target(plain_target.Plain)
from parity.cli import main
sys.exit(main(sys.argv[1:]))
"""


def declare(project: Project, output: str) -> None:
    """One output as declared in `output`, for both cells; of boxes, a model and a runtime that give them."""
    project.write("pyproject.toml", PYPROJECT.replace(OUTPUT, output))
    if output == BOXES:
        project.write("tinynet.py", BOXES_MODEL)
        target = (project.path / "plain_target.py").read_text(encoding="utf-8")
        target = target.replace('y = inputs["x"] @ self.w.T + self.b', IN_ANY_ORDER)
        project.write("plain_target.py", target.replace("[None, 4]", "[None, 2, 6]"))


def only(run: Run, precision: str = "fp32") -> CellRecord:
    (cell,) = [c for c in run.record.cells if c.precision == precision]
    return cell


def parity(
    project: Project, *arguments: str, env: dict[str, str] | None = None, folder: Path | None = None
) -> tuple[int, str]:
    """The command line with the project's target in it: its exit code, and all that it says."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=folder or project.path,
        env={**os.environ, "PYTHONPATH": f"{project.path}:{os.environ.get('PYTHONPATH', '')}", **(env or {})},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("output", KINDS.values(), ids=KINDS)
def test_a_right_file_passes_at_every_size_and_a_wrong_one_fails(project: Project, output: str) -> None:
    declare(project, output)
    right = project.run()
    assert right.code == 0, right.text
    for cell in right.record.cells:
        assert cell.state == "pass" and {"golden", "batch"} <= set(cell.measured)
    wrong = project.run("-k", "fp32", env={"PLAIN_RUN": "one bad case" if output == BOXES else "wrong"})
    assert only(wrong).state == "fail", wrong.text
    assert any(c.kind == "golden" and not c.passed for c in only(wrong).checks)


def test_boxes_in_another_order_are_refused_where_no_match_is_declared(project: Project) -> None:
    declare(project, BOXES)
    text = (project.path / "pyproject.toml").read_text(encoding="utf-8")
    project.write("pyproject.toml", text.replace(', match = "boxes"', ""))
    assert only(project.run("-k", "fp32")).state == "fail"


def test_classes_that_are_decided_by_post_processing_are_counted(project: Project) -> None:
    declare(project, CLASSES)
    cell = only(project.run("-k", "fp32"))
    accuracy = {c.metric: c.value for c in cell.checks if c.kind == "accuracy"}
    assert accuracy == {"top1_drop": 0.0, "top1_accuracy": 1.0}
    (top1,) = [c for c in cell.checks if c.kind == "golden" and c.metric == "top1"]
    assert top1.value == 1.0 and "0 of 3 rows decide otherwise" in top1.detail

    cell = only(project.run("-k", "fp32", env={"PLAIN_RUN": "wrong"}))
    accuracy = {c.metric: c.value for c in cell.checks if c.kind == "accuracy"}
    (top1,) = [c for c in cell.checks if c.kind == "golden" and c.metric == "top1"]
    assert top1.value == 0.0 and accuracy["top1_accuracy"] == 0.0


def test_power_notices_what_the_gate_notices_and_claims_no_more(project: Project) -> None:
    """Where classes alone are compared, a file whose scores are 3 % too small passes, and power says so."""
    declare(project, INDICES)
    scaled = project.run("-k", "fp32", env={"PLAIN_RUN": "scaled"})
    assert only(scaled).state == "pass", scaled.text
    power = only(project.run("-k", "fp32", "--parity-power")).power
    assert power is not None
    fates = {f.fault: f.fate for f in power.fates}
    hidden = ("output_gain", "output_offset", "input_gain")
    assert {fates[fault] for fault in hidden} == {"survived"}, fates
    assert {fates[fault] for fault in ("output_negated", "sign_flipped")} == {"noticed"}, fates
    assert 0 < power.killed < power.injected


@pytest.mark.parametrize("output", [SOFTMAX, BOXES], ids=["softmax", "boxes"])
def test_power_of_other_post_processing(project: Project, output: str) -> None:
    declare(project, output)
    run = project.run("-k", "fp32", "--parity-power")
    power = only(run).power
    assert run.code == 0 and power is not None, run.text
    fates = {f.fault: f.fate for f in power.fates}
    assert fates["output_negated"] == "noticed" and power.killed > 10
    assert not power.false_alarms, power.false_alarms
    if output == SOFTMAX:
        assert fates["output_offset"] == "survived"  # the softmax of shifted scores is the same


def test_power_knows_functions_that_a_conftest_registers(project: Project) -> None:
    declare(project, INDICES.replace("argmax", "best"))
    best = "def best(scores):\n    return scores.argmax(-1)\n\nimport parity\nparity.register_post('best', best)\n"
    project.add("conftest.py", best)
    run = project.run("-k", "fp32", "--parity-power")
    power = only(run).power
    assert run.code == 0 and power is not None, run.text
    assert {f.fault: f.fate for f in power.fates}["output_gain"] == "survived"


def test_power_of_a_model_without_a_twin_is_measured_by_relative_error(project: Project) -> None:
    project.write("tinynet.py", (project.path / "tinynet.py").read_text().replace(
        "    return net", '    net.no_twin = "it is for this test"\n    return net'
    ))  # fmt: skip
    plain = project.run("-k", "fp32")
    assert only(plain).state == "pass", plain.text
    run = project.run("-k", "fp32", "--parity-power")
    cell = only(run)
    assert run.code == 0 and cell.state == "pass", run.text
    assert cell.power is not None and cell.power.killed > 10
    assert any("no noise floor" in f.text for f in cell.findings)
    fates = {f.fault: f.fate for f in cell.power.fates}
    assert fates["labels_rotated"] == fates["output_gain"] == "noticed"


@pytest.mark.parametrize("output", KINDS.values(), ids=KINDS)
def test_a_capsule_is_judged_like_the_run_that_it_is_of(project: Project, output: str) -> None:
    declare(project, output)
    ran = project.run("-k", "test_golden or test_accuracy or test_contract")
    assert ran.code == 0, ran.text
    cache = f"--parity-cache={project.cache}"
    code, text = parity(project, "capsule", "make", "--output", "c.zip", cache)
    assert code == 0 and "2 cells" in text, text
    for how, state in (({}, "pass"), ({"PLAIN_RUN": "nan"}, "fail")):
        code, text = parity(project, "capsule", "run", "c.zip", "--output", "o.zip", env=how)
        assert code == 0, text
        code, text = parity(project, "capsule", "judge", "c.zip", "o.zip", "--output", "merged.json")
        merged = read(project.path / "merged.json")
        assert {c.state for c in merged.cells} == {state}, text
        if state == "pass":
            _same_checks(merged.cells, ran.record.cells)


def test_a_capsule_imports_only_what_the_project_here_declares(project: Project, tmp_path: Path) -> None:
    declare(project, INDICES.replace("argmax", "tinynet:best"))
    project.add("tinynet.py", "def best(scores):\n    return scores.argmax(-1)\n")
    ran = project.run("-k", "fp32 and (test_golden or test_accuracy)", "--parity-capsule", "c.zip")
    assert ran.code == 0, ran.text
    assert parity(project, "capsule", "run", "c.zip", "--output", "o.zip")[0] == 0
    judge = ("capsule", "judge", str(project.path / "c.zip"), str(project.path / "o.zip"))
    judge = (*judge, "--record", str(project.path / "reports" / "parity.json"))
    code, text = parity(project, *judge)
    assert code == 0, text
    code, text = parity(project, *judge, folder=tmp_path)
    assert code == 1 and "'tinynet:best', which is neither built in nor declared by the project here" in text


def _same_checks(merged: tuple[CellRecord, ...], before: tuple[CellRecord, ...]) -> None:
    """Each execution of the capsule added the checks that the run itself had made, but for their case's prefix."""
    for cell, was in zip(merged, before, strict=True):
        measured = [c for c in was.checks if c.kind in ("golden", "accuracy")]
        again = cell.checks[len(was.checks) :]
        assert [(c.kind, c.metric, c.value, c.limit) for c in again] == [
            (c.kind, c.metric, c.value, c.limit) for c in measured
        ]
        assert [c.case.removeprefix("numpy CPU: ") for c in again] == [c.case for c in measured]


@pytest.mark.parametrize("output", KINDS.values(), ids=KINDS)
def test_an_export_is_verified_as_it_would_be_tested(project: Project, output: str) -> None:
    declare(project, output)
    arguments = ("export", "tiny", "--format", "plain", "--precision", "fp32", f"--parity-cache={project.cache}")
    code, text = parity(project, *arguments)
    assert code == 0, text
    how = {"PLAIN_RUN": "one bad case" if output == BOXES else "wrong"}
    code, text = parity(project, *arguments, "--output-dir", "wrong", env=how)
    assert code == 1 and "fail" in text, text
    assert not list(Path(project.path, "wrong").rglob("*.npz"))
    results = json.loads((project.path / "exports" / "export_results.json").read_text())
    assert [r["state"] for r in results["results"] if r["target"] == "plain"] == ["pass"]
