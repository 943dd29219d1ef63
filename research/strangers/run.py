"""The suite and the judge by hand on one architecture, joined."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from research.strangers import project
from research.strangers.lines import OUT_OF_TIME, Line
from research.strangers.suite import Stranger

JUDGING = 400.0  # seconds that the judge may take for one architecture


def measure(
    stranger: Stranger, folder: Path, packages: Path, targets: tuple[str, ...], precisions: tuple[str, ...],
    timeout: float, again: bool = False, profile: str = "full",
) -> list[Line]:  # fmt: skip
    """One line for each cell. What an earlier run left in `folder` is taken, unless `again`."""
    ran = None if again else project.earlier(stranger, folder)
    if ran is None:
        shutil.rmtree(folder, ignore_errors=True)
        project.write(stranger, folder, targets, precisions)
        ran = project.run(folder, packages, timeout, ("--parity-profile", profile))
    if ran.record is None:
        why = f"no record; exit {ran.code}; {ran.log[-600:]}"
        name = stranger.name
        return [Line(name, name, "", "", "no record", why, "", False, "", "", ran.seconds, stranger.held_back)]
    cut = f"{OUT_OF_TIME} than {timeout:g} s; " if ran.code is None else ""
    verdicts = judged(stranger.name, folder, packages, files_of(ran.record, folder))
    return [_joined(stranger, cell, verdicts, cut) for cell in ran.record["cells"]]


def files_of(record: dict[str, Any], folder: Path) -> list[dict[str, str]]:
    """The cells that have a file, as the judge wants them."""
    found = []
    for cell in record["cells"]:
        artifact = cell["artifact"]
        if artifact and artifact["files"]:
            where = str(folder / "store" / artifact["location"])
            found.append(
                {"cell": cell["id"], "target": cell["target"], "precision": cell["precision"], "folder": where}
            )
    return found


def judged(model: str, folder: Path, packages: Path, cells: list[dict[str, str]]) -> dict[str, tuple[str, str]]:
    """Cell -> verdict and reason."""
    said = verdicts(model, folder, packages, cells)
    return {cell: (line["state"], line["reason"]) for cell, line in said.items()}


def verdicts(model: str, folder: Path, packages: Path, cells: list[dict[str, str]]) -> dict[str, dict[str, Any]]:
    """Cell -> the judge's line: state, reason, error, cost. A runtime that dies takes its cell with it, and the judge
    goes on with the next."""
    found: dict[str, dict[str, Any]] = {}
    waiting = list(cells)
    while waiting:
        said, died, code = _judge(model, folder, packages, waiting)
        found |= said
        waiting = [cell for cell in waiting if cell["cell"] not in found]
        if waiting:  # a negative code is a signal: the file ends its runtime
            verdict = "wrong" if code < 0 else "cannot say"
            reason = f"the judge's process ended: {died}"
            found[waiting.pop(0)["cell"]] = {"state": verdict, "reason": reason, "error": None, "cost": None}
    return found


def _judge(
    model: str, folder: Path, packages: Path, cells: list[dict[str, str]]
) -> tuple[dict[str, dict[str, Any]], str, int]:
    """What it said before its process ended, how that ended, and its exit code."""
    command = [sys.executable, "-m", "research.strangers.by_hand", str(folder), model]
    try:
        done = subprocess.run(
            command, input=json.dumps(cells), env=project.environment(packages), capture_output=True, text=True,
            timeout=JUDGING,
        )  # fmt: skip
        out, code = done.stdout, done.returncode
        died = f"exit {code}: {done.stderr[-300:]}"
    except subprocess.TimeoutExpired as error:
        out = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        code, died = 1, f"longer than {JUDGING:g} s"
    said = [json.loads(text) for text in out.splitlines() if text.startswith('{"cell"')]
    return {line["cell"]: line for line in said}, died, code


def _joined(stranger: Stranger, cell: dict[str, Any], verdicts: dict[str, tuple[str, str]], cut: str) -> Line:
    verdict, why = verdicts.get(cell["id"], ("", ""))
    proof = cell["proof"] or {}
    chain = f"; {proof['summary']}" if proof.get("state") == "failed" and cell["state"] == "fail" else ""
    return Line(
        stranger.name, cell["id"], cell["target"], cell["precision"], cell["state"],
        cut * (cell["state"] == "missing") + cell["reason"] + chain, cell["stage"],
        cell["id"] in verdicts, verdict, why, cell["seconds"] or 0.0, stranger.held_back,
    )  # fmt: skip
