"""From arrays to checks: one output of one case against the oracle, under the limits in force. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.core.case import OVER_ALL, Array
from parity.core.contract import OutputSpec
from parity.core.errors import ParityError
from parity.core.kinds import Kind
from parity.core.proof import Link, Proof
from parity.core.record import BY_CONTRACT, Check, LinkRecord, ProofRecord
from parity.judging import label_doubt
from parity.judging.compare import Comparison, compare
from parity.judging.floor import Floor, Ratio, differences, rms_over
from parity.judging.limits import Limit
from parity.judging.registry import METRICS
from parity.judging.samples import held
from parity.judging.statistics import FEWEST, SAME, binomial_upper, drop_bound, lost_variation, trend
from parity.judging.statistics import flips as changed
from parity.judging.ties import excused

NOTHING = 2.0**-23
"""Rms of an output that float32 cannot tell from zero beside 1: of what cancels to nothing no share can be lost."""
MOST_NAMED = 8  # operators in the words of a check
FIRM = 8  # elements of a class that the precision keeps; of fewer all may be near another class by chance
RECORDED = ("max_abs", "max_rel", "rel_rms", "cosine", "sqnr")  # measured on every output of every case


def check_output(
    kind: Kind,
    case: str,
    output: OutputSpec,
    got: Array | None,
    want: Array,
    limits: Mapping[str, Limit],
    alternatives: Sequence[Array] = (),
) -> list[Check]:
    """The checks of one output of one case: every recorded metric and every further one that has a limit; of integers
    and truth values, how many differ where none of the `alternatives` does.

    An output that the artefact did not give, or that cannot be compared, makes checks without a value: they fail.
    """
    checks = _measured(kind, case, output, got, want, limits)
    if want.dtype.kind != "f":
        checks.append(_differing(kind, case, output, got, want, limits, alternatives))
    return checks


def broken_limits(got: Array, want: Array, limits: Mapping[str, Limit]) -> set[str]:
    """The metrics of one case whose limit these outputs break."""
    checks = _measured("golden", "", OutputSpec(""), got, want, limits)
    return {check.metric for check in checks if check.limit is not None and not check.passed}


def _differing(
    kind: Kind,
    case: str,
    output: OutputSpec,
    got: Array | None,
    want: Array,
    limits: Mapping[str, Limit],
    alternatives: Sequence[Array],
) -> Check:
    """The share of elements that differ and are no tie; limit `differing_share`."""
    metric = "differing_share"
    if got is None or got.shape != want.shape or got.dtype.kind == "f" or not want.size:
        return _check(kind, case, output, metric, None, limits, detail="cannot be compared element by element")
    differs = got != want
    ties = differs & excused(got, want, alternatives)
    detail = f"{int(differs.sum())} of {differs.size} elements differ"
    if ties.any():
        detail += f", {int(ties.sum())} of them ties at this precision"
    return _check(kind, case, output, metric, float((differs & ~ties).mean()), limits, detail=detail)


def check_always(
    kind: Kind,
    output: OutputSpec,
    got: Sequence[Array],
    want: Sequence[Array],
    limits: Mapping[str, Limit],
    alternatives: Sequence[Sequence[Array]],
) -> list[Check]:
    """How many elements of an integer output are wrong in every case; none where cases are few or differ in shape.

    A share lets some elements differ, and by chance no element does each time. `alternatives`: by case; an element
    that one of them has otherwise than the oracle is no fault of the file there.
    """
    if len(want) < FEWEST or len({w.shape for w in want}) > 1 or any(g.dtype.kind == "f" for g in got):
        return []
    always = np.ones(want[0].shape, bool)
    for g, w, others in zip(got, want, alternatives, strict=True):
        always &= g != w
        for other in others:
            always &= (other == w) if other.shape == w.shape else True
    detail = f"{int(always.sum())} of {always.size} elements differ in each of {len(want)} cases"
    return [_check(kind, OVER_ALL, output, "always_differing", float(always.sum()), limits, detail=detail)]


def check_lost(
    kind: Kind,
    output: OutputSpec,
    got: Sequence[Array],
    want: Sequence[Array],
    limits: Mapping[str, Limit],
    alternatives: Sequence[Sequence[Array]],
) -> list[Check]:
    """How many values of an integer output (class ids) the oracle gives and the file never does.

    A share lets a rare class go as a whole. A value counts where `FIRM` of its elements, and half of them, are the same
    in every one of the `alternatives` (by case): what the precision keeps, a right file gives somewhere.
    """
    if any(g.dtype.kind == "f" for g in got):
        return []
    given = np.unique(np.concatenate([g.reshape(-1) for g in got])) if got else np.zeros(0)
    elements: Counter[int] = Counter()
    firm: Counter[int] = Counter()
    for w, others in zip(want, alternatives, strict=True):
        same = np.ones(w.shape, bool)
        for other in others:
            same &= (other == w) if other.shape == w.shape else False
        elements.update(_counted(w))
        firm.update(_counted(w[same]))
    kept = [value for value, count in firm.items() if count >= max(FIRM, elements[value] / 2)]
    lost = sorted(set(kept) - set(given.tolist()))
    named = "; ".join(f"{value} in {elements[value]} elements" for value in lost[:MOST_NAMED])
    more = f" and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
    detail = f"the oracle gives {named}{more}, the file never" if lost else ""
    return [_check(kind, OVER_ALL, output, "lost_classes", float(len(lost)), limits, detail=detail)]


def _counted(values: Array) -> dict[int, int]:
    """How often each integer occurs."""
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _measured(
    kind: Kind, case: str, output: OutputSpec, got: Array | None, want: Array, limits: Mapping[str, Limit]
) -> list[Check]:
    gated: dict[str, Any] = {n: lim.value for n, lim in limits.items() if lim.value is not None and _of_one_case(n)}
    names = dict.fromkeys((*RECORDED, *gated))
    if got is None:
        return [
            _check(kind, case, output, n, None, limits, detail="the artefact does not give this output") for n in names
        ]
    result = compare(got, want, also=tuple(n for n in names if METRICS[n].fn is not None), **gated)
    detail = _worst(result)
    return [_check(kind, case, output, n, result.metrics.get(n), limits, result, detail) for n in names]


def check_decisions(
    kind: Kind, output: OutputSpec, got: Sequence[Array], want: Sequence[Array], limits: Mapping[str, Limit],
    floor: Floor | None = None, twin: Sequence[Array] = (),
) -> list[Check]:  # fmt: skip
    """Share of rows, over all cases, that decide as the oracle does, with its lower bound; limit `top1`.

    `twin`: the twin's rows of the same cases, which with a `floor` tell the flips that the precision does not explain.

    A row of scores decides for its largest element; integers are decisions already, as `post = "argmax"` makes them.
    `top5` and `decision_flips` are measured where they have a limit.
    """
    result: Comparison | None = None
    values: Mapping[str, float]
    if _decided(want):
        different = _flat(got) != _flat(want)
        count, flips = len(different), float(different.sum())
        values = {"top1": 1 - flips / count if count else math.nan, "decision_flips": flips}
    else:
        rows_got, rows_want = _rows(got), _rows(want)
        if rows_want.shape[-1] == 1 and not {"top1", "top5", "decision_flips"} & set(limits):
            return []  # one score is no choice between classes
        result = compare(rows_got, rows_want, also=("top1", "top5", "decision_flips"))
        count, values = len(rows_want), result.metrics
        flips = values["decision_flips"]
    detail = ""
    if math.isfinite(flips) and count:
        bound = 1 - binomial_upper(round(flips), count)
        detail = f"{flips:.0f} of {count} rows decide otherwise than the oracle, at most {1 - bound:.3g} of all"
    beyond = None
    if math.isfinite(flips) and floor is not None and not floor.reason and not _decided(want):
        beyond = changed(got, want, floor, twin).beyond_noise
        detail += f"; {beyond} beyond what the precision moves" if flips else ""
    checks = [_decision(kind, output, "top1", values["top1"], count, limits, result, detail)]
    if beyond is not None:
        checks.append(_decision(kind, output, "flips_beyond_noise", float(beyond), count, limits, None, detail))
    for metric in ("top5", "decision_flips"):
        limit = limits.get(metric)
        value = values.get(metric, math.nan)
        # So few classes have no best five: as for an output that decides nothing, there is no such figure.
        measured = math.isfinite(value) or (result is not None and not _comparable(result))
        if limit is not None and limit.value is not None and measured:
            checks.append(_decision(kind, output, metric, value, count, limits, result, detail))
    return checks


def _comparable(result: Comparison) -> bool:
    return not (result.mismatch or result.nonfinite.refused)


def _decision(
    kind: Kind,
    output: OutputSpec,
    metric: str,
    value: float,
    rows: int,
    limits: Mapping[str, Limit],
    result: Comparison | None,
    detail: str,
) -> Check:
    """The check of one decision metric; a share comes with its lower bound from so many rows (95 % confidence)."""
    bound = None
    if METRICS[metric].unit == "share" and math.isfinite(value):
        bound = 1 - binomial_upper(round((1 - value) * rows), rows)
    return _check(kind, OVER_ALL, output, metric, value, limits, result, detail, bound)


def check_noise(
    kind: Kind,
    output: OutputSpec,
    cases: Sequence[str],
    got: Sequence[Array],
    floor: Floor,
    limits: Mapping[str, Limit],
) -> list[Check]:
    """The error in units of what the precision alone costs: over all cases, by case, worst channel, worst element."""
    ratio = floor.ratio(got)
    costs = f"the precision alone costs {floor.relative:.3g} of the output's rms"
    worst = f"worst case {cases[ratio.worst_case]}, {ratio.worst:.3g} times the floor"
    if ratio.part:
        worst = f"of {ratio.part}"
    values = {
        "noise_ratio": (ratio.pooled, f"{costs}; {worst}"),
        "noise_ratio_peak": (ratio.peak, costs),
    }
    if ratio.worst_channel is not None:
        values["noise_ratio_channel"] = (ratio.channel, _channel(output, floor, ratio))
    checks = [
        _check(kind, OVER_ALL, output, metric, value, limits, detail=ratio.reason or detail)
        for metric, (value, detail) in values.items()
    ]
    if not ratio.reason and floor.magnitude > NOTHING:
        cost, detail = _cost(got, floor)
        checks.append(_check(kind, OVER_ALL, output, "precision_cost", cost, limits, detail=detail))
    by_case = ratio.by_case or (math.inf,) * len(cases)
    checks += [
        _check(kind, case, output, "noise_ratio_case", value, limits, detail=ratio.reason)
        for case, value in zip(cases, by_case, strict=True)
    ]
    return checks


def _cost(got: Sequence[Array], floor: Floor) -> tuple[float, str]:
    """What the precision costs an output, as a share of its rms, of the rms of elements that far larger ones hide, or
    of what it varies by; the largest, and which it is."""
    overall = min(rms_over(differences(got, floor.want)), floor.pooled) / floor.magnitude
    costs = [(overall, f"the precision itself costs {100 * overall:.3g} % of the output's rms"), *floor.lost(got)]
    varied = lost_variation(got, floor)
    if varied is not None:
        costs.append((max(varied, overall), SAME))
    return max(costs, key=lambda pair: pair[0])


def _channel(output: OutputSpec, floor: Floor, ratio: Ratio) -> str:
    """The worst channel by number, and by name where its axis is that of the labels."""
    number = ratio.worst_channel
    if number is None or ratio.axis != floor.axis:
        return f"number {number} along axis {ratio.axis}"
    if number < len(output.labels):
        return f"channel {number} ({output.labels[number]})"
    return f"channel {number}"


def describe_error(kind: Kind, output: OutputSpec, got: Sequence[Array], want: Sequence[Array]) -> list[Check]:
    """Gain, offset and signed mean of the error over all cases: description, never a gate. Quantisation has a bias of
    its own, so correct int8 files have all three."""
    line = trend(got, want)
    values = {"gain": line.gain, "offset": line.offset, "bias": line.mean_signed}
    return [_check(kind, OVER_ALL, output, name, v, {}) for name, v in values.items() if math.isfinite(v)]


def doubt_labels(output: OutputSpec, want: Sequence[Array], labels: Sequence[int]) -> str:
    """Why the labels seem not to be of the oracle's classes; empty where they may be.

    Raises ParityError for a label that no class has.
    """
    decided = _decided(want)
    rows = _flat(want) if decided else _rows(want)
    truth = np.asarray(labels)
    if len(rows) != len(truth) or np.isnan(rows).any():
        return ""
    if not decided and truth.max() >= rows.shape[-1]:
        raise ParityError(
            f"output {output.name}: label {truth.max()} is none of its {rows.shape[-1]} classes, numbered from 0: "
            'mend the labels, or declare kind = "dense" where the output does not choose between classes'
        )
    return label_doubt.doubt(truth, _classes(rows))


def check_accuracy(
    output: OutputSpec,
    got: Sequence[Array],
    want: Sequence[Array],
    labels: Sequence[int],
    limits: Mapping[str, Limit],
) -> list[Check]:
    """How much accuracy the artefact loses against the oracle on labelled cases, and at most loses with 95 %
    confidence; limit `top1_drop` (share of cases)."""
    truth = np.asarray(labels)
    rows = _flat if _decided(want) else _rows
    rows_got, rows_want = rows(got), rows(want)
    judgeable = not (np.isnan(rows_got).any() or np.isnan(rows_want).any())  # -inf is a class that is never chosen
    judgeable &= rows_got.shape == rows_want.shape and len(truth) == len(rows_got) > 0
    if not judgeable:
        detail = f"{len(truth)} labels, outputs {rows_got.shape} against {rows_want.shape}, or NaN"
        return [_check("accuracy", OVER_ALL, output, "top1_drop", None, limits, detail=detail)]
    right, theirs_right = _classes(rows_got) == truth, _classes(rows_want) == truth
    ours, theirs = float(right.mean()), float(theirs_right.mean())
    bound = drop_bound(int((theirs_right & ~right).sum()), int((right & ~theirs_right).sum()), len(truth))
    detail = f"artefact {ours:.1%}, oracle {theirs:.1%} of {len(truth)} labelled cases right; at most {bound:.3g} lost"
    return [
        _check("accuracy", OVER_ALL, output, "top1_drop", theirs - ours, limits, detail=detail, sample=bound),
        _check("accuracy", OVER_ALL, output, "top1_accuracy", ours, limits, detail=detail),
    ]


def check_proof(proof: Proof, limits: Mapping[str, Limit]) -> list[Check]:
    """One check a link of the chain of proof that could be made: how many culprits it names; limit `LINK_faults`, 0.

    The first check counts the links that failed. It is there also when no link could be made, in which case the noise
    ratio has to judge alone.
    """
    failed = [link for link in proof.links if link.state == "failed"]
    checks = [_static("chain", "links_failed", float(len(failed)), limits, proof.summary)]
    for link in proof.links:
        if link.state != "not possible":
            count = float(len(link.culprits))
            checks.append(_static(link.name, f"{link.name}_faults", count, limits, _link(link)))
    return checks


def lifted(kind: Kind, case: str, detail: str) -> Check:
    """The check that the lift, made on one drawn input, holds; `detail` is what the chain says of it."""
    return limited(kind, case, "lift_faults", 0.0, 0.0, detail)


def check_unexplained(operators: Sequence[str], limits: Mapping[str, Limit]) -> Check:
    """How many of the file's decisions nothing explains; gates where somebody set a limit on it."""
    detail = "; ".join(operators[:MOST_NAMED])
    name = "unexplained_operators"
    return _check("static", "operators", OutputSpec(""), name, float(len(operators)), limits, detail=detail)


