"""Which route to a file goes first: every route of a cell taken by itself, its file judged by hand.

    python research/routes.py run --out routes.jsonl [--target tflite] [--precisions fp32,int8]
        [--packages FOLDER] PROJECT ...
    python research/routes.py strangers --work DIR [--only NAME,...]
    python research/routes.py table routes.jsonl ...

`strangers` writes the projects of the architectures that are not held back. A route that failed is tried once more in
its variants (without layout search, loops unrolled), as a run would. A line says whether the file is right by hand
(`research/strangers/by_hand`), its error and what the precision costs by hand, its bytes, operators and seconds. What
was measured already is not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from parity.core.plan import Cell  # noqa: E402
from parity.formats.target import Route  # noqa: E402
from parity.process.isolate import ChildFailure  # noqa: E402
from parity.session import project as parity_project  # noqa: E402
from parity.session.artefacts import Artefacts, Artifact  # noqa: E402
from parity.session.cases import Cases  # noqa: E402
from parity.session.models import Models  # noqa: E402
from parity.session.routes import Passed  # noqa: E402
from parity.session.session import Session  # noqa: E402
from parity.session.toolchains import routes_of  # noqa: E402
from parity.store.cache import Store  # noqa: E402
from research.strangers import project, run  # noqa: E402
from research.strangers.suite import strangers  # noqa: E402


@dataclass(frozen=True)
class Line:
    """One route of one cell. `state`: right, wrong or cannot say by hand; none where it gave no file."""

    model: str
    target: str
    precision: str
    route: str
    state: str
    reason: str
    error: float | None = None
    cost: float | None = None
    bytes: int = 0
    operators: int = 0
    seconds: float = 0.0


def families(routes: Sequence[Route]) -> dict[str, list[Route]]:
    """The routes by the exporter and converter that they go by; the variants of each in order."""
    grouped: dict[str, list[Route]] = {}
    for route in routes:
        grouped.setdefault(re.sub(r", [^+]*", "", route.name), []).append(route)
    return grouped


def measure(folder: Path, packages: Path, target: str, precisions: Sequence[str], done: set[str]) -> list[Line]:
    """Every route of every cell of the one model of a project, but those that are `done`."""
    config = parity_project.load(folder / "pyproject.toml", factories=False)
    (model,) = config.models
    session = Session(config, f"routes-{time.time()}", store=Store.at(str(folder / "store"), folder))
    cases = Cases(session)
    artefacts = Artefacts(session, Models(session, cases), cases)
    lines, asked = {}, []
    try:
        for precision in precisions:
            cell = Cell(model, target, precision)
            for name, variants in families(routes_of(config, cell)).items():
                if f"{model} {target} {precision} {name}" not in done:
                    key = f"{precision} {name}"
                    lines[key], made = _made(session, artefacts, cell, name, variants)
                    asked += (
                        [{"cell": key, "target": target, "precision": precision, "folder": str(made)}] if made else []
                    )
    finally:
        session.close()
    for key, said in run.verdicts(model, folder, packages, asked).items():
        fields = {name: said[name] for name in ("state", "reason", "error", "cost")}
        lines[key] = dataclasses.replace(lines[key], **fields)
    return list(lines.values())


def _made(
    session: Session, artefacts: Artefacts, cell: Cell, name: str, variants: Sequence[Route]
) -> tuple[Line, Path | None]:
    """The line of a route that is not judged yet, and the folder of its file; the first variant that works counts."""
    start, failures = time.monotonic(), []
    line = Line(cell.model, cell.target, cell.precision, name, "none", "no route")
    for route in variants:
        try:
            made = artefacts.export_by(cell, session.config.models[cell.model], route)
        except Passed:
            continue
        except ChildFailure as failure:
            failures.append(str(failure))
            continue
        size, seconds = sum(file.bytes for file in made.record.files), round(time.monotonic() - start, 1)
        return dataclasses.replace(line, bytes=size, operators=_operators(made), seconds=seconds), made.folder
    seconds = round(time.monotonic() - start, 1)
    return dataclasses.replace(line, reason=failures[0] if failures else line.reason, seconds=seconds), None


def _operators(artifact: Artifact) -> int:
    """How many operators a TFLite or ONNX file has; 0 of another."""
    file = artifact.entry
    if file.suffix == ".tflite":
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
        return sum(len(graph.operators or ()) for graph in model.subgraphs)
    if file.suffix == ".onnx":
        import onnx

        return len(onnx.load(str(file), load_external_data=False).graph.node)
    return 0


def read(files: Sequence[Path]) -> list[Line]:
    return [Line(**json.loads(text)) for file in files if file.exists() for text in file.read_text().splitlines()]


def table(lines: Sequence[Line]) -> str:
    """A row for each precision and route: right files, what is said of the rest, and medians over the models that
    every route makes right: error over cost by hand, bytes and operators over the first route's, seconds."""
    counted = ("right", "cannot say", "wrong", "no file", "error / by hand", "size", "operators", "seconds")
    rows = [f"| precision | route | {' | '.join(counted)} |", f"| --- | --- | {' | '.join(['---:'] * len(counted))} |"]
    for precision in dict.fromkeys(line.precision for line in lines):
        of_it = [line for line in lines if line.precision == precision]
        routes = {r: {li.model: li for li in of_it if li.route == r} for r in dict.fromkeys(li.route for li in of_it)}
        first = next(iter(routes.values()))
        common = [m for m in first if all(m in by and by[m].state == "right" for by in routes.values())]
        for name, by in routes.items():
            counts = [sum(li.state == s for li in by.values()) for s in ("right", "cannot say", "wrong", "none")]
            medians = [
                _median([_ratio(by[m].error, by[m].cost) for m in common]),
                _median([_ratio(by[m].bytes, first[m].bytes) for m in common]),
                _median([_ratio(by[m].operators, first[m].operators) for m in common]),
                _median([li.seconds for li in by.values()]),
            ]
            rows.append(f"| {precision} | {name} | {' | '.join(map(str, counts))} | {' | '.join(medians)} |")
        rows.append(f"\n{precision}: {len(common)} models that every route makes right\n")
    return "\n".join(rows)


