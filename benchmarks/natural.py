"""Natural noise ratios: how far correct exports are from the oracle, in units of what their precision costs.

    python benchmarks/natural.py measure --work DIR [--targets onnx,tflite] [--models resnet,...]
    python benchmarks/natural.py twins --work DIR
    python benchmarks/natural.py table --work DIR [--write]

`measure` trains the architectures of `zoo.py`, exports each through the project's own targets and stores what oracle
and artefact compute; cells that are done are not measured again. `twins` stores what every flavour of twin computes,
by the code as it is. `table` computes the ratios from that alone, prints them, and with --write makes
`parity/reference/natural.json`, the table of default limits; `rows` prints every single ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import zoo  # noqa: E402
from parity import config as configuration  # noqa: E402
from parity import targets  # noqa: E402
from parity.cache import Store  # noqa: E402
from parity.contract import OutputSpec  # noqa: E402
from parity.errors import ParityError  # noqa: E402
from parity.plan import PRECISIONS  # noqa: E402
from parity.reference.floor import STATISTICS, channel_axis, floor  # noqa: E402
from parity.reference.recipes import RECIPES  # noqa: E402
from parity.session import Session  # noqa: E402
from parity.targets.base import version  # noqa: E402

GOLDEN, CALIBRATION = 24, 16
TABLE = ROOT / "parity" / "reference" / "natural.json"
MARGIN, LEAST = 1.25, {"fp32": 4.0, "fp16": 2.0, "dynamic": 1.5, "int8": 1.5}
RULE = (
    f"limit = {MARGIN} x median of the cell x the largest (ratio / median) of any correct export at the precision, "
    "over all targets together, since few exports of one target show its tail; rounded up to one decimal; at least 4 "
    "at fp32 and 2 at fp16, where faults are hundreds of times the floor and other kernels or another order of folding "
    "are as correct, and at least 1.5 otherwise. The twin's flavour is the one whose error is nearest to the "
    "artefacts' (the least mean |ln pooled ratio|). left_out: models that would fail by the limits that all others give"
)
NOT_CORRECT = {
    "decoder-onnx-int8": "ONNX Runtime's calibration gives the causal mask and the scores it is added to a scale of "
    "inf, because -inf is in their range: later positions are attended to",
    "inception-tflite-int8": "the stem's output (0 to 3.41 in calibration) gets the range of a border slice of the "
    "average pool behind it (0 to 1.65), because slice, pool and stem must share one scale: half its range is clipped",
    "groupnet-coreml-fp32": "coremltools writes a gain and a shift as a batch_norm and leaves its epsilon of 1e-5",
    "groupnet-coreml_nn-fp32": "as groupnet-coreml-fp32",
    **{
        f"groupnet-tflite-{precision}": "the lift differs between the first convolution and the second, where "
        "GroupNorm is: the output hardly follows the input (relative error 0.96); not traced further in onnx2tf"
        for precision in PRECISIONS
    },
    "text-tflite-int8": "LiteRT's XNNPACK ignores a zero point in BATCH_MATMUL",
    "vit-tflite-int8": "the Erf that onnx2tf puts in the place of Flex divides 0 by 0, and the NaN goes onto a grid",
}
"""Exports that were found to be wrong, each traced to its cause; not all of them stand out by their ratios."""


def prepare(work: Path, names: Iterable[str], wanted: list[str]) -> configuration.Config:
    """Train what is not trained yet, draw golden and calibration data, and configure it all."""
    from safetensors.torch import save_file

    text = [
        "[tool.parity]",
        f"targets = {json.dumps(wanted)}",
        f"precisions = {json.dumps(list(PRECISIONS))}",
        "timeout = 400",
    ]
    for name in names:
        entry, folder = zoo.ZOO[name], work / "models" / name
        if not (folder / "weights.safetensors").exists():
            for part, count, seed in (("golden", GOLDEN, 1), ("calibration", CALIBRATION, 2)):
                (folder / part).mkdir(parents=True, exist_ok=True)
                made, _ = zoo.draw(entry, count, seed)
                for index in range(count):
                    np.savez(folder / part / f"{index:02}.npz", **{k: v[index : index + 1] for k, v in made.items()})
            save_file(zoo.train(name).state_dict(), folder / "weights.safetensors")
        made, _ = zoo.draw(entry, 1, 0)
        inputs = ", ".join(
            f'{{ name = "{k}", shape = ["batch", {", ".join(map(str, v.shape[1:]))}], dtype = "{v.dtype}", '
            f"range = {[0, zoo.VOCABULARY - 1] if v.dtype.kind == 'i' else [-3.0, 3.0]} }}"
            for k, v in made.items()
        )
        outputs = ", ".join(f'{{ name = "{k}", kind = "{v}" }}' for k, v in entry.outputs.items())
        text += [
            f"[tool.parity.models.{name}]",
            f'factory = "benchmarks.zoo:{name}"',
            f'checkpoint = "{folder}/weights.safetensors"',
            f"inputs = [{inputs}]",
            f"outputs = [{outputs}]",
            f'golden = "{folder}/golden"',
            f'calibration = "{folder}/calibration"',
        ]
    return configuration.parse("\n".join(text), ROOT / "pyproject.toml")


def with_own(config: configuration.Config) -> configuration.Config:
    """The project's own example models beside the zoo's."""
    from parity.plan import Cell

    own = configuration.load(ROOT / "pyproject.toml").models
    wanted = dict.fromkeys(cell.target for cell in config.cells)
    models = {n: replace(m, cells=tuple(Cell(n, t, p) for t in wanted for p in PRECISIONS)) for n, m in own.items()}
    return replace(config, models={**config.models, **models})


def measure(work: Path, config: configuration.Config) -> None:
    """Store oracle, artefact and twin outputs of every cell under `work`/outputs; failures as text in their place."""
    session = Session(config, f"natural-{time.time()}", store=Store.at(str(work / "store"), ROOT))
    (work / "outputs").mkdir(parents=True, exist_ok=True)
    try:
        for name, model in config.models.items():
            cases = session.golden(model)
            names = [o.name for o in model.contract.outputs]
            file = work / "outputs" / f"{name}~oracle.npz"
            if not file.exists():
                save(file, session.reference(model, cases, "golden").outputs)
            for cell in model.cells:
                start, done = time.monotonic(), work / "outputs" / f"{cell}.npz"
                failed = done.with_suffix(".txt")
                if done.exists() or failed.exists() or targets.get(cell.target).unavailable(cell, model):
                    continue
                try:
                    rows = session.runtime(cell).run([c.inputs for c in cases])
                    if any(n not in row for row in rows for n in names):
                        raise ParityError("an output is missing")
                    save(done, rows)
                except ParityError as error:
                    failed.write_text(str(error), encoding="utf-8")
                print(f"{cell}: {'failed' if failed.exists() else 'ok'}, {time.monotonic() - start:.1f} s", flush=True)
    finally:
        session.close()


def twins(work: Path, config: configuration.Config) -> None:
    """Compute every flavour of twin again, from the code as it is now."""
    session = Session(config, f"twins-{time.time()}", store=Store.at(str(work / "store"), ROOT))
    try:
        for name, model in config.models.items():
            for precision, flavours in RECIPES.items():
                for flavour in flavours:
                    result = session.children.call(
                        "torch",
                        "parity.reference.twin:evaluate",
                        {
                            "model": session.model_spec(model),
                            "cases": [c.inputs for c in session.golden(model)],
                            "outputs": [o.name for o in model.contract.outputs],
                            "precision": precision,
                            "calibration": [c.inputs for c in session.calibration(model)],
                            "flavour": flavour,
                        },
                        stage="twin",
                    )
                    save(work / "outputs" / f"{name}~{precision}~{flavour}.npz", result["outputs"])
                    if result["note"]:
                        print(f"{name} {precision} {flavour}: {result['note']}")
    finally:
        session.close()


def save(file: Path, rows: Any) -> None:
    np.savez(file, **{f"{i}/{n}": v for i, row in enumerate(rows) for n, v in row.items()})


def load(file: Path) -> list[dict[str, Any]]:
    with np.load(file) as archive:
        rows: dict[int, dict[str, Any]] = {}
        for key in archive.files:
            index, _, name = key.partition("/")
            rows.setdefault(int(index), {})[name] = archive[key]
    return [rows[i] for i in sorted(rows)]


def ratios(work: Path, config: configuration.Config) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One entry for every measured output, cell and flavour of twin; and the cells that have no artefact, with why."""
    found, failed = [], {}
    for name, model in config.models.items():
        if not (work / "outputs" / f"{name}~oracle.npz").exists():
            continue
        oracle = load(work / "outputs" / f"{name}~oracle.npz")
        floors: dict[tuple[str, str, str], Any] = {}
        for precision, flavours in RECIPES.items():
            for flavour in flavours:
                file = work / "outputs" / f"{name}~{precision}~{flavour}.npz"
                if file.exists():
                    twin = load(file)
                    for spec in model.contract.outputs:
                        want = [row[spec.name] for row in oracle]
                        axis = channel_axis(OutputSpec(spec.name, spec.kind), want[0].ndim)
                        rows = [row[spec.name] for row in twin]
                        floors[precision, flavour, spec.name] = floor(want, rows, precision, axis)
        for cell in model.cells:
            file = work / "outputs" / f"{cell}.npz"
            if not file.exists():
                if file.with_suffix(".txt").exists():
                    failed[cell.id] = file.with_suffix(".txt").read_text(encoding="utf-8")
                continue
            got = load(file)
            for (precision, flavour, output), noise in floors.items():
                if precision == cell.precision:
                    ratio = noise.ratio([row[output] for row in got])
                    found.append({
                        "model": name, "target": cell.target, "precision": precision, "flavour": flavour,
                        "output": output, "floor": noise.relative, "absolute": noise.absolute,
                        **{s: getattr(ratio, s) for s in STATISTICS}, "distance": ratio.distance,
                        "reason": ratio.reason,
                    })  # fmt: skip
    return found, failed