def check_constants(constants: Sequence[str], limits: Mapping[str, Limit]) -> Check:
    """How many of the file's constants nothing explains; gates where somebody set a limit on it."""
    detail = "; ".join(constants[:MOST_NAMED])
    value = float(len(constants))
    return _check("static", "match", OutputSpec(""), "unexplained_constants", value, limits, detail=detail)


def check_one_way(sites: Sequence[str], limits: Mapping[str, Limit]) -> Check:
    """How many of the module's decisions went one way in all that was measured; gates where somebody limits it."""
    detail = "; ".join(sites[:MOST_NAMED])
    value = float(len(sites))
    return _check("property", "all", OutputSpec(""), "one_way_decisions", value, limits, detail=detail)


def proof_record(proof: Proof) -> ProofRecord:
    links = tuple(LinkRecord(link.name, link.state, _link(link)) for link in proof.links)
    return ProofRecord(proof.state, proof.summary, links, proof.complete)


def lowered(output: OutputSpec, metric: str, value: float, limits: Mapping[str, Limit], detail: str) -> Check:
    """How close one output of a file, executed with no activation rounded, is to the oracle."""
    return _check("static", "lowering", output, metric, value, limits, detail=detail)


def _static(case: str, metric: str, value: float, limits: Mapping[str, Limit], detail: str) -> Check:
    limit = limits.get(metric) or Limit(metric, 0.0, "built-in default")
    return _check("static", case, OutputSpec(""), metric, value, {metric: limit}, detail=detail)


