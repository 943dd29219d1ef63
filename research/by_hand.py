"""The same exports by a script that people write by hand, by Polygraphy and by this suite: time, checks, faults found.

    pip install --target somewhere --no-deps polygraphy     # optional: who is absent is left out, and said so
    PYTHONPATH=somewhere python research/by_hand.py [--models skin] [--targets onnx] [--precisions fp32,fp16]

By hand is what export guides do: convert, run one random input through both, and call `numpy.allclose` with tolerances
of 1e-3. It calls the very converter functions that the suite calls, in one process, with nothing around them.
Polygraphy compares the ONNX files with the model's own outputs on its one default input, by its default tolerances.
Every fault of `parity/faults/artefact` that fits is then put into each file, and all three judge it; the suite by its
golden checks under the default limits, and by the chain of proof where these find nothing. Edits that move no golden
output are not counted. Each part runs in a process of its own, and its CPU seconds are counted with all that it starts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from parity import formats as targets  # noqa: E402
from parity.cases import draw  # noqa: E402
from parity.commands import project  # noqa: E402
from parity.formats.serve import fed, named  # noqa: E402
from parity.process import steps  # noqa: E402
from parity.session import project as project_config  # noqa: E402
from parity.session.artefacts import contract_of  # noqa: E402

SEED = 3


def chosen(config: Any, given: argparse.Namespace) -> list[Any]:
    def among(text: str, value: str) -> bool:
        return not text or value in text.split(",")

    return [c for c in config.cells if among(given.models, c.model) and among(given.targets, c.target)
            and among(given.precisions, c.precision) and c.target in ("onnx", "tflite")]  # fmt: skip


def function(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def by_hand(given: argparse.Namespace, out: Path) -> None:
    """Convert, run one random input, `allclose`; leaves each cell's files and notes for the other two."""
    import torch

    from parity.reference import modelling

    config, told = project_config.here(), []
    with project.session(config) as session:
        for cell in chosen(config, given):
            model = config.models[cell.model]
            spec = session.model_spec(model)
            after: Path | None = None
            notes: Mapping[str, Any] = {}
            for number, step in enumerate(targets.get(cell.target).routes(cell, model, config)[0].steps):
                folder = out / cell.id / str(number)
                folder.mkdir(parents=True)
                cases = [c.inputs for c in session.calibration(model)] if step.calibration else None
                request = steps.StepRequest(
                    step.function,
                    step.stage,
                    str(folder),
                    str(after) if after else None,
                    step.options,
                    spec,
                    contract_of(model),
                    session.example(model),
                    cases,
                )
                notes = steps.run(request)
                (folder / "manifest.json").write_text(json.dumps({"notes": notes}))  # which the next step reads
                after = folder
            assert after is not None
            one = draw.inputs(model.contract, model.contract.example(), SEED)
            opened = function(targets.get(cell.target).session)(str(after), notes)
            got = named(notes, opened.run(fed(notes, one)))
            names = [o.name for o in model.contract.outputs]
            want = modelling.forward(modelling.load(spec), {k: torch.from_numpy(v) for k, v in one.items()}, names)
            close = [bool(np.allclose(got[n], want[n].numpy(), rtol=1e-3, atol=1e-3)) for n in names]
            told.append({"cell": cell.id, "folder": str(after), "notes": dict(notes), "checks": len(close),
                         "passes": all(close)})  # fmt: skip
    (out / "by_hand.json").write_text(json.dumps(told))


