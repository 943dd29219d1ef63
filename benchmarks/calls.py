"""A pytest plugin for `overhead.py`: what every call into a child process costs, as CPU seconds of that child.

Loaded with `-p calls`; each process appends lines to `$CALLS_TO/PID.jsonl`. What a child starts (pnnx, onnxsim) counts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from parity.process import isolate


def used(pid: int | None) -> float:
    """CPU seconds of a process and of its ended children; 0 for one that crashed, whose seconds nobody can tell."""
    if pid is None:  # to psutil that is this very process
        return 0.0
    try:
        times = psutil.Process(pid).cpu_times()
    except (psutil.Error, ValueError, TypeError):
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def measured(real: Callable[..., Any], log: Path) -> Callable[..., Any]:
    def call(self: isolate.Child, request: dict[str, Any], *rest: Any) -> Any:
        warm = self.alive
        before, start = used(self.pid) if warm else 0.0, time.monotonic()
        try:
            return real(self, request, *rest)
        finally:
            function = request["function"]
            if function == "parity.process.steps:run":
                function = request["request"]["function"]
            line = {"family": self.name, "call": request["function"], "function": function, "warm": warm,
                    "cpu": max(used(self.pid) - before, 0.0), "wall": time.monotonic() - start}  # fmt: skip
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")

    return call


if os.environ.get("CALLS_TO"):
    isolate.Child._call = measured(isolate.Child._call, Path(os.environ["CALLS_TO"], f"{os.getpid()}.jsonl"))  # type: ignore[method-assign]
