"""What do measured limits add to a warm `make parity`?

    python benchmarks/cost.py [--runs 3] [-k EXPRESSION]

Runs `pytest -m parity` on the example models in two ways, in turns, with everything in the cache: as it is, and with
the user's own thresholds alone (no chain of proof, no lowering, no twins; what is left are the oracle and the metrics
of `parity.compare`). Each is run once before, to fill the cache. Prints processor seconds of all processes together,
which other work on the machine hardly moves, and wall seconds; the bar is 1.5 times the processor time. Exits 1 above
it. Processes that outlive the run are not counted.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BAR = 1.5
PLAIN = "benchmarks.cost"  # this module, as a pytest plugin, takes the measured limits out


def pytest_configure() -> None:
    """As a plugin: no twin can be made, and no chain of proof is planned."""
    from parity import formats as targets
    from parity.core.errors import ParityError
    from parity.faults.causes import Diagnosis
    from parity.session.session import Session
    from parity.suite import golden

    def none(*_: Any, **__: Any) -> Any:
        raise ParityError("measured limits are left out to see what they cost")

    # Without a floor some cells fail, and a failing cell is explained: work that no passing run has.
    golden.ask.diagnosis = lambda *_, **__: Diagnosis("unexplained", "")
    golden.first_divergence = lambda *_, **__: (None, (), "")
    Session.twin = none  # type: ignore[method-assign]
    for target in targets.every():
        target.graph = target.lowering = ""  # type: ignore[misc]


def run(plain: bool, options: argparse.Namespace, report: Path) -> tuple[float, float]:
    """Processor and wall seconds of one run."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "parity", "tests/parity", "-p", "no:cacheprovider"]
    command += ["--parity-report", str(report)]
    command += ["-k", options.k] if options.k else []
    command += ["-p", PLAIN] if plain else []
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    print(f"{'user thresholds' if plain else 'measured limits'}: {done.stdout.strip().splitlines()[-1]}", flush=True)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-k", default="", help="only these cells")
    options = parser.parse_args()
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.runs + 1):
            for plain in (True, False):
                seconds = run(plain, options, Path(folder, "parity.html"))
                if turn:
                    found[plain].append(seconds)
    cpu, wall = ({plain: statistics.median(r[i] for r in found[plain]) for plain in found} for i in (0, 1))
    print("| run | processor s | wall s |\n| --- | ---: | ---: |")
    for plain, name in ((True, "user thresholds alone"), (False, "with measured limits")):
        print(f"| {name} | {cpu[plain]:.1f} | {wall[plain]:.1f} |")
    ratio = cpu[False] / cpu[True]
    print(f"measured limits cost {ratio:.2f} times the processor time (bar {BAR}), {wall[False] / wall[True]:.2f} wall")
    return 0 if ratio <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
