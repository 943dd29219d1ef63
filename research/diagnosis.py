"""Diagnosis, measured on real artefacts: is the true cause named first, and is no cause named where there is none?

    python research/diagnosis.py [--models skin,judge] [--cells onnx-fp32,tflite-fp16] [--every N] [--from K]
        [--without] [--correct] [--other-calibration] [--store DIR] [--to FILE.jsonl]
    python research/diagnosis.py --table FILE.jsonl ...

A fault of the input or output is put before and behind the file that the target exports. A fault of the module (its
weights, or the functions it calls) is put into the module, and the target's own converter makes a file of that.
`--without` takes the true fault out of the library first, with every fault that is the same function of the model by
the oracle (a gain of 1.05 and scores times 1.05), `--correct` diagnoses the correct file only. With
`--other-calibration` the twin and the hypotheses get their int8 ranges from every third calibration case, the file from
all. Where nothing explains a faulty file, the weights that it holds are tried, which `--table` counts apart; a correct
file must hold none but the model's. One line of JSON a diagnosis goes to FILE.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parity import config as configuration  # noqa: E402
from parity import formats as targets  # noqa: E402
from parity.core.errors import ParityError  # noqa: E402
from parity.core.plan import Cell  # noqa: E402
from parity.core.record import plain  # noqa: E402
from parity.faults import library  # noqa: E402
from parity.faults.base import Fault, Rows, Subject, registered  # noqa: E402
from parity.faults.bench import Bench  # noqa: E402
from parity.faults.causes import Cause, Stored  # noqa: E402
from parity.faults.diagnose import LIMITS, Search  # noqa: E402
from parity.faults.faulty import spec_of  # noqa: E402
from parity.faults.search import EQUAL  # noqa: E402
from parity.judging.floor import natural  # noqa: E402
from parity.session import faults as ask  # noqa: E402
from parity.session.session import Session  # noqa: E402
from parity.store.cache import Store  # noqa: E402
from research.faults import Setting, flavour_of  # noqa: E402


@dataclass(frozen=True)
class Made:
    """The outputs of a file with a fault, how the fault was put in, and the session that made the file."""

    rows: Rows
    how: str
    session: Session


class Artefacts:
    """What real files of one cell give, without and with a fault."""

    def __init__(self, setting: Setting, on: Bench, cell: Cell, store: Store):
        self.setting, self.on, self.cell, self.store = setting, on, cell, store
        self.runtime = setting.session.runtime(cell)
        self.right: Rows = self.runtime.run(setting.inputs)

    def with_fault(self, fault: Fault) -> Made | None:
        """None where this model has no place for the fault."""
        one = library.inject(self.on, fault)
        subject = fault.on(self.on.subject, one.value) if one.state == "changed" else None
        if subject is None:
            return None
        if fault.where == "output":
            rows: Rows = [dict(row) for row in self.right]
            for change in subject.after:
                rows = change(rows)
            return Made(rows, "behind the file", self.setting.session)
        if fault.where == "input":
            return Made(self.runtime.run(subject.inputs), "before the file", self.setting.session)
        return self.exported(fault, one.value)

    def exported(self, fault: Fault, value: Any) -> Made:
        """The file that the target makes of the faulty module."""
        base = self.setting.session
        spec = spec_of(self.setting.spec, plain(self.setting.model.contract), fault.name, plain(value))
        model = replace(self.setting.model, factory=spec.factory, options=spec.options, checkpoint=None)
        config = replace(base.config, models={model.name: model})
        session = Session(config, f"{fault.name}-{time.time()}", store=self.store)
        session.children = base.children
        runtime = session.runtime(self.cell)
        try:
            return Made(runtime.run(self.setting.inputs), "in the file", session)
        finally:
            runtime.close()


def diagnose(setting: Setting, cell: Cell, args: argparse.Namespace, out: Any) -> None:
    on, noise, known = setting.bench(cell.precision), setting.twin(cell.precision, flavour_of(cell)), natural(
        cell.target, cell.precision
    )  # fmt: skip
    limits = {k: v for k, v in known.limits.items() if k in ("pooled", "worst")} if known else LIMITS[cell.precision]
    faults = [f for f in registered(cell.precision) if not f.benign]
    files = Artefacts(setting, on, cell, Store(Path(args.store)))

    def search(rows: Rows, hypotheses: Sequence[Fault], held: Stored | None = None) -> Any:
        return Search(on, rows, noise, hypotheses, limits, flavour_of(cell), calibration=setting.calibration(),
                      stored=held).diagnose()  # fmt: skip

    def held(session: Session) -> Stored | None:
        """What a file holds in place of the weights of the right model."""
        if not targets.get(cell.target).graph:
            return None
        weights = ask.stored(session, cell, session.golden(setting.model)[0], setting.spec)
        return Stored(weights.tensors, tuple(weights.layers), weights.modules) if weights else None

    def one_function(one: Search, fault: Fault, truth: Rows, cause: Cause) -> bool:
        """Whether a cause is the fault's function by the oracle: as it was fitted, or fitted to the function itself."""
        named = registered(names=cause.faults)
        exact = search(truth, named)
        return one.one_function(given(cause, on), truth, [fault, *named]) or any(
            c.faults == cause.faults and c.residual < EQUAL for c in exact.causes
        )

    def without(fault: Fault, rows: Rows) -> tuple[Any, list[str]]:
        """The search with the true fault out of the library, and with it what is the same function by the oracle."""
        gone, truth = [fault.name], library.inject(on, fault).rows
        while True:
            one = Search(on, rows, noise, [f for f in faults if f.name not in gone], limits, flavour_of(cell),
                         calibration=setting.calibration())  # fmt: skip
            found = one.diagnose()
            first = found.causes[0] if found.causes else None
            if first is None or not one_function(one, fault, truth, first):
                return found, gone[1:]
            gone += first.faults

    def tell(**entry: Any) -> None:
        out.write(json.dumps({"cell": cell.id, "without": args.without, **entry}) + "\n")
        out.flush()

    found = search(files.right, faults)
    own = held(setting.session)
    tell(fault="", state=found.state, sentence=own.sentence if own else found.sentence, seconds=found.seconds,
         causes=[list(c.faults) for c in found.causes], others=len(own.layers) if own else 0)  # fmt: skip
    if args.correct:
        return
    for fault in faults[args.start :: args.every]:
        try:
            made = files.with_fault(fault)
        except ParityError as error:
            tell(fault=fault.name, state="not made", sentence=str(error)[:200])
            continue
        if made is None:
            continue
        found, same = without(fault, made.rows) if args.without else (search(made.rows, faults), [])
        weights = held(made.session) if found.state == "unexplained" and made.how == "in the file" else None
        other = search(made.rows, [], weights).causes if weights else ()
        least = found.causes[0].residual if found.causes else 0.0
        # Two faults can be one function of this model: an input frozen, and an output frozen.
        best = [c.faults for c in found.causes if c.residual <= least * (1 + 1e-6)]
        best += [(name,) for name in found.causes[0].same] if found.causes else []
        tell(fault=fault.name, how=made.how, same=same, state=found.state, first=(fault.name,) in best,
             other=[str(c) for c in other],
             three=(fault.name,) in best or any(c.faults == (fault.name,) for c in found.causes[:3]),
             causes=[list(c.faults) for c in found.causes[:3]], residuals=[c.residual for c in found.causes[:3]],
             off=found.causes[0].without if found.causes else None,
             seconds=found.seconds, sentence=found.sentence[:300])  # fmt: skip


