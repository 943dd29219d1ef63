"""Public files: each against itself under another name, and against its siblings, by `parity verify`."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from research.strangers import lines, project
from research.strangers.lines import Line
from research.strangers.suite import PublicFile, public_files

KINDS = {".onnx": "onnx", ".tflite": "tflite", ".jit": "torchscript", ".mlpackage": "coreml"}


def measure_all(options: argparse.Namespace) -> int:
    """Every pair of the chosen files; lines go to `options.out`."""
    from research.strangers.__main__ import chosen

    files = {file.name: file for file in public_files()}
    shipped = options.environment.resolve() / "files"
    packages = options.environment.resolve() / "packages"
    for name in chosen(list(files), options.only, options.shard):
        for other in (name, *files[name].siblings):
            line = measure(files[name], files[other], shipped, packages, options.work.resolve(), options.timeout)
            lines.write(options.out, [line])
            print(f"{line.cell}: {line.state} ({line.reason[:200]}); by hand {line.verdict} ({line.why})", flush=True)
    return 0


def measure(file: PublicFile, other: PublicFile, shipped: Path, packages: Path, work: Path, timeout: float) -> Line:
    """`other` held against `file`, by the suite and by hand."""
    folder = work / "files" / f"{file.name}~{other.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reference = shipped / file.path
    given = shipped / other.path
    if other.name == file.name:  # the identical file, under another name
        given = folder / f"copy{reference.suffix}"
        (shutil.copytree if reference.is_dir() else shutil.copy)(reference, given)
    golden = folder / "golden"
    environment = project.environment(packages)
    spec = json.dumps({"inputs": file.inputs, "range": file.range})
    by_hand = [sys.executable, "-m", "research.strangers.by_hand.pair"]
    drawn = subprocess.run([*by_hand, "draw", str(reference), str(golden)], input=spec, text=True, env=environment,
                           capture_output=True)  # fmt: skip
    held = subprocess.run([*by_hand, "compare", str(reference), str(given), str(golden), other.precision],
                          capture_output=True, text=True, env=environment)  # fmt: skip
    verdict, why = "cannot say", f"{drawn.stderr[-200:]} {held.stderr[-200:]}"
    if held.returncode == 0:
        said = json.loads(held.stdout.splitlines()[-1])
        verdict, why = said["state"], said["reason"]
    start = time.monotonic()
    hints = [f"--input={text}" for text in _declared(golden, file.inputs)] if _takes_inputs(environment) else []
    for _ in range(3):  # as a user does: the names that the suite's own hint gives, and again
        record, text = _verified(reference, given, golden, other.precision, hints, folder, environment, timeout)
        more = [hint for text in _hinted(folder) if (hint := f"--tensor={text}") not in hints]
        if not more:
            break
        hints += more
    target, seconds = KINDS[given.suffix], time.monotonic() - start
    cell = f"{file.name}~{other.name}"
    if record is None:
        return Line(file.name, cell, target, other.precision, "error", text, "verify", True, verdict, why, seconds)
    told = record["cells"][0]
    return Line(file.name, cell, target, other.precision, told["state"], told["reason"], told["stage"], True, verdict,
                why, seconds)  # fmt: skip


@cache
def _help(python_path: str) -> str:
    command = [sys.executable, "-m", "parity.cli", "verify", "--help"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": python_path}, capture_output=True, text=True)
    return done.stdout


def _takes_inputs(environment: dict[str, str]) -> bool:
    """Whether `parity verify` can be told an input's shape."""
    return "--input" in _help(environment["PYTHONPATH"])


def _declared(golden: Path, inputs: dict[str, Any]) -> list[str]:
    """NAME=SHAPE:DTYPE of the inputs that `files.toml` declares, as the first case has them."""
    found = []
    for case in sorted(golden.glob("*.npz"))[:1]:
        with np.load(case) as arrays:
            found = [f"{n}={','.join(map(str, arrays[n].shape))}:{arrays[n].dtype}" for n in inputs if n in arrays]
    return found


def _hinted(folder: Path) -> list[str]:
    """What the last run's hints say after --tensor; nothing where they leave a name open."""
    log = folder / "log.txt"
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    return [h for h in re.findall(r"--tensor (\S+=\S+)", text) if "..." not in h and "NAME" not in h]


def _verified(
    reference: Path, given: Path, golden: Path, precision: str, hints: list[str], folder: Path,
    environment: dict[str, str], timeout: float,
) -> tuple[dict[str, Any] | None, str]:  # fmt: skip
    """The record of `parity verify`, or None and the end of what it printed."""
    command = [sys.executable, "-m", "parity.cli", "verify", str(given), "--reference", str(reference)]
    command += ["--precision", precision]
    command += hints
    command += ["--golden", str(golden)] if any(golden.glob("*.npz")) else []
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return None, f"took longer than {timeout:g} s"
    report = folder / "reports" / "verify.json"
    printed = (done.stdout + done.stderr).strip()
    (folder / "log.txt").write_text(printed, encoding="utf-8")
    if not report.exists():
        return None, printed[-600:]
    return json.loads(report.read_text(encoding="utf-8")), ""
