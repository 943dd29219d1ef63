"""The parametrised tests. A project has one test file that says `from parity.suite import *`.

Each test measures one kind of check for one cell. The bodies say what is measured; what it means is in `judge` and
`gate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from parity import formats
from parity.cases.drawing import Drawing
from parity.cases.files import has_pictures, unlabelled_folders
from parity.core.case import Case
from parity.core.contract import OutputSpec
from parity.core.errors import NoTwin, ParityError
from parity.core.plan import Cell
from parity.core.record import Kind
from parity.faults.power import BROKEN
from parity.judging import judge
from parity.judging import post_processing as posts
from parity.judging.explain import explain
from parity.judging.floor import PLAUSIBLE, Floor, channel_axis
from parity.judging.limits import Limit, fallback
from parity.judging.samples import words
from parity.judging.statistics import sensitivity
from parity.process.isolate import ChildFailure
from parity.session import faults as ask
from parity.session import lowering
from parity.session.divergence import first_divergence
from parity.session.evaluations import Reference
from parity.session.proof import proof_of
from parity.session.session import Runtime, Session
from parity.suite import evidence, hint
from parity.suite.batch import check_batch
from parity.suite.contract import check_contract
from parity.suite.golden import check_references
from parity.suite.preparing import compare_resizers, name_worst_frames
from parity.suite.property import check_property
from parity.suite.recorder import Recorder
from parity.suite.sequence import check_sequence

__all__ = [
    "test_accuracy",
    "test_batch",
    "test_contract",
    "test_golden",
    "test_proof",
    "test_property",
    "test_sequence",
    "test_video",
]

MOSTLY = 0.5  # a file of reduced precision with a larger share of float32 weights is told

F = TypeVar("F", bound=Callable[..., None])


def measures(kind: str) -> Callable[[F], F]:
    """Mark a test as the one that measures `kind` for every cell that plans it."""

    def mark(test: F) -> F:
        test.parity_kind = kind  # type: ignore[attr-defined]
        return test

    return mark


@measures("contract")
def test_contract(parity_cell: Cell, parity_runtime: Runtime, parity: Recorder) -> None:
    """The file keeps the model's contract: names, shapes, dtypes, operators, and repeats itself."""
    check_contract(parity_runtime, parity)


@measures("static")
def test_proof(parity_cell: Cell, parity_golden: list[Case], parity_runtime: Runtime, parity: Recorder) -> None:
    """The chain of proof: every constant of the file is a tensor of the model, and its graph computes the model.

    Core ML besides: the fp32 file is the model's with no activation rounded; and what a device may do, as warnings.
    """
    session = parity_runtime.session
    target = parity_runtime.target
    if target.lowering:
        _prove_lowering(parity_cell, parity_golden, parity_runtime, parity)
    if target.graph and session.config.models[parity_cell.model].proof:
        _prove_chain(parity_cell, parity_golden, session, parity)


def _prove_chain(cell: Cell, cases: list[Case], session: Session, parity: Recorder) -> None:
    found = proof_of(session, cell, cases)
    parity.add(*judge.check_proof(found, parity.limits()))
    parity.details["proof"] = judge.proof_record(found)
    share = found["links"]["audit"]["figures"].get("unreduced", 0.0)
    if cell.precision != "fp32" and share > MOSTLY:
        parity.find(f"this file holds fp32 weights ({share:.0%} of them): it was declared {cell.precision}", "warning")
    reasons: dict[tuple[str, bool], list[str]] = {}
    for link in found["links"].values():
        if link["state"] == "not possible":
            reasons.setdefault((link["reason"], link["offered"]), []).append(link["name"])
    for (reason, offered), names in reasons.items():
        rest = "lowering and noise ratio judge " if formats.get(cell.target).lowering else "the noise ratio judges "
        text = f"the chain of proof lacks {', '.join(names)}: {reason}; {rest}"
        parity.find(text + ("alone" if offered else "in its place"), "warning" if offered else "note")


def _prove_lowering(cell: Cell, cases: list[Case], runtime: Runtime, parity: Recorder) -> None:
    session = runtime.session
    oracle = session.reference(session.config.models[cell.model], cases)
    found = lowering.measure(session, cell, cases, oracle)
    parity.add(*found.checks(parity.limits))
    parity.details["risk"] = found.risk
    for text in found.warnings():
        parity.find(text, "warning")


@measures("golden")
def test_golden(
    parity_cell: Cell,
    parity_golden: list[Case],
    parity_reference: Reference,
    parity_runtime: Runtime,
    parity: Recorder,
    parity_power: bool,
    parity_update: bool,
) -> None:
    """On every golden case, every output is the float64 oracle's within its limits, and the oracle the stored one."""
    check_references(parity_runtime, parity_golden, parity_reference, parity, parity_update)
    got = compare_cases("golden", parity_cell, parity_golden, parity_reference, parity_runtime, parity)
    session = parity_runtime.session
    if parity.broken():
        try:
            found = ask.diagnosis(session, parity_cell, parity_golden, got)
            parity.details |= {"diagnosis": found.explanations(), "faults_failed": found.broken}
            parity.find(f"diagnosis: {found.sentence}")
            for lost in found.broken:
                parity.find(f"diagnosis: a fault could not be tried: {lost}", "warning")
        except ParityError as error:
            parity.find(f"no diagnosis: {error}")
        _locate(session, parity_cell, parity_golden, got, parity_reference, parity)
    if parity_power or any("power" in parity.limits(o) for o in parity_reference.outputs[0]):
        _measure_power(session, parity_cell, parity_golden, parity)


