"""`parity export FILE.pt --format coreml --contract contract.json`: Core ML from a file that PyTorch wrote.

The file is converted as its contract says and then compared with itself, run by PyTorch, on drawn inputs at every
enumerated size. There is no module here, so no float64 oracle: this says that the conversion kept what the file
computes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity import formats as targets
from parity.cases import draw
from parity.core.case import Array, Case
from parity.core.contract import Contract
from parity.core.errors import ConfigError, ParityError
from parity.core.plan import PRECISIONS, Cell, choose
from parity.core.record import Check, plain
from parity.exporting import adapt, contracts, publish, verify
from parity.exporting.options import QUANTIZE
from parity.formats.messages import FromFileRequest
from parity.formats.serve import Opened, OpenRequest, Outputs, RunRequest
from parity.judging.check_cases import check_cases
from parity.judging.limits import fallback, resolve
from parity.judging.post_processing import post_process
from parity.process.isolate import Budget, ChildFailure, Children
from parity.report.progress import Narrator

SUFFIXES = (".pt", ".pt2")
SEED, DRAWN = 20260101, 4  # inputs drawn at each size


def convert(
    files: Sequence[str], staging: Path, given: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Convert the one file at each precision that was asked for (default fp16): a result each, and the contract."""
    if len(given.models) != 1:
        raise ConfigError(f"{files[0]}: convert one file at a time, and models by their names apart from it")
    offered = [target.name for target in targets.every() if target.from_file]
    asked = adapt.split(given.format)
    if set(asked) - set(offered):
        raise ConfigError(f"{files[0]}: a file is converted to Core ML only: --format coreml; other formats start from "
                          "a model's name")  # fmt: skip
    path = Path(files[0])
    if not path.is_file():
        raise ParityError(f"{path}: no such file")
    written = given.contract or path.with_name(contracts.FILE)
    if not written.is_file():
        raise ParityError(f"contract {written}: no such file; --contract says where it is")
    contract, enumerated, entry = contracts.read(written, path)
    if given.enumerated_T:
        axis = adapt.sequence_axis(contract)
        if axis is None:
            raise ConfigError(f"--enumerated-T: {path.name} has no dynamic axis besides the batch")
        lengths = {axis: tuple(dict.fromkeys(given.enumerated_T))}
        contract, enumerated = adapt.with_sizes(contract, lengths), (axis,)
        entry["enumerated"] = {axis: list(lengths[axis])}
    for axis in contract.sizes():
        if axis not in enumerated:
            print(f"{axis} is fixed at {contract.example()[axis]}: {written.name} enumerates no sizes of it")
    precisions = [choose("precision", p, PRECISIONS) for p in adapt.split(given.precision)]
    precisions += [p for p in ("fp32", "fp16") if getattr(given, p)]
    precisions += [QUANTIZE[given.quantize]] if given.quantize else []
    wanted = [name for name in offered if name in asked] or offered[:1]
    (target,) = adapt.core_ml(wanted[-1:], given)
    name = given.model_name or path.name.partition(".")[0]
    foreign = (path.resolve(), path.resolve().parent)
    with Children(None, Budget(), foreign=foreign) as children:
        results = [
            _one(children, path, Cell(name, target, p), contract, enumerated, staging, given)
            for p in dict.fromkeys(precisions or ["fp16"])
        ]
    return results, {name: entry}


