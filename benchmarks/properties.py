"""Drawn inputs, measured: does a correct model ever fail, and does drawing slow the runtimes down?

    python benchmarks/properties.py floor --examples 1000 --cells skin-onnx-fp32 ...   (default: every cell)
    python benchmarks/properties.py speed --cells skin-onnx-fp32

`floor` draws that many inputs for each cell of this repository's matrix and prints how many fail, and the largest
ratio of error to floor. `speed` compares the examples per second of a whole property test (drawing, judging, both
children) with a bare loop that runs the same arrays through the same runtime and the same oracle in one process.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from parity.cases import strategies
from parity.cases.drawing import Drawing
from parity.commands import project
from parity.limits import DRAWN, Limit, resolve
from parity.plan import Cell
from parity.session import Session
from parity.suite.bench import Bench


def bench(session: Session, cell: Cell, ask_above: float | None = None) -> Bench:
    def limits(output: str) -> dict[str, Limit]:
        found = resolve(session.config.rules, cell, output)
        return {**found, DRAWN: Limit(DRAWN, ask_above, "")} if ask_above else found

    return Bench(session.runtime(cell), limits)


def drawn(session: Session, cell: Cell, examples: int) -> Any:
    model = session.config.models[cell.model]
    source = strategies.strategy(model.contract, model.properties.strategy, session.config.root)
    return strategies.draw(source, examples, Drawing(str(session.config.seed)).seed(model))


def floor(session: Session, cells: list[Cell], examples: int, ask_above: float | None) -> int:
    failures = 0
    for cell in cells:
        start = time.perf_counter()
        held = bench(session, cell, ask_above)
        results = held.judge(drawn(session, cell, examples), stored=False)
        judged = [(j.ratio, r.case.id) for r in results for j in r.judged.values() if not r.undefined]
        worst = max(judged, default=(0.0, "none"))
        limit = min(resolve(session.config.rules, cell, o.name)[DRAWN].value or 0 for o in held.model.contract.outputs)
        failing = [
            r for r in results if r.broke or (not r.undefined and any(j.ratio > limit for j in r.judged.values()))
        ]
        failures += len(failing)
        asked = sum(any(j.asked for j in r.judged.values()) for r in results)
        print(f"{cell.id:34} {len(results):5} inputs, {len(failing):3} fail, worst {worst[0]:8.3g} of {limit:5.3g} "
              f"allowed ({worst[1]}), {asked} needed a twin, {sum(bool(r.undefined) for r in results)} undefined, "
              f"{time.perf_counter() - start:.1f} s", flush=True)  # fmt: skip
        for result in failing[:3]:
            print("   ", result.case.id, result.broke, {n: round(j.ratio, 2) for n, j in result.judged.items()})
    return failures


def speed(session: Session, cells: list[Cell], examples: int) -> None:
    import torch

    from parity import modelling

    torch.set_num_threads(1)
    for cell in cells:
        model, runtime = session.config.models[cell.model], session.runtime(cell).open()
        held = bench(session, cell)
        held.judge(drawn(session, cell, 8), stored=False)  # children warm
        start = time.perf_counter()
        results = held.judge(drawn(session, cell, examples), stored=False)
        ours = time.perf_counter() - start
        module, _, name = runtime.target.session.partition(":")
        opened = getattr(importlib.import_module(module), name)(str(runtime.artifact.folder), runtime.artifact.notes)
        double = modelling.load(session.model_spec(model)).double()
        from parity.targets.serve import fed

        def loop(
            cases: list[Any], double: Any = double, opened: Any = opened, notes: Any = runtime.artifact.notes
        ) -> float:
            start = time.perf_counter()
            with torch.no_grad():
                for case in cases:
                    opened.run(fed(notes, case))
                    inputs = {k: torch.from_numpy(np.array(v)) for k, v in case.items()}
                    double(*(v.double() if v.is_floating_point() else v for v in inputs.values()))
            return time.perf_counter() - start

        cases = [r.case.inputs for r in results]
        with modelling.plain_attention():
            loop(cases[:8])
            bare = loop(cases)
        asked = sum(any(j.asked for j in r.judged.values()) for r in results)
        print(f"{cell.id}: {len(cases)} inputs, {len(cases) / ours:.0f} a second, bare loop {len(cases) / bare:.0f}, "
              f"{ours / bare:.2f} times the bare loop's time ({asked} needed a twin)", flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("floor", "speed"))
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--cells", nargs="*", default=[])
    parser.add_argument("--ask-above", type=float, help="ask the twins about every ratio above this, to see the spread")
    options = parser.parse_args()
    config = project.load()
    from parity import targets

    cells = [c for c in config.cells if not targets.get(c.target).unavailable(c, config.models[c.model])]
    cells = [c for c in cells if not options.cells or any(word in c.id for word in options.cells)]
    with project.session(config) as session:
        session.progress = lambda what, stage: None
        if options.what == "speed":
            speed(session, cells, options.examples)
            return 0
        return int(bool(floor(session, cells, options.examples, options.ask_above)))


if __name__ == "__main__":
    sys.exit(main())
