"""What 10,000 cells on 200 workers would cost, and where the design would bend: measured pieces, and a simulation.

    python benchmarks/scale.py [--cells N] [--workers N] [--record reports/parity.json]

What one process does for the whole plan is measured here, in CPU seconds, on a generated project of that size: showing
and collecting the plan, hearing every test, judging, and writing record, summary and page. Cells are simulated, with
the seconds that the ledger (`reports/baseline.json`) knows for the example models' cells. `--record` gives the cells
that are heard and written; without it they are made up, of 40 checks each.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from parity.core import record  # noqa: E402
from parity.core.plan import Cell, Plan, PlannedCell  # noqa: E402
from parity.core.record import CellRecord, Check, Environment, RunRecord  # noqa: E402
from parity.judging import baseline, gate  # noqa: E402
from parity.pytest_plugin.heard import Heard  # noqa: E402
from parity.report import markdown, render  # noqa: E402
from parity.report.redact import redacted  # noqa: E402
from parity.store.cache import Store  # noqa: E402

KINDS = ("contract", "static", "golden", "accuracy", "sequence", "batch", "property")
PAIRS = tuple((t, p) for t in ("onnx", "tflite") for p in ("fp32", "fp16", "dynamic", "int8"))
# What a worker pays once, before its first cell of a family: importing it in a fresh child (CPU seconds, measured by
# `importing`).
IMPORTS = {"torch": "torch", "onnx": "onnx, onnxruntime", "tflite": "tensorflow", "coreml": "coremltools"}
MODEL = """
[tool.parity.models.m{n}]
factory = "tinynet:tiny"
inputs = [{{ name = "x", shape = ["batch", 3] }}]
outputs = [{{ name = "y", kind = "logits", labels = ["a", "b", "c", "d"] }}]
golden = "golden"
calibration = "golden"
"""


def cpu(act: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    value = act()
    return time.process_time() - start, value


def project(folder: Path, cells: int) -> None:
    """A project whose plan has at least `cells` cells, eight a model."""
    models = "".join(MODEL.format(n=n) for n in range(-(-cells // len(PAIRS))))
    head = '[tool.parity]\ntargets = ["onnx", "tflite"]\nprecisions = ["fp32", "fp16", "dynamic", "int8"]\n'
    (folder / "pyproject.toml").write_text(head + models)
    (folder / "tinynet.py").write_text("def tiny(): ...\n")
    (folder / "test_parity.py").write_text("from parity.suite import *\n")
    import numpy as np

    (folder / "golden" / "a").mkdir(parents=True)
    np.savez(folder / "golden" / "a" / "x.npz", x=np.zeros((1, 3), np.float32))


def pytest(folder: Path, *arguments: str) -> tuple[float, float, str]:
    """CPU seconds, peak MiB and output of a pytest command in `folder`."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--parity-cache={folder}/cache", *arguments]
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, text=True)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if process.returncode not in (0, 1, 5) or "INTERNALERROR" in text:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{text[-2000:]}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text


