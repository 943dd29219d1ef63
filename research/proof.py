"""How many seeded faults does the chain of proof find, and how often does it raise a false alarm?

    python research/proof.py [--work DIR] [--targets tflite,onnx] [--precisions int8,dynamic,fp16,fp32] [--limit N]

Faults are put into the module `skin` before a real export, or into the int8 file afterwards. A fault counts as found
when the proof fails, and as named when the expected link names the expected tensor, operator or place. Exits 1 when a
fault that a precision can hold is missed, or a correct file fails. `--work` keeps exports for the next run: the first
one takes about half an hour, most of it in onnx2tf.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from parity import formats as targets
from parity.core.proof import Proof
from parity.proof import prove
from parity.proof.messages import ProofRequest
from tests.proof import attention, edits, seeded


@dataclass
class Row:
    """The tally of one target and precision."""

    total: int = 0
    found: int = 0
    named: int = 0
    correct: int = 0
    alarms: int = 0
    seconds: list[float] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def proof(target: str, precision: str, folder: Path, row: Row) -> Proof:
    start = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        calibration = seeded.cases("calibration") if precision == "int8" else []
        cases = seeded.cases()[::2]
        result = prove(
            ProofRequest(
                seeded.spec(),
                targets.get(target).graph,
                precision,
                str(folder),
                seeded.notes(folder),
                cases,
                ["logits"],
                calibration,
            )
        )
    row.seconds.append(time.perf_counter() - start)
    return result


def judge(row: Row, name: str, result: Proof, links: str, culprit: str) -> None:
    row.total += 1
    found = result.state == "failed"
    named = names(result, links, culprit)
    row.found += found
    row.named += named
    if not named:
        row.remarks.append(f"{'not named' if found else 'MISSED'}: {name}: {result.summary[:200]}")


def names(result: Proof, links: str, culprit: str) -> bool:
    """Whether one of the links failed and blames the right one."""
    failed = [link for link in result.links if link.name in links.split() and link.state == "failed"]
    return any(culprit in c.name for link in failed for c in link.culprits)


def correct(row: Row, name: str, result: Proof) -> None:
    row.correct += 1
    if result.state != "proved":
        row.alarms += 1
        row.remarks.append(f"FALSE ALARM: {name}: {result.summary[:200]}")


def measure(work: Path, target: str, precision: str, limit: int | None) -> Row:
    row = Row()
    clean = seeded.export(work, target, seeded.PRECISIONS)[precision]
    correct(row, "clean", proof(target, precision, clean, row))
    if precision == "int8":
        for calibration, links in (("half", ""), ("dark", "range"), ("noise", "range")):
            folder = seeded.export(work, target, ("int8",), calibration=calibration)["int8"]
            result = proof(target, precision, folder, row)
            if links:
                judge(row, f"calibrated on {calibration}", result, links, "")
            else:
                correct(row, f"calibrated on {calibration}", result)
        if target == "tflite":
            correct(
                row, "per-tensor weights", proof(target, precision, seeded.per_tensor(clean, work / "per_tensor"), row)
            )
        for edit in edits.TFLITE if target == "tflite" else edits.ONNX:
            folder = edits.edited(clean, work / "edited" / target, edit)
            judge(row, edit.name, proof(target, precision, folder, row), edit.links, edit.culprit)
    for fault in seeded.FAULTS[:limit]:
        if fault.only not in ("", target):
            continue
        try:
            folder = seeded.export(work, target, seeded.PRECISIONS, fault.name)[precision]
        except Exception as error:
            row.remarks.append(f"the converter refuses {fault.name!r}: {str(error).strip().splitlines()[0][:120]}")
            continue
        result = proof(target, precision, folder, row)
        if precision in fault.benign_at:
            correct(row, fault.name, result)
        else:
            judge(row, fault.name, result, fault.links, fault.culprit)
    return row


def runtimes(work: Path) -> Iterator[str]:
    """What the proof says of a small attention model: the runtime's own faults."""
    for target in ("tflite", "onnx"):
        for precision, folder in attention.export(work, target, seeded.PRECISIONS).items():
            with contextlib.redirect_stderr(io.StringIO()):
                result = prove(
                    ProofRequest(
                        attention.SPEC,
                        targets.get(target).graph,
                        precision,
                        str(folder),
                        seeded.notes(folder),
                        attention.cases(),
                        ["logits"],
                    )
                )
            yield f"{target} {result.summary}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--targets", default="tflite,onnx")
    parser.add_argument("--precisions", default=",".join(seeded.PRECISIONS))
    parser.add_argument("--limit", type=int, help="only the first N faults of the module")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        print("| target | precision | found | named | false alarms | median s |")
        print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
        remarks = []
        for target in options.targets.split(","):
            for precision in options.precisions.split(","):
                row = measure(work, target, precision, options.limit)
                print(f"| {target} | {precision} | {row.found}/{row.total} | {row.named}/{row.total} | "
                      f"{row.alarms}/{row.correct} | {statistics.median(row.seconds):.1f} |", flush=True)  # fmt: skip
                remarks += [f"{target} {precision}: {remark}" for remark in row.remarks]
                failed |= row.found < row.total or row.alarms > 0
        print("\n".join(["", *remarks, "", "A small attention model, untouched:", *runtimes(work)]))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
