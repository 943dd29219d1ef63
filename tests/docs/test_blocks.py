"""Every code block of the documentation holds: configuration is read, Python runs, commands and options exist."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomllib

from parity import cli
from parity import config as configuration
from parity import formats as targets
from parity.report import glossary
from tests.docs.blocks import ROOT, Block, blocks, commands

ALIEN = {"git", "cd", "pip", "open", "python", "python3", "cat", "test", "export", "sha256sum", "make"}
BASE = """
[tool.parity]
targets = ["onnx", "tflite", "coreml", "ncnn"]
precisions = ["fp32", "fp16", "dynamic", "int8"]
"""
MODEL = """
[tool.parity.models.{name}]
factory = "m:f"
inputs = [{{ name = "image", shape = ["batch", 3, 8, 8] }}]
outputs = [{{ name = "logits", kind = "logits" }}, {{ name = "probs" }}]
calibration = "calibration"
"""
REST = 'factory = "m:f", inputs = [{ name = "image", shape = [1, 3, 8, 8] }], outputs = [{ name = "logits" }]'


# The block of the example's README is used whole by tests/examples.
TABLES = [b for b in blocks("toml") if not b.page.startswith("examples/")]


@pytest.mark.parametrize("block", TABLES, ids=lambda b: b.id)
def test_configuration_is_read(block: Block, tmp_path: Path) -> None:
    data = tomllib.loads(block.text)
    parity = data.get("tool", {}).get("parity")
    if parity is None and "models" not in data and "limits" not in data:
        return  # another tool's table: valid TOML is all that we can say
    for path in _paths(data):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("a\nb\n") if "." in Path(path).name else (tmp_path / path).mkdir(exist_ok=True)
    (tmp_path / "calibration").mkdir(exist_ok=True)
    text = block.text if re.search(r"^\[tool\.parity\]", block.text, re.MULTILINE) else BASE + block.text
    known = set(parity.get("models", {})) if parity else set()
    named = set(re.findall(r"(\w+)-(?:onnx|tflite|coreml|ncnn)-\w+", block.text)) | set(_model_keys(parity or {}))
    text += "".join(MODEL.format(name=n) for n in sorted((named or {"classifier"}) - known))
    fragments = [f'models.{n} = {{ {REST} }}' for n, table in (parity or {}).get("models", {}).items() if
                 not {"factory", "reference"} & set(table)]  # fmt: skip
    configuration.parse(text, tmp_path / "pyproject.toml", targets.facts(), fragments)


def _paths(value: Any, key: str = "") -> list[str]:
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in _paths(v, k)]
    if isinstance(value, list):
        return [p for v in value for p in _paths(v, key)]
    wanted = key in ("golden", "calibration", "video", "checkpoint", "reference", "labels", "path") or "-" in key
    return [value] if wanted and isinstance(value, str) and "/" in value + "/" else []


def _model_keys(parity: dict[str, Any]) -> list[str]:
    """Limits that name a model: keys that are no precision, target or pair of them."""
    words = {*targets.names(), "fp32", "fp16", "dynamic", "int8"}
    return [k for k in parity.get("limits", {}) if re.fullmatch(r"[a-z][a-z0-9_]*", k) and k not in words]


@pytest.mark.parametrize("block", blocks("python"), ids=lambda b: b.id)
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.id, "exec")


def _long(block: Block) -> bool:
    """Whether a block starts a converter that takes half a minute: every night, and here those that take seconds."""
    return bool(re.search(r"^import .*(tensorflow|onnx2tf|coremltools)", block.text, re.MULTILINE))


RUNS = [
    pytest.param(b, id=b.id, marks=[pytest.mark.nightly] if _long(b) else [])
    for b in blocks("python")
    if not re.search(r"\.mlpackage|picture|\.\.\.", b.text)  # works on the reader's own file
]


@pytest.mark.parametrize("block", RUNS)
def test_python_runs(block: Block, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", block.text], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


CONSOLE = [(b, c) for b in blocks("console") for c in commands(b.text)]


@pytest.mark.parametrize(("block", "command"), CONSOLE, ids=[f"{b.id} {c[:40]}" for b, c in CONSOLE])
def test_commands_and_their_options_exist(block: Block, command: str) -> None:
    for part in re.split(r"\s(?:&&|\|\|?|;)\s", command):
        _exists(shlex.split(part, comments=True))


def _exists(words: list[str]) -> None:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    redirected = next((i for i, w in enumerate(words) if w in (">", ">>", "2>&1")), len(words))
    words = words[:redirected]
    program = words[0].rpartition("/")[2]
    if program == "python" and words[1:3] == ["-m", "pytest"]:
        program, words = "pytest", words[2:]
    if program == "parity":
        parser = cli.parser()
        with contextlib.suppress(SystemExit):
            parser.parse_args(words[1:])
            return
        assert {"--help", "--version"} & set(words), f"parity refuses: {words}"
    elif program == "pytest":
        known = set(re.findall(r"--[a-z][a-z-]*", _pytest_help())) | {"--junitxml"}  # a second name
        unknown = [w.partition("=")[0] for w in words[1:] if w.startswith("--") and w.partition("=")[0] not in known]
        assert not unknown, f"pytest has no {unknown}"
    elif program == "make":
        made = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert len(words) == 1 or words[1] in made, f"make has no target {words[1]}"
    elif program in ("python", "python3") and len(words) > 1 and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), f"no file {words[1]}"
    else:
        assert program in ALIEN, f"unknown program {program!r}: is it ours?"


def _pytest_help(found: list[str] = []) -> str:  # noqa: B006 - kept for the process
    if not found:
        done = subprocess.run([sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True,
                              cwd=ROOT)  # fmt: skip
        found.append(done.stdout)
    return found[0]


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda b: b.id)
def test_recipes_are_valid_and_run_commands_that_exist(block: Block) -> None:
    yaml = pytest.importorskip("yaml")
    recipe = yaml.safe_load(block.text)
    runs = [step["run"] for job in recipe.get("jobs", {}).values() for step in job["steps"] if "run" in step]
    runs += recipe.get("parity", {}).get("script", [])
    assert runs
    for run in runs:
        for line in run.splitlines():
            _exists(shlex.split(re.sub(r"\$\{\{.*?\}\}", "1", line)))


def test_the_glossary_page_is_the_reports_own() -> None:
    assert (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8") == glossary.markdown(), (
        "write it again: python -c 'from parity.report import glossary; print(glossary.markdown(), end=str())'"
    )


# The README's own walk, typed as it stands there.

FACTORY = """
import torch