def polygraphy(given: argparse.Namespace, out: Path) -> None:
    """`polygraphy run --onnxrt` against the module's outputs on Polygraphy's own default input."""
    import torch
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator, CompareFunc, DataLoader, IterationResult, RunResults

    from parity.reference import modelling

    config = project_config.here()
    told = []
    with project.session(config) as session:
        for made in json.loads((out / "by_hand.json").read_text()):
            if "-onnx-" not in made["cell"]:
                continue
            model = config.models[made["cell"].split("-")[0]]
            names = {n: e["name"] for n, e in made["notes"]["outputs"].items()}
            inputs = {n: e["name"] for n, e in made["notes"]["inputs"].items()}
            shapes = {inputs[i.name]: i.sized(model.contract.example()) for i in model.contract.inputs}
            from polygraphy.common import TensorMetadata

            metadata = TensorMetadata()
            for i in model.contract.inputs:
                metadata.add(inputs[i.name], np.dtype(i.dtype), shapes[inputs[i.name]])
            data = [DataLoader(seed=1, input_metadata=metadata)[0]]
            module = modelling.load(session.model_spec(model))
            given_torch = {i.name: torch.from_numpy(np.array(data[0][inputs[i.name]])) for i in model.contract.inputs}
            want = {names[n]: v.numpy() for n, v in modelling.forward(module, given_torch, list(names)).items()}
            found: dict[str, bool] = {}
            for name, file in files(made):
                try:
                    results = Comparator.run([OnnxrtRunner(SessionFromOnnx(str(file)))], data_loader=data)
                    results.append(("torch", [IterationResult(want, runner_name="torch")]))
                    verdict = Comparator.compare_accuracy(RunResults(results), compare_func=CompareFunc.simple())
                    found[name] = bool(verdict)
                except Exception as error:  # a file that does not load
                    print(f"{name}: {type(error).__name__}", file=sys.stderr)
                    found[name] = False
            told.append({"cell": made["cell"], "checks": len(names), "passes": found.pop("whole"), "faults": found})
    (out / "polygraphy.json").write_text(json.dumps(told))