def measured_plan(cells: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        project(folder, cells)
        shown, _, text = pytest(folder, "--parity-show-plan")
        collected, memory, listing = pytest(folder, "--collect-only", "-q", "-m", "parity")
        ids = [line for line in listing.splitlines() if "::" in line]
    said = f"{text.splitlines()[0]}: shown in {shown:.1f} s"
    print(f"plan        {said}; collected {len(ids):,} tests in {collected:.1f} s, {memory:.0f} MiB, "
          f"{sum(map(len, ids)) / 1e6:.1f} MB of names")  # fmt: skip
    return {"collect": collected}


def templates(path: Path | None) -> list[CellRecord]:
    if path is not None:
        found = [c for c in record.read(path).cells if c.state == "pass"]
        if not found:
            raise SystemExit(f"{path}: no cell passes in it")
        return found
    metrics = {"noise_ratio": "max", "rel_rms": "max", "max_abs": "max", "cosine": "min", "sqnr": "min"}
    checks = [
        Check("golden", f"case_{i:02}", "y", metric, 1.0, 2.0 if sense == "max" else 0.5, sense, True,  # type: ignore[arg-type]
              source="built-in default for fp16", detail="worst at [0, 3]: 0.5 against 0.25")
        for i in range(8) for metric, sense in metrics.items()
    ]  # fmt: skip
    cell = CellRecord("m-onnx-fp32", "m", "onnx", "fp32", "missing", planned=("golden",), measured=("golden",),
                      planned_cases=8, planned_outputs=("y",), checks=tuple(checks))  # fmt: skip
    return [gate.settle(cell)]


def told(cell: CellRecord) -> list[dict[str, Any]]:
    """What the tests of a cell told its controller: one message a kind, and two empty ones for set-up and teardown."""
    messages = []
    for kind in cell.planned:
        checks = [record.plain(c) for c in cell.checks if c.kind == kind]
        frame = {"cell": cell.id, "kind": kind, "outcome": "passed", "seconds": 0.01}
        messages += [frame | {"when": "setup"}, frame | {"when": "teardown"}]
        messages.append(frame | {"when": "call", "finished": True, "checks": checks, "details": {}})
    return messages


def measured_controller(cells: int, templates: Sequence[CellRecord]) -> None:
    """Hearing and writing the run, cell by cell as the tests of it would tell."""
    chosen = [replace(templates[i % len(templates)], id=f"m{i}-onnx-fp32", model=f"m{i}", target="onnx",
                      precision="fp32") for i in range(cells)]  # fmt: skip
    planned = [PlannedCell(Cell(c.model, c.target, c.precision), c.planned, None, False, c.planned_cases,
                           c.planned_outputs, c.planned_clips) for c in chosen]  # fmt: skip
    sent = [json.dumps(told(c)) for c in templates]
    size = sum(map(len, sent)) / len(sent) * cells
    heard: dict[str, Heard] = {}

    def hear() -> None:
        for i, plan in enumerate(planned):
            one = heard.setdefault(plan.cell.id, Heard())
            for message in json.loads(sent[i % len(sent)]):
                one.hear(message)

    def judge() -> RunRecord:
        made = tuple(heard[p.cell.id].record(p) for p in planned)
        shown = ("exhibits", "distributions", "natural", "artifact")
        made = tuple(replace(c, **{n: getattr(t, n) for n in shown}) for c, t in zip(made, chosen, strict=True))
        run = RunRecord("incomplete", made, Environment("3.11", {}, "linux"), seconds=1.0)
        return gate.judge(redacted(run, Path.home(), {}))

    seconds: dict[str, float] = {}
    seconds["hear"], _ = cpu(hear)
    seconds["judge"], run = cpu(judge)
    seconds["record"], text = cpu(lambda: record.dumps(run))
    seconds["read again"], _ = cpu(lambda: record.loads(text))
    seconds["summary"], summary = cpu(lambda: markdown(run))
    seconds["page"], page = cpu(lambda: render(run))
    checks = sum(len(c.checks) for c in run.cells)
    print(f"controller  {cells:,} cells, {checks:,} checks, verdict {run.verdict}; hears {size / 1e6:.0f} MB")
    print("            CPU " + ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"            record {len(text) / 1e6:.0f} MB, summary {len(summary) / 1e3:.0f} kB, "
          f"page {len(page) / 1e6:.0f} MB; peak {peak:.0f} MiB")  # fmt: skip


def measured_once(waiters: int) -> None:
    """How long whoever waits for a note of the run (`Store.once`) goes on waiting when it is there."""
    with tempfile.TemporaryDirectory() as scratch:
        store, late, begun = Store(Path(scratch)), list[float](), threading.Event()
        done = 0.0

        def make() -> int:
            nonlocal done
            begun.set()
            time.sleep(1.0)
            done = time.monotonic()
            return 1

        def wait() -> None:
            begun.wait()
            Store(Path(scratch)).once("run", "note", make)
            late.append(time.monotonic() - done)

        threads = [threading.Thread(target=store.once, args=("run", "note", make)),
                   *(threading.Thread(target=wait) for _ in range(waiters))]  # fmt: skip
        busy, _ = cpu(lambda: ([t.start() for t in threads], [t.join() for t in threads]))
    late.sort()
    half, last = late[len(late) // 2] * 1e3, late[-1] * 1e3
    print(f"once        {waiters} wait for one note: half have it {half:.0f} ms after it is made, the last {last:.0f} "
          f"ms; polling costs {busy:.2f} s of CPU")  # fmt: skip


def importing() -> dict[str, float]:
    found = {}
    for family, modules in IMPORTS.items():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", f"import {modules}"], capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode == 0:
            found[family] = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    print("imports     " + ", ".join(f"{name} {value:.1f} s" for name, value in found.items()) + ", once a worker")
    return found


# The simulation.


def population(cells: int, rng: random.Random) -> dict[str, float]:
    """Seconds of CPU by cell id: models drawn from the ledger's, each with all of its cells, under new names."""
    known = baseline.costs(baseline.read(ROOT / baseline.DEFAULT_PATH))
    models: dict[str, list[str]] = {}
    for id in known:
        models.setdefault(id.split("-")[0], []).append(id)
    found: dict[str, float] = {}
    while len(found) < cells:
        number, model = len(found), rng.choice(sorted(models))
        for id in models[model]:
            _, target, precision = id.split("-")
            # A class is a power of two: what it stands for lies within a factor of the root of two on either side.
            found[f"{model}_{number}-{target}-{precision}"] = known[id] * 2 ** rng.uniform(-0.5, 0.5)
    return dict(list(found.items())[:cells])


def dynamic(costs: Iterable[float], workers: int, start: float) -> float:
    """Makespan when whoever is free takes the next cell, as stealing comes near to."""
    free = [start] * workers
    for cost in costs:
        heapq.heappush(free, heapq.heappop(free) + cost)
    return max(free)


def sharded(costs: dict[str, float], known: dict[str, float], shards: int, each: int, start: float) -> list[float]:
    """Seconds of every shard of `each` workers, split by the costs that are `known`."""
    plan = Plan(tuple(PlannedCell(Cell(*id.split("-")), KINDS) for id in costs))
    part = plan.assign(shards, known)
    mine: dict[int, list[float]] = {k: [] for k in range(1, shards + 1)}
    for id, cost in costs.items():
        mine[part[id]].append(cost)
    return [dynamic(found, each, start) for found in mine.values()]


def simulate(cells: int, workers: int, start: float, serial: dict[str, float]) -> None:
    rng = random.Random(1)
    costs = population(cells, rng)
    total, ideal = sum(costs.values()), sum(costs.values()) / workers
    print(f"simulation  {cells:,} cells of the ledger's kinds: {total / 3600:.1f} core-hours, the longest "
          f"{max(costs.values()):.0f} s; {ideal / 60:.1f} min on {workers} workers if nothing were lost")  # fmt: skip
    rough = {id: 2.0 ** round(math.log2(cost)) for id, cost in costs.items()}
    shuffled = list(costs.values())
    rng.shuffle(shuffled)
    one = dynamic(shuffled, workers, start + serial["collect"])
    rows = [("one session, free workers steal", one)]
    for shards in (workers // 4, workers // 16):
        for name, known in (("costs of the ledger", rough), ("costs unknown", {})):
            times = sharded(costs, known, shards, workers // shards, start + serial["collect"])
            rows.append((f"{shards} shards of {workers // shards}, {name}", max(times)))
    for name, seconds in rows:
        print(f"            {seconds / 60:6.1f} min, {ideal / seconds:4.0%} busy: {name}")
    for lost in (0.01, 0.05):
        again = dynamic(shuffled, workers, start) + dynamic(sorted(shuffled)[-int(cells * lost) :], workers, start)
        print(f"            {again / 60:6.1f} min when {lost:.0%} of the cells, the longest, are run once more")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--skip", default="", help="of plan, once, imports, simulation, controller")
    given = parser.parse_args()
    skipped = set(given.skip.split(","))
    serial = {"collect": 30.0} if "plan" in skipped else measured_plan(given.cells)
    if "once" not in skipped:
        measured_once(given.workers)
    imports = {} if "imports" in skipped else importing()
    if "simulation" not in skipped:
        simulate(given.cells, given.workers, sum(imports.values()), serial)
    if "controller" not in skipped:
        measured_controller(given.cells, templates(given.record))


if __name__ == "__main__":
    main()
