"""The ledger's options and the annotations, as a person and as CI use them: pytest in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity.judging import baseline
from tests.plugin.tiny_project import Project, Run

pytest_plugins = "pytester"

QUIET = {"CI": "", "GITHUB_ACTIONS": ""}


def ledger(project: Project) -> Path:
    return project.path / "reports" / "baseline.json"


def run(project: Project, *args: str, **env: str) -> Run:
    return project.run(*args, env={**QUIET, **env})


def test_saved_compared_regressed_and_accepted(project: Project) -> None:
    first = run(project, "--parity-save-baseline")
    assert (first.code, first.verdict) == (0, "pass"), first.text
    assert "baseline: wrote reports/baseline.json, 2 cells; review its lines and commit it" in first.text
    kept = ledger(project).read_text()
    assert set(baseline.load(kept).cells) == {"tiny-plain-fp32", "tiny-plain-fp16"}
    assert str(project.path) not in kept

    same = run(project)
    assert same.code == 0 and same.record.baseline.path == "reports/baseline.json", same.text
    assert same.record.baseline.regressions == () and "baseline reports" not in same.text


@pytest.mark.parametrize("workers", [pytest.param((), marks=pytest.mark.nightly), ("-n2",)], ids=["alone", "xdist"])
def test_a_regression_inside_the_limits_blocks_until_it_is_accepted(project: Project, workers: tuple[str, ...]) -> None:
    """The ledger says that half precision was ten times better once; the controller judges, whoever measured."""
    assert run(project, "--parity-save-baseline").code == 0
    data = json.loads(ledger(project).read_text())
    half = data["cells"]["tiny-plain-fp16"]["drift"]["golden"]["logits"]
    assert half["rel_rms"] > 1e-5
    half["rel_rms"] /= 10
    ledger(project).write_text(json.dumps(data))
    before = ledger(project).read_bytes()

    worse = run(project, *workers)
    assert (worse.code, worse.verdict) == (1, "fail"), worse.text
    assert set(worse.states().values()) == {"pass"}, "no limit noticed"
    assert "tiny-plain-fp16: rel_rms of logits " in worse.text and "(regressed)" in worse.text
    assert "verdict: fail: 1 regression: tiny-plain-fp16" in worse.text
    assert ledger(project).read_bytes() == before, "a run that was not asked to does not write"

    accepted = run(project, *workers, "--parity-save-baseline")
    assert accepted.code == 0, accepted.text
    assert "accepted: tiny-plain-fp16: rel_rms of logits " in accepted.text
    assert run(project).code == 0


def test_only_a_whole_pass_is_saved(project: Project) -> None:
    failed = run(project, "--parity-save-baseline", PLAIN_RUN="wrong")
    assert failed.code == 1 and "baseline: not written: the verdict is fail" in failed.text
    narrowed = run(project, "--parity-save-baseline", "-k", "fp32")
    assert narrowed.code == 1 and "not written: the verdict is partial" in narrowed.text
    early = run(project, "--parity-save-baseline", "--parity-precisions", "fp32")
    assert early.code == 4 and "narrowed (precisions fp32)" in early.text and "verdict" not in early.text
    assert not ledger(project).exists()


def test_ci_saves_only_where_it_is_told(project: Project) -> None:
    refused = run(project, "--parity-save-baseline", CI="true")
    assert refused.code == 4 and "refused where CI is set" in refused.text
    assert not ledger(project).exists()
    named = run(project, "--parity-save-baseline", "--parity-baseline", "kept/mine.json", CI="true")
    assert named.code == 0 and "baseline: wrote kept/mine.json" in named.text, named.text


def test_a_ledger_that_cannot_be_read_is_a_configuration_error(project: Project) -> None:
    absent = run(project, "--parity-baseline", "absent.json")
    assert absent.code == 4 and "absent.json: cannot be read" in absent.text
    ledger(project).parent.mkdir(exist_ok=True)
    ledger(project).write_text("<<<<<<< ours\n{}")
    broken = run(project)
    assert broken.code == 4 and "not a baseline" in broken.text and "Traceback" not in broken.text


def test_annotations_on_a_runner_and_nowhere_else(project: Project) -> None:
    project.add("pyproject.toml", "[tool.parity.limits]\nfp32 = { max_abs = 1e-30 }\n")
    line = (project.path / "pyproject.toml").read_text().splitlines().index("fp32 = { max_abs = 1e-30 }") + 1
    found = run(project, "-n2", GITHUB_ACTIONS="true", GITHUB_WORKSPACE=str(project.path.parent))
    expected = f"::error file={project.path.name}/pyproject.toml,line={line},title=parity%3A tiny-plain-fp32::fail: "
    assert [text for text in found.text.splitlines() if text.startswith("::")] and expected in found.text, found.text
    assert "::error" not in run(project).text