def _link(link: Link) -> str:
    """One sentence: the culprits of a failed link, the reason of one that was not made, the figures of a good one."""
    if link.reason:
        return link.reason
    if link.culprits:
        said = []
        for culprit in link.culprits[:5]:
            channels = f" channels {', '.join(map(str, culprit.channels[:4]))}" if culprit.channels else ""
            said.append(f"{culprit.kind} {culprit.name}{channels}: {culprit.what}")
        more = len(link.culprits) - len(said)
        return "; ".join(said) + (f"; and {more} more" if more else "")
    plain = {k: v for k, v in link.figures.items() if isinstance(v, (int, float, str))}
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in plain.items())


def measured_power(share: float | None, limits: Mapping[str, Limit], detail: str) -> Check:
    """The share of injected faults that a cell's limits notice; limit `power`, at least."""
    return _check("static", "power", OutputSpec(""), "power", share, limits, detail=detail)


def fact(case: str, output: str, metric: str, holds: bool, detail: str, kind: Kind = "contract") -> Check:
    """A contract check: 1 when the file keeps what was declared, 0 when it does not."""
    return Check(
        kind,
        case,
        output,
        metric,
        float(holds),
        1.0,
        "min",
        holds,
        source=BY_CONTRACT,
        detail=detail,
    )


