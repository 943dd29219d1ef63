"""Configuration and options to a plan: which cells, which kinds of check, how many cases, and what cannot run here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from parity import formats as targets
from parity.cases.files import check_classes, clips, golden_files, labelled
from parity.core.errors import ConfigError
from parity.core.executors import canonical, family_of
from parity.core.kinds import BY_NAME, Kind
from parity.core.plan import Cell, Plan, PlannedCell, PlannedExecution
from parity.core.settings import Config, ModelConfig
from parity.core.words import plural
from parity.formats.target import NO_CALIBRATION, Target
from parity.judging import baseline
from parity.judging.applicable import Place, refuse_unmeasured
from parity.judging.limits import resolve
from parity.judging.spec import Family
from parity.reference import files
from parity.session.engines import engine
from parity.session.ledger import Keeper
from parity.session.profile import QUICK_CASES
from parity.session.toolchains import unavailable


@dataclass(frozen=True)
class Data:
    """How much data of its own a model has: golden cases, video clips, and cases with a true class."""

    cases: int
    clips: int
    labelled: int = 0


PlannedKinds = Callable[[ModelConfig, Target, Data], tuple[Kind, ...]]


def make_plan(config: Config, options: Mapping[str, Any], planned_kinds: PlannedKinds) -> Plan:
    """The cells of the configuration, each with its kinds of check, narrowed as the options say.

    `planned_kinds` is `parity.suite.planned_kinds`, which knows every kind. Raises ConfigError.
    """
    required = {*config.require, *(options.get("require") or ())}
    executors = {e for model in config.models.values() for each in model.executors.values() for e in each}
    known = {c.target for c in config.cells} | set(config.models) | executors | set(map(family_of, executors))
    for name in options.get("require") or ():
        if name not in known:
            raise ConfigError(
                f"--parity-require: {name!r} is neither a target nor a model, nor an executor, of this project's plan"
            )
    for model in config.models.values():
        labels = next((o.labels for o in model.contract.outputs if o.labels), ())
        if labels and model.golden:
            check_classes(model.golden, golden_files(model.golden), labels)
    quick = options.get("profile") == "quick"
    waiting = () if options.get("profile") == "nightly" else config.nightly
    every = tuple(_planned(config, cell, required, quick, planned_kinds) for cell in config.cells)
    refuse_unmeasured(config, every, offers)
    cells = tuple(planned for planned in every if planned.cell not in waiting)
    # What the command line set is in no committed file: such a run is never a release verdict. A command of ours that
    # set it says itself, not how.
    settings = [f"--parity-set {s}" for s in options.get("set") or ()]
    settings += [f"--parity-toolchain {t}" for t in options.get("toolchain") or ()]
    notes = [*([options["rerun"]] if options.get("rerun") else settings), *(["profile quick"] if quick else [])]
    plan = Plan(cells, "; ".join(notes) or None).narrow(
        models=options.get("models") or (),
        targets=options.get("targets") or (),
        precisions=options.get("precisions") or (),
    )
    plan = plan.narrow_executors(tuple(dict.fromkeys(map(canonical, options.get("executors") or ()))))
    if options.get("shard"):
        costs = baseline.costs(Keeper.prepare(config.root, plan.partial, options).known)
        k, n = options["shard"]
        plan = plan.shard(k, n, costs, config.file.read_text(encoding="utf-8"))
    return plan


def _planned(config: Config, cell: Cell, required: set[str], quick: bool, planned_kinds: PlannedKinds) -> PlannedCell:
    model = config.models[cell.model]
    target = targets.get(cell.target)
    data = _data(config, model)
    reason = unavailable(config, cell)
    kinds = planned_kinds(model, target, data)
    return PlannedCell(
        cell,
        kinds,
        reason,
        bool({cell.target, cell.model} & required) or reason == NO_CALIBRATION,
        min(data.cases, QUICK_CASES) if quick else data.cases,
        tuple(o.name for o in model.contract.outputs),
        data.clips,
        files.named(model.reference) if model.reference else "",
        tuple(_executions(model, cell, kinds, reason, required)),
    )


def _executions(
    model: ModelConfig, cell: Cell, kinds: tuple[Kind, ...], unavailable_here: str | None, required: set[str]
) -> Iterator[PlannedExecution]:
    """The executions of a cell beside the host's: by the kinds of check that need nothing but outputs."""
    measured = tuple(kind for kind in kinds if BY_NAME[kind].in_capsule)
    for executor in model.executors.get(f"{cell.target}-{cell.precision}", ()):
        reason = unavailable_here or engine(executor, cell.target).unavailable or None
        needed = bool({executor, family_of(executor)} & required)
        yield PlannedExecution(executor, measured, reason, needed)


def _data(config: Config, model: ModelConfig) -> Data:
    """What a model is measured on. Raises ConfigError where its own function of cases fails."""
    cases = len(golden_files(model.golden)) if model.golden else 0
    with_class = labelled(model)
    if model.cases:
        from parity.cases import own

        made = own.cases(model.cases, model.contract, config.root)
        cases += len(made)
        with_class += sum(case.label is not None for case in made)
    return Data(cases, len(clips(model)), with_class)


def offers(target: str) -> frozenset[Family]:
    """The families of metrics that are measured of some formats' files only, and of this target's."""
    found = targets.get(target)
    parts: dict[Family, str] = {"proof": found.graph, "lowering": found.lowering, "operators": found.delegate}
    return frozenset(family for family, part in parts.items() if part)


def waiting(config: Config, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells that only another profile plans."""
    return () if options.get("profile") == "nightly" else tuple(cell.id for cell in config.nightly)


def shown(config: Config, plan: Plan, options: Mapping[str, Any]) -> str:
    """Every cell with its kinds of check, its limits and who set each, and what cannot run here and why."""
    lines = [plural(len(plan.cells), "cell") + (f" (narrowed: {plan.partial})" if plan.partial else "")]
    for planned in plan.cells:
        cell, model = planned.cell, config.models[planned.cell.model]
        required = ", required" if planned.required else ""
        films = f", {planned.clips} clips" if planned.clips else ""
        lines.append(f"\n{cell.id}: {', '.join(planned.kinds)}; {planned.cases} golden cases{films}{required}")
        if planned.unavailable:
            lines.append(f"  cannot run here: {planned.unavailable}")
        for execution in planned.executions:
            needed = ", required" if execution.required else ""
            lines.append(f"  @{execution.executor}: {', '.join(execution.kinds)}{needed}")
            if execution.unavailable:
                lines.append(f"    cannot run here: {execution.unavailable}")
        for spec in model.contract.outputs:
            for metric, limit in sorted(resolve(config.rules, cell, spec.name).items()):
                if Place(planned, model, spec, offers(cell.target)).lacks(metric):
                    continue
                value = "no limit" if limit.value is None else f"{limit.value:g}"
                lines.append(f"  {spec.name:<12} {metric:<20} {value:<10} {limit.source}")
    lines += [f"\n{id}: only with --parity-profile nightly" for id in waiting(config, options)]
    return "\n".join(lines)
