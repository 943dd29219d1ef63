"""Cases whose outputs the oracle has: each output of each case, and all cases together, inside their limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.cases.files import has_pictures, unlabelled_folders
from parity.core.case import Case
from parity.core.contract import OutputSpec
from parity.core.errors import NoTwin, ParityError
from parity.core.kinds import Kind
from parity.core.plan import Cell
from parity.judging import judge
from parity.judging import post_processing as posts
from parity.judging.explain import explain
from parity.judging.floor import PLAUSIBLE, Floor, channel_axis
from parity.judging.limits import Limit, fallback
from parity.judging.samples import words
from parity.judging.statistics import sensitivity
from parity.process.isolate import ChildFailure
from parity.session.evaluations import Reference
from parity.session.session import Runtime
from parity.suite import evidence, hint
from parity.suite.recorder import Recorder


def comparable(name: str, got: list[dict[str, Any]], want: Any) -> bool:
    """Whether decisions of an output can be compared at all; where not, its per-case checks already say why."""
    pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = list(zip(got, want, strict=True))
    return all(name in g and g[name].shape == w[name].shape for g, w in pairs)


def compare_cases(
    kind: Kind, cell: Cell, cases: list[Case], oracle: Reference, runtime: Runtime, parity: Recorder
) -> list[dict[str, Any]]:
    """Every output of every case against the oracle, in units of its own and of what the precision alone costs."""
    session = runtime.session
    model = session.config.models[cell.model]
    raw = _run(runtime, cases)
    oracle = oracle.seen(model)
    wants = oracle.outputs
    got = [posts.seen(model.contract.outputs, row, want) for row, want in zip(raw, wants, strict=True)]
    try:
        floors = session.floors(cell, cases, oracle)
    except NoTwin as error:
        floors = {}
        parity.find(f"no noise floor, judged by relative error instead: {error}", "warning")
    for spec in model.contract.outputs:
        limits = dict(parity.limits(spec.name))
        if spec.name not in floors:
            limits.setdefault("rel_rms", fallback(cell))
        for case, outputs, want in zip(cases, got, wants, strict=True):
            parity.add(*judge.check_output(kind, case.id, spec, outputs.get(spec.name), want[spec.name], limits))
        if not comparable(spec.name, got, wants):
            continue
        rows = [o[spec.name] for o in got]
        classes = rows[0].shape[-1] if rows[0].ndim else 1
        if spec.decides and spec.labels and len(spec.labels) != classes:
            raise ParityError(f"output {spec.name}: {len(spec.labels)} labels are declared for {classes} classes")
        if spec.name in floors:
            if floors[spec.name].relative > PLAUSIBLE[cell.precision]:
                text = (
                    f"{cell.precision} alone costs {floors[spec.name].relative:.2g} of {spec.name}'s rms: weak evidence"
                )
                parity.find(text, "warning")
            elif weak := sensitivity([w[spec.name] for w in wants], floors[spec.name]).weak:
                parity.find(f"weak evidence for {spec.name}: {weak}", "warning")
            parity.add(*judge.check_noise(kind, spec, [c.id for c in cases], rows, floors[spec.name], limits))
        _describe(kind, cell, spec, cases, rows, [w[spec.name] for w in wants], floors.get(spec.name), limits, parity)
    parity.details |= evidence.gather(kind, cell, model.contract, cases, got, wants, floors, parity.checks)
    if model.contract.preprocess is None and (kind == "video" or (model.golden and has_pictures(model.golden))):
        parity.find(
            "no preprocess is declared: pictures are read as RGB, resized bilinearly and divided by 255, which is a "
            "guess; say what the app does: preprocess = { mean = [...], std = [...] }, or {} for just that",
            "warning",
        )
    if unlabelled := unlabelled_folders(model):
        parity.find(
            f"golden pictures are in folders ({', '.join(unlabelled[:4])}{', ...' * (len(unlabelled) > 4)}) and no "
            "output has labels: accuracy is not measured; if the folders are classes, say so: outputs = [{ name = ..., "
            'kind = "logits", labels = "labels.txt" }], a class a line in index order',
            "warning" if any(o.decides for o in model.contract.outputs) else "note",
        )
    if oracle.note:
        parity.find(f"reference is {oracle.dtype}: {oracle.note}", "warning")
    return raw


def _run(runtime: Runtime, cases: list[Case]) -> list[dict[str, Any]]:
    """The outputs of every case; where a file of fixed sizes refuses one, the reason is that, and not the runtime's."""
    try:
        return runtime.run([case.inputs for case in cases])
    except ChildFailure as failure:
        contract = runtime.session.config.models[runtime.cell.model].contract
        for case in cases:
            if why := hint.unheld(contract, runtime.artifact.notes, case.inputs):
                raise ChildFailure(failure.state, failure.stage, f"case {case.id}: {why}", failure.log) from None
        raise


def _describe(
    kind: Kind, cell: Cell, spec: OutputSpec, cases: list[Case], rows: list[Any], wants: list[Any], floor: Floor | None,
    limits: Mapping[str, Limit], parity: Recorder,
) -> None:  # fmt: skip
    """Decisions and their bounds, what the error is like, and, where a check of this output is broken, why."""
    if wants[0].dtype.kind == "f":
        parity.add(*judge.describe_error(kind, spec, rows, wants))
    if spec.decides:
        parity.add(*judge.check_decisions(kind, spec, rows, wants, limits, floor))
    note_undecided(parity, spec.name)
    if wants[0].dtype.kind == "f" and any(c.output == spec.name for c in parity.broken()):
        limit, axis = limits.get("noise_ratio"), channel_axis(spec, rows[0].ndim)
        parity.explain(explain(spec.name, cell.precision, [c.id for c in cases], rows, wants, floor, axis,
                               limit.value if limit else None))  # fmt: skip


def note_undecided(parity: Recorder, output: str) -> None:
    """Say of each limit on an output that so few cases cannot decide it: such a limit is not passed."""
    for check in parity.checks:
        if check.output == output and check.undecided is not None:
            parity.find(f"undecided: {words(check)}")
