"""Cells and the plan: which (model, target, precision) must be measured, by which kinds of check. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from parity.errors import ConfigError

TARGETS = ("onnx", "tflite", "coreml", "coreml_nn", "ncnn", "torchscript", "exported")
PRECISIONS = ("fp32", "fp16", "dynamic", "int8")
PROVED = ("onnx", "tflite")  # targets whose files the chain of proof can read
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
    def parse(cls, text: str, targets: Iterable[str] = TARGETS) -> Cell:
        """The cell of an id such as `skin-tflite-int8`. Raises ConfigError for anything else."""
        parts = text.split("-")
        if len(parts) != 3:
            raise ConfigError(f"{text!r} is not a cell: write model-target-precision, as in 'skin-tflite-int8'")
        check_model_name(parts[0], targets)
        choose("target", parts[1], targets)
        choose("precision", parts[2], PRECISIONS)
        return cls(*parts)


def check_model_name(name: str, targets: Iterable[str] = TARGETS) -> None:
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
class PlannedCell:
    """A cell, the kinds of check that must be measured for it, and why it cannot run here, if it cannot."""

    cell: Cell
    kinds: tuple[str, ...]
    unavailable: str | None = None
    required: bool = False
    cases: int = 0  # golden cases that must be measured
    outputs: tuple[str, ...] = ()  # outputs that must be measured on each of them
    clips: int = 0  # video clips of which frames must be measured


@dataclass(frozen=True)
class Plan:
    """What this run has to measure, in configuration order. `partial` says how the user narrowed it."""

    cells: tuple[PlannedCell, ...]
    partial: str | None = None

    def __getitem__(self, id: str) -> PlannedCell:
        for planned in self.cells:
            if planned.cell.id == id:
                return planned
        raise KeyError(id)

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

    def shard(self, k: int, n: int, cost: Mapping[str, float] | None = None) -> Plan:
        """Part k of n (from 1): every cell in exactly one part, parts of about equal cost (seconds by cell id)."""
        if not 1 <= k <= n:
            raise ConfigError(f"--parity-shard {k}/{n}: K must be from 1 to N")
        cost = cost or {}
        usual = sorted(cost.values())[len(cost) // 2] if cost else 1.0
        load = [0.0] * n
        part: dict[str, int] = {}
        by_cost = sorted(self.cells, key=lambda p: (-cost.get(p.cell.id, usual), p.cell.id))
        for planned in by_cost:  # longest first, always to the least loaded part
            least = min(range(n), key=lambda i: (load[i], i))
            part[planned.cell.id] = least
            load[least] += cost.get(planned.cell.id, usual)
        mine = tuple(p for p in self.cells if part[p.cell.id] == k - 1)
        note = f"shard {k}/{n}"
        return replace(self, cells=mine, partial=f"{self.partial}; {note}" if self.partial else note)