def _one(
    children: Children, path: Path, cell: Cell, contract: Contract, enumerated: tuple[str, ...], staging: Path,
    given: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    result: dict[str, Any] = {"cell": cell.id, "model": cell.model, "target": cell.target, "precision": cell.precision,
                              "source": path.name, "state": "error", "reason": "", "files": []}  # fmt: skip
    target: Any = targets.get(cell.target)
    if cell.precision not in target.precisions:
        return result | {"state": "unavailable", "reason": f"{cell.target} has no {cell.precision} route"}
    options = {"precision": cell.precision, "backend": target.backend}
    if given.deployment_target:
        options["deployment_target"] = given.deployment_target
    start = time.monotonic()
    narrator = Narrator()
    shaped = {**plain(contract), "sizes": plain(contract.sizes()), "enumerated": list(enumerated)}
    with tempfile.TemporaryDirectory(dir=children.scratch) as work:
        try:
            notes = children.call(
                "coremltools",
                target.from_file,
                FromFileRequest(
                    work,
                    str(path.resolve()),
                    options,
                    shaped,
                    draw.inputs(contract, contract.example(), SEED),
                ),
                dict[str, Any],
                stage="convert",
                on_stage=lambda s: narrator.say(cell.id, s),
            )
            checks = [] if given.no_verify else _compare(children, path, Path(work), notes, cell, contract, enumerated)
        except ChildFailure as failure:
            return result | {"state": failure.state, "reason": str(failure), "log": failure.log}
        finally:
            narrator.stop()
        result |= {"route": "coremltools", "seconds": round(time.monotonic() - start, 3),
                   "state": "unverified" if given.no_verify else "pass", "checks": len(checks),
                   "worst": verify.worst_of(checks)}  # fmt: skip
        broken = [c for c in checks if not c.passed]
        if broken:
            first = broken[0]
            return result | {"state": "fail", "reason": f"{first.output}: {first.metric} {first.value} outside "
                             f"{first.limit} ({first.case}; {first.source}) {first.detail}".strip()}  # fmt: skip
        made = Path(work, notes["entry"])
        published = f"{cell.model}.{cell.precision}{made.suffix}"
        shutil.move(made, staging / published)
    result["files"] = publish.entries(staging / published, staging)
    return result | {"published": published}


def _compare(
    children: Children, path: Path, work: Path, notes: Mapping[str, Any], cell: Cell, contract: Contract,
    enumerated: tuple[str, ...],
) -> list[Check]:  # fmt: skip
    """The converted file against its source on drawn inputs, at the example's size and at every enumerated one."""
    cases = [case for dims in _sizes(contract, enumerated) for case in _drawn(contract, dims)]
    names = {"inputs": {s.name: {"name": s.name} for s in contract.inputs},
             "outputs": {s.name: {"name": s.name} for s in contract.outputs}}  # fmt: skip
    source: Any = targets.recognised(path)
    want = _run(children, source.family, source.session, path.resolve().parent, {"entry": path.name, **names}, cases)
    target = targets.get(cell.target)
    got = _run(children, target.family, target.session, work, notes, cases)
    specs = contract.outputs
    for spec in specs:
        if any(spec.name not in row for row in want):
            raise ParityError(f"{path.name} gives {', '.join(want[0])}, its contract says {spec.name!r}")
    # The source is no float64 oracle and has no twin, so that there is no floor: errors are judged relative to it.
    wants = [post_process(specs, row) for row in want]
    limits = {spec.name: resolve((), cell, spec.name) for spec in specs}
    ids = [case.id for case in cases]
    return list(check_cases("golden", specs, ids, got, wants, {}, limits, fallback(cell.precision)).checks)


def _sizes(contract: Contract, enumerated: Sequence[str]) -> list[dict[str, int]]:
    example = contract.example()
    others = [{**example, axis: size} for axis in enumerated for size in contract.sizes()[axis][1:]]
    return [example, *others]


def _drawn(contract: Contract, dims: Mapping[str, int]) -> list[Case]:
    size = " ".join(f"{axis}={n}" for axis, n in dims.items())
    return [Case(f"drawn {i} {size}".strip(), draw.inputs(contract, dims, SEED + i)) for i in range(DRAWN)]


def _run(
    children: Children, family: str, session: str, folder: Path, notes: Mapping[str, Any], cases: Sequence[Case]
) -> list[dict[str, Array]]:
    opening, opener = OpenRequest(session, str(folder), notes), "parity.formats.serve:open_session"
    # Both confined: a handle is known only to the child that opened the file.
    opened = children.call(family, opener, opening, Opened, stage="load", confined=True)
    running, runner = RunRequest(opened.handle, [c.inputs for c in cases]), "parity.formats.serve:run"
    result = children.call(family, runner, running, Outputs, stage="run", again=False, confined=True)
    return [dict(row) for row in result.outputs]
