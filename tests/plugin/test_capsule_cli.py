"""Capsules of a whole project: packed by the plugin and by the command, run, judged; and what makes one stale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from parity.core.record import read
from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

# The command line knows the project's own target only when something registers it.
MAIN = """
import sys, plain_target
from parity.formats import register_target
register_target(plain_target.Plain)
from parity.cli import main
sys.exit(main(sys.argv[1:]))
"""


def parity(project: Project, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", MAIN, "capsule", *arguments], cwd=project.path,
                          env=with_modules(project), capture_output=True, text=True)  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def with_modules(project: Project) -> dict[str, str]:
    """Children find the project's own target, and this package where the tests find it."""
    path = os.pathsep.join(filter(None, (str(project.path), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def make(project: Project, output: str, *more: str) -> tuple[int, str, str]:
    return parity(project, "make", "--output", output, f"--parity-cache={project.cache}", *more)


def said(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("parity")]
    assert len(lines) == 1, err
    return lines[0]


def test_from_a_run_to_a_merged_record(project: Project) -> None:
    ran = project.run("--parity-capsule", "out/by_run.zip")
    assert ran.code == 0 and "capsule: by_run.zip: 2 cells, seal " in ran.text
    code, out, _ = make(project, "out/made.zip")
    assert code == 0 and "2 cells" in out
    assert (project.path / "out/made.zip").read_bytes() == (project.path / "out/by_run.zip").read_bytes()
    seal = out.split("seal ")[1].strip()
    assert seal in ran.text
    assert str(project.path).encode() not in (project.path / "out/made.zip").read_bytes()

    code, out, _ = parity(project, "run", "out/made.zip", "--output", "out/outputs.zip", "--seal", seal)
    assert code == 0 and "2 of 2 executions" in out
    code, out, err = parity(project, "judge", "out/made.zip", "out/outputs.zip", "--output", "out/merged.json",
                            "--seal", seal)  # fmt: skip
    assert code == 0, out + err
    merged, before = read(project.path / "out/merged.json"), ran.record
    assert merged.verdict == "pass"
    for cell, was in zip(merged.cells, before.cells, strict=True):
        assert cell.executions[0].name == "numpy CPU" and cell.executions[0].planned == ("golden", "accuracy")
        assert cell.checks[: len(was.checks)] == was.checks
        again = {c.case.removeprefix("numpy CPU: "): c for c in cell.checks[len(was.checks) :]}
        assert {"a/case0", "b/case1", "c/case2", "all"} == set(again)
    # The merged record is judged and shown like any other.
    gate = subprocess.run([sys.executable, "-m", "parity.cli", "gate", "out/merged.json"], cwd=project.path)
    assert gate.returncode == 0
    assert subprocess.run([sys.executable, "-m", "parity.cli", "report", "out/merged.json"], cwd=project.path,
                          capture_output=True).returncode == 0  # fmt: skip
    assert "numpy CPU: " in (project.path / "out/merged.html").read_text()


def test_a_machine_that_computes_something_else_fails(project: Project) -> None:
    assert project.run("--parity-capsule", "c.zip").code == 0
    with_fault = MAIN.replace("import sys,", "import os; os.environ['PLAIN_RUN'] = 'one bad case'\nimport sys,")
    subprocess.run([sys.executable, "-c", with_fault, "capsule", "run", "c.zip", "--output", "o.zip"],
                   cwd=project.path, env=with_modules(project), check=True, capture_output=True)  # fmt: skip
    code, out, _ = parity(project, "judge", "c.zip", "o.zip")
    assert code == 1 and "verdict: fail" in out and "case numpy CPU: a/case0" in out


def test_what_is_no_longer_as_measured_is_not_packed(fresh: Project) -> None:
    assert fresh.run().code == 0
    (fresh.path / "golden" / "a" / "more.npz").write_bytes((fresh.path / "golden/a/case0.npz").read_bytes())
    code, _, err = make(fresh, "c.zip")
    assert code == 1 and "other golden cases" in said(err) and "stale" in said(err)
    (fresh.path / "golden" / "a" / "more.npz").unlink()

    text = fresh.add("pyproject.toml", "[tool.parity.limits]\nfp32 = { cosine = 0.5 }\n")
    code, _, err = make(fresh, "c.zip")
    assert code == 1 and "limit of cosine" in said(err)
    text.write_text(text.read_text().replace("[tool.parity.limits]\nfp32 = { cosine = 0.5 }\n", ""))

    assert make(fresh, "c.zip")[0] == 0
    (fresh.path / "c.zip").unlink()
    key = read(fresh.path / "reports/parity.json").cells[0].artifact.key  # type: ignore[union-attr]
    stored = fresh.cache / "objects" / key / "weights.npz"
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    code, _, err = make(fresh, "c.zip")
    assert code == 1 and "not in the cache" in said(err)
    assert not (fresh.path / "c.zip").exists()


def test_another_artefact_under_the_key_is_not_packed(fresh: Project) -> None:
    assert fresh.run().code == 0
    path = fresh.path / "reports/parity.json"
    data = json.loads(path.read_text())
    data["cells"][0]["artifact"]["files"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(data))
    code, _, err = make(fresh, "c.zip")
    assert code == 1 and "not the file that the record names" in said(err)


def test_a_cell_without_an_artefact_is_left_out_by_name(project: Project) -> None:
    ran = project.run("--parity-capsule", "c.zip", env={"PLAIN_CONVERT": "raise"})
    if "left out tiny-plain-fp16" not in ran.text:  # an earlier test filled the shared cache
        ran = project.run("--parity-capsule", "c.zip", "--parity-rebuild", env={"PLAIN_CONVERT": "raise"})
    assert ran.code == 1
    assert "capsule: c.zip: 1 cell," in ran.text and "left out tiny-plain-fp16: it has no artefact: error" in ran.text
    assert parity(project, "run", "c.zip", "--output", "o.zip")[0] == 0
    code, out, _ = parity(project, "judge", "c.zip", "o.zip")
    assert code == 1 and "verdict: fail: 1 cell failed: tiny-plain-fp16" in out


def test_a_capsule_that_cannot_be_written_turns_the_exit_code(project: Project) -> None:
    ran = project.run("--parity-capsule", "c.zip", "--parity-no-report")
    assert ran.code == 1 and "capsule: not written: --parity-capsule needs the report" in ran.text
    (project.path / "file").write_text("")
    ran = project.run("--parity-capsule", "file/c.zip")
    assert ran.code == 1 and "capsule: not written" in ran.text


def test_workers_and_a_narrowed_run(project: Project) -> None:
    ran = project.run("--parity-capsule", "c.zip", "--parity-precisions", "fp32", "-n", "2")
    assert ran.code == 0 and "capsule: c.zip: 1 cell," in ran.text
    assert parity(project, "run", "c.zip", "--output", "o.zip")[0] == 0
    code, out, _ = parity(project, "judge", "c.zip", "o.zip")
    assert code == 0 and "verdict: partial" in out
    ran = project.run("--parity-capsule", "q.zip", "--parity-profile", "quick")
    assert ran.code == 0 and "2 cells" in ran.text


def test_bad_usage_is_one_line(project: Project) -> None:
    assert project.run().code == 0
    assert "did you mean 'plain'" in said(make(project, "c.zip", "--targets", "plane")[2])
    assert "unknown cell" in said(make(project, "c.zip", "--cells", "tiny-plain-int8")[2])
    assert "No such file" in said(make(project, "c.zip", "--record", "gone.json")[2])
    assert "cannot be read" in said(parity(project, "run", "gone.zip", "--output", "o.zip")[2])
    np.save(project.path / "x.npy", np.zeros(3))
    assert "not a capsule" in said(parity(project, "run", "x.npy", "--output", "o.zip")[2])
    assert not Path(project.path / "o.zip").exists()
