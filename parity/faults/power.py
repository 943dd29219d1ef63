"""Would the gate notice? Every fault behind a cell's precision, judged under the very limits in force.

Pure: from outputs to a report, with no torch. `parity.faults.measure` makes the outputs, one fault at a time, and feeds
them to one `Tally` a cell.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from parity.core.contract import Contract
from parity.core.errors import ParityError
from parity.core.exhibits import FaultFate
from parity.core.record import Check, Power
from parity.faults.base import Fault, FileFault, Rows, Value
from parity.judging.check_cases import Limits, arrays_of, check_cases, check_labels
from parity.judging.compare import METRICS
from parity.judging.floor import floors
from parity.judging.gate import passes
from parity.judging.judge import fact
from parity.judging.limits import NOISE, fallback
from parity.judging.post_processing import PostProcessed, post_process, post_process_all

TELLING = (*NOISE, "rel_rms", "max_abs", "cosine")
"""The metrics in which a limit is proposed: those that move with any change, unlike decisions."""
APART = 1.5
"""How much worse than noise a fault's figure must be for a limit between them to hold for correct files."""

BROKEN = "it could not be injected"
FIRST = 4
"""Cases, spread over all, that a fault is judged on first: most need no more."""


@dataclass(frozen=True)
class Survivor:
    """A fault that no check noticed, or a benign change that one did; with the figure that tells it best from noise.

    `value` is that metric's worst under the fault and `noise` under the precision alone; `would_catch` is a limit
    between them, or None where every metric hides the fault in the noise.
    """

    fault: str
    sentence: str
    metric: str
    value: float | None
    noise: float | None
    limit: float | None
    would_catch: float | None
    note: str = ""  # said instead of figures: the fault failed itself, or no figure raised the alarm
    proof: str = ""  # why the chain of proof does not show it, where that was asked

    def __str__(self) -> str:
        if self.note:
            return f"{self.fault}: {self.sentence}; {self.note}"
        now = "no limit is set" if self.limit is None else f"the limit is {self.limit:.4g}"
        found = "hidden in the noise of this precision on these inputs"
        if self.would_catch is not None:
            found = f"{self.metric} {self.value:.4g}, {now}, {self.would_catch:.4g} would catch it"
        return "; ".join(part for part in (f"{self.fault}: {self.sentence}", found, self.proof) if part)