def _locate(session: Session, cell: Cell, cases: list[Case], got: list[dict[str, Any]], oracle: Reference,
            parity: Recorder) -> None:  # fmt: skip
    """Record where a failing artefact first computes something else, and how the error grows from there."""
    try:
        divergence, drift, text = first_divergence(session, cell, cases, got, oracle)
    except ParityError as error:
        parity.find(f"no first divergence: {error}")
        return
    parity.details["divergence"], parity.details["drift"] = divergence, drift
    parity.find(text)


def _measure_power(session: Session, cell: Cell, cases: list[Case], parity: Recorder) -> None:
    """Record how many named faults this cell's limits would notice; a `power` limit gates it."""
    found = ask.power(session, cell, cases)
    parity.details["power"] = found
    share = found.killed / found.injected if found.injected else None
    detail = f"{found.killed} of {found.injected} faults would be noticed, {found.equivalent} change nothing"
    kinds = ", ".join(f"{count} by {kind}" for kind, count in found.kinds.items())
    parity.add(judge.measured_power(share, parity.limits(), f"{detail}; {kinds}" if kinds else detail))
    for fate in found.fates:
        if BROKEN in fate.words:
            parity.find(f"power: {fate.fault}: {fate.words}", "warning")
    for alarm in found.false_alarms:
        parity.find(f"power: a benign change raises an alarm: {alarm}", "warning")
    if found.spare_cases:
        shown = ", ".join(found.spare_cases[:8]) + (" ..." if len(found.spare_cases) > 8 else "")
        spare = f"{len(found.spare_cases)} of {len(cases)} golden cases"
        parity.find(f"power: {spare} notice no fault that the others miss: {shown}")
    if found.loose:
        parity.find(f"power: so loose that no fault reaches them: {', '.join(found.loose)}")


@measures("video")
def test_video(parity_cell: Cell, parity_video: list[tuple[str, list[Case]]], parity_runtime: Runtime,
               parity: Recorder) -> None:  # fmt: skip
    """On every frame of every clip, in order, every output is the float64 oracle's within its limits."""
    session = parity_runtime.session
    frames = [case for _, cases in parity_video for case in cases]
    oracle = session.reference(session.config.models[parity_cell.model], frames)
    compare_cases("video", parity_cell, frames, oracle, parity_runtime, parity)
    name_worst_frames(parity)
    compare_resizers(parity_runtime, parity)


@measures("accuracy")
def test_accuracy(
    parity_cell: Cell,
    parity_golden: list[Case],
    parity_reference: Reference,
    parity_runtime: Runtime,
    parity: Recorder,
) -> None:
    """On labelled golden cases, the artefact is right as often as the oracle, within the allowed drop."""
    model = parity_runtime.session.config.models[parity_cell.model]
    chosen = [i for i, case in enumerate(parity_golden) if case.label is not None]
    got = parity_runtime.run([parity_golden[i].inputs for i in chosen])
    wants = [parity_reference.outputs[i] for i in chosen]
    labels = [label for i in chosen if (label := parity_golden[i].label) is not None]
    for spec in model.contract.outputs:
        if spec.decides and spec.labels and _comparable(spec.name, got, wants):
            parity.add(*judge.check_accuracy(
                spec, [o[spec.name] for o in got], [w[spec.name] for w in wants], labels, parity.limits(spec.name)
            ))  # fmt: skip
            note_undecided(parity, spec.name)


@measures("sequence")
def test_sequence(parity_cell: Cell, parity_runtime: Runtime, parity_drawing: Drawing, parity: Recorder) -> None:
    """What came before changes nothing, and what is carried from step to step stays the oracle's."""
    check_sequence(parity_runtime, parity, parity_drawing.profile == "quick")


@measures("batch")
def test_batch(parity_cell: Cell, parity_runtime: Runtime, parity: Recorder) -> None:
    """Rows of a batch are those of single rows, and every dynamic axis is right at every declared size."""
    check_batch(parity_runtime, parity)


@measures("property")
def test_property(parity_cell: Cell, parity_runtime: Runtime, parity_drawing: Drawing, parity: Recorder) -> None:
    """On inputs that hypothesis draws from the contract, every output is within what the precision costs there."""
    check_property(parity_runtime, parity, parity_drawing)


def _comparable(name: str, got: list[dict[str, Any]], want: Any) -> bool:
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
        if not _comparable(spec.name, got, wants):
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
