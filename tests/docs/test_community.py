"""What stands around the code: workflows, the action, hooks and templates are valid, and name what exists."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomllib

from parity import cli
from tests.docs.blocks import ROOT

yaml = pytest.importorskip("yaml")

WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
FORMS = sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"))
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
MADE = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def faults(command: str) -> list[str]:
    """What does not exist of the files, modules, targets and subcommands that a shell command of ours names."""
    lost = [f"make {target}" for target in re.findall(r"\bmake ([a-z]+)", command) if target not in MADE]
    lost += [path for path in re.findall(r"(?<![\w/])\.ci/[\w.]+", command) if not (ROOT / path).is_file()]
    for module in re.findall(r"-m ((?:tests|parity)[\w.]*)", command):
        if importlib.util.find_spec(module) is None:
            lost.append(f"-m {module}")
    for line in re.sub(r"\\\n\s*", "", command).splitlines():
        if found := re.match(r"(?:\.venv/bin/)?parity ((?:[^|>&]|(?<=[A-Z])\|)*)", line.strip()):
            words = [re.sub(r"\$\{?\w+\}?", "1", word) for word in shlex.split(found[1])]
            try:
                cli.parser().parse_args(words)
            except SystemExit:
                lost.append(line)
    return lost


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_exists(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert not [name for name, job in workflow["jobs"].items() if "timeout-minutes" not in job]
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [fault for step in steps for fault in faults(step.get("run", ""))] == []
    needed = {need for job in workflow["jobs"].values() for need in [job.get("needs", [])] for need in _listed(need)}
    assert needed <= set(workflow["jobs"])


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def test_a_command_that_does_not_exist_is_seen() -> None:
    typed = "make sute && .ci/pakage.py\npython -m tests.pythns\nparity verifi x\nparity gate reports/parity.json"
    assert faults(typed) == ["make sute", ".ci/pakage.py", "-m tests.pythns", "parity verifi x"]


def test_the_action_uses_each_input_and_no_other() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.(\w+)", text)) == set(ACTION["inputs"])
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    assert not [name for name in ACTION["inputs"] if f"`{name}`" not in page]
    for step in ACTION["runs"]["steps"]:
        assert "inputs." not in step.get("run", ""), "an input in a script is code"
        assert faults(step.get("run", "")) == []


PROJECT = {
    "pyproject.toml": """
[tool.parity.models.tiny]
factory = "models:tiny"
inputs = [{ name = "image", shape = [1, 3, 9, 9] }]
outputs = [{ name = "logits" }]
cells = ["exported-fp32"]
""",
    "models.py": "import torch\n\n\ndef tiny():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))\n",
    "test_parity.py": "from parity.suite import *\n",
}


@pytest.mark.parametrize("file", ["", pytest.param("tiny.pt2", marks=pytest.mark.nightly)])
def test_the_action_measures_and_tells(tmp_path: Path, file: str) -> None:
    """Its two scripts, run as the runner runs them: by Python, with the inputs in the environment."""
    pytest.importorskip("torch")
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(text)
    if file:
        make = "import models, torch; m = models.tiny().eval(); x = torch.zeros(1, 3, 9, 9)"
        save = f"torch.export.save(torch.export.export(m, (x,)), {file!r})"
        subprocess.run([sys.executable, "-c", f"{make}; {save}"], cwd=tmp_path, check=True, env=_environ())
    steps = {step["name"]: step for step in ACTION["runs"]["steps"]}
    summary, outputs = tmp_path / "summary.md", tmp_path / "outputs"
    given = {"FILE": file, "ARGUMENTS": "--model tiny" if file else "-q --no-header", "REPORTS": "reports"}
    environ = {**_environ(), **given, "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(outputs)}
    codes = []
    for name in ("Measure", "Summary"):
        command = [sys.executable, "-c", steps[name]["run"]]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        codes.append(done.returncode)
    record = tmp_path / "reports" / ("verify.json" if file else "parity.json")
    verdict = json.loads(record.read_text(encoding="utf-8"))["verdict"]
    assert outputs.read_text() == f"verdict={verdict}\n"
    assert "tiny-exported-fp32" in summary.read_text(encoding="utf-8")
    assert codes == [0 if verdict in ("pass", "partial") else 1, 0]


def _environ() -> dict[str, str]:
    """This environment, with `parity` and `pytest` on PATH and this checkout first."""
    folder = str(Path(sys.executable).parent)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "GITHUB_"))}
    return {**kept, "PATH": f"{folder}{os.pathsep}{kept['PATH']}", "PYTHONPATH": str(ROOT)}


def test_the_hook_refuses_settings_that_a_run_would_refuse(tmp_path: Path) -> None:
    (hook,) = read(ROOT / ".pre-commit-hooks.yaml")
    assert re.fullmatch(hook["files"].strip("^$"), "pyproject.toml")
    config = tmp_path / "pyproject.toml"
    right = PROJECT["pyproject.toml"]
    for text, code in ((right, 0), (right.replace("cells", "cels"), 2)):
        config.write_text(text)
        command = [sys.executable, "-m", *shlex.split(hook["entry"]), "pyproject.toml"]
        done = subprocess.run(command, cwd=tmp_path, env=_environ(), capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
    assert "did you mean 'cells'" in done.stderr


@pytest.mark.parametrize("path", [p for p in FORMS if p.name != "config.yml"], ids=lambda path: path.name)
def test_issue_forms_have_what_github_asks_for(path: Path) -> None:
    form = read(path)
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert names
    assert len(names) == len(set(names))
    assert all(field["attributes"]["label"] for field in fields)


def test_the_package_describes_itself() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {line.rpartition(" ")[2] for line in project["classifiers"] if line.startswith("Programming Language")}
    lowest = project["requires-python"].removeprefix(">=")
    assert lowest in named
    release = read(ROOT / ".github" / "workflows" / "release.yml")
    tried = release["jobs"]["fresh"]["strategy"]["matrix"]["python"]
    assert named - {"3", "Only"} <= set(tried)
    assert f"lowest {lowest}" in release["jobs"]["lowest"]["steps"][-1]["run"]