def files(made: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The file itself and the faulty ones beside it."""
    folder = Path(made["folder"])
    yield "whole", folder / made["notes"]["entry"]
    for place in sorted((folder / "faulty").glob("*")):
        yield place.name, place / made["notes"]["entry"]


def spoil(given: argparse.Namespace, out: Path) -> None:
    """Faulty copies of every file; and what `allclose` on the one random input says of them."""
    import shutil

    import torch

    from parity.core.errors import ParityError
    from parity.core.plan import Cell
    from parity.core.record import ArtifactRecord
    from parity.faults.artefact.make import every
    from parity.reference import modelling
    from parity.session.artefacts import Artifact
    from parity.session.runtimes import OpenFile

    config, told = project_config.here(), []
    with project.session(config) as session:
        for made in json.loads((out / "by_hand.json").read_text()):
            cell = Cell(*made["cell"].split("-"))
            model, folder, notes = config.models[cell.model], Path(made["folder"]), made["notes"]
            with tempfile.TemporaryDirectory() as scratch:
                for fault, faulty, _ in every(cell.target, cell.precision, folder, notes, Path(scratch)):
                    shutil.copytree(faulty, folder / "faulty" / fault)
            one = draw.inputs(model.contract, model.contract.example(), SEED)
            names = [o.name for o in model.contract.outputs]
            torched = {k: torch.from_numpy(v) for k, v in one.items()}
            want = modelling.forward(modelling.load(session.model_spec(model)), torched, names)
            found = {}
            for fault, file in files(made):
                runtime = OpenFile(session, cell, Artifact(file.parent, notes, ArtifactRecord(), "by hand"))
                try:
                    got = runtime.run([one])[0]
                    runtime.close()
                    found[fault] = all(np.allclose(got[n], want[n].numpy(), rtol=1e-3, atol=1e-3) for n in names)
                except ParityError:  # a file that does not load, or that the runtime dies of
                    found[fault] = False
            found.pop("whole")
            told.append({"cell": made["cell"], "faults": {k: bool(v) for k, v in found.items()}})
    (out / "spoilt.json").write_text(json.dumps(told))


def gate(given: argparse.Namespace, out: Path) -> None:
    """What the suite's golden checks and chain of proof say of the same faulty files."""
    from parity.core.errors import ParityError
    from parity.core.plan import Cell
    from research import seeded

    config, told = project_config.here(), []
    with project.session(config, cache=str(out / "cache")) as session:
        for made in json.loads((out / "by_hand.json").read_text()):
            cell = Cell(*made["cell"].split("-"))
            subject = seeded.Subject(session, config.models[cell.model], cell, out / "seeded")
            subject.keep("", subject.artifact.folder, subject.artifact.notes)
            found: dict[str, str | None] = {}  # None: the edit changes nothing
            for fault, file in files(made):
                if fault == "whole":
                    continue
                try:
                    rows = subject.run(file.parent, made["notes"])
                    if subject.moved(rows) <= seeded.CHANGED:
                        found[fault] = None
                    else:
                        found[fault] = subject.judged(rows, file.parent, made["notes"])
                except ParityError:  # the runtime refuses it, or dies of it
                    found[fault] = "refused"
            told.append({"cell": made["cell"], "faults": found})
    (out / "gate.json").write_text(json.dumps(told))


PARTS = {"by-hand": by_hand, "spoil": spoil, "polygraphy": polygraphy, "gate": gate}


Cost = tuple[float, float]  # CPU seconds with all that was started, and wall seconds


def child(part: str, given: argparse.Namespace, out: Path) -> tuple[Cost, int]:
    """Cost and exit code of one part, in a process of its own."""
    command = [sys.executable, __file__, "--part", part, "--out", str(out)]
    command += [f"--{n}={getattr(given, n)}" for n in ("models", "targets", "precisions")]
    return waited(command)


def waited(command: list[str]) -> tuple[Cost, int]:
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode and (process.returncode != 1 or "--part" in command):  # pytest's 1 is a verdict
            log.seek(0)
            print(log.read()[-2000:])
    return (usage.ru_utime + usage.ru_stime, time.monotonic() - start), process.returncode


def suite(given: argparse.Namespace, out: Path) -> tuple[Cost, dict[str, Any]]:
    options = [f"--parity-{n}={getattr(given, n)}" for n in ("models", "targets", "precisions") if getattr(given, n)]
    report = out / "report.html"
    seconds, _ = waited([sys.executable, "-m", "pytest", "-q", "-m", "parity", "tests/parity", "-p", "no:cacheprovider",
                         f"--parity-cache={out}/cache", f"--parity-report={report}", *options])  # fmt: skip
    return seconds, json.loads(report.with_suffix(".json").read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("models", "targets", "precisions"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.part:
        PARTS[given.part](given, given.out)
        return 0
    with tempfile.TemporaryDirectory(prefix="parity-by-hand-") as folder:
        compared(given, Path(folder))
    return 0


def compared(given: argparse.Namespace, out: Path) -> None:
    """Every part in turn, and the table of what they cost and found."""
    seconds = {"by hand": child("by-hand", given, out)[0]}
    child("spoil", given, out)
    seconds["Polygraphy, the faulty files included"], code = child("polygraphy", given, out)
    seconds["`pytest -m parity`, cold"], record = suite(given, out)
    seconds["`pytest -m parity`, warm"], _ = suite(given, out)
    child("gate", given, out)

    def read(name: str) -> list[dict[str, Any]]:
        return list(json.loads((out / f"{name}.json").read_text()))

    judged = {t["cell"]: t["faults"] for t in read("gate")}
    hand, spoilt = read("by_hand"), read("spoilt")
    for told, faults in zip(hand, spoilt, strict=True):
        told["faults"] = faults["faults"]
    rows = {"by hand": hand}
    if code == 0 and (out / "polygraphy.json").exists():
        rows["Polygraphy, the faulty files included"] = read("polygraphy")
    else:
        print("Polygraphy cannot be imported: left out")
    rows["`pytest -m parity`, cold"] = [
        {"cell": c["id"], "checks": len(c["checks"]), "passes": c["state"] == "pass",
         "faults": {f: not found for f, found in judged[c["id"]].items()}}
        for c in record["cells"] if c["id"] in judged
    ]  # fmt: skip
    print("| | CPU s | wall s | checks | correct files refused | faulty files found, of those it accepts | of all |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, cells in rows.items():
        wrong = sum(not t["passes"] for t in cells)
        marks = [(t["passes"], v) for t in cells for f, v in t["faults"].items() if judged[t["cell"]][f] is not None]
        kept = [v for good, v in marks if good]
        (cpu, wall), checks = seconds[name], sum(t["checks"] for t in cells)
        print(f"| {name} | {cpu:.1f} | {wall:.1f} | {checks} | {wrong} of {len(cells)} "
              f"| {kept.count(False)} of {len(kept)} | {sum(not v for _, v in marks)} of {len(marks)} |")  # fmt: skip
    cpu, wall = seconds["`pytest -m parity`, warm"]
    print(f"| `pytest -m parity`, warm | {cpu:.1f} | {wall:.1f} | | | | |")
    for cell, faults in judged.items():
        nothing = sum(found is None for found in faults.values())
        missed = [f for f, found in faults.items() if found == ""]
        if nothing or missed:
            print(f"{cell}: {nothing} edits change nothing; missed by the suite: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    sys.exit(main())
