"""Drawn inputs, measured: does a correct model ever fail, and does drawing slow the runtimes down?

    python research/properties.py measure --work DIR [--cells skin ...] [--fp32 1000] [--others 200] [--zoo DIR]
    python research/properties.py table [--work DIR [--write]]
    python research/properties.py speed --cells skin-onnx-fp32

`measure` draws that many inputs for every cell of this repository's matrix and writes what became of each to
`DIR/CELL.jsonl`; cells that are done are not measured again, and the cells of one model share oracle and twins. The
twins are asked about every input that is further off than ASK, so that the ratios do not depend on today's limits.
`table` prints what was measured beside the limits in force, which with --write it is the ground of
(`parity/judging/drawn.json`); without --work, the committed one. `speed` compares the processor time of a property
test (judging with both children, and the drawing that the cells of a model share) with a bare loop that runs the same
arrays through the same runtime and the same oracle in one process.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parity.cases import strategies  # noqa: E402
from parity.cases.drawing import Drawing  # noqa: E402
from parity.cases.recipes import Recipe  # noqa: E402
from parity.commands import project  # noqa: E402
from parity.core.case import Case, digest  # noqa: E402
from parity.core.plan import Cell  # noqa: E402
from parity.formats.target import version  # noqa: E402
from parity.judging import single  # noqa: E402
from parity.judging.floor import UNITS, _table, stretch  # noqa: E402
from parity.judging.floor import drawn as drawn_limit  # noqa: E402
from parity.judging.limits import DRAWN, Limit, resolve  # noqa: E402
from parity.session import project as project_config  # noqa: E402
from parity.session.session import Session  # noqa: E402
from parity.session.toolchains import unavailable  # noqa: E402
from parity.suite.bench import Bench, Result  # noqa: E402
from research import natural  # noqa: E402
from research.natural_table import TRACED  # noqa: E402

TABLE = ROOT / "parity" / "judging" / "drawn.json"
RULE = (
    "worst: the largest ratio of any drawn input of each model's correct file, the twins asked. Limit of a target and "
    "precision = what one golden case may be off by there (worst in natural.json) x stretch, and stretch = ROOM x the "
    "largest share that any file here uses of that. asked: the share of inputs that need a twin under that limit. "
    "undefined: inputs on which the model itself is. lost: the largest error within the declared range, as a share of "
    "a typical output"
)

ASK = {"fp32": 5.0, "fp16": 2.0, "dynamic": 1.2, "int8": 1.2}  # the worst inputs of correct cells lie above
TURNS = 5  # of this and the bare loop, one after the other
TOGETHER = 25  # inputs that oracle and twins keep at once


def bench(session: Session, cell: Cell, ask_above: float | None = None) -> Bench:
    def limits(output: str) -> dict[str, Limit]:
        found = resolve(session.config.rules, cell, output)
        return {**found, DRAWN: Limit(DRAWN, ask_above, "")} if ask_above else found

    return Bench(session.runtime(cell), limits)


def drawn(session: Session, model: str, examples: int) -> list[Recipe]:
    config = session.config.models[model]
    source = strategies.strategy(config.contract, config.properties.strategy, session.config.root)
    return strategies.draw(source, examples, Drawing(str(session.config.seed)).seed(config))


def remembering(evaluated: Callable[..., Any]) -> tuple[Callable[..., Any], dict[Any, Any]]:
    """`Session.evaluated` with a memory by case, for the cells of one model that are measured side by side."""
    memory: dict[Any, Any] = {}

    def ask(
        model: Any, cases: Sequence[Case], kind: str, stored: bool, precision: str = "", flavour: str | None = None
    ) -> list[Any]:
        keys = [(kind, precision, flavour, digest([case])) for case in cases]
        new = [case for case, key in zip(cases, keys, strict=True) if key not in memory]
        if new:
            rows = evaluated(model, new, kind, stored, precision, flavour)
            memory.update({(kind, precision, flavour, digest([c])): row for c, row in zip(new, rows, strict=True)})
        return [memory[key] for key in keys]

    return ask, memory


def line(result: Result, held: Bench) -> dict[str, Any]:
    """One input of one cell, as `table` reads it."""
    assert result.recipe is not None
    outputs = {}
    for name, judged in result.judged.items():
        usual, want = held.usual[name], result.want.outputs.get(name) if result.want else None
        rms = single.rms(want) if want is not None and want.dtype.kind == "f" and np.isfinite(want).all() else None
        outputs[name] = {
            "ratio": judged.ratio, "error": judged.error, "floor": judged.floor, "costs": list(judged.costs),
            "reason": judged.reason, "undefined": judged.undefined, "exact": judged.exact, "rms": rms,
            "usual": usual.relative, "least": usual.least,
        }  # fmt: skip
    inside = all(fill.magnitude <= 1 for fill in result.recipe.inputs.values())
    return {"input": result.case.id, "inside": inside, "broke": result.broke, "refused": result.refused,
            "outputs": outputs}  # fmt: skip


def measure(session: Session, cells: Sequence[Cell], work: Path, fp32: int, others: int) -> None:
    """Write CELL.jsonl for each of `cells`, which are of one model."""
    work.mkdir(parents=True, exist_ok=True)
    recipes = drawn(session, cells[0].model, fp32)
    held = {cell: bench(session, cell, ASK[cell.precision]) for cell in cells}
    whole = session.evaluated
    by_sizes: dict[Any, list[Cell]] = {}
    for cell in cells:
        by_sizes.setdefault((held[cell].fixed, str(held[cell].enumerated)), []).append(cell)
    for group in by_sizes.values():
        files = {cell: (work / f"{cell}.part").open("w", encoding="utf-8") for cell in group}
        seconds = dict.fromkeys(group, 0.0)
        for start in range(0, fp32, TOGETHER):
            ask, memory = remembering(whole)
            session.evaluated = ask  # type: ignore[method-assign]
            for cell in group:
                end = min(start + TOGETHER, fp32 if cell.precision == "fp32" else others)
                before = time.perf_counter()
                for result in held[cell].judge(recipes[start:end], stored=False) if end > start else ():
                    files[cell].write(json.dumps(line(result, held[cell])) + "\n")
                files[cell].flush()
                seconds[cell] += time.perf_counter() - before
            memory.clear()
        session.evaluated = whole  # type: ignore[method-assign]
        for cell, file in files.items():
            file.close()
            Path(file.name).rename(work / f"{cell}.jsonl")
            print(f"{cell}: {seconds[cell]:.1f} s", flush=True)


def read(work: Path) -> dict[Cell, list[dict[str, Any]]]:
    """What was measured, by cell; cells that are known to be wrong are left out, with their reason printed."""
    found = {}
    for file in sorted(work.glob("*.jsonl")):
        if file.stem in TRACED:
            print(f"left out: {file.stem}: {TRACED[file.stem]}")
            continue
        rows = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]
        found[Cell(*file.stem.split("-"))] = rows
    return found


def ratios(row: dict[str, Any]) -> list[float]:
    """The ratios of one input, over whatever its twins cost; none where the model is undefined on it. What broke is
    infinitely far off."""
    if row["broke"]:
        return [math.inf]
    if row["refused"] or any(o["undefined"] for o in row["outputs"].values()):
        return []
    return [o["error"] / max([o["floor"], *filter(math.isfinite, o["costs"])])
            for o in row["outputs"].values() if not o["exact"]]  # fmt: skip


def table(work: Path) -> dict[str, Any]:
    """What was measured, by target and precision."""
    measured = read(work)
    cells: dict[str, Any] = {}
    for key in sorted({(c.target, c.precision) for c in measured}):
        own = {c.model: rows for c, rows in measured.items() if (c.target, c.precision) == key}
        rows = [row for part in own.values() for row in part]
        cells["-".join(key)] = {
            "models": len(own),
            "inputs": len(rows),
            "worst": {
                m: round(max((r for row in part for r in ratios(row)), default=0.0), 3) for m, part in own.items()
            },
            "asked": round(sum(_raw(row) > drawn_limit(*key).limit for row in rows) / len(rows), 4),
            "undefined": sum(not ratios(row) for row in rows),
            "lost": max((_lost(row, key[1]) for row in rows), default=0.0),
        }  # fmt: skip
    packages = ("torch", "onnxruntime", "onnx2tf", "tensorflow", "ai-edge-litert", "coremltools", "ncnn", "pnnx")
    return {"rule": RULE, "packages": {p: version(p) for p in packages}, "cells": cells}


def _raw(row: dict[str, Any]) -> float:
    """The largest ratio before any twin was asked."""
    parts = [o for o in row["outputs"].values() if not o["exact"] and not o["undefined"]]
    return max((o["error"] / max(o["usual"] * (o["rms"] or 0), o["least"]) for o in parts), default=0.0)


def _lost(row: dict[str, Any], precision: str) -> float:
    """The largest error as a share of a typical output, on an input within the declared range."""
    if not row["inside"] or not ratios(row):
        return 0.0
    parts = [o for o in row["outputs"].values() if not o["exact"] and o["least"] > UNITS[precision] * 1e-3]
    typical = [max(o["least"] / UNITS[precision], o["rms"] or 0.0) for o in parts]
    return float(f"{max((o['error'] / t for o, t in zip(parts, typical, strict=True)), default=0.0):.2g}")


def show(table: dict[str, Any]) -> None:
    """The table under the limits in force, each model also under those that all other models give."""
    print("| cells | inputs | worst by model | limit | over | over, left out | need a twin | undefined | lost |\n"
          "| --- | ---: | --- | ---: | ---: | --- | ---: | ---: | ---: |")  # fmt: skip
    files = failing = outside = 0
    for name, cell in table["cells"].items():
        limit, worst = drawn_limit(*name.split("-")).limit, cell["worst"]
        over = [m for m, w in worst.items() if w > limit]
        out = [m for m, w in worst.items() if w > limit / stretch() * stretch(without=m)]
        files, failing, outside = files + len(worst), failing + len(over), outside + len(out)
        print(f"| {name} | {cell['inputs']} | {', '.join(f'{m} {w:.2f}' for m, w in worst.items())} | {limit} | "
              f"{', '.join(over) or '-'} | {', '.join(out) or '-'} | {cell['asked']:.1%} | {cell['undefined']} | "
              f"{cell['lost']:.2g} |")  # fmt: skip
    inputs = sum(cell["inputs"] for cell in table["cells"].values())
    print(f"\nlimits are those of golden cases x {stretch():.3f}; {failing} of {files} correct files fail on {inputs} "
          f"inputs; by the limits that all other models give, {outside} would")  # fmt: skip


def processor() -> float:
    """Seconds of processor time of this process and its children, so that a busy machine changes nothing."""
    children = psutil.Process().children(recursive=True)
    return time.process_time() + sum(sum(child.cpu_times()[:2]) for child in children)


def speed(session: Session, cells: Iterable[Cell], examples: int) -> None:
    for cell in cells:
        held = bench(session, cell)
        cases = [r.case.inputs for r in held.judge(drawn(session, cell.model, examples), stored=False)]  # children warm
        loop = bare(session, cell)
        loop(cases)
        drawing, judging, theirs = [], [], []
        for _ in range(TURNS):
            start = processor()
            recipes = drawn(session, cell.model, examples)
            drawing.append(processor() - start)
            results = held.judge(recipes, stored=False)
            judging.append(processor() - start - drawing[-1])
            theirs.append(loop(cases))
        alone = np.median([j / t for j, t in zip(judging, theirs, strict=True)])
        whole = np.median([(d + j) / t for d, j, t in zip(drawing, judging, theirs, strict=True)])
        asked = sum(any(j.costs for j in r.judged.values()) for r in results)
        print(f"{cell.id}: {len(cases)} inputs, bare loop {len(cases) / min(theirs):.0f} a second; judging takes "
              f"{alone:.2f} times as long, with drawing (once a model) {whole:.2f} times; {asked} needed a twin",
              flush=True)  # fmt: skip


def bare(session: Session, cell: Cell) -> Callable[[list[Any]], float]:
    """The loop that anyone would write: processor seconds of artefact and float64 module on arrays that are there."""
    import torch

    from parity.formats.serve import fed
    from parity.reference import modelling

    torch.set_num_threads(1)
    runtime, notes = session.runtime(cell).open(), session.artifact(cell).notes
    module, _, name = runtime.target.session.partition(":")
    opened = getattr(importlib.import_module(module), name)(str(runtime.artifact.folder), notes)
    double = modelling.load(session.model_spec(session.config.models[cell.model])).double()

    def loop(cases: list[Any]) -> float:
        start = time.process_time()
        with torch.no_grad(), modelling.plain_attention():
            for case in cases:
                opened.run(fed(notes, case))
                inputs = {k: torch.from_numpy(np.array(v)) for k, v in case.items()}
                double(*(v.double() if v.is_floating_point() else v for v in inputs.values()))
        return time.process_time() - start

    return loop


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "table", "speed"))
    parser.add_argument("--work", type=Path, help="folder of what was measured")
    parser.add_argument("--fp32", type=int, default=1000, help="inputs of each fp32 cell")
    parser.add_argument("--others", type=int, default=200, help="inputs of each other cell")
    parser.add_argument("--write", action="store_true", help=f"with table: write {TABLE.name}")
    parser.add_argument("--zoo", type=Path, help="measure the models of natural.py instead, from its --work folder")
    parser.add_argument("--cells", nargs="*", default=[], help="only cells whose id holds one of these")
    options = parser.parse_args()
    if options.what == "table":
        found = table(options.work) if options.work else json.loads(TABLE.read_text(encoding="utf-8"))
        if options.write:
            TABLE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            _table.cache_clear()
            stretch.cache_clear()
        show(found)
        return 0
    config, store = project_config.here(), None
    if options.zoo:
        trained = sorted(folder.name for folder in (options.zoo / "models").iterdir())
        config, store = natural.prepare(options.zoo.resolve(), trained, ["onnx", "tflite"]), str(options.zoo / "store")
    cells = [c for c in config.cells if not unavailable(config, c)]
    cells = [c for c in cells if not options.cells or any(word in c.id for word in options.cells)]
    with project.session(config, store) as session:
        session.progress = lambda subject, stage: None
        if options.what == "speed":
            speed(session, cells, options.others)
            return 0
        todo = [c for c in cells if not (options.work / f"{c}.jsonl").exists()]
        for model in dict.fromkeys(c.model for c in todo):
            measure(session, [c for c in todo if c.model == model], options.work, options.fp32, options.others)
    return 0


if __name__ == "__main__":
    sys.exit(main())