def limited(kind: Kind, case: str, metric: str, value: float, most: float, detail: str, output: str = "") -> Check:
    """A check against a limit that belongs to the measurement itself and that no configuration changes."""
    sense = METRICS[metric].sense
    passed = value <= most if sense == "max" else value >= most
    return Check(
        kind, case, output, metric, float(value), float(most), sense, passed, source=BY_CONTRACT, detail=detail
    )


def described(
    kind: Kind, output: OutputSpec, metric: str, value: float, limits: Mapping[str, Limit], detail: str
) -> Check:
    """A figure over all cases that is recorded, and gates only where a project limits it."""
    return _check(kind, OVER_ALL, output, metric, value, limits, detail=detail)


def single(kind: Kind, case: str, output: OutputSpec, limit: Limit, value: float | None, detail: str) -> Check:
    """The check of one output of one input under one limit."""
    return _check(kind, case, output, limit.metric, value, {limit.metric: limit}, detail=detail)


def counted(case: str, metric: str, value: float, limits: Mapping[str, Limit], detail: str = "") -> Check:
    """A contract check on a count or a figure that is limited like any other metric."""
    return _check("contract", case, OutputSpec(""), metric, value, limits, detail=detail)


def over_all(metric: str) -> bool:
    """Whether the limit of a metric is on all cases together and means nothing for one."""
    return METRICS[metric].scope == "all cases"


