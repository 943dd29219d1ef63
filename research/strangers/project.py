"""A project as a new user makes one: the architecture's table, its data, one test file; `pytest -m parity` in it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.strangers import data
from research.strangers.suite import Stranger

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGETS = ("onnx", "tflite", "coreml", "ncnn", "torchscript", "exported")
PRECISIONS = ("fp32", "fp16", "dynamic", "int8")
TEST = '"""Every exported file against its PyTorch model."""\n\nfrom parity.suite import *  # noqa: F403\n'
TIMEOUT = 600.0
MADE_OF = "made-of.txt"
ENDED = "ended.json"  # written when pytest has ended: a record without it may be half a run's


@dataclass(frozen=True)
class Run:
    """What one `pytest -m parity` left: its record (None where it wrote none), exit code, seconds, end of its log."""

    record: dict[str, Any] | None
    code: int | None  # None: it took longer than allowed
    seconds: float
    log: str


def environment(packages: Path) -> dict[str, str]:
    """This tree and the strangers' packages on the path, before what is there and what is installed."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(packages), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "USE_TF": "0", "TOKENIZERS_PARALLELISM": "false"}


def write(stranger: Stranger, folder: Path, targets: tuple[str, ...], precisions: tuple[str, ...]) -> None:
    """The project in `folder`: pyproject.toml with the table word for word, data, tests."""
    head = f"[tool.parity]\ntargets = {json.dumps(targets)}\nprecisions = {json.dumps(precisions)}\n\n"
    (folder / "tests").mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(head + stranger.table, encoding="utf-8")
    (folder / "tests" / "test_parity.py").write_text(TEST, encoding="utf-8")
    data.provide(stranger.settings, folder)
    (folder / MADE_OF).write_text(fingerprint(stranger), encoding="utf-8")


def fingerprint(stranger: Stranger) -> str:
    """Of what makes the architecture and its data: what was measured of another one says nothing of this."""
    module = stranger.settings["factory"].partition(":")[0].rpartition(".")[2]
    sources = [(HERE / f"{name}.py").read_bytes() for name in ("making", "data", module)]
    return hashlib.sha256(b"\0".join([stranger.table.encode(), *sources])).hexdigest()


def run(folder: Path, packages: Path, timeout: float = TIMEOUT, arguments: tuple[str, ...] = ()) -> Run:
    """`pytest -m parity` in a process of its own, whose group is killed at the time-out."""
    for old in ("reports/parity.json", ENDED):
        (folder / old).unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "parity", "-q", "-p", "no:cacheprovider"]
    command += ["--parity-cache", str(folder / "store"), *arguments]
    start = time.monotonic()
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(packages), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
    ended = {"code": code, "seconds": time.monotonic() - start}
    (folder / ENDED).write_text(json.dumps(ended), encoding="utf-8")
    return _read(folder, ended)


def earlier(stranger: Stranger, folder: Path) -> Run | None:
    """What a run of the very same architecture that came to its end left in `folder`."""
    ended, made_of = folder / ENDED, folder / MADE_OF
    if not ended.exists() or not made_of.exists() or made_of.read_text(encoding="utf-8") != fingerprint(stranger):
        return None
    return _read(folder, json.loads(ended.read_text(encoding="utf-8")))


def _read(folder: Path, ended: dict[str, Any]) -> Run:
    report = folder / "reports" / "parity.json"
    record = json.loads(report.read_text(encoding="utf-8")) if report.exists() else None
    log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-3000:]
    return Run(record, ended["code"], ended["seconds"], log)