def classifier():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=4), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, stride=4), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(32, 4))
"""


@pytest.mark.nightly
def test_your_own_model_as_the_readme_says(tmp_path: Path) -> None:
    from PIL import Image

    block = next(b for b in blocks("console") if "parity init" in b.text and b.page == "README.md")
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "__init__.py").touch()
    (tmp_path / "my_pkg" / "models.py").write_text(FACTORY)
    (tmp_path / "golden" / "classifier").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for i in range(3):
        noise = draw.integers(0, 256, (50, 40 + i, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "golden" / "classifier" / f"{i}.png")
    bin = str(Path(sys.executable).parent)
    for command in commands(block.text):
        if not command.startswith("pip "):
            done = subprocess.run(["bash", "-c", f'PATH="{bin}:$PATH" {command}'], cwd=tmp_path, capture_output=True,
                                  text=True, check=False)  # fmt: skip
            assert done.returncode == 0, command + "\n" + done.stdout + done.stderr
    assert "verdict: pass" in done.stdout
    toml = next(b for b in blocks("toml") if "[tool.parity.models.classifier]" in b.text and b.page == "README.md")
    assert tomllib.loads((tmp_path / "pyproject.toml").read_text()) == tomllib.loads(toml.text)


@pytest.mark.nightly
def test_a_tflite_from_a_colleague_as_the_tutorial_says(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnx2tf")
    typed = [c for b in blocks("console") if b.page == "docs/tutorial-colleague.md" for c in commands(b.text)]
    answers = {
        "parity verify theirs/shapes.fp32.tflite --model shapes": "it looks like NHWC: --tensor image=:NHWC",
        "parity verify theirs/shapes.fp32.tflite --model shapes --tensor image=:NHWC --fixed": "audit: head.weight",
        "parity verify mine/shapes.fp32.tflite --model shapes --tensor image=:NHWC --fixed": "1 of 1 cell pass",
        "parity verify mine/shapes.fp32.tflite --reference shipped.onnx --tensor image=:NHWC --fixed": "RGB for BGR",
    }
    assert set(answers) <= set(typed)
    folder, bin = tmp_path, str(Path(sys.executable).parent)
    for command in typed:
        if command.startswith("cd "):
            folder /= command.removeprefix("cd ")
        elif not command.startswith("pip "):
            words = ["bash", "-c", f'PATH="{bin}:$PATH" {command}']
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
            answer = answers.get(command, "")
            assert answer in done.stdout, command + "\n" + done.stdout + done.stderr
            assert done.returncode == (0 if answer in ("", "1 of 1 cell pass") else 1), command
