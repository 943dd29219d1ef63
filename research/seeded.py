"""How many seeded faults does the gate find, in which files, and what do the usual rules find in the same files?

    python research/seeded.py measure --work DIR --models resnet,vit [--targets onnx,tflite] [--precisions ...]
    python research/seeded.py judge --work DIR --models resnet,vit
    python research/seeded.py table --work DIR

`--work` is the folder of `research/natural.py measure`, whose trained models and exports are used again. `measure`
puts every fault of `parity/faults/artefact` into every exported file, runs each on the real runtime and stores what it
computes under `DIR/seeded`. `judge` judges what is stored, by the code and limits as they are: a fault counts when the
outputs on the golden cases change (by more than 1e-6 of their rms), and is found when a golden check breaks under the
default limits, when the runtime refused the file, or when the chain of proof fails. As in the suite, a complete proof
makes limits on the tail warn, and the file's own placement of grids widens floors. The chain is asked only where no
golden check decides by itself, for which that file is made again; its answers are kept while its code is the same.
`table` prints the shares of what `judge` wrote, the same for the usual rules, and every survivor.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parity import formats as targets  # noqa: E402
from parity.core.case import Case  # noqa: E402
from parity.core.errors import ParityError  # noqa: E402
from parity.core.plan import Cell  # noqa: E402
from parity.core.proof import DECISIVE, Proof  # noqa: E402
from parity.core.record import ArtifactRecord, Check  # noqa: E402
from parity.core.settings import ModelConfig  # noqa: E402
from parity.faults.artefact.make import every  # noqa: E402
from parity.faults.base import on_files  # noqa: E402
from parity.faults.power import Gate  # noqa: E402
from parity.judging.floor import natural as limits_of  # noqa: E402
from parity.judging.gate import passes  # noqa: E402
from parity.judging.limits import is_default, resolve  # noqa: E402
from parity.judging.registry import METRICS  # noqa: E402
from parity.judging.tails import of_tail  # noqa: E402
from parity.proof.messages import Placement, ProofRequest  # noqa: E402
from parity.session.artefacts import Artifact  # noqa: E402
from parity.session.placement import PLACE, request_for  # noqa: E402
from parity.session.proof import PROVE  # noqa: E402
from parity.session.runtimes import OpenFile  # noqa: E402
from parity.session.session import Session  # noqa: E402
from parity.store.cache import Store  # noqa: E402
from research import natural, natural_table, zoo  # noqa: E402

Rows = Sequence[Mapping[str, Any]]
CHANGED = 1e-6  # relative rms; less is what float32 kernels differ by
RULES = ("cosine", "assert_close", "allclose 1e-3", "Polygraphy", "PSNR 30")
BARS = {"fp32": 0.99, "fp16": 0.98, "dynamic": 0.97, "int8": 0.97}


@dataclass(frozen=True)
class Answer:
    """What the chain of proof says of one file, with what it lets golden checks off.

    `failed`: the links that fail, by commas. `complete`: limits on the tail only warn. `is_module`: the file's own
    placement of grids may widen the floors.
    """

    failed: str
    summary: str
    complete: bool
    is_module: bool


class Subject:
    """One exported file with everything that its gate needs; the last case is one random input for the usual rules."""

    def __init__(self, session: Session, model: ModelConfig, cell: Cell, home: Path):
        self.session, self.model, self.cell, self.home = session, model, cell, home
        self.cases = session.golden(model)
        self.inputs = [c.inputs for c in self.cases] + [session.example(model)]
        self.artifact = session.artifact(cell)
        self.calibration = [c.inputs for c in session.calibration(model)] if cell.precision == "int8" else []

    @functools.cached_property
    def references(self) -> list[Mapping[str, Any]]:
        """The oracle on every input, the random one last."""
        everything = [*self.cases, Case("random", self.inputs[-1])]
        return list(self.session.reference(self.model, everything).outputs)

    @property
    def oracle(self) -> list[Mapping[str, Any]]:
        return self.references[:-1]

    @functools.cached_property
    def gate(self) -> Gate:
        cell, model = self.cell, self.model
        known = limits_of(cell.target, cell.precision)
        twin = self.session.twin(model, self.cases, cell.precision, known.flavour if known else None)
        limits = {o.name: resolve((), cell, o.name) for o in model.contract.outputs}
        return Gate(model.contract, [c.id for c in self.cases], self.oracle, twin, cell.precision, limits)

    @functools.cached_property
    def right(self) -> Rows:
        """What the correct file computes."""
        return natural.load(self.stored(""))

    def faulty(self, work: Path) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
        """Faulty copies of the file, under an empty folder: fault, folder, notes."""
        return every(self.cell.target, self.cell.precision, self.artifact.folder, self.artifact.notes, work)

    def run(self, folder: Path, notes: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Golden rows, and the random one last. Raises ParityError where the runtime refuses the file."""
        artifact = Artifact(folder, dict(notes), ArtifactRecord(), "seeded")
        runtime = OpenFile(self.session, self.cell, artifact)
        try:
            return runtime.run(self.inputs)
        finally:
            with contextlib.suppress(ParityError):
                runtime.close()

    def moved(self, rows: Rows) -> float:
        """How far the outputs on golden cases are from the right file's, relative rms of the output that moved most."""
        worst = 0.0
        for name in self.oracle[0]:
            a, b = (np.concatenate([np.ravel(r[name]) for r in x[:-1]]).astype(np.float64) for x in (rows, self.right))
            if a.shape != b.shape or not np.isfinite(a).all():
                return float("inf")
            scale = float(np.sqrt(np.square(b).mean())) or 1.0
            worst = max(worst, float(np.sqrt(np.square(a - b).mean())) / scale)
        return worst

    def judged(
        self, rows: Rows, folder: Path, notes: Mapping[str, Any], answer: Callable[[], Answer] | None = None
    ) -> str:
        """What the suite finds fault with: a golden metric, or "proof:" and the links that fail; empty where nothing.

        The chain of proof is asked only where no golden check breaks for which it could make up, and `answer` in its
        place where that is given.
        """
        broken = self.broken(self.gate, rows)
        decided = [check for check in broken if not (of_tail(check) or self._may_be_placed(check))]
        if decided:
            return decided[0].metric
        proof = answer() if answer else self.proved(folder, notes)
        if proof.failed:
            return f"proof: {proof.failed}"
        if proof.is_module and any(self._may_be_placed(check) for check in broken):
            broken = self.broken(self._widened(folder, notes), rows)
        if proof.complete:
            broken = [check for check in broken if not of_tail(check)]
        return broken[0].metric if broken else ""

    def broken(self, gate: Gate, rows: Rows) -> list[Check]:
        """The golden checks that do not hold; the last row belongs to no golden case."""
        return [check for check in gate.checks(rows[:-1]) if not passes(check)]

    def _may_be_placed(self, check: Check) -> bool:
        """Whether the floor of the file's own placement of grids could let a broken check off."""
        spec = METRICS.get(check.metric)
        is_noise = spec is not None and spec.family == "noise" and check.value is not None
        return is_noise and is_default(check.source) and self.cell.precision in ("int8", "dynamic")

    def _widened(self, folder: Path, notes: Mapping[str, Any]) -> Gate:
        """The gate with floors at least those of the file's own placement; as it is where there is none."""
        asked = request_for(self._request(folder, notes), [c.inputs for c in self.cases])
        try:
            placement = self.session.children.call("proof", PLACE, asked, Placement, stage="twin of the file")
        except ParityError:
            return self.gate
        widened = copy.copy(self.gate)
        widened.widen([dict(row) for row in placement.outputs])
        return widened

    def stored(self, fault: str) -> Path:
        """Where a file's outputs are kept."""
        return self.home / f"{self.cell}" / f"{fault.replace(' ', '_').replace('/', '-') or 'correct'}.npz"

    def keep(self, fault: str, folder: Path, notes: Mapping[str, Any]) -> None:
        """Run a file and store what it computes, or what the runtime says when it refuses."""
        file = self.stored(fault)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            natural.save(file, self.run(folder, notes))
        except ParityError as error:
            file.with_suffix(".txt").write_text(str(error)[:160], encoding="utf-8")

    def proved(self, folder: Path, notes: Mapping[str, Any]) -> Answer:
        """What the chain of proof says of a file."""
        request = self._request(folder, notes)
        proof = self.session.children.call("proof", PROVE, request, Proof, stage="prove")
        failed = ",".join(link.name for link in proof.links if link.state == "failed")
        states = {link.name: link.state for link in proof.links}
        is_module = all(states.get(name) == "proved" for name in DECISIVE)
        return Answer(failed, proof.summary, proof.complete, is_module)

    def _request(self, folder: Path, notes: Mapping[str, Any]) -> ProofRequest:
        return ProofRequest(
            self.session.model_spec(self.model),
            targets.get(self.cell.target).graph,
            self.cell.precision,
            str(folder),
            dict(notes),
            [c.inputs for c in self.cases],
            list(self.oracle[0]),
            self.calibration,
        )

    def rules(self, rows: Rows) -> list[str]:
        """Which of the usual rules find fault with these outputs."""
        import torch

        pairs = [(r[n], w[n].astype(np.float32)) for r, w in zip(rows[:-1], self.oracle, strict=True) for n in w]
        one = [(np.asarray(rows[-1][n], np.float64), w) for n, w in self.references[-1].items()]
        if any(a.shape != b.shape for a, b in [*pairs, *one]) or not all(np.isfinite(a).all() for a, _ in pairs):
            return list(RULES)
        least = 0.99 if self.cell.precision == "fp32" else 0.95
        cosine = min(float(np.vdot(a, b) / ((np.linalg.norm(a) * np.linalg.norm(b)) or 1.0)) for a, b in one)
        psnr = min(_psnr([(r[n], w[n]) for r, w in zip(rows[:-1], self.oracle, strict=True)]) for n in self.oracle[0])
        broken = {
            "cosine": cosine <= least,
            "assert_close": not all(_close(torch, a, b) for a, b in pairs),
            "allclose 1e-3": not all(np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs),
            "Polygraphy": not all(bool(_polygraphy(a, b)) for a, b in one),
            "PSNR 30": psnr < 30,
        }
        return [name for name, bad in broken.items() if bad]

    def line(self, fault: str, proof: Callable[[], Answer], folder: Path, notes: Mapping[str, Any]) -> dict[str, Any]:
        """The judgement of one stored file, which lies in `folder`; `proof` asks the chain of proof of it."""
        told: dict[str, Any] = {
            "model": self.cell.model, "target": self.cell.target, "precision": self.cell.precision, "fault": fault
        }  # fmt: skip
        file = self.stored(fault)
        if not file.exists():
            said = file.with_suffix(".txt").read_text(encoding="utf-8")
            return told | {"moved": None, "found": "refused", "said": said, "rules": list(RULES)}
        rows = natural.load(file)
        moved = self.moved(rows)
        found, said = "", ""
        if moved > CHANGED or not fault:
            found = self.judged(rows, folder, notes, proof)
            if found.startswith("proof: ") or not found:
                said = proof().summary
        told |= {"moved": moved if np.isfinite(moved) else None, "found": found, "said": said[:300]}
        return told | {"rules": self.rules(rows)}


