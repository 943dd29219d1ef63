"""Cells and the plan: which (model, target, precision) must be measured, by which kinds of check. Pure."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from parity.core.errors import ConfigError
from parity.core.record import ShardRecord

PRECISIONS = ("fp32", "fp16", "dynamic", "int8")
PROFILES = ("quick", "full", "nightly")

_MODEL_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


@dataclass(frozen=True, order=True)
class Cell:
    """One model in one target at one precision. Its id is the pytest id, anchor, folder, baseline and waiver key."""

    model: str
    target: str
    precision: str

    @property
    def id(self) -> str:
        return f"{self.model}-{self.target}-{self.precision}"

    def __str__(self) -> str:
        return self.id

    @classmethod
    def parse(cls, text: str, targets: Iterable[str]) -> Cell:
        """The cell of an id such as `skin-tflite-int8`. Raises ConfigError for anything else."""
        parts = text.split("-")
        if len(parts) != 3:
            raise ConfigError(f"{text!r} is not a cell: write model-target-precision, as in 'skin-tflite-int8'")
        check_model_name(parts[0], targets)
        choose("target", parts[1], targets)
        choose("precision", parts[2], PRECISIONS)
        return cls(*parts)


def check_model_name(name: str, targets: Iterable[str]) -> None:
    """Refuse names that would make a cell id ambiguous for `-k` or for a reader."""
    if not _MODEL_NAME.match(name):
        raise ConfigError(
            f"model name {name!r}: use lower-case letters, digits and underscores, starting with a letter"
        )
    for token in (*targets, *PRECISIONS):
        if token in name:
            raise ConfigError(
                f"model name {name!r} contains {token!r}, which would make -k {token} ambiguous: rename it"
            )


def model_name(text: str, targets: Iterable[str]) -> str:
    """A model name made of a file's or function's; `model` where that would not do."""
    name = re.sub(r"[^a-z0-9_]", "_", text.lower()).lstrip("_0123456789").rstrip("_") or "model"
    try:
        check_model_name(name, targets)
    except ConfigError:
        return "model"
    return name


def choose(what: str, value: str, known: Iterable[str]) -> str:
    """`value` when it is one of `known`; otherwise a ConfigError with a did-you-mean."""
    known = tuple(known)
    if value not in known:
        raise ConfigError(f"unknown {what} {value!r}{did_you_mean(value, known)}; known: {', '.join(known)}")
    return value


def did_you_mean(word: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


@dataclass(frozen=True)
class PlannedExecution:
    """A cell executed by something else than the host: by which kinds of check, and why it cannot run here."""

    executor: str
    kinds: tuple[str, ...]
    unavailable: str | None = None
    required: bool = False


@dataclass(frozen=True)
class PlannedCell:
    """A cell, the kinds of check that must be measured for it, and why it cannot run here, if it cannot."""

    cell: Cell
    kinds: tuple[str, ...]
    unavailable: str | None = None
    required: bool = False
    cases: int = 0  # golden cases that must be measured
    outputs: tuple[str, ...] = ()  # outputs that must be measured on each of them
    clips: int = 0  # video clips of which frames must be measured
    reference: str = ""  # the file that takes the PyTorch module's place, where one does
    executions: tuple[PlannedExecution, ...] = ()  # by executors beside the host


@dataclass(frozen=True)
class Plan:
    """What this run has to measure, in configuration order. `partial` says how the user narrowed it."""

    cells: tuple[PlannedCell, ...]
    partial: str | None = None
    part: ShardRecord | None = None  # set where this is one shard of a plan

    @cached_property
    def _by_id(self) -> dict[str, PlannedCell]:
        return {planned.cell.id: planned for planned in self.cells}

    @cached_property
    def kinds(self) -> frozenset[str]:
        """Every kind of check that a cell plans, on the host or elsewhere."""
        elsewhere = (execution.kinds for p in self.cells for execution in p.executions)
        return frozenset(kind for kinds in (*(p.kinds for p in self.cells), *elsewhere) for kind in kinds)

    def __iter__(self) -> Iterator[PlannedCell]:
        return iter(self.cells)

    def __getitem__(self, id: str) -> PlannedCell:
        return self._by_id[id]

    def __contains__(self, id: str) -> bool:
        return id in self._by_id

    def narrow(self, **chosen: tuple[str, ...]) -> Plan:
        """The plan kept to the chosen `models`, `targets` and `precisions`; each must occur in the plan."""
        cells, notes = self.cells, [self.partial] if self.partial else []
        for axis, values in chosen.items():
            if not values:
                continue
            attribute = axis.removesuffix("s")
            for value in values:
                choose(attribute, value, dict.fromkeys(getattr(p.cell, attribute) for p in self.cells))
            cells = tuple(p for p in cells if getattr(p.cell, attribute) in values)
            notes.append(f"{axis} {', '.join(values)}")
        if not cells:
            raise ConfigError(f"no cell of the plan has {'; '.join(notes)}")
        return replace(self, cells=cells, partial="; ".join(notes) or None)

    def narrow_executors(self, executors: tuple[str, ...]) -> Plan:
        """The plan kept to `executors`, full names of which each must occur in the plan; cells that are then executed
        by none are left out."""
        if not executors:
            return self
        planned = dict.fromkeys(("host", *(e.executor for p in self.cells for e in p.executions)))
        for executor in executors:
            choose("executor", executor, planned)
        cells = tuple(
            replace(
                planned_cell,
                kinds=planned_cell.kinds if "host" in executors else (),
                executions=tuple(e for e in planned_cell.executions if e.executor in executors),
            )
            for planned_cell in self.cells
        )
        cells = tuple(planned_cell for planned_cell in cells if planned_cell.kinds or planned_cell.executions)
        if cells == self.cells:
            return self
        note = f"executors {', '.join(executors)}"
        return replace(self, cells=cells, partial=f"{self.partial}; {note}" if self.partial else note)

    def assign(self, n: int, cost: Mapping[str, float] | None = None) -> dict[str, int]:
        """The part (from 1 to n) of every cell, parts of about equal cost (seconds by cell id)."""
        cost = cost or {}
        usual = sorted(cost.values())[len(cost) // 2] if cost else 1.0
        loads = [(0.0, k) for k in range(1, n + 1)]  # a heap: the least loaded part first
        part: dict[str, int] = {}
        for planned in sorted(self.cells, key=lambda p: (-cost.get(p.cell.id, usual), p.cell.id)):  # longest first
            load, least = heapq.heappop(loads)
            part[planned.cell.id] = least
            heapq.heappush(loads, (load + cost.get(planned.cell.id, usual), least))
        return part

    def shard(self, k: int, n: int, cost: Mapping[str, float] | None = None, configuration: str = "") -> Plan:
        """Part k of n (from 1): every cell in exactly one part, as `assign` says.

        `configuration` is the text that the plan was made from: parts of another one do not belong to this plan.
        """
        if not 1 <= k <= n:
            raise ConfigError(f"--parity-shard {k}/{n}: K must be from 1 to N")
        part = self.assign(n, cost)
        whole = repr((self.cells, sorted(part.items()), configuration))
        record = ShardRecord(
            part=k,
            parts=n,
            plan=hashlib.sha256(whole.encode("utf-8", "replace")).hexdigest(),
            cells=tuple(p.cell.id for p in self.cells),
            partial=self.partial,
        )
        mine = tuple(p for p in self.cells if part[p.cell.id] == k)
        note = f"shard {k}/{n}"
        return Plan(mine, f"{self.partial}; {note}" if self.partial else note, record)