def summary(rows: list[dict[str, Any]], failed: dict[str, str]) -> dict[str, Any]:
    """The table: by target and precision the nearest flavour, default limits, and the spread they come from."""
    cells: dict[str, Any] = {}
    kept: list[dict[str, Any]] = []
    for target, precision in sorted({(r["target"], r["precision"]) for r in rows}):
        own = [r for r in rows if (r["target"], r["precision"]) == (target, precision)]
        wrong = {f"{r['model']}-{target}-{precision}" for r in own} & set(NOT_CORRECT)
        own = [r for r in own if f"{r['model']}-{target}-{precision}" not in wrong]
        by_flavour = {f: [r for r in own if r["flavour"] == f] for f in RECIPES[precision]}
        distance = {f: nearness(found) for f, found in by_flavour.items()}
        best = min(distance, key=lambda f: distance[f])
        kept += by_flavour[best]
        near = [r["distance"] for r in by_flavour[best]]
        values = {s: [r[s] for r in by_flavour[best] if not np.isnan(r[s])] for s in STATISTICS}
        cells[f"{target}-{precision}"] = {
            "flavour": best,
            "count": len(by_flavour[best]),
            "models": len({r["model"] for r in by_flavour[best]}),
            "limits": {},
            "spread": {s: spread(v) for s, v in values.items() if v} | {"distance": spread(near)},
            "left_out": [],
            "on_least_floor": sum(r["absolute"] for r in by_flavour[best]),
            "flavours": {f: {"distance": round(distance[f], 3), **spread([r["pooled"] for r in found])}
                         for f, found in by_flavour.items()},
            "not_correct": {name: NOT_CORRECT[name] for name in sorted(wrong)},
            "no_artefact": sorted(c for c in failed if c.endswith(f"-{target}-{precision}")),
        }  # fmt: skip
    for (target, precision), limits in fitted(kept).items():
        cells[f"{target}-{precision}"]["limits"] = limits
    for model in sorted({r["model"] for r in kept}):
        for target, precision in left_out(kept, model):
            cells[f"{target}-{precision}"]["left_out"].append(model)
    packages = ("torch", "onnxruntime", "onnx2tf", "tensorflow", "ai-edge-litert", "litert-torch", "ncnn", "pnnx")
    return {"rule": RULE, "packages": {p: version(p) for p in packages}, "cells": cells}


