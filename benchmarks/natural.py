"""Natural noise ratios: how far correct exports are from the oracle, in units of what their precision costs.

    python benchmarks/natural.py measure --work DIR [--targets onnx,tflite] [--models resnet,...]
    python benchmarks/natural.py table --work DIR [--write]

`measure` trains the architectures of `zoo.py`, exports each through the project's own targets and stores what oracle,
artefact and every flavour of twin compute. `table` computes the ratios from that alone, prints them, and with --write
makes `parity/reference/natural.json`, the table of default limits. Cells that are done are not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import zoo  # noqa: E402
from parity import config as configuration  # noqa: E402
from parity.cache import Store  # noqa: E402
from parity.contract import OutputSpec  # noqa: E402
from parity.errors import ParityError  # noqa: E402
from parity.plan import PRECISIONS  # noqa: E402
from parity.reference.floor import STATISTICS, channel_axis, floor  # noqa: E402
from parity.reference.recipes import RECIPES  # noqa: E402
from parity.session import Session  # noqa: E402

GOLDEN, CALIBRATION = 24, 16
TABLE = ROOT / "parity" / "reference" / "natural.json"
RULE = (
    "limit = 1.25 * the largest natural ratio, at least 1.5, rounded up to one decimal; of the twin's flavours the one "
    "whose largest pooled ratio is smallest relative to its smallest"
)
Key = tuple[str, str]  # target, precision


def prepare(work: Path, names: Iterable[str], targets: list[str]) -> configuration.Config:
    """Train what is not trained yet, draw golden and calibration data, and configure it all."""
    from safetensors.torch import save_file

    text = [
        "[tool.parity]",
        f"targets = {json.dumps(targets)}",
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


def with_skin(config: configuration.Config) -> configuration.Config:
    """The example model beside the zoo's."""
    from dataclasses import replace

    from parity.plan import Cell

    own = configuration.load(ROOT / "pyproject.toml").models
    targets = dict.fromkeys(cell.target for cell in config.cells)
    models = {n: replace(m, cells=tuple(Cell(n, t, p) for t in targets for p in PRECISIONS)) for n, m in own.items()}
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
                if done.exists() or failed.exists():
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
                        **{s: getattr(ratio, s) for s in STATISTICS}, "reason": ratio.reason,
                    })  # fmt: skip
    return found, failed


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "p95": round(float(np.percentile(values, 95)), 3),
        "max": round(max(values), 3),
    }


def limit(values: list[float]) -> float:
    return max(1.5, float(np.ceil(12.5 * max(values)) / 10))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "twins", "table"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--targets", default="onnx,tflite")
    parser.add_argument("--models", default="")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    work = args.work.resolve()
    config = with_skin(prepare(work, args.models.split(",") if args.models else list(zoo.ZOO), args.targets.split(",")))
    if args.what == "measure":
        measure(work, config)
    elif args.what == "twins":
        twins(work, config)
    else:
        found, failed = ratios(work, config)
        for row in found:
            print(json.dumps(row))
        for cell, why in failed.items():
            print(f"{cell}: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