def _of_one_case(metric: str) -> bool:
    """Whether `compare` measures the metric of one case, and a limit on it gates that case."""
    return metric in METRICS and METRICS[metric].compared and not over_all(metric)


def _rows(arrays: Sequence[Array]) -> Array:
    return np.concatenate([a.reshape(-1, a.shape[-1]) for a in arrays])


def _flat(arrays: Sequence[Array]) -> Array:
    return np.concatenate([a.reshape(-1) for a in arrays])


def _classes(rows: Array) -> Array:
    """The class of every row: the largest of its scores [rows, classes], or what it holds already [rows]."""
    return rows if rows.ndim == 1 else np.asarray(rows.argmax(-1))


def _decided(want: Sequence[Array]) -> bool:
    """Whether an output holds class indices, not scores to choose by."""
    return want[0].dtype.kind in "iu"


def _check(
    kind: Kind,
    case: str,
    output: OutputSpec,
    metric: str,
    value: float | None,
    limits: Mapping[str, Limit],
    result: Comparison | None = None,
    detail: str = "",
    sample: float | None = None,
) -> Check:
    limit = limits.get(metric)
    bound = limit.value if limit else None
    sense = METRICS[metric].sense
    finite = value is not None and math.isfinite(value)
    nonfinite = result.nonfinite.refused if result is not None else 0
    if result is not None and (result.mismatch or (result.error and bound is not None and not finite)):
        detail = result.reason
    if METRICS[metric].signed and finite and value is not None:
        value = abs(value)
    passed = finite and not nonfinite
    if passed and bound is not None and value is not None:
        passed = value <= bound if sense == "max" else value >= bound
    check = Check(
        kind, case, output.name, metric, float(value) if finite and value is not None else None, bound, sense, passed,
        nonfinite=nonfinite, source=limit.source if limit else "", detail=detail, bound=sample if finite else None,
    )  # fmt: skip
    return held(check, bound, check.source) if sample is not None else check


def _worst(result: Comparison) -> str:
    if result.worst is None:
        return result.reason
    place = ", ".join(str(i) for i in result.worst.index)
    return f"worst at [{place}]: got {result.worst.got:.6g}, oracle {result.worst.want:.6g}"
