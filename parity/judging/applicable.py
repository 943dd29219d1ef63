"""Limits that a project set and that nothing would measure: refused when the plan is made, told
when a run shows it.

A limit that is shown in force and never applied is worse than none. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from parity.core.contract import OutputSpec, classifying
from parity.core.errors import ConfigError
from parity.core.plan import Cell, PlannedCell
from parity.core.record import CellRecord, Check
from parity.core.settings import Config, ModelConfig, Rule
from parity.judging.limits import resolve, scopes
from parity.judging.registry import METRICS
from parity.judging.spec import Family, MetricSpec

Offers = Callable[[str], frozenset[Family]]
"""Target -> the families of metrics that only some formats' files have, of this one's files."""

_UNDECIDED = 'output {} does not decide between classes: declare kind = "logits" or "probs"'
FIVE = 5  # the best five of so many classes always agree


def refuse_unmeasured(config: Config, cells: Sequence[PlannedCell], offers: Offers) -> None:
    """Raise ConfigError for the first limit that no cell and output of its scope would measure.

    `cells`: every cell of the project, whatever the command line leaves out. A scope without a cell
    sets nothing. `offers` says which families of metrics a target's files have.
    """
    for rule in config.rules:
        places = list(_places(rule, config, cells, offers))
        if rule.value is None or not places:
            continue
        reasons = [place.lacks(rule.metric) for place in places]
        if all(reasons):
            cell = places[0].planned.cell
            raise ConfigError(f"{rule.source}: not measured by {cell}: {reasons[0]}")


@dataclass(frozen=True)
class Place:
    """One output of one planned cell: where a limit may hold."""

    planned: PlannedCell
    model: ModelConfig
    output: OutputSpec
    offered: frozenset[Family]

    def lacks(self, metric: str) -> str:
        """What is missing for a metric to be measured here, and how to add it; empty where nothing is."""
        spec = METRICS[metric]
        reason = _LACKS.get(spec.family)
        return reason(spec, self) if reason else ""


def _places(rule: Rule, config: Config, cells: Sequence[PlannedCell], offers: Offers) -> Iterator[Place]:
    """Every output of every cell that a rule is about."""
    for planned in cells:
        if rule.scope not in scopes(planned.cell):
            continue
        model = config.models[planned.cell.model]
        for output in model.contract.outputs:
            if rule.output in (None, output.name):
                yield Place(planned, model, output, offers(planned.cell.target))


def _decisions(spec: MetricSpec, place: Place) -> str:
    if spec.scope == "case":
        return ""
    if not place.output.decides:
        return _UNDECIDED.format(place.output.name)
    classes = len(place.output.labels)
    if spec.name == "top5" and 0 < classes <= FIVE:
        return f"the best five of {classes} classes always agree: limit top1"
    return ""


def _accuracy(spec: MetricSpec, place: Place) -> str:
    if not place.output.decides:
        return _UNDECIDED.format(place.output.name)
    if place.output not in classifying(place.model.contract.outputs):
        return f"output {place.output.name} has no labels: declare labels, a class a line in index order"
    if "accuracy" not in place.planned.kinds:
        declare = "" if place.output.labels else f"declare labels of {place.output.name}, "
        return (
            f"no golden case has a true class: {declare}name folders of golden files after the labels, or store the "
            "class number as label in the .npz or in what the function of cases makes"
        )
    return ""


def _resizing(spec: MetricSpec, place: Place) -> str:
    return "" if "video" in place.planned.kinds else 'the model has no video: set video = "folder"'


def _proof(spec: MetricSpec, place: Place) -> str:
    if spec.family not in place.offered:
        return f"no chain of proof reads {place.planned.cell.target} files"
    if not place.model.proof:
        return "proof = false switches the chain of proof off"
    return _static(place)


def _lowering(spec: MetricSpec, place: Place) -> str:
    cell = place.planned.cell
    if spec.family not in place.offered:
        return f"{cell.target} files are not executed with no activation rounded: Core ML files are"
    prebuilt = f"{cell.target}-{cell.precision}" in place.model.artifacts
    alone = cell.precision != "fp32" and prebuilt and f"{cell.target}-fp32" not in place.model.artifacts
    if alone and spec.name == "lowering_db":
        return "its file came without an fp32 sibling: limit lowering_ratio"
    if not alone and spec.name == "lowering_ratio":
        return "there is an fp32 file to judge by: limit lowering_db"
    return _static(place)


def _static(place: Place) -> str:
    return "" if "static" in place.planned.kinds else 'there are no golden cases: set golden = "folder"'


def _operators(spec: MetricSpec, place: Place) -> str:
    if spec.family in place.offered:
        return ""
    return f"{place.planned.cell.target} files have no Flex operators: TFLite files may have"


def _power(spec: MetricSpec, place: Place) -> str:
    return "" if "golden" in place.planned.kinds else 'faults are judged on golden cases: set golden = "folder"'


_LACKS: Mapping[Family, Callable[[MetricSpec, Place], str]] = {
    "decision": _decisions,
    "accuracy": _accuracy,
    "resizing": _resizing,
    "proof": _proof,
    "lowering": _lowering,
    "operators": _operators,
    "power": _power,
}


def unapplied(cells: Iterable[CellRecord], rules: Iterable[Rule]) -> tuple[CellRecord, ...]:
    """The cells of a whole run; those that pass are an error where a limit that somebody set gated
    nothing.

    Only a run shows it of a noise ratio (a model may have no twin), of a channel's, and of what
    needs an integer output. A limit of many cells holds where one of them measured it.
    """
    cells, rules = tuple(cells), tuple(rules)
    reasons: dict[str, str] = {}
    for rule in rules:
        if rule.value is None:
            continue
        about = [cell for cell in cells if _in_force(rule, rules, cell)]
        if about and not any(_gates(rule, check) for cell in about for check in cell.checks):
            text = f"no check measured {rule.metric}, which {rule.source} limits: take the limit away"
            reasons.update({cell.id: text for cell in about if cell.state in ("pass", "waived")})
    return tuple(
        replace(cell, state="error", stage="limits", reason=reasons[cell.id]) if cell.id in reasons else cell
        for cell in cells
    )


def _in_force(rule: Rule, rules: Sequence[Rule], cell: CellRecord) -> bool:
    """Whether a rule sets the limit of its metric for some output of a cell, and no stronger one
    does."""
    identity = Cell(cell.model, cell.target, cell.precision)
    outputs = {check.output for check in cell.checks} if rule.output is None else {rule.output}
    limits = [resolve(rules, identity, output).get(rule.metric) for output in outputs]
    return rule.scope in scopes(identity) and any(limit and limit.source == rule.source for limit in limits)


def _gates(rule: Rule, check: Check) -> bool:
    held = check.limit is not None or check.undecided is not None
    return check.metric == rule.metric and rule.output in (None, check.output) and held