def _close(torch: Any, got: Any, want: Any) -> bool:
    try:
        torch.testing.assert_close(torch.from_numpy(np.array(got, np.float32)), torch.from_numpy(np.array(want)))
    except AssertionError:
        return False
    return True


def _polygraphy(got: Any, want: Any) -> bool:
    """Every element within 1e-5, absolute or relative: the default of `polygraphy run`."""
    error = np.abs(got - want)
    return bool(((error <= 1e-5) | (error <= 1e-5 * np.abs(want))).all())


def _psnr(pairs: Sequence[tuple[Any, Any]]) -> float:
    error = np.concatenate([np.ravel(np.asarray(a, np.float64) - b) for a, b in pairs])
    values = np.concatenate([np.ravel(b) for _, b in pairs])
    noise = float(np.square(error).mean())
    return 10 * float(np.log10(float(np.ptp(values)) ** 2 / noise)) if noise else float("inf")


def subjects(work: Path, options: argparse.Namespace) -> Iterator[Subject]:
    """Every cell that is asked for and has a file, one at a time."""
    own = natural.prepare(work, options.models.split(","), options.targets.split(","))
    session = Session(own, f"seeded-{time.time()}", store=Store.at(str(work / "store"), ROOT))
    end = time.monotonic() + options.seconds
    try:
        for model in own.models.values():
            for cell in model.cells:
                if cell.precision not in options.precisions.split(",") or cell.id in natural_table.TRACED:
                    continue
                if time.monotonic() > end:
                    return
                try:
                    yield Subject(session, model, cell, work / "seeded")
                except ParityError as error:
                    print(f"{cell}: {str(error)[:160]}", flush=True)
    finally:
        session.close()


