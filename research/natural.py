"""Natural noise ratios: how far correct exports are from the oracle, in units of what their precision costs.

    python research/natural.py measure --work DIR [--targets onnx,tflite] [--models resnet,...]
    python research/natural.py twins --work DIR
    python research/natural.py prove --work DIR
    python research/natural.py rows --work DIR

`measure` trains the architectures of `zoo.py`, exports each through the project's own targets and stores what oracle
and artefact compute; cells that are done are not measured again. `twins` stores what every flavour of twin computes,
by the code as it is. `prove` asks the chain of proof of every file. `rows` computes the ratios from that alone and
writes them to `natural.csv`, in place of the lines of the same cells; others stay. From those lines `natural_table.py`
makes the table of default limits.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parity import config as configuration  # noqa: E402
from parity import formats as targets  # noqa: E402
from parity.core.contract import OutputSpec  # noqa: E402
from parity.core.errors import ParityError  # noqa: E402
from parity.core.plan import PRECISIONS  # noqa: E402
from parity.core.settings import Config  # noqa: E402
from parity.formats.target import version  # noqa: E402
from parity.judging.floor import STATISTICS, channel_axis, floor  # noqa: E402
from parity.process import serialise  # noqa: E402
from parity.reference.messages import Evaluated, TwinRequest  # noqa: E402
from parity.reference.recipes import RECIPES  # noqa: E402
from parity.session.proof import proof_of  # noqa: E402
from parity.session.session import Session  # noqa: E402
from parity.session.toolchains import unavailable  # noqa: E402
from parity.store.cache import Store  # noqa: E402
from research import zoo  # noqa: E402
from research.natural_table import LINES, TABLE, Line, read, write  # noqa: E402

GOLDEN, CALIBRATION = 24, 16
PACKAGES = ("torch", "onnxruntime", "onnx2tf", "tensorflow", "ai-edge-litert", "coremltools", "ncnn", "pnnx")


def prepare(work: Path, names: Iterable[str], wanted: list[str]) -> Config:
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
            f'factory = "research.zoo:{name}"',
            f'checkpoint = "{folder}/weights.safetensors"',
            f"inputs = [{inputs}]",
            f"outputs = [{outputs}]",
            f'golden = "{folder}/golden"',
            f'calibration = "{folder}/calibration"',
        ]
    return configuration.parse("\n".join(text), ROOT / "pyproject.toml", targets.facts())


def with_own(config: Config) -> configuration.Config:
    """The project's own example models beside the zoo's."""
    from parity.core.plan import Cell

    own = configuration.load(ROOT / "pyproject.toml", targets.facts()).models
    wanted = dict.fromkeys(cell.target for cell in config.cells)
    models = {n: replace(m, cells=tuple(Cell(n, t, p) for t in wanted for p in PRECISIONS)) for n, m in own.items()}
    return replace(config, models={**config.models, **models})


def measure(work: Path, config: Config) -> None:
    """Store oracle, artefact and twin outputs of every cell under `work`/outputs; failures as text in their place."""
    session = Session(config, f"natural-{time.time()}", store=Store.at(str(work / "store"), ROOT))
    (work / "outputs").mkdir(parents=True, exist_ok=True)
    try:
        for name, model in config.models.items():
            cases = session.golden(model)
            names = [o.name for o in model.contract.outputs]
            file = work / "outputs" / f"{name}~oracle.npz"
            if not file.exists():
                save(file, session.reference(model, cases).outputs)
            for cell in model.cells:
                start, done = time.monotonic(), work / "outputs" / f"{cell}.npz"
                failed = done.with_suffix(".txt")
                if done.exists() or failed.exists():
                    continue
                if why := unavailable(config, cell):
                    print(f"{cell}: {why}", flush=True)
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


def twins(work: Path, config: Config) -> None:
    """Compute every flavour of twin of the precisions that were measured, from the code as it is now."""
    session = Session(config, f"twins-{time.time()}", store=Store.at(str(work / "store"), ROOT))
    try:
        for name, model in config.models.items():
            measured = {c.precision for c in model.cells if (work / "outputs" / f"{c}.npz").exists()}
            for precision, flavours in RECIPES.items():
                for flavour in flavours if precision in measured else ():
                    request = TwinRequest(
                        session.model_spec(model),
                        [c.inputs for c in session.golden(model)],
                        [o.name for o in model.contract.outputs],
                        precision,
                        [c.inputs for c in session.calibration(model)],
                        flavour,
                    )
                    function = "parity.reference.twin:evaluate"
                    result = session.children.call("torch", function, request, Evaluated, stage="twin")
                    save(work / "outputs" / f"{name}~{precision}~{flavour}.npz", result.outputs)
                    if result.note:
                        print(f"{name} {precision} {flavour}: {result.note}")
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


def prove(work: Path, config: Config) -> None:
    """Ask the chain of proof of every measured file that it can read; what is there already is not asked again."""
    session = Session(config, f"prove-{time.time()}", store=Store.at(str(work / "store"), ROOT))
    try:
        for model in config.models.values():
            for cell in model.cells:
                done = work / "outputs" / f"{cell}.proof.json"
                if (
                    not targets.get(cell.target).graph
                    or done.exists()
                    or not (work / "outputs" / f"{cell}.npz").exists()
                ):
                    continue
                try:
                    proof = proof_of(session, cell, session.golden(model))
                    links = {link.name: serialise.to_builtins(link) for link in proof.links}
                    told = {"state": proof.state, "summary": proof.summary, "seconds": proof.seconds, "links": links}
                except ParityError as error:
                    told = {"state": "no answer", "summary": str(error)[:200], "seconds": 0.0}
                done.write_text(json.dumps(told), encoding="utf-8")
                print(f"{cell}: {told['summary'][:300]} [{told['seconds']:.1f} s]", flush=True)
    finally:
        session.close()


def proved(file: Path) -> str:
    """What the chain said of a cell, for its lines."""
    if not file.exists():
        return ""
    told = json.loads(file.read_text(encoding="utf-8"))
    if told["state"] != "failed":
        return str(told["state"])
    links = [link for link in told.get("links", {}).values() if link["state"] == "failed"]
    blamed = [f"{link['name']}: {link['culprits'][0]['name']}: {link['culprits'][0]['what']}" for link in links]
    return f"failed: {'; '.join(blamed) or told['summary']}"[:240].replace("\n", " ")


def ratios(work: Path, config: Config) -> tuple[list[Line], dict[str, str]]:
    """One line for every measured output, cell and flavour of twin; and the cells that have no artefact, with why."""
    found, failed = list[Line](), {}
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
            got, said = load(file), proved(work / "outputs" / f"{cell}.proof.json")
            for (precision, flavour, output), noise in floors.items():
                if precision == cell.precision:
                    ratio = noise.ratio([row[output] for row in got])
                    values = {s: float(getattr(ratio, s)) for s in (*STATISTICS, "distance")}
                    found.append(
                        Line(name, cell.target, precision, flavour, output, noise.relative, noise.absolute,
                             **values, proof=said)
                    )  # fmt: skip
    return found, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "twins", "prove", "rows"))
    parser.add_argument("--work", type=Path, required=True, help="folder for weights, exports and outputs")
    parser.add_argument("--targets", default="onnx,tflite")
    parser.add_argument("--models", default="", help="only these, separated by commas")
    args = parser.parse_args()
    work = args.work.resolve()
    names = args.models.split(",") if args.models else list(zoo.ZOO)
    config = with_own(prepare(work, [n for n in names if n in zoo.ZOO], args.targets.split(",")))
    if args.models:
        config = replace(config, models={n: m for n, m in config.models.items() if n in names})
    if args.what != "rows":
        {"measure": measure, "twins": twins, "prove": prove}[args.what](work, config)
        return 0
    lines, failed = ratios(work, config)
    side = LINES.with_suffix(".json")
    known = json.loads(side.read_text(encoding="utf-8")) if side.exists() else {}
    earlier = known.get("earlier") or json.loads(TABLE.read_text(encoding="utf-8"))["cells"]
    again = {line.cell for line in lines} | failed.keys()
    write([*(line for line in read(LINES) if line.cell not in again), *lines])
    missing = {c: w.strip().splitlines()[0][:160] for c, w in failed.items()}
    about = {
        "packages": {p: version(p) for p in PACKAGES},
        "no_artefact": {c: w for c, w in known.get("no_artefact", {}).items() if c not in again} | missing,
        "earlier": earlier,
    }
    side.write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{len(lines)} lines of {len({line.cell for line in lines})} cells, {len(failed)} cells without an artefact")
    return 0


if __name__ == "__main__":
    sys.exit(main())
