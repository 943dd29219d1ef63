"""The one judge: the outputs of some cases, against the oracle and the floors of a precision, become checks. Pure.

The suite, power, a capsule, an export and `parity video` all call `check_cases`, so that none is more lenient than
another. What is compared are `PostProcessed` outputs: the artefact's are made here, the oracle's come as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parity.core.case import Array
from parity.core.contract import OutputSpec, classifying
from parity.core.errors import ParityError
from parity.core.kinds import Kind
from parity.core.record import Check
from parity.judging import judge
from parity.judging.floor import Floor
from parity.judging.limits import Limit, is_default
from parity.judging.post_processing import PostProcessed, post_process_all
from parity.judging.ties import Alternatives, of_case

Limits = Mapping[str, Mapping[str, Limit]]  # output -> metric -> the limit in force


@dataclass(frozen=True)
class CaseChecks:
    """The checks of some cases, and the artefact's outputs that they are of, one row a case."""

    checks: tuple[Check, ...]
    outputs: tuple[PostProcessed, ...]


def check_cases(
    kind: Kind,
    specs: Sequence[OutputSpec],
    cases: Sequence[str],
    outputs: Sequence[Mapping[str, Array]],
    oracle: Sequence[PostProcessed],
    floors: Mapping[str, Floor],
    limits: Limits,
    fallback: Limit,
    counted: Sequence[int] | None = None,
    alternatives: Alternatives = (),
) -> CaseChecks:
    """Post-process the artefact's outputs, and judge every output of every case.

    `cases` are ids; `outputs` are as the artefact gave them, one row a case, and may lack some. `floors` are of the
    same oracle: an output of real numbers without one (no twin) is held to the `fallback` instead, unless its own
    limits say otherwise. `counted` are the indices of the cases that count in shares, by default all. `alternatives`
    are outputs as right as the oracle's at this precision (`judging/ties.py`): integers that differ where they do are
    ties, and a default limit that one of them breaks in a case is not applied there. Raises ParityError where labels
    do not fit an output, or where its post-processing fails.
    """
    rows = post_process_all(specs, outputs, oracle)
    checks: list[Check] = []
    for spec in specs:
        floor = floors.get(spec.name)
        in_force = dict(limits.get(spec.name, {}))
        if floor is None and oracle and oracle[0].outputs[spec.name].dtype.kind == "f":
            in_force.setdefault(fallback.metric, fallback)
        for number, (case, row, want) in enumerate(zip(cases, rows, oracle, strict=True)):
            got, wanted = row.outputs.get(spec.name), want.outputs[spec.name]
            others = of_case(spec.name, number, alternatives)
            applied = _not_broken_by(others, wanted, in_force)
            checks += judge.check_output(kind, case, spec, got, wanted, applied, others)
        if comparable(spec.name, rows, oracle):
            checks += _over_all_cases(kind, spec, cases, rows, oracle, floor, in_force, counted)
            if oracle and oracle[0].outputs[spec.name].dtype.kind != "f":
                places = range(len(cases)) if counted is None else counted
                got_all, want_all = ([arrays_of(spec.name, r)[i] for i in places] for r in (rows, oracle))
                others_all = [of_case(spec.name, i, alternatives) for i in places]
                checks += judge.check_always(kind, spec, got_all, want_all, in_force, others_all)
                checks += judge.check_lost(kind, spec, got_all, want_all, in_force, others_all)
    return CaseChecks(tuple(checks), tuple(rows))


def _not_broken_by(alternatives: Sequence[Array], want: Array, limits: Mapping[str, Limit]) -> Mapping[str, Limit]:
    """The limits without those that nobody set and that an output as right as the oracle's breaks in this case."""
    defaults = {name: limit for name, limit in limits.items() if is_default(limit.source)}
    if want.dtype.kind != "f" or not defaults:
        return limits
    broken = {name for other in alternatives for name in judge.broken_limits(other, want, defaults)}
    return {name: limit for name, limit in limits.items() if name not in broken}


def _over_all_cases(
    kind: Kind,
    spec: OutputSpec,
    cases: Sequence[str],
    rows: Sequence[PostProcessed],
    oracle: Sequence[PostProcessed],
    floor: Floor | None,
    limits: Mapping[str, Limit],
    counted: Sequence[int] | None,
) -> list[Check]:
    """The checks that need one output of every case: noise ratios, what the error is like, decisions."""
    got, want = arrays_of(spec.name, rows), arrays_of(spec.name, oracle)
    real = want[0].dtype.kind == "f"
    if real and spec.decides and spec.labels:
        _expect_labels(spec, got[0])
    checks: list[Check] = []
    if floor is not None:
        checks += judge.check_noise(kind, spec, cases, got, floor, limits)
    if real:
        checks += judge.describe_error(kind, spec, got, want)
    if spec.decides:
        places = range(len(cases)) if counted is None else counted
        twin = [floor.twin[i] for i in places] if floor is not None and floor.twin else []
        checks += judge.check_decisions(
            kind, spec, [got[i] for i in places], [want[i] for i in places], limits, floor, twin
        )
    return checks


def _expect_labels(spec: OutputSpec, scores: Array) -> None:
    classes = scores.shape[-1] if scores.ndim else 1
    if len(spec.labels) != classes:
        raise ParityError(f"output {spec.name}: {len(spec.labels)} labels are declared for {classes} classes")


def check_labels(
    specs: Sequence[OutputSpec],
    labels: Sequence[int | None],
    outputs: Sequence[PostProcessed],
    oracle: Sequence[PostProcessed],
    limits: Limits,
) -> list[Check]:
    """The accuracy of every output that a label is the class of, on the cases whose true class is known.

    `labels` are class indices, None where a case has none. An output that cannot be compared is left out: the checks
    of its cases say why.
    """
    chosen = [i for i, label in enumerate(labels) if label is not None]
    truth = [label for label in labels if label is not None]
    rows, wants = [outputs[i] for i in chosen], [oracle[i] for i in chosen]
    checks: list[Check] = []
    for spec in classifying(specs):
        if chosen and comparable(spec.name, rows, wants):
            got, want = arrays_of(spec.name, rows), arrays_of(spec.name, wants)
            checks += judge.check_accuracy(spec, got, want, truth, limits.get(spec.name, {}))
    return checks


def doubt_labels(
    specs: Sequence[OutputSpec], labels: Sequence[int | None], oracle: Sequence[PostProcessed]
) -> dict[str, str]:
    """By output: why the labels of the cases seem not to be of the oracle's classes.

    Raises ParityError for a label that no class has.
    """
    labelled = [(label, row) for label, row in zip(labels, oracle, strict=True) if label is not None]
    if not labelled:
        return {}
    truth = [label for label, _ in labelled]
    rows = [row for _, row in labelled]
    doubts = {spec.name: judge.doubt_labels(spec, arrays_of(spec.name, rows), truth) for spec in classifying(specs)}
    return {name: doubt for name, doubt in doubts.items() if doubt}


def comparable(name: str, rows: Sequence[PostProcessed], oracle: Sequence[PostProcessed]) -> bool:
    """Whether an output is there in every case, and of the oracle's shape."""
    return all(
        name in row.outputs and row.outputs[name].shape == want.outputs[name].shape
        for row, want in zip(rows, oracle, strict=True)
    )


def arrays_of(name: str, rows: Sequence[PostProcessed]) -> list[Array]:
    """One output of every case."""
    return [row.outputs[name] for row in rows]
