"""Limits, waivers and accepted operators, as the configuration states them."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Any

from parity.config.table import Reader, Table
from parity.core.errors import ConfigError
from parity.core.executors import canonical, execution_id
from parity.core.plan import PRECISIONS, did_you_mean
from parity.core.settings import Accepted, ModelConfig, Rule, Waiver
from parity.judging.registry import METRICS, limitable


def read_limits(reader: Reader, data: Mapping[str, Any], models: Mapping[str, ModelConfig]) -> tuple[Rule, ...]:
    pairs = [f"{t}-{p}" for t in reader.targets for p in PRECISIONS]
    cells = {c.id: models[c.model] for m in models.values() for c in m.cells}
    known = ("default", *PRECISIONS, *reader.targets, *pairs, *models, *cells)
    rules = []
    for scope, table in data.items():
        path = ("limits", scope)
        if scope not in known:
            raise reader.error(path, f"{scope!r} is no precision, target, model or cell of this project"
                             + did_you_mean(scope, known))  # fmt: skip
        outputs = {o.name for m in (models[scope],) for o in m.contract.outputs} if scope in models else (
            {o.name for o in cells[scope].contract.outputs} if scope in cells
            else {o.name for m in models.values() for o in m.contract.outputs})  # fmt: skip
        for metric, value in Table(table, path, reader).data.items():
            if isinstance(value, dict):
                if metric not in outputs:
                    raise reader.error((*path, metric), f"no output {metric!r}{did_you_mean(metric, outputs)}")
                rules += [read_rule(reader, scope, m, v, metric, (*path, metric, m)) for m, v in value.items()]
            else:
                rules.append(read_rule(reader, scope, metric, value, None, (*path, metric)))
    return tuple(rules)


def read_rule(reader: Reader, scope: str, metric: str, value: Any, output: str | None, path: tuple[str, ...]) -> Rule:
    spec = METRICS.get(metric)
    if spec is None:  # a limit on what nothing measures would never be checked
        raise reader.error(path, f"no metric {metric!r}{did_you_mean(metric, limitable())}")
    if spec.unlimited:
        raise reader.error(path, f"{metric} {spec.unlimited}")
    if spec.scope == "cell" and output is not None:
        raise reader.error(path, f"{metric} is a figure of the whole cell: limit it there, not for one output")
    if value is False:
        return Rule(scope, metric, None, output, reader.where(path))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise reader.error(path, f"a limit is a finite number, or false for no limit; found {value!r:.40}")
    reason = spec.impossible(float(value))
    if reason:
        raise reader.error(path, reason)
    return Rule(scope, metric, float(value), output, reader.where(path))


def read_waiver(t: Table, models: Mapping[str, ModelConfig]) -> Waiver:
    cell, metric, reason = t.take("cell", str), t.take("metric", str), t.take("reason", str)
    expires, limit = t.take("expires", datetime.date), t.take("limit", (int, float))
    if not (cell and metric and reason and reason.strip() and expires):
        raise t.error(None, "a waiver needs cell, metric, reason and expires (a date)")
    cell = _check_execution(t, cell, expires, models)
    if limit is not None and not math.isfinite(limit):
        raise t.error("limit", f"expected a finite number, found {limit}")
    if limit is not None and metric in METRICS:
        impossible = METRICS[metric].impossible(float(limit))
        if impossible:
            raise t.error("limit", impossible)
    t.done()
    return Waiver(cell, metric, reason, expires, None if limit is None else float(limit), t.reader.where(t.path))


def read_accepted(t: Table, models: Mapping[str, ModelConfig]) -> Accepted:
    cell, operator, reason = t.take("cell", str), t.take("operator", str), t.take("reason", str)
    expires = t.take("expires", datetime.date)
    if not (cell and operator and reason and reason.strip() and expires):
        raise t.error(None, "an accepted operator needs cell, operator, reason and expires (a date)")
    _check_scope(t, cell, expires, models)
    t.done()
    return Accepted(cell, operator, reason, expires, t.reader.where(t.path))


def _check_execution(t: Table, text: str, expires: datetime.date, models: Mapping[str, ModelConfig]) -> str:
    """The id of the execution that a waiver is for, the executor by its full name."""
    cell, at, executor = text.partition("@")
    _check_scope(t, cell, expires, models)
    if not at:
        return cell
    try:
        name = canonical(executor)
    except ConfigError as error:
        raise t.error("cell", str(error)) from None
    parsed = next(c for m in models.values() for c in m.cells if c.id == cell)
    planned = models[parsed.model].executors.get(f"{parsed.target}-{parsed.precision}", ())
    if name not in planned:
        others = ", ".join(planned) or "none"
        raise t.error("cell", f"{cell} is not executed by {name!r}; beside the host by: {others}")
    return execution_id(cell, name)


def _check_scope(t: Table, cell: str, expires: datetime.date, models: Mapping[str, ModelConfig]) -> None:
    known = [c.id for m in models.values() for c in m.cells]
    if cell not in known:
        raise t.error("cell", f"{cell!r} is not a cell of this project{did_you_mean(cell, known)}")
    if type(expires) is not datetime.date:
        raise t.error("expires", f"expected a date without a time, as in 2027-01-31; found {expires}")
