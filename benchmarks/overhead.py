"""What a run costs beside the converter and runtime calls that it makes: cold, warm, and by two workers.

    python benchmarks/overhead.py [--models skin,golfiq_lite] [--targets onnx] [--workers 1,2]

Bars: cold at most 1.15 times the bare converter and runtime calls, warm at most 10 % of cold, two workers at least 1.7
times as fast as one. The first two are counted in CPU seconds, which a busy machine changes little; the third is wall
time and means something on an idle machine only. The bare calls are those that the run itself makes, each with what it
imports; `by_hand.py` does the same exports without this package around them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BARE = ("converters", "runtimes")
PARTS = {  # the first that fits
    "parity.process.steps:run": "converters",
    "parity.formats.serve:": "runtimes",
    "parity.reference.": "oracle and twins",
    "parity.reference.modelling:": "fingerprints",
    "parity.proof:": "proof",
    "parity.faults.": "diagnosis and power",
}


@dataclass(frozen=True)
class Cost:
    """One run: wall and CPU seconds of everything that it started, and its calls."""

    wall: float
    cpu: float
    calls: tuple[dict[str, Any], ...]
    verdict: str
    checks: int
    record: dict[str, Any]

    def parts(self) -> dict[str, float]:
        found: dict[str, float] = defaultdict(float)
        for call in self.calls:
            part = next((p for start, p in PARTS.items() if call["call"].startswith(start)), "other calls")
            found[part] += call["cpu"]
        return dict(found) | {"pytest and this package": max(self.cpu - sum(found.values()), 0.0)}

    @property
    def bare(self) -> float:
        parts = self.parts()
        return sum(parts.get(name, 0.0) for name in BARE)


def run(scratch: Path, workers: int, options: Sequence[str], marks: str = "parity") -> Cost:
    """Run the tests with these marks; `options` come last, and may name another cache than the one in `scratch`."""
    calls = Path(tempfile.mkdtemp(dir=scratch))
    report = calls / "report.html"
    command = [sys.executable, "-m", "pytest", "-q", "-m", marks, "tests/parity", "-p", "no:cacheprovider",
               "-p", "calls", f"--parity-cache={scratch}/cache", f"--parity-report={report}", *options]  # fmt: skip
    if workers > 1:
        command += ["-n", str(workers), "--dist", "worksteal"]
    paths = os.pathsep.join([str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # or all is compiled every time
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL,
                               env={**environ, "PYTHONPATH": paths, "CALLS_TO": str(calls)})  # fmt: skip
    _, _, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    process.returncode = 0
    lines = [json.loads(line) for file in calls.glob("*.jsonl") for line in file.read_text().splitlines()]
    record = json.loads(report.with_suffix(".json").read_text())
    checks = sum(len(cell["checks"]) for cell in record["cells"])
    return Cost(wall, usage.ru_utime + usage.ru_stime, tuple(lines), record["verdict"], checks, record)


def show(name: str, cost: Cost, most: int = 8) -> None:
    print(f"\n{name}: {cost.cpu:.1f} s of CPU in {cost.wall:.1f} s, {len(cost.calls)} calls, {cost.checks} checks, "
          f"verdict {cost.verdict}")  # fmt: skip
    for part, seconds in sorted(cost.parts().items(), key=lambda pair: -pair[1]):
        print(f"  {seconds:8.1f} s {seconds / cost.cpu:6.1%}  {part}")
    totals: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for call in cost.calls:
        totals[call["function"], call["warm"]].append(call["cpu"])
    for (function, warm), seconds in sorted(totals.items(), key=lambda pair: -sum(pair[1]))[:most]:
        print(f"    {sum(seconds):6.1f} s in {len(seconds):3} {'warm' if warm else 'first'} calls of {function}")


def judged(name: str, value: float, bar: float, at_most: bool = True) -> bool:
    good = value <= bar if at_most else value >= bar
    print(f"{'ok    ' if good else 'MISSED'} {name}: {value:.3g}, bar {'at most' if at_most else 'at least'} {bar:g}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="")
    parser.add_argument("--targets", default="")
    parser.add_argument("--workers", default="1,2")
    given = parser.parse_args()
    options = [f"--parity-{n}={v}" for n, v in (("models", given.models), ("targets", given.targets)) if v]
    cold: dict[int, Cost] = {}
    for workers in map(int, given.workers.split(",")):
        with tempfile.TemporaryDirectory(prefix="parity-overhead-") as folder:
            cold[workers] = run(Path(folder), workers, options)
            show(f"cold, {workers} worker{'s' if workers > 1 else ''}", cold[workers])
            warm = run(Path(folder), workers, options)
            show("warm", warm, 4)
    print()
    first = next(iter(cold.values()))
    good = judged("cold CPU over that of its converter and runtime calls", first.cpu / first.bare, 1.15)
    good &= judged("warm CPU over cold CPU", warm.cpu / cold[workers].cpu, 0.10)
    if {1, 2} <= set(cold):
        good &= judged("wall of one worker over that of two", cold[1].wall / cold[2].wall, 1.7, at_most=False)
        judged("CPU of two workers over that of one", cold[2].cpu / cold[1].cpu, 1.15)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