@dataclass(frozen=True)
class CellPower:
    """How much of the library the gate of one cell notices.

    `killed_by` counts, for each metric, the faults that broke it. `cover` are the cases that catch, in that order, all
    that any case catches; `spare_cases` add nothing to them, `idle_cases` catch nothing of what they were tried on: a
    fault that the first few notice is tried on no other. `loose` are metrics with a limit that no fault's figure
    reached: what is not finite breaks every limit, and shows none to be tight.
    """

    cell: str
    precision: str
    injected: int
    killed: int
    equivalent: tuple[str, ...]
    inapplicable: int
    survivors: tuple[Survivor, ...]
    false_alarms: tuple[Survivor, ...]
    killed_by: Mapping[str, int]
    killed_by_kind: Mapping[str, int]
    cover: tuple[str, ...]
    spare_cases: tuple[str, ...]
    idle_cases: tuple[str, ...]
    loose: tuple[str, ...]
    faults: Mapping[str, str] = field(default_factory=dict)  # every applicable fault -> "killed" or "survived"
    sentences: Mapping[str, str] = field(default_factory=dict)  # what each of them is
    absent: tuple[str, ...] = ()  # faults that the model has no place for

    @property
    def share(self) -> float:
        """Of the faults that change this model, the share that the gate notices; 1.0 where there is none to notice."""
        return self.killed / self.injected if self.injected else 1.0

    def joined(self, other: CellPower) -> CellPower:
        """The same cell's power over two sets of faults. Cases are told by the first set alone."""
        return replace(
            self, injected=self.injected + other.injected, killed=self.killed + other.killed,
            equivalent=self.equivalent + other.equivalent, inapplicable=self.inapplicable + other.inapplicable,
            survivors=self.survivors + other.survivors, false_alarms=self.false_alarms + other.false_alarms,
            killed_by=Counter(self.killed_by) + Counter(other.killed_by),
            killed_by_kind=Counter(self.killed_by_kind) + Counter(other.killed_by_kind),
            loose=tuple(m for m in self.loose if m in other.loose or not other.injected),
            faults={**self.faults, **other.faults},
            sentences={**self.sentences, **other.sentences}, absent=self.absent + other.absent,
        )  # fmt: skip

    def summary(self) -> Power:
        """What the record of a cell holds."""
        words = {**self.sentences, **{s.fault: str(s).removeprefix(f"{s.fault}: ") for s in self.survivors}}
        fates = [FaultFate(f, "survived", words[f]) for f, fate in self.faults.items() if fate == "survived"]
        fates += [FaultFate(f, "noticed", words.get(f, "")) for f, fate in self.faults.items() if fate == "killed"]
        fates += [FaultFate(f, "equivalent", words.get(f, "")) for f in self.equivalent]
        fates += [FaultFate(f, "not applicable", words.get(f, "")) for f in self.absent]
        survivors = tuple(s.fault for s in self.survivors)
        return Power(
            self.injected, self.killed, survivors, len(self.equivalent), tuple(fates), dict(self.killed_by_kind),
            tuple(str(s) for s in self.false_alarms), (*self.spare_cases, *self.idle_cases), self.loose,
        )  # fmt: skip

    def __str__(self) -> str:
        text = f"{self.cell}: {self.killed} of {self.injected} faults noticed ({self.share:.0%})"
        text += f", {len(self.equivalent)} change nothing here" if self.equivalent else ""
        return text + (f", {len(self.false_alarms)} benign changes raise an alarm" if self.false_alarms else "")


class Gate:
    """The limits of one cell, applied to whole sets of outputs by the judge that the suite calls."""

    def __init__(
        self,
        contract: Contract,
        ids: Sequence[str],
        oracle: Rows,
        twin: Rows | None,
        precision: str,
        limits: Limits,
        labels: Sequence[int | None] = (),
    ):
        """`oracle` and `twin` hold outputs as they were computed, one row a case; a model may have no twin. `limits`:
        for each output, the limits in force by metric; noise ratios included."""
        self.contract, self.ids, self.limits = contract, list(ids), limits
        self.labels = list(labels) or [None] * len(self.ids)
        self.fallback = fallback(precision)
        specs = contract.outputs
        self.oracle = [post_process(specs, row) for row in oracle]
        self.floors = {}
        self.alternatives: list[list[PostProcessed]] = []
        if twin is not None:
            self.alternatives = [post_process_all(specs, twin, self.oracle)]
            self.floors = floors(self.oracle, self.alternatives[0], precision, specs)

    def widen(self, rows: Rows) -> None:
        """Let no floor be less than that of `rows`, which are as right as the twin's: one a case, as computed."""
        processed = post_process_all(self.contract.outputs, rows, self.oracle)
        self.floors = {name: f.at_least(arrays_of(name, processed)) for name, f in self.floors.items()}

    def part(self, chosen: Sequence[int]) -> Gate:
        """The same gate on some of its cases. What the precision costs is still what it costs on all of them."""
        part = copy.copy(self)
        part.ids, part.oracle = [self.ids[i] for i in chosen], [self.oracle[i] for i in chosen]
        part.labels = [self.labels[i] for i in chosen]
        part.alternatives = [[rows[i] for i in chosen] for rows in self.alternatives]
        part.floors = {
            name: replace(
                f, by_case=tuple(f.by_case[i] for i in chosen), want=tuple(f.want[i] for i in chosen),
                twin=tuple(f.twin[i] for i in chosen),
            ) for name, f in self.floors.items()
        }  # fmt: skip
        return part

    def checks(self, rows: Rows) -> list[Check]:
        """Every check that golden and accuracy make of these outputs, one row a case.

        Outputs that cannot be judged at all end a test of the suite with an error: here they are one broken check.
        """
        specs = self.contract.outputs
        try:
            judged = check_cases(
                "golden",
                specs,
                self.ids,
                rows,
                self.oracle,
                self.floors,
                self.limits,
                self.fallback,
                alternatives=self.alternatives,
            )
        except ParityError as error:
            return [fact(self.ids[0], "", "comparable", False, str(error), "golden")]
        return [*judged.checks, *check_labels(specs, self.labels, judged.outputs, self.oracle, self.limits)]


