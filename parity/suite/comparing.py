"""Cases whose outputs the oracle has: each output of each case, and all cases together, inside their limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from parity.cases.files import has_pictures, unlabelled_folders
from parity.core.case import Array, Case, telling
from parity.core.contract import OutputSpec
from parity.core.errors import NoTwin
from parity.core.kinds import Kind
from parity.core.plan import Cell
from parity.core.record import Check
from parity.judging.check_cases import arrays_of, check_cases, comparable
from parity.judging.explain import explain
from parity.judging.floor import PLAUSIBLE, Floor, channel_axis
from parity.judging.gate import passes
from parity.judging.limits import Limit, fallback, is_default
from parity.judging.post_processing import PostProcessed, post_process_all
from parity.judging.registry import METRICS
from parity.judging.samples import words
from parity.judging.statistics import sensitivity
from parity.judging.ties import with_jumps
from parity.process.isolate import ChildFailure
from parity.proof.messages import Placement
from parity.session.evaluations import Reference
from parity.session.placement import placed
from parity.session.session import Runtime
from parity.suite import evidence, hint
from parity.suite.recorder import Recorder

KINDS_SHOWN = 5


def compare_cases(
    kind: Kind, cell: Cell, cases: list[Case], oracle: Reference, runtime: Runtime, parity: Recorder
) -> list[dict[str, Any]]:
    """Every output of every case against the oracle, in units of its own and of what the precision alone costs."""
    session = runtime.session
    model = session.config.models[cell.model]
    specs = model.contract.outputs
    raw = _run(runtime, cases)
    _hint_layouts(runtime, raw[0], oracle.outputs[0], parity)
    wants = oracle.post_processed(model)
    try:
        floors = session.floors(cell, cases, wants, runtime.rounding)
    except NoTwin as error:
        floors = {}
        parity.find(f"no noise floor, judged by relative error instead: {error}", "warning")
    rounds = replace(cell, precision=runtime.rounding[0]) if runtime.rounding else cell
    limits = {spec.name: parity.limits(spec.name) for spec in specs}
    ids = [case.id for case in cases]
    counted = telling(cases)
    if kind == "golden":
        parity.details["telling_cases"] = len(counted)
    judge = partial(
        check_cases, kind, specs, ids, raw, wants, limits=limits, fallback=fallback(cell.precision), counted=counted
    )
    judged = judge(floors=floors)
    if session.runs_plainly(cell) and any(_over_noise(check) for check in judged.checks):
        floors = _with_plain(runtime, cases, wants, floors)
        judged = judge(floors=floors)
    if any(_over_noise(check) for check in judged.checks):
        floors = _with_placement(runtime, cases, wants, floors, parity)
        judged = judge(floors=floors)
    if any(_may_be_tie(check) for check in judged.checks):
        alternatives = _alternatives(runtime, cases, wants)
        floors, jumping = with_jumps(floors, specs, alternatives)
        judged = judge(floors=floors, alternatives=alternatives)
        for output, numbers in jumping.items():
            parity.find(_jumps(output, [ids[n] for n in numbers], cell.precision), "note")
    parity.add(*judged.checks)
    for spec in specs:
        if comparable(spec.name, judged.outputs, wants):
            rows, want = arrays_of(spec.name, judged.outputs), arrays_of(spec.name, wants)
            _describe(rounds, spec, ids, rows, want, floors.get(spec.name), limits[spec.name], parity)
    got = [row.outputs for row in judged.outputs]
    want_rows = [row.outputs for row in wants]
    parity.details |= evidence.gather(kind, cell, model.contract, cases, got, want_rows, floors, parity.checks)
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


def _hint_layouts(runtime: Runtime, got: Mapping[str, Array], want: Mapping[str, Array], parity: Recorder) -> None:
    """Say how to declare the layout of an output of a prebuilt file that looks channels-last; it still fails."""
    cell = runtime.cell
    if f"{cell.target}-{cell.precision}" not in runtime.session.config.models[cell.model].artifacts:
        return
    for name, entry in runtime.artifact.notes["outputs"].items():
        if entry.get("layout") or name not in got or name not in want:
            continue
        if said := hint.turned(name, entry["name"], got[name].shape, want[name].shape):
            parity.find(said)


def _may_be_tie(check: Check) -> bool:
    """Whether a check is broken that a decision between equals may have broken: then the model is asked where it would
    decide otherwise. A limit that a project set on a figure is not for that."""
    if passes(check) or check.value is None:
        return False
    return METRICS[check.metric].family == "integers" or _over_noise(check) or is_default(check.source)


def _over_noise(check: Check) -> bool:
    return METRICS[check.metric].family == "noise" and check.value is not None and not passes(check)


def _with_placement(
    runtime: Runtime, cases: list[Case], wants: list[PostProcessed], floors: dict[str, Floor], parity: Recorder
) -> dict[str, Floor]:
    """The floors, nowhere less than what it costs the module to be quantised where the file quantises.

    Which tensors a converter puts on grids is its choice. The chain of proof shows that the file's graph, with the
    module's weights in it, is the module; so rounding that graph where the file rounds costs what this choice costs.
    """
    try:
        placement = placed(runtime.session, runtime.cell, cases)
    except NoTwin:
        return floors
    specs = runtime.session.config.models[runtime.cell.model].contract.outputs
    rows = post_process_all(specs, placement.outputs, wants)
    wider = {name: floor.at_least(arrays_of(name, rows)) for name, floor in floors.items()}
    costs = [
        f"{name} {wider[name].relative:.2g}, by the recipe {floor.relative:.2g}"
        for name, floor in floors.items()
        if wider[name].pooled != floor.pooled
    ]
    if costs:
        parity.find(f"floor from {_placement(placement, runtime.cell.precision)}: {'; '.join(costs)}", "note")
    return wider


def _placement(placement: Placement, precision: str) -> str:
    """What a file rounds by its converter's choice: how many tensors it puts on grids, by the kinds of operator that
    write most of them; at fp32, how many tables it computed."""
    if precision == "fp32":
        return f"the float32 arithmetic that made {placement.weights} tables of the file"
    kinds = sorted(placement.kinds.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count} of {kind}" for kind, count in kinds[:KINDS_SHOWN])
    rest = sum(count for _, count in kinds[KINDS_SHOWN:])
    more = f" and {rest} more" if rest else ""
    results = f"{sum(placement.kinds.values())} results ({shown}{more}) and " if kinds else ""
    return f"the file's own placement of grids, on {results}{placement.weights} weights"


def _with_plain(
    runtime: Runtime, cases: list[Case], wants: list[PostProcessed], floors: Mapping[str, Floor]
) -> dict[str, Floor]:
    """The floors, nowhere less than what the precision costs the module in PyTorch: a file that equals it is right."""
    cell = runtime.cell
    model = runtime.session.config.models[cell.model]
    try:
        plain = runtime.session.plain(model, cases, cell.precision)
    except NoTwin:
        return dict(floors)
    rows = post_process_all(model.contract.outputs, plain, wants)
    return {name: floor.with_another(arrays_of(name, rows)) for name, floor in floors.items()}


def _alternatives(runtime: Runtime, cases: list[Case], wants: list[PostProcessed]) -> list[list[PostProcessed]]:
    """Outputs as right as the oracle's at the cell's precision: the twin's, and those of the tie breakers."""
    session, cell = runtime.session, runtime.cell
    model = session.config.models[cell.model]
    try:
        rows = session.tie_breakers(model, cases, cell.precision)
        rows.append(session.twin(model, cases, cell.precision, session.flavour(cell)))
    except NoTwin:
        return []
    return [post_process_all(model.contract.outputs, each, wants) for each in rows]


