"""Which seeded faults does the chain of proof find by itself, in which files, and by which link?

    python research/links.py --work DIR [--models skin,conv] [--targets onnx,tflite,coreml] [--precisions fp32,int8]

Every fault of `parity/faults/artefact` is put into each exported file of a model, and the file is proved. Prints a
line a file: whether the right one is proved, and how many of its faults are found. `--save FILE` keeps each answer, to
be compared with another version's by `--against FILE`, which lists what only one of the two found. Files whose chain is
complete and faultless are judged by the golden checks too: `--tails` prints the default limits that each breaks.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parity import formats as targets  # noqa: E402
from parity.core.plan import Cell  # noqa: E402
from parity.core.settings import ModelSpec  # noqa: E402
from parity.faults.artefact.make import every  # noqa: E402
from parity.faults.library import contract_of  # noqa: E402
from parity.faults.power import Gate  # noqa: E402
from parity.formats.graph import feed  # noqa: E402
from parity.formats.target import load_part  # noqa: E402
from parity.judging.floor import natural  # noqa: E402
from parity.judging.gate import passes  # noqa: E402
from parity.judging.limits import resolve  # noqa: E402
from parity.proof import prove  # noqa: E402
from parity.proof.messages import ProofRequest  # noqa: E402
from parity.reference import modelling, oracle, twin  # noqa: E402
from parity.reference.messages import OracleRequest  # noqa: E402
from parity.reference.recipes import recipe  # noqa: E402
from tests.proof import seeded  # noqa: E402
from tests.proof.expressions import MODELS  # noqa: E402


def subject(name: str) -> seeded.Subject:
    """What is exported under a name: `skin`, trained, or one of the small models here."""
    if name == "skin":
        own = seeded.config()
        contract = {
            "inputs": [{"name": i.name, "shape": list(i.shape), "dtype": i.dtype} for i in own.contract.inputs],
            "outputs": [{"name": o.name} for o in own.contract.outputs],
        }
        return seeded.Subject("skin", seeded.spec(), contract, seeded.cases("calibration"))
    shape = MODELS[name][1]
    contract = {
        "inputs": [{"name": "x", "shape": ["batch", *shape], "dtype": "float32"}],
        "outputs": [{"name": "y"}],
    }
    return seeded.Subject(
        name, ModelSpec(str(ROOT), "tests.proof.expressions:module", {"name": name}), contract, drawn(name, 1)
    )


def drawn(name: str, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(1, *MODELS[name][1])).astype(np.float32)} for _ in range(24)]


def proved(what: seeded.Subject, target: str, precision: str, folder: Path, notes: Mapping[str, Any]) -> list[str]:
    """The state of each link: its name for one that fails, with a question mark where it could not be made."""
    cases = seeded.cases()[::2] if what.name == "skin" else drawn(what.name, 2)
    request = ProofRequest(
        what.model,
        targets.get(target).graph,
        precision,
        str(folder),
        dict(notes),
        cases,
        [o["name"] for o in what.contract["outputs"]],
        what.calibration if precision == "int8" else [],
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            links = prove(request).links
    except Exception:  # a truncated file, which no runtime opens either
        return ["refused"]
    failed = [link.name for link in links if link.state == "failed"]
    return failed + [f"{link.name}?" for link in links if link.state == "not possible" and link.offered]


def broken(what: seeded.Subject, target: str, precision: str, folder: Path, notes: Mapping[str, Any]) -> list[str]:
    """The golden metrics whose default limits a file breaks."""
    contract = contract_of(what.contract)
    cases = seeded.cases()[::2] if what.name == "skin" else drawn(what.name, 2)
    names = [o.name for o in contract.outputs]
    artefact = load_part(targets.get(target).graph)(str(folder), dict(notes), ())
    run, graph = artefact.whole(artefact.kernels[0]), artefact.graph
    rows = [{p.name: p.fetch(v[p.tensor]) for p in graph.outputs} for v in (run(feed(graph, c)) for c in cases)]
    cell = Cell(what.name, target, precision)
    known = natural(target, precision)
    module = modelling.load(what.model)
    with contextlib.redirect_stderr(io.StringIO()):
        wants = oracle.evaluate(OracleRequest(what.model, cases, names)).outputs
        floors, _ = twin.run(module, cases, names, recipe(precision, known.flavour if known else None), cases)
    limits = {name: resolve((), cell, name) for name in names}
    gate = Gate(contract, [str(i) for i in range(len(cases))], wants, floors, precision, limits)
    return sorted({check.metric for check in gate.checks(rows) if not passes(check)})


def measured(
    work: Path, name: str, target: str, precisions: tuple[str, ...], tails: bool
) -> Iterator[tuple[str, list[str]]]:
    """The answer of every file; where it is that all links hold, and `tails`, the limits it breaks are printed."""
    what = subject(name)
    for precision, folder in seeded.convert(what, work, target, precisions).items():
        notes = seeded.notes(folder)
        key = f"{name}-{target}-{precision}"
        yield from _answered(what, target, precision, f"{key}/right", folder, notes, tails)
        with tempfile.TemporaryDirectory() as place:
            for fault, faulty, changed in every(target, precision, folder, notes, Path(place)):
                yield from _answered(what, target, precision, f"{key}/{fault}", faulty, changed, tails)


def _answered(
    what: seeded.Subject, target: str, precision: str, key: str, folder: Path, notes: Mapping[str, Any], tails: bool
) -> Iterator[tuple[str, list[str]]]:
    answer = proved(what, target, precision, folder, notes)
    if tails and not answer:
        print(f"{key}: every link holds; breaks {broken(what, target, precision, folder, notes) or 'no limit'}")
    yield key, answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", default="skin,product,standardised")
    parser.add_argument("--targets", default="onnx,tflite")
    parser.add_argument("--precisions", default="fp32,fp16,dynamic,int8")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--tails", action="store_true")
    given = parser.parse_args()
    precisions = tuple(given.precisions.split(","))
    answers: dict[str, list[str]] = {}
    for name in given.models.split(","):
        for target in given.targets.split(","):
            answers |= dict(measured(given.work.resolve(), name, target, precisions, given.tails))
    found = {key: any(not link.endswith("?") for link in links) for key, links in answers.items()}
    for right in (key for key in answers if key.endswith("/right")):
        mine = [key for key in found if key.startswith(right.removesuffix("right")) and key != right]
        said = "proved" if not answers[right] else f"not proved: {', '.join(answers[right])}"
        print(f"{right.removesuffix('/right'):32} {said:32} {sum(found[k] for k in mine)} of {len(mine)} faults")
    if given.save:
        given.save.write_text(json.dumps(answers, indent=1))
    if given.against:
        others = json.loads(given.against.read_text())
        for key in sorted(found.keys() & others.keys()):
            if found[key] != any(not link.endswith("?") for link in others[key]):
                print(f"{key}: {answers[key]} here, {others[key]} there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