def tried(subject: Subject) -> str:
    """The faults that the library has for a cell, a line each."""
    names = [f.name for f in on_files(subject.cell.target, subject.cell.precision) if not f.benign]
    return "".join(f"{name}\n" for name in names)


def measured(subject: Subject) -> bool:
    """Whether all of them have been stored."""
    done = subject.stored("").with_name("done")
    return done.exists() and done.read_text(encoding="utf-8") == tried(subject)


def measure(work: Path, options: argparse.Namespace) -> None:
    for subject in subjects(work, options):
        if measured(subject):
            continue
        artifact, count = subject.artifact, 0
        subject.keep("", artifact.folder, artifact.notes)
        with tempfile.TemporaryDirectory() as scratch:
            for fault, place, notes in subject.faulty(Path(scratch)):
                if not any(subject.stored(fault).with_suffix(s).exists() for s in (".npz", ".txt")):
                    subject.keep(fault, place, notes)
                count += 1
        subject.stored("").with_name("done").write_text(tried(subject), encoding="utf-8")
        print(f"{subject.cell}: {count} faults", flush=True)


class Answers:
    """What the chain of proof said, kept in a file for as long as its code is the same."""

    def __init__(self, file: Path):
        code = hashlib.sha256()
        for path in sorted((ROOT / "parity" / "proof").rglob("*.py")):
            code.update(path.read_bytes())
        self.file, self.code = file, code.hexdigest()
        kept = [d for d in lines(file) if d["code"] == self.code]
        self.known = {(d["cell"], d["fault"]): Answer(**d["answer"]) for d in kept}

    def of(self, subject: Subject, fault: str, folder: Path, notes: Mapping[str, Any]) -> Answer:
        """What the chain says of a file, made once."""
        key = subject.cell.id, fault
        if key not in self.known:
            self.known[key] = subject.proved(folder, notes)
            answer = {"cell": subject.cell.id, "fault": fault, "answer": asdict(self.known[key]), "code": self.code}
            with self.file.open("a", encoding="utf-8") as log:
                log.write(json.dumps(answer) + "\n")
        return self.known[key]


