"""Power and diagnosis, measured: what the gate notices, and whether the true cause is named.

    python research/faults.py power [--models skin] [--targets onnx,tflite] [--precisions fp32,fp16,dynamic,int8]
    python research/faults.py cost [--models skin] [--cells onnx-fp32,onnx-int8|all]
    python research/faults.py exact [--models skin] [--precisions fp16,int8]
    python research/faults.py diagnosis [--models skin] [--cells onnx-fp32,tflite-fp16] [--every 1] [--without]

`power` counts what each cell's limits notice. `cost` measures a cell's power as `--parity-power` does, with faults of
its file and the chain of proof, and the processor's seconds that it takes; faults of the model are evaluated with its
first cell. `exact` compares `power` with the costlier way, the twin run anew with each fault in place.
`diagnosis` takes real artefacts: faults of input and output are put before and behind the file that a
target exported, faults of weights into the checkpoint that it exports; `--without` takes the true fault out of the
library first. Faults of the graph need a converter that has them: they are measured on float32 runs in tests/faults.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parity import config as configuration  # noqa: E402
from parity import formats as targets  # noqa: E402
from parity.cases.files import PICTURES, golden_files  # noqa: E402
from parity.core.errors import ParityError  # noqa: E402
from parity.core.plan import Cell  # noqa: E402
from parity.core.settings import ModelConfig  # noqa: E402
from parity.faults import library  # noqa: E402
from parity.faults.base import Fault, Rows, registered  # noqa: E402
from parity.faults.bench import Bench  # noqa: E402
from parity.faults.diagnose import LIMITS, Search  # noqa: E402
from parity.faults.measure import measure  # noqa: E402
from parity.faults.messages import CellGate, PowerRequest  # noqa: E402
from parity.faults.power import Gate, Tally  # noqa: E402
from parity.judging.floor import natural  # noqa: E402
from parity.judging.limits import Limit, resolve  # noqa: E402
from parity.reference import modelling, twin  # noqa: E402
from parity.reference.recipes import recipe  # noqa: E402
from parity.session import faults as ask  # noqa: E402
from parity.session.session import Session  # noqa: E402


class Setting:
    """One model of this repository: its cases, its bench, its twins."""

    def __init__(self, session: Session, model: ModelConfig):
        self.session, self.model = session, model
        cases = session.golden(model)
        self.ids, self.labels = [c.id for c in cases], [c.label for c in cases]
        self.inputs = [dict(c.inputs) for c in cases]
        assert model.golden is not None
        files = golden_files(model.golden)
        pictures = all(f.suffix.lower() in PICTURES for f in files)
        self.sources: list[str | None] = [str(f) for f in files] if pictures else []
        self.spec = session.model_spec(model)
        self.outputs = [o.name for o in model.contract.outputs]

    def bench(self, precision: str) -> Bench:
        return library.bench(self.spec, self.model.contract, self.inputs, precision, self.sources)

    def calibration(self) -> list[Any]:
        return [dict(c.inputs) for c in self.session.calibration(self.model)] if self.model.calibration else []

    def twin(self, precision: str, flavour: str | None = None) -> Rows:
        found = twin.run(modelling.load(self.spec), self.inputs, self.outputs, recipe(precision, flavour),
                         self.calibration())  # fmt: skip
        return found[0]

    def limits(self, cell: Cell) -> dict[str, dict[str, float | None]]:
        """The limits in force."""
        rules = self.session.config.rules
        return {o: {m: found.value for m, found in resolve(rules, cell, o).items()} for o in self.outputs}


def flavour_of(cell: Cell) -> str | None:
    known = natural(cell.target, cell.precision)
    return known.flavour if known else None


def power(setting: Setting, targets: Sequence[str], precisions: Sequence[str]) -> None:
    cells = [Cell(setting.model.name, t, p) for t in targets for p in precisions]
    gates = [CellGate(c.id, c.precision, setting.twin(c.precision, flavour_of(c)), setting.limits(c)) for c in cells]
    start = time.monotonic()
    result = measure(
        PowerRequest(
            setting.spec,
            setting.model.contract,
            setting.inputs,
            setting.ids,
            gates,
            setting.labels,
            setting.sources,
        )
    )
    print(f"{setting.model.name}: {len(cells)} cells, {time.monotonic() - start:.1f} s")
    print("| cell | killed / injected | equivalent | false alarms | cover of cases | loose | survivors |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for cell in result.cells:
        survivors = ", ".join(s.fault for s in cell.survivors) or "none"
        alarms = ", ".join(s.fault for s in cell.false_alarms) or "none"
        counts = f"{cell.killed} / {cell.injected} | {len(cell.equivalent)} | {alarms}"
        cover = f"{len(cell.cover)} of {len(setting.ids)} | {', '.join(cell.loose) or 'none'}"
        print(f"| {cell.cell} | {counts} | {cover} | {survivors} |", flush=True)


def cost(session: Session, model: ModelConfig, names: Sequence[str]) -> None:
    """Processor seconds of this process and its children; oracle, twins and files are made before."""
    cases = session.golden(model)
    session.reference(model, cases)
    for cell in model.cells:
        session.twin(model, cases, cell.precision, session.flavour(cell))
    print("| cell | noticed of injected | equivalent | by kind | false alarms | survivors | processor s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for cell in [c for c in model.cells if names == ["all"] or f"{c.target}-{c.precision}" in names]:
        try:
            session.artifact(cell)
        except ParityError as error:
            print(f"| {cell} | no file: {str(error)[:80]} | | | | | |")
            continue
        before = _processor()
        found = ask.power(session, cell, cases)
        spent = _processor() - before
        kinds = ", ".join(f"{n} {kind}" for kind, n in found.kinds.items())
        print(f"| {cell} | {found.killed} / {found.injected} | {found.equivalent} | {kinds} | "
              f"{', '.join(found.false_alarms) or 'none'} | {', '.join(found.survivors) or 'none'} | {spent:.1f} |",
              flush=True)  # fmt: skip


def _processor() -> float:
    own = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (own, *own.children(recursive=True)))


def exact(setting: Setting, precisions: Sequence[str], every: int) -> None:
    """Whether adding the twin's noise to a faulty model judges as running the faulty model's own twin does."""
    for precision in precisions:
        on, right = setting.bench(precision), setting.twin(precision)
        limits = setting.limits(Cell(setting.model.name, "onnx", precision))
        bounds = {o: {m: Limit(m, v, "") for m, v in found.items()} for o, found in limits.items()}
        gate = Gate(on.subject.contract, setting.ids, on.clean(), right, precision, bounds, setting.labels)
        added, run = (Tally("cell", precision, gate, right) for _ in range(2))
        for fault in [f for f in registered(precision) if not f.benign and f.where != "output"][::every]:
            one = library.inject(on, fault)
            subject = fault.on(on.subject, one.value)
            if one.state == "changed" and subject is not None:
                added.add(fault, one.value, one.behind(right, on.clean(), on.subject))
                run.add(fault, one.value, on.twin(subject, range(len(setting.ids)), None, setting.calibration()))
        a, b = added.result().faults, run.result().faults
        other = [name for name in a if a[name] != b[name]]
        print(f"{setting.model.name} {precision}: {len(a)} faults, {len(other)} judged otherwise: {other}")


def faulty(
    setting: Setting, on: Bench, cell: Cell, faults: Sequence[Fault], work: Path
) -> Iterator[tuple[Fault, Rows]]:
    """What real artefacts with each fault give."""
    runtime = setting.session.runtime(cell)
    right = runtime.run(setting.inputs)
    for fault in faults:
        one = library.inject(on, fault)
        subject = fault.on(on.subject, one.value) if one.state == "changed" else None
        if subject is None:
            continue
        if fault.where == "output":
            rows: Rows = [dict(row) for row in right]
            for change in subject.after:
                rows = change(rows)
            yield fault, rows
        elif fault.where == "input":
            yield fault, runtime.run(subject.inputs)
        elif subject.tensors and not subject.patches:
            yield fault, exported(setting, cell, fault, dict(subject.tensors), work)


def exported(setting: Setting, cell: Cell, fault: Fault, tensors: dict[str, Any], work: Path) -> Rows:
    """The outputs of an artefact exported from a checkpoint with these tensors."""
    from safetensors.torch import save_file

    file = work / f"{fault.name}.safetensors"
    state = {k: v.detach().clone().contiguous() for k, v in modelling.load(setting.spec).state_dict().items()}
    save_file(state | {k: v.float().contiguous() for k, v in tensors.items()}, file)
    model = replace(setting.model, checkpoint=file)
    config = replace(setting.session.config, models={setting.model.name: model})
    session = Session(config, f"{fault.name}-{time.time()}", store=setting.session.store)
    try:
        return session.runtime(cell).run(setting.inputs)
    finally:
        session.close()


def diagnosis(setting: Setting, cells: Sequence[str], every: int, without: bool) -> None:
    print("| cell | correct file | detected | first | in three | no known fault | longest s | not first |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in cells:
        target, precision = name.split("-")
        cell = Cell(setting.model.name, target, precision)
        on, noise, known = (
            setting.bench(precision),
            setting.twin(precision, flavour_of(cell)),
            natural(target, precision),
        )
        limits = {k: v for k, v in known.limits.items() if k in ("pooled", "worst")} if known else LIMITS[precision]
        faults = [f for f in registered(precision) if not f.benign]
        right = Search(on, setting.session.runtime(cell).run(setting.inputs), noise, faults, limits).diagnose()
        detected, first, three, silent, seconds, other = 0, 0, 0, 0, 0.0, []
        with tempfile.TemporaryDirectory() as folder:
            for fault, rows in faulty(setting, on, cell, faults[::every], Path(folder)):
                hypotheses = [f for f in faults if f.name != fault.name] if without else faults
                found = Search(
                    on, rows, noise, hypotheses, limits, flavour_of(cell), calibration=setting.calibration()
                ).diagnose()
                if found.state == "sound":
                    continue
                least = found.causes[0].residual if found.causes else 0.0
                # Two faults can be one function of this model: an input frozen, and an output frozen.
                best = [c.faults for c in found.causes if c.residual <= least * (1 + 1e-6)]
                detected += 1
                first += (fault.name,) in best
                three += any(c.faults == (fault.name,) for c in found.causes[:3])
                silent += not found.causes
                seconds = max(seconds, found.seconds)
                if bool(found.causes) if without else (fault.name,) not in best:
                    other.append(f"{fault.name} -> {' + '.join(found.causes[0].faults) if found.causes else 'none'}")
        counts = f"{detected} | {first} | {three} | {silent} | {seconds:.1f}"
        print(f"| {cell} | {right.state}, {right.sentence} | {counts} | {'; '.join(other) or 'none'} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("power", "cost", "exact", "diagnosis"))
    parser.add_argument("--models", default="skin")
    parser.add_argument("--targets", default="onnx")
    parser.add_argument("--precisions", default="fp32,fp16,dynamic,int8")
    parser.add_argument("--cells", default="onnx-fp32,onnx-fp16", help="of each model; `cost` takes `all` too")
    parser.add_argument("--every", type=int, default=1, help="take every n-th fault")
    parser.add_argument("--without", action="store_true", help="take the true fault out of the library")
    args = parser.parse_args()
    session = Session(configuration.load(ROOT / "pyproject.toml", targets.facts()), f"faults-{time.time()}")
    try:
        for name in args.models.split(","):
            if args.what == "cost":
                cost(session, session.config.models[name], args.cells.split(","))
                continue
            setting = Setting(session, session.config.models[name])
            if args.what == "power":
                power(setting, args.targets.split(","), args.precisions.split(","))
            elif args.what == "exact":
                exact(setting, args.precisions.split(","), args.every)
            else:
                diagnosis(setting, args.cells.split(","), args.every, args.without)
    except ParityError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        session.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