def given(cause: Cause, on: Bench) -> Rows:
    """The exact outputs of a cause."""
    subject: Subject | None = on.subject
    for fault, value in zip(registered(names=cause.faults), cause.values, strict=True):
        subject = fault.on(subject, value) if subject is not None else None
    assert subject is not None
    return on.run(subject)


def table(files: Sequence[str]) -> None:
    """Counts by cell, and what was not named first."""
    entries = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
    latest = {(e["cell"], e["without"], e["fault"]): e for e in entries}  # measured again: the last one counts
    cells: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in latest.values():
        cells[entry["cell"]].append(entry)
    totals: dict[str, list[int]] = defaultdict(lambda: [0] * 6)
    print("| cell | correct file | injected | detected | first | in three | without it: none named | longest s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    misses = []
    for cell, found in cells.items():
        correct = next((f"other weights: {e['others']}" if e.get("others") else e["state"]
                        for e in found if not e["fault"]), "-")  # fmt: skip
        there = [e for e in found if e["fault"] and not e["without"] and e["state"] != "not made"]
        seen = [e for e in there if e["state"] != "sound"]
        left = [e for e in found if e["fault"] and e["without"] and e["state"] not in ("sound", "not made")]
        silent = sum(e["state"] == "unexplained" or not e["causes"] for e in left)
        first, three = sum(e["first"] for e in seen), sum(e["three"] for e in seen)
        longest = max((e["seconds"] for e in found if "seconds" in e), default=0.0)
        others = sum(bool(e.get("other")) for e in left)
        for key in ("all", cell.rpartition("-")[2]):
            for i, n in enumerate((len(seen), first, three, len(left), silent, others)):
                totals[key][i] += n
        print(f"| {cell} | {correct} | {len(there)} | {len(seen)} | {first} | {three} | "
              f"{silent} of {len(left)} | {longest:.1f} |")  # fmt: skip
        misses += [(cell, e) for e in seen if not e["first"]] + [(cell, e) for e in left if e["causes"]]
    for key, (seen_n, first, three, left_n, silent, others) in totals.items():
        shares = [f"{100 * a / b:.1f} %" if b else "-" for a, b in ((first, seen_n), (three, seen_n), (silent, left_n))]
        print(f"\n{key}: {seen_n} detected, first {first} ({shares[0]}), in three {three} ({shares[1]}); "
              f"without the true fault none named in {silent} of {left_n} ({shares[2]}), "
              f"in {others} of these that the file holds other weights")  # fmt: skip
    for cell, e in misses:
        print(f"- {cell}{' without' if e['without'] else ''}: {e['fault']} -> {e['causes']} ({e['sentence'][:160]})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="skin")
    parser.add_argument("--cells", default="", help="target-precision,...; those of each model by default")
    parser.add_argument("--every", type=int, default=1, help="take every n-th fault")
    parser.add_argument("--from", type=int, default=0, dest="start", help="begin at the k-th")
    parser.add_argument("--without", action="store_true")
    parser.add_argument("--correct", action="store_true")
    parser.add_argument("--other-calibration", action="store_true")
    parser.add_argument(
        "--store", default=str(Path(tempfile.gettempdir(), "parity-faulty")), help="faulty files' cache"
    )
    parser.add_argument("--to", default="diagnosis.jsonl")
    parser.add_argument("--table", nargs="+", default=())
    args = parser.parse_args()
    if args.table:
        table(args.table)
        return 0
    session, lost = (
        Session(configuration.load(ROOT / "pyproject.toml", targets.facts()), f"diagnosis-{time.time()}"),
        False,
    )
    try:
        with open(args.to, "a", encoding="utf-8") as out:
            for name in args.models.split(","):
                setting = Setting(session, session.config.models[name])
                if args.other_calibration:
                    some = setting.calibration()[::3]
                    setting.calibration = lambda some=some: some  # type: ignore[method-assign, misc]
                wanted = args.cells.split(",") if args.cells else []
                for cell in setting.model.cells:
                    if not wanted or f"{cell.target}-{cell.precision}" in wanted:
                        if reason := targets.get(cell.target).unavailable(cell, setting.model, sys.executable):
                            print(f"{cell}: {reason}")
                            continue
                        start = time.monotonic()
                        try:
                            diagnose(setting, cell, args, out)
                            print(f"{cell}: {time.monotonic() - start:.0f} s", flush=True)
                        except ParityError as error:
                            lost = True
                            print(f"{cell}: {error}", file=sys.stderr)
    finally:
        session.close()
    return int(lost)


if __name__ == "__main__":
    sys.exit(main())
