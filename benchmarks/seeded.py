"""How many seeded faults does the gate find, in which files, and what do the usual rules find in the same files?

    python benchmarks/seeded.py measure --work DIR --models resnet,vit [--targets onnx,tflite] [--precisions ...]
    python benchmarks/seeded.py table --work DIR

`--work` is the folder of `benchmarks/natural.py measure`, whose trained models and exports are used again. `measure`
puts every fault of `file_faults.py` into every exported file and runs each on the real runtime. A fault counts when the
file's outputs on the golden cases change (by more than 1e-6 of their rms). It is found when a golden check breaks under
the default limits, when the runtime refuses the file, or when the chain of proof fails; the chain is only asked where
the others found nothing. One line a file goes to `DIR/seeded.jsonl`; files that have their line are left alone.
`table` reads that, prints the shares, the same for the usual rules, and every survivor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import file_faults, natural, zoo  # noqa: E402
from parity.cache import Store  # noqa: E402
from parity.cases import Case  # noqa: E402
from parity.config import ModelConfig  # noqa: E402
from parity.errors import ParityError  # noqa: E402
from parity.exports import Artifact  # noqa: E402
from parity.faults.power import Gate  # noqa: E402
from parity.gate import passes  # noqa: E402
from parity.limits import resolve  # noqa: E402
from parity.plan import Cell  # noqa: E402
from parity.record import ArtifactRecord  # noqa: E402
from parity.reference.floor import natural as limits_of  # noqa: E402
from parity.runtimes import Runtime  # noqa: E402
from parity.session import Session  # noqa: E402

Rows = Sequence[Mapping[str, Any]]
CHANGED = 1e-6  # relative rms; less is what float32 kernels differ by
RULES = ("cosine", "assert_close", "allclose 1e-3", "Polygraphy", "PSNR 30")
BARS = {"fp32": 0.99, "fp16": 0.98, "dynamic": 0.97, "int8": 0.97}


class Subject:
    """One exported file with everything that its gate needs; the last case is one random input for the usual rules."""

    def __init__(self, session: Session, model: ModelConfig, cell: Cell):
        self.session, self.model, self.cell = session, model, cell
        self.cases = session.golden(model)
        self.inputs = [c.inputs for c in self.cases] + [session.example(model)]
        everything = [*self.cases, Case("random", self.inputs[-1])]
        *self.oracle, self.random = session.reference(model, everything, "seeded").outputs
        known = limits_of(cell.target, cell.precision)
        twin = session.twin(model, self.cases, "golden", cell.precision, known.flavour if known else None)
        limits = {o.name: resolve((), cell, o.name) for o in model.contract.outputs}
        self.gate = Gate(model.contract, [c.id for c in self.cases], self.oracle, twin, cell.precision, limits)
        self.artifact = session.artifact(cell)
        self.right = self.run(self.artifact.folder)

    def run(self, folder: Path) -> list[dict[str, Any]]:
        """Golden rows, and the random one last. Raises ParityError where the runtime refuses the file."""
        artifact = Artifact(folder, self.artifact.notes, ArtifactRecord(), "seeded")
        runtime = Runtime(self.session, self.cell, artifact)
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

    def judged(self, rows: Rows) -> str:
        """The metric of a golden check that breaks, empty where none does."""
        return next((c.metric for c in self.gate.checks(rows[:-1]) if not passes(c)), "")

    def proved(self, folder: Path) -> tuple[str, str]:
        """The links of the chain of proof that fail, and its line."""
        found = self.session.children.call(
            "proof",
            "parity.proof:prove",
            {
                "model": self.session.model_spec(self.model),
                "target": self.cell.target,
                "precision": self.cell.precision,
                "folder": str(folder),
                "notes": self.artifact.notes,
                "cases": [c.inputs for c in self.cases],
                "outputs": list(self.oracle[0]),
            },
            stage="prove",
        )
        failed = [link["name"] for link in found["links"].values() if link["state"] == "failed"]
        return ",".join(failed), found["summary"]

    def rules(self, rows: Rows) -> list[str]:
        """Which of the usual rules find fault with these outputs."""
        import torch

        pairs = [(r[n], w[n].astype(np.float32)) for r, w in zip(rows[:-1], self.oracle, strict=True) for n in w]
        one = [(np.asarray(rows[-1][n], np.float64), w) for n, w in self.random.items()]
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

    def line(self, fault: str, folder: Path) -> dict[str, Any]:
        start = time.perf_counter()
        told: dict[str, Any] = {
            "model": self.cell.model, "target": self.cell.target, "precision": self.cell.precision, "fault": fault
        }  # fmt: skip
        try:
            rows = self.run(folder)
            moved = self.moved(rows)
        except ParityError as error:
            return told | {"moved": None, "found": "refused", "said": str(error)[:160], "rules": list(RULES)}
        found = self.judged(rows) if moved > CHANGED or not fault else ""
        said = ""
        if not found and (moved > CHANGED or not fault):
            found, said = self.proved(folder)
        told |= {"moved": moved if np.isfinite(moved) else None, "found": found, "said": said[:300]}
        return told | {"rules": self.rules(rows), "seconds": round(time.perf_counter() - start, 2)}


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


def measure(work: Path, models: Iterable[str], targets: list[str], precisions: list[str], seconds: float) -> None:
    own = natural.prepare(work, list(models), targets)
    session = Session(own, f"seeded-{time.time()}", store=Store.at(str(work / "store"), ROOT))
    file, end = work / "seeded.jsonl", time.monotonic() + seconds
    done = {(d["model"], d["target"], d["precision"], d["fault"]) for d in lines(file)}
    try:
        for model in own.models.values():
            for cell in model.cells:
                key = (cell.model, cell.target, cell.precision)
                if cell.precision not in precisions or (*key, "end") in done or cell.id in natural.NOT_CORRECT:
                    continue
                if time.monotonic() > end:
                    return
                try:
                    subject = Subject(session, model, cell)
                except ParityError as error:
                    print(f"{cell}: {str(error)[:160]}", flush=True)
                    continue
                count = 0
                with tempfile.TemporaryDirectory() as scratch, file.open("a", encoding="utf-8") as log:

                    def write(told: Mapping[str, Any], log: Any = log) -> None:
                        log.write(json.dumps(told) + "\n")
                        log.flush()

                    if (*key, "") not in done:
                        write(subject.line("", subject.artifact.folder))
                    folder = subject.artifact.folder
                    for fault, place in file_faults.drafts(cell.target, folder, subject.artifact.notes, Path(scratch)):
                        if (*key, fault) not in done:
                            write(subject.line(fault, place))
                        count += 1
                    write(dict(zip(("model", "target", "precision"), key, strict=True)) | {"fault": "end"})
                print(f"{cell}: {count} faults", flush=True)
    finally:
        session.close()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def counts(told: Mapping[str, Any]) -> bool:
    """Whether a fault changes the function: a refused file does, and so does one that is not finite."""
    return told["found"] == "refused" or told["moved"] is None or told["moved"] > CHANGED


def table(work: Path) -> bool:
    """Print everything; returns whether every bar is met."""
    told = [d for d in lines(work / "seeded.jsonl") if d["fault"] != "end"]
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
            proof = sum(bool(d["said"]) and bool(d["found"]) and d["found"] != "refused" for d in own)
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
    parser.add_argument("what", choices=("measure", "table"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", default=",".join(zoo.ZOO))
    parser.add_argument("--targets", default="onnx,tflite")
    parser.add_argument("--precisions", default=",".join(BARS))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no further cell after so long")
    args = parser.parse_args()
    work = args.work.resolve()
    if args.what == "table":
        return 0 if table(work) else 1
    measure(work, args.models.split(","), args.targets.split(","), args.precisions.split(","), args.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