def judge(work: Path, options: argparse.Namespace) -> None:
    """Judge every stored file again; the lines of other cells stay."""
    answers = Answers(work / "seeded.proofs.jsonl")
    for subject in subjects(work, options):
        if not measured(subject):
            continue
        cell, whole = subject.cell, subject.artifact
        told = [_line(answers, subject, "", whole.folder, whole.notes)]
        with tempfile.TemporaryDirectory() as scratch:
            for fault, place, notes in subject.faulty(Path(scratch)):
                told.append(_line(answers, subject, fault, place, notes))
        kept = [d for d in lines(work / "seeded.jsonl") if f"{d['model']}-{d['target']}-{d['precision']}" != cell.id]
        (work / "seeded.jsonl").write_text("".join(json.dumps(d) + "\n" for d in kept + told), encoding="utf-8")
        print(f"{cell}: {sum(bool(d['found']) for d in told if d['fault'] and counts(d))} found", flush=True)


def _line(answers: Answers, subject: Subject, fault: str, folder: Path, notes: Mapping[str, Any]) -> dict[str, Any]:
    return subject.line(fault, functools.partial(answers.of, subject, fault, folder, notes), folder, notes)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def counts(told: Mapping[str, Any]) -> bool:
    """Whether a fault changes the function: a refused file does, and so does one that is not finite."""
    return told["found"] == "refused" or told["moved"] is None or told["moved"] > CHANGED