def _jumps(output: str, cases: list[str], precision: str) -> str:
    shown = ", ".join(cases[:3]) + (f" and {len(cases) - 3} more" if len(cases) > 3 else "")
    return (
        f"{output} is decided between equals in {shown}: the model itself gives another answer there when its results "
        f"move by a unit of {precision}, so that a right file may be as far off"
    )


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
    cell: Cell,
    spec: OutputSpec,
    cases: list[str],
    rows: list[Array],
    wants: list[Array],
    floor: Floor | None,
    limits: Mapping[str, Limit],
    parity: Recorder,
) -> None:
    """How much one output's checks prove, and, where one of them is broken, why."""
    if floor is not None:
        if floor.reason:
            parity.find(f"{spec.name}: {floor.reason}", "warning")
        elif floor.relative > PLAUSIBLE[cell.precision]:
            text = f"{cell.precision} alone costs {floor.relative:.2g} of {spec.name}'s rms: weak evidence"
            parity.find(text, "warning")
        elif weak := sensitivity(wants, floor).weak:
            parity.find(f"weak evidence for {spec.name}: {weak}", "warning")
    note_undecided(parity, spec.name)
    if wants[0].dtype.kind == "f" and any(c.output == spec.name for c in parity.broken()):
        limit, axis = limits.get("noise_ratio"), channel_axis(spec, rows[0].ndim)
        most = limit.value if limit else None
        parity.explain(explain(spec.name, cell.precision, cases, rows, wants, floor, axis, most))


def note_undecided(parity: Recorder, output: str) -> None:
    """Say of each limit on an output that so few cases cannot decide it: such a limit is not passed."""
    for check in parity.checks:
        if check.output == output and check.undecided is not None:
            parity.find(f"undecided: {words(check)}")