def _ratio(value: float | None, of: float | None) -> float:
    return value / of if value is not None and of else math.nan


def _median(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return f"{statistics.median(finite):.2f}" if finite else "-"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("run")
    measuring.add_argument("projects", type=Path, nargs="+")
    measuring.add_argument("--out", type=Path, required=True)
    measuring.add_argument("--target", default="tflite")
    measuring.add_argument("--precisions", default="fp32,int8")
    measuring.add_argument("--packages", type=Path, default=Path())
    writing = commands.add_parser("strangers")
    writing.add_argument("--work", type=Path, required=True)
    writing.add_argument("--only", default="")
    showing = commands.add_parser("table")
    showing.add_argument("files", type=Path, nargs="+")
    return parser


def main() -> int:
    options = _parser().parse_args()
    if options.command == "table":
        print(table(read(options.files)))
        return 0
    if options.command == "strangers":
        names = options.only.split(",") if options.only else []
        for stranger in strangers():
            if not stranger.held_back and (not names or stranger.name in names):
                project.write(stranger, options.work / stranger.name, project.TARGETS, project.PRECISIONS)
        return 0
    done = {f"{line.model} {line.target} {line.precision} {line.route}" for line in read([options.out])}
    for folder in options.projects:
        lines = measure(
            folder.resolve(), options.packages.resolve(), options.target, options.precisions.split(","), done
        )
        with options.out.open("a") as out:
            out.writelines(json.dumps(asdict(line)) + "\n" for line in lines)
        for line in lines:
            print(f"{line.model} {line.precision} {line.route}: {line.state}; {line.reason[:160]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