def nearness(rows: list[dict[str, Any]]) -> float:
    """Mean |ln ratio|: 0 where the twin errs exactly as the artefacts do. Twins on the least floor say nothing."""
    logs = [abs(float(np.log(max(r["pooled"], 1e-3)))) for r in rows if not r["absolute"]]
    return statistics.mean(logs) if logs else float("inf")


def fitted(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, float]]:
    """The limits by cell and statistic that these correct exports give: the rule of RULE."""
    ratios: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        for s in STATISTICS:
            if not np.isnan(row[s]):
                ratios.setdefault((row["target"], row["precision"], s), []).append(max(row[s], 1e-9))
    medians = {key: statistics.median(values) for key, values in ratios.items()}
    tails: dict[tuple[str, str], float] = {}
    for (target, precision, s), values in ratios.items():
        beyond = max(values) / medians[target, precision, s]
        tails[precision, s] = max(tails.get((precision, s), 1.0), beyond)
    found: dict[tuple[str, str], dict[str, float]] = {}
    for (target, precision, s), median in medians.items():
        value = float(np.ceil(10 * MARGIN * median * tails[precision, s]) / 10)
        found.setdefault((target, precision), {})[s] = max(LEAST[precision], value)
    return found


def left_out(rows: list[dict[str, Any]], model: str) -> list[tuple[str, str]]:
    """The cells in which a model would fail by the limits that all others give: how well the rule holds for the next
    one."""
    limits = fitted([r for r in rows if r["model"] != model])
    own = [r for r in rows if r["model"] == model and (r["target"], r["precision"]) in limits]
    over = {
        (r["target"], r["precision"])
        for r in own
        if any(r[s] > limits[r["target"], r["precision"]].get(s, float("inf")) for s in STATISTICS)
    }
    return sorted(over)


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "p95": round(float(np.percentile(values, 95)), 3),
        "max": round(max(values), 3),
    }