class Tally:
    """Counts what one cell's gate notices, fault by fault."""

    def __init__(self, cell: str, precision: str, gate: Gate, usual: Rows):
        """`usual`: what a right file of the cell gives, as far as is known: the twin's outputs, or the oracle's."""
        self.cell, self.precision, self.gate = cell, precision, gate
        checks = gate.checks(usual)
        self._noise = worst(checks)
        self._limits = {c.metric: c.limit for c in checks if c.limit is not None}
        self._killed_by: Counter[str] = Counter()
        self._reached: set[str] = set()  # metrics that some fault broke by a figure, and not by having none
        self._kinds: Counter[str] = Counter()
        self._by_case: dict[str, set[str]] = {id: set() for id in gate.ids}
        self._survivors: list[Survivor] = []
        self._alarms: list[Survivor] = []
        self._equivalent: list[str] = []
        self._absent: list[str] = []
        self._sentences: dict[str, str] = {}
        self._fates: dict[str, str] = {}

    def without(self, fault: Fault | FileFault, state: str) -> None:
        """Note a fault that has no place in the model, or changes nothing in it."""
        self._sentences[fault.name] = fault.sentence
        if state == "equivalent":
            self._equivalent.append(fault.name)
        elif not fault.benign:
            self._absent.append(fault.name)

    def broke(self, fault: Fault | FileFault, reason: str) -> None:
        """Note a fault that failed itself. Nothing has shown that it would be noticed, so it counts as not noticed."""
        lost = Survivor(fault.name, fault.sentence, "", None, None, None, None, f"{BROKEN}: {reason}")
        self._sentences[fault.name] = fault.sentence
        if fault.benign:
            self._alarms.append(lost)
        else:
            self._fates[fault.name] = "survived"
            self._survivors.append(lost)

    def notices(self, fault: Fault | FileFault, value: Value | None, rows: Rows, chosen: Sequence[int]) -> bool:
        """Whether a check of one of the chosen cases breaks, as it then does among all cases; if so, it is counted."""
        checks = self.gate.part(chosen).checks(rows)
        if not any(not passes(c) and c.case in self._by_case for c in checks):
            return False
        self.judge(fault, value, checks)
        return True

    def add(self, fault: Fault | FileFault, value: Value | None, rows: Rows) -> None:
        """Judge the outputs of an artefact with this fault."""
        self.judge(fault, value, self.gate.checks(rows))

    def judge(
        self, fault: Fault | FileFault, value: Value | None, checks: Sequence[Check], kind: str = "", said: str = ""
    ) -> None:
        """Count a fault by the checks that were made of it. `kind` is one that noticed it beside them, as `said`."""
        broken = [c for c in checks if not passes(c)]
        noticed = bool(broken or kind)
        if fault.benign:
            self._alarms += [self._survivor(fault, value, broken, said)] if noticed else []
            return
        self._fates[fault.name] = "killed" if noticed else "survived"
        self._sentences[fault.name] = fault.say(value)
        if not noticed:
            self._survivors.append(self._survivor(fault, value, checks))
        self._killed_by.update({c.metric for c in broken})
        self._reached |= {c.metric for c in broken if c.value is not None}
        self._kinds.update({c.kind for c in broken} | ({kind} if kind else set()))
        for check in broken:
            if check.case in self._by_case:
                self._by_case[check.case].add(fault.name)

    def _survivor(
        self, fault: Fault | FileFault, value: Value | None, checks: Sequence[Check], said: str = ""
    ) -> Survivor:
        """The metric in which these checks stand out most from the noise of the precision."""
        figures = worst(checks)
        apart = {m: _apart(m, figures[m], self._noise.get(m)) for m in TELLING if m in figures}
        metric = max(apart, key=lambda m: apart[m], default="")
        found, noise = figures.get(metric), self._noise.get(metric)
        catch = between(metric, noise, found) if metric and apart[metric] > APART else None
        return Survivor(fault.name, fault.say(value), metric, found, noise, self._limits.get(metric), catch,
                        said)  # fmt: skip

    def result(self) -> CellPower:
        cover = _cover(self._by_case)
        loose = sorted(set(self._limits) - self._reached)
        return CellPower(
            self.cell, self.precision, len(self._fates), sum(f == "killed" for f in self._fates.values()),
            tuple(self._equivalent), len(self._absent), tuple(self._survivors), tuple(self._alarms),
            dict(self._killed_by.most_common()), dict(self._kinds), cover,
            tuple(id for id, caught in self._by_case.items() if caught and id not in cover),
            tuple(id for id, caught in self._by_case.items() if not caught), tuple(loose), self._fates,
            self._sentences, tuple(self._absent),
        )  # fmt: skip