def table(work: Path) -> bool:
    """Print everything; returns whether every bar is met."""
    told = lines(work / "seeded.jsonl")
    correct, faulty = [d for d in told if not d["fault"]], [d for d in told if d["fault"] and counts(d)]
    names = sorted({d["model"] for d in told})
    print(f"{len(names)} models: {', '.join(names)}; {len(faulty)} faulty files, "
          f"{len(told) - len(correct) - len(faulty)} edits that change nothing")  # fmt: skip
    least = min((sum(d["model"] == m for d in faulty) for m in {d["model"] for d in faulty}), default=0)
    print(f"at least {least} faulty files a model; false alarms: {sum(bool(d['found']) for d in correct)} of "
          f"{len(correct)} correct files\n")  # fmt: skip
    print(f"| precision | target | found | share | golden | refused | proof alone | {' | '.join(RULES)} |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |" + " ---: |" * len(RULES))
    met = True
    for precision, bar in BARS.items():
        for target in ("onnx", "tflite", ""):
            own = [d for d in faulty if d["precision"] == precision and target in ("", d["target"])]
            right = [d for d in correct if d["precision"] == precision and target in ("", d["target"])]
            if not own:
                continue
            found = sum(bool(d["found"]) for d in own)
            refused = sum(d["found"] == "refused" for d in own)
            proof = sum(d["found"].startswith("proof: ") for d in own)
            usual = [
                f"{sum(r in d['rules'] for d in own) / len(own):.1%} ({sum(r in d['rules'] for d in right)})"
                for r in RULES
            ]
            print(f"| {precision} | {target or 'both'} | {found}/{len(own)} | {found / len(own):.1%} | "
                  f"{found - refused - proof} | {refused} | {proof} | {' | '.join(usual)} |")  # fmt: skip
            met &= bool(target) or found / len(own) >= bar
    print(f"\nIn brackets: how many of the correct files ({len(correct)} in all) the rule refuses.\n\nSurvivors:")
    for d in faulty:
        if not d["found"]:
            print(f"- {d['model']}-{d['target']}-{d['precision']}: {d['fault']}, moves the output by {d['moved']:.2g}: "
                  f"{d['said']}")  # fmt: skip
    for d in correct:
        if d["found"]:
            print(f"- false alarm on {d['model']}-{d['target']}-{d['precision']}: {d['found']}: {d['said']}")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "judge", "table"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", default=",".join(zoo.ZOO))
    parser.add_argument("--targets", default="onnx,tflite")
    parser.add_argument("--precisions", default=",".join(BARS))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no further cell after so long")
    args = parser.parse_args()
    work = args.work.resolve()
    if args.what == "table":
        return 0 if table(work) else 1
    {"measure": measure, "judge": judge}[args.what](work, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