def show(table: dict[str, Any]) -> None:
    print("| cell | twin | outputs | median / p95 / max | limit | case | channel | peak | distance | left out |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, cell in table["cells"].items():
        pooled, limits = cell["spread"]["pooled"], cell["limits"]
        print(
            f"| {name} | {cell['flavour']} | {cell['count']} | {pooled['median']:.2f} / {pooled['p95']:.2f} / "
            f"{pooled['max']:.2f} | {' | '.join(str(limits.get(s, '')) for s in STATISTICS)} | "
            f"{cell['spread']['distance']['median']:.3f} | "
            f"{len(cell['left_out'])} of {cell['models']} |"
        )
    over = sum(len(c["left_out"]) for c in table["cells"].values())
    total = sum(c["models"] for c in table["cells"].values())
    print(f"\nleft out, each model's own cells: {over} of {total} fail ({over / total:.1%})")
    for name, cell in table["cells"].items():
        print(f"\n{name}: " + "; ".join(f"{f} {v}" for f, v in cell["flavours"].items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "twins", "rows", "table"))
    parser.add_argument("--work", type=Path, required=True, help="folder for weights, exports and outputs")
    parser.add_argument("--targets", default="onnx,tflite")
    parser.add_argument("--models", default="", help="only these, separated by commas")
    parser.add_argument("--write", action="store_true", help=f"with table: write {TABLE.name}")
    args = parser.parse_args()
    work = args.work.resolve()
    names = args.models.split(",") if args.models else list(zoo.ZOO)
    config = with_own(prepare(work, [n for n in names if n in zoo.ZOO], args.targets.split(",")))
    if args.models:
        config = replace(config, models={n: m for n, m in config.models.items() if n in names})
    if args.what == "measure":
        measure(work, config)
    elif args.what == "twins":
        twins(work, config)
    else:
        rows, failed = ratios(work, config)
        if args.what == "rows":
            print("\n".join(json.dumps(row) for row in rows))
            return 0
        table = summary(rows, failed)
        show(table)
        if args.write:
            TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
