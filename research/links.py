"""Which seeded faults does the chain of proof find by itself, in which files, and by which link?

    python research/links.py --work DIR [--models skin,conv] [--targets onnx,tflite,coreml] [--precisions fp32,int8]

Every fault of `parity/faults/artefact` is put into each exported file of a model, and the file is proved. Prints a
line a file: whether the right one is proved, and how many of its faults are found. `--save FILE` keeps each answer, to
be compared with another version's by `--against FILE`, which lists what only one of the two found. Files whose chain is
complete are judged by the golden checks too: `--tails` prints the default limits that each breaks, and ALONE where they
are all of the tail: a fault that no more than warns. It also prints what changes with the floor of the file's own
placement of grids, and LOST where a fault is found no longer by that. `--faults N` tries every N-th fault.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
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
from parity.cases import golden  # noqa: E402
from parity.config import load  # noqa: E402
from parity.core.case import spread  # noqa: E402
from parity.core.errors import ParityError  # noqa: E402
from parity.core.plan import Cell  # noqa: E402
from parity.core.settings import ModelConfig, ModelSpec  # noqa: E402
from parity.faults.artefact.make import every  # noqa: E402
from parity.faults.base import Rows  # noqa: E402
from parity.faults.library import contract_of  # noqa: E402
from parity.faults.power import Gate  # noqa: E402
from parity.formats.graph import feed  # noqa: E402
from parity.formats.target import load_part  # noqa: E402
from parity.judging.floor import natural  # noqa: E402
from parity.judging.gate import passes  # noqa: E402
from parity.judging.limits import resolve  # noqa: E402
from parity.judging.registry import METRICS  # noqa: E402
from parity.proof import prove  # noqa: E402
from parity.proof.messages import ProofRequest  # noqa: E402
from parity.proof.placement import evaluate  # noqa: E402
from parity.reference import modelling, oracle, twin  # noqa: E402
from parity.reference.messages import OracleRequest  # noqa: E402
from parity.reference.recipes import recipe  # noqa: E402
from parity.session.placement import PRECISIONS, request_for  # noqa: E402
from tests.proof import seeded  # noqa: E402
from tests.proof.expressions import MODELS  # noqa: E402

MOST = 48


def subject(name: str) -> seeded.Subject:
    """What is exported under a name: an example model, trained, or one of the small models of the tests."""
    own = zoo().get(name)
    if own is not None:
        contract = {
            "inputs": [{"name": i.name, "shape": list(i.shape), "dtype": i.dtype} for i in own.contract.inputs],
            "outputs": [{"name": o.name} for o in own.contract.outputs],
        }
        spec = ModelSpec(str(ROOT), own.factory, dict(own.options), str(own.checkpoint) if own.checkpoint else None)
        return seeded.Subject(name, spec, contract, stored(own, own.calibration))
    shape = MODELS[name][1]
    contract = {
        "inputs": [{"name": "x", "shape": ["batch", *shape], "dtype": "float32"}],
        "outputs": [{"name": "y"}],
    }
    return seeded.Subject(
        name, ModelSpec(str(ROOT), "tests.proof.expressions:module", {"name": name}), contract, drawn(name, 1)
    )


@functools.cache
def zoo() -> Mapping[str, ModelConfig]:
    """The example models of this repository that one module makes and that have golden and calibration data."""
    models = load(ROOT / "pyproject.toml", targets.facts()).models
    return {n: m for n, m in models.items() if m.factory and m.golden and m.calibration}


def stored(own: ModelConfig, folder: Path | None) -> list[dict[str, Any]]:
    """The inputs of a folder of cases, by name; at most 48, spread over all."""
    assert folder is not None
    cases = golden.load(folder, own.contract)
    return [dict(cases[i].inputs) for i in spread(len(cases), MOST)]


def tried(name: str) -> list[dict[str, Any]]:
    """The inputs that the files of a model are proved and judged on."""
    own = zoo().get(name)
    return stored(own, own.golden)[::2] if own is not None else drawn(name, 2)


def drawn(name: str, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(1, *MODELS[name][1])).astype(np.float32)} for _ in range(24)]


def proved(what: seeded.Subject, target: str, precision: str, folder: Path, notes: Mapping[str, Any]) -> list[str]:
    """The state of each link: its name for one that fails, with a question mark where it could not be made."""
    request = _request(what, target, precision, folder, notes)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            proof = prove(request)
    except Exception:  # a truncated file, which no runtime opens either
        return ["refused"]
    failed = [link.name for link in proof.links if link.state == "failed"]
    open_ = [f"{link.name}?" for link in proof.links if link.state == "not possible" and link.offered]
    return failed + open_ or ([] if proof.complete else ["widened?"])


def _request(what: seeded.Subject, target: str, precision: str, folder: Path, notes: Mapping[str, Any]) -> ProofRequest:
    return ProofRequest(
        what.model,
        targets.get(target).graph,
        precision,
        str(folder),
        dict(notes),
        tried(what.name),
        [o["name"] for o in what.contract["outputs"]],
        what.calibration if precision == "int8" else [],
    )


def broken(
    what: seeded.Subject, target: str, precision: str, folder: Path, notes: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """The golden metrics whose default limits a file breaks: by the floor of the recipe, and by that of its own
    placement of grids, too."""
    contract = contract_of(what.contract)
    cases = tried(what.name)
    names = [o.name for o in contract.outputs]
    artefact = load_part(targets.get(target).graph)(str(folder), dict(notes), ())
    run, graph = artefact.whole(artefact.kernels[0]), artefact.graph
    rows = [{p.name: p.fetch(v[p.tensor]) for p in graph.outputs} for v in (run(feed(graph, c)) for c in cases)]
    cell = Cell(what.name, target, precision)
    known = natural(target, precision)
    module = modelling.load(what.model)
    with contextlib.redirect_stderr(io.StringIO()):
        wants = oracle.evaluate(OracleRequest(what.model, cases, names)).outputs
        rounding = recipe(precision, known.flavour if known else None)
        floors, _ = twin.run(module, cases, names, rounding, what.calibration)
    limits = {name: resolve((), cell, name) for name in names}
    gate = Gate(contract, [str(i) for i in range(len(cases))], wants, floors, precision, limits)
    limits_broken = _broken(gate, rows)
    if not any(METRICS[metric].family == "noise" for metric in limits_broken) or precision not in PRECISIONS:
        return limits_broken, limits_broken
    request = _request(what, target, precision, folder, notes)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            placement = evaluate(request_for(request, cases))
    except ParityError as error:
        print(f"{what.name}-{target}-{precision}: {error}", flush=True)
        return limits_broken, limits_broken
    gate.widen([dict(row) for row in placement.outputs])
    return limits_broken, _broken(gate, rows)


def _broken(gate: Gate, rows: Rows) -> list[str]:
    return sorted({check.metric for check in gate.checks(rows) if not passes(check)})


def _of_tail(limits: list[str]) -> bool:
    return all(name in METRICS and METRICS[name].tail for name in limits)


def measured(
    work: Path, name: str, target: str, precisions: tuple[str, ...], tails: bool, stride: int
) -> Iterator[tuple[str, list[str]]]:
    """The answer of every file; where it is that all links hold, and `tails`, the limits it breaks are printed."""
    what = subject(name)
    for precision, folder in seeded.convert(what, work, target, precisions).items():
        notes = seeded.notes(folder)
        key = f"{name}-{target}-{precision}"
        yield from _answered(what, target, precision, f"{key}/right", folder, notes, tails)
        with tempfile.TemporaryDirectory() as place:
            made = every(target, precision, folder, notes, Path(place))
            for fault, faulty, changed in itertools.islice(made, 0, None, stride):
                yield from _answered(what, target, precision, f"{key}/{fault}", faulty, changed, tails)


def _answered(
    what: seeded.Subject, target: str, precision: str, key: str, folder: Path, notes: Mapping[str, Any], tails: bool
) -> Iterator[tuple[str, list[str]]]:
    answer = proved(what, target, precision, folder, notes)
    if tails and not answer:
        try:
            limits, excused = broken(what, target, precision, folder, notes)
        except RuntimeError as error:
            answer = ["refused"]
            limits = excused = [f"nothing, the runtime refuses it: {str(error).splitlines()[-1][:80]}"]
        alone = " ALONE" if limits and _of_tail(limits) else ""
        print(f"{key}: the chain is complete; breaks {', '.join(limits) or 'no limit'}{alone}", flush=True)
        if excused != limits:
            is_fault = not key.endswith("/right")
            lost = " LOST" if is_fault and _of_tail(excused) and not _of_tail(limits) else ""
            said = ", ".join(excused) or "no limit"
            print(f"{key}: by its own placement of grids it breaks {said}{lost}", flush=True)
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
    parser.add_argument("--faults", type=int, default=1)
    given = parser.parse_args()
    precisions = tuple(given.precisions.split(","))
    answers: dict[str, list[str]] = {}
    for name in given.models.split(","):
        for target in given.targets.split(","):
            answers |= dict(measured(given.work.resolve(), name, target, precisions, given.tails, given.faults))
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