def worst(checks: Sequence[Check]) -> dict[str, float]:
    """For each metric its worst value over all outputs and cases; infinite where one has no finite value."""
    found: dict[str, float] = {}
    for check in checks:
        value = math.inf if check.value is None else badness(check.metric, check.value)
        found[check.metric] = max(found.get(check.metric, 0.0), value)
    return {m: figure(m, b) for m, b in found.items()}


def badness(metric: str, value: float) -> float:
    """A figure as an amplitude that is 0 at best: the error itself, 1 - score, or decibels as a ratio of amplitudes.

    1 - cosine grows with the square of the error, so its root is taken.
    """
    known = METRICS.get(metric)
    if known is None or not known.compared or known.sense == "max":
        return abs(value)
    if metric == "cosine":
        return math.sqrt(max(0.0, 1 - value))
    return 10 ** (-value / 20) if known.unit == "dB" else max(0.0, 1 - value)


def figure(metric: str, bad: float) -> float:
    """The inverse of `badness`."""
    known = METRICS.get(metric)
    if known is None or not known.compared or known.sense == "max":
        return bad
    if metric == "cosine":
        return 1 - bad * bad
    if known.unit == "dB":
        return -20 * math.log10(bad) if 0 < bad < math.inf else math.copysign(400.0, 0.5 - bad)
    return 1 - bad


def _apart(metric: str, value: float, noise: float | None) -> float:
    """How many times worse than noise a figure is."""
    bad, floor = badness(metric, value), badness(metric, noise) if noise is not None else 0.0
    if not math.isfinite(bad):
        return math.inf
    return bad / floor if floor > 0 else math.inf if bad > 1e-6 else 0.0


def between(metric: str, noise: float | None, value: float | None) -> float | None:
    """A limit as far above the noise as it is below the fault's figure."""
    if value is None or not math.isfinite(value):
        return None
    low, high = badness(metric, noise) if noise is not None else 0.0, badness(metric, value)
    return figure(metric, math.sqrt(low * high) if low > 0 else high / 2)


def _cover(by_case: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Cases that together catch all that any catches: each time the one that adds most, the first of equals."""
    left = set().union(*by_case.values()) if by_case else set()
    chosen: list[str] = []
    while left:
        best = max(by_case, key=lambda id: len(by_case[id] & left))
        chosen.append(best)
        left -= by_case[best]
    return tuple(chosen)
