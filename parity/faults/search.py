"""The search behind a diagnosis: candidates chosen on a few cases, decided on all of them. In a child process only.

First a few cases in float32 choose candidates, then all cases in float64 decide. Single faults come first, then
families with their parameter fitted, then pairs; last what the file itself stores in the weights' places.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from parity.core.errors import ParityError
from parity.faults.base import Evidence, Fault, Row, Rows, Subject, Value
from parity.faults.bench import Bench, Inapplicable
from parity.faults.causes import OTHER_WEIGHTS, Cause, Diagnosis, Hypothesis, Stored
from parity.faults.extra import foreign
from parity.faults.fit import fitted
from parity.faults.library import SAME_INPUT
from parity.faults.trial import Broken, choices, put, ran, usual
from parity.faults.yardstick import Yardstick, distance
from parity.judging.answer import UNEXPLAINED
from parity.judging.floor import raw_floors
from parity.reference.dispatch import Ranges

SAMPLE = 8  # cases on which candidates are chosen
FEW = 4  # of them where twins are run for it: that takes ten times as long, and tells one from another ten times better
HOPELESS = 10.0  # times the limit: what is so far off on the sample is not decided on where another is within it
FINALISTS = 10  # candidates that all cases in float64 decide between
SPARE = 2  # numbers to explain beyond those that were fitted: one that is fitted meets one exactly, whatever it is
SHARE = 0.5  # of the squared error: what explains less is not worth a name, however small the rest
PAIR_SIGNAL = 5.0  # times the limit: pairs are many, and one always fits an error that is mostly noise
CASE_SLACK = 4.0  # times the limit on the worst case: its floor is that of the right model on that case
EQUAL = 0.05  # noise floors: hypotheses nearer to each other than this are one function, which no file can tell apart
TIE = 1.05  # residuals within this factor are equal: the simpler fault comes first


class Search:
    """One artefact and all hypotheses about it. `seconds` are the processor's: a busy machine finds what an idle one
    finds."""

    def __init__(
        self, on: Bench, artefact: Rows, twin: Rows, known: Sequence[Fault], limits: Mapping[str, float],
        flavour: str | None = None, seconds: float = 20.0, calibration: Sequence[Row] = (),
        stored: Stored | None = None,
    ):  # fmt: skip
        self.on, self.twin, self.known, self.limits = on, twin, list(known), limits
        self.flavour, self.calibration, self.stored = flavour, calibration, stored
        self.ranges: Ranges | None = {} if on.subject.precision == "int8" and calibration else None
        self.start, self.seconds = time.process_time(), seconds
        self.clean = on.clean()
        self.artefact, self.lost = _comparable(artefact, self.clean)
        self.evidence = Evidence(self.clean, self.artefact)
        self.tried = 0
        self.skipped: list[str] = []
        self.broken: dict[str, str] = {}
        self.kept: list[Hypothesis] = []  # tried on the sample, usable in pairs

    def diagnose(self) -> Diagnosis:
        if self.lost:
            return self._said("incomparable", self.lost)
        found = raw_floors(self.clean, self.twin, self.on.subject.precision, self.on.subject.contract.outputs)
        refused = next((f.reason for f in found.values() if f.reason), "")
        if refused or not found:
            return self._said("incomparable", refused or "no output holds real numbers")
        self.yardstick = Yardstick(found)
        self.without = self.yardstick.pooled(self.clean, self.artefact)
        if not self.yardstick.over(self.clean, self.artefact, self.limits):
            return self._said("sound", f"within the noise of its precision ({self.without:.2g}x the floor)")
        self.sample = self._sampled()
        causes = self._decided(self._singles())
        causes = causes or self._decided(self._families())
        if not causes and self.without > PAIR_SIGNAL * self.limits["pooled"]:
            causes = self._decided(self._pairs())
        if not causes and self.stored is not None:
            causes = self._decided(self._others(self.stored))
        if causes:
            return self._said("explained", str(causes[0]), tuple(causes))
        text = f"{UNEXPLAINED} ({self.without:.4g}x the noise floor)"
        text += f"; no time was left for: {', '.join(self.skipped)}" if self.skipped else ""
        return self._said("unexplained", text)

    def _said(self, state: str, sentence: str, causes: tuple[Cause, ...] = ()) -> Diagnosis:
        spent = round(time.process_time() - self.start, 3)
        broken = tuple(f"{name}: {why}" for name, why in self.broken.items())
        return Diagnosis(state, sentence, causes, self.tried, tuple(self.skipped), spent, broken)

    def _late(self, what: str) -> bool:
        """Whether the time is up; `what` is then noted as not searched."""
        late = time.process_time() - self.start > self.seconds
        if late and what not in self.skipped:
            self.skipped.append(what)
        return late

    # Choosing candidates on a sample.

    def _sampled(self) -> list[int]:
        """Some cases, evenly spread. The same for every artefact of a model, so that hypotheses are evaluated once."""
        last, count = len(self.clean) - 1, SAMPLE if self.ranges is None else FEW
        return sorted({round(k * last / (count - 1)) for k in range(count)})

    def _singles(self) -> list[Hypothesis]:
        """Every fault at its usual value."""
        found = []
        for fault in self.known:
            if not self._late("faults"):
                with self._telling(fault):
                    found.append(self._try((fault,), (usual(fault, self.on.subject),)))
        self.kept = [h for h in found if h is not None and h.rows]
        return self.kept

    def _families(self) -> list[Hypothesis]:
        """Every parameter fitted, every choice tried."""
        found: list[Hypothesis | None] = []
        for fault in (f for f in self.known if f.parameter is not None and f.name not in self.broken):
            if self._late("parameters"):
                break
            assert fault.parameter is not None
            with self._telling(fault):
                if fault.parameter.choices is not None:
                    for value in choices(fault, self.on.subject, self.evidence):
                        if value != usual(fault, self.on.subject) and not self._late("parameters"):
                            found.append(self._try((fault,), (value,)))
                elif any(h.faults == (fault,) for h in self.kept):
                    found.append(self._fit(fault))
        usable = [h for h in found if h is not None]
        self.kept += sorted(usable, key=lambda h: h.residual)[:20]
        return usable

    @contextlib.contextmanager
    def _telling(self, fault: Fault) -> Iterator[None]:
        """A fault that fails itself is noted and left out."""
        try:
            yield
        except Broken as error:
            self.broken[fault.name] = str(error)

    def _fit(self, fault: Fault) -> Hypothesis | None:
        assert fault.parameter is not None

        def cost(value: float, exact: bool = False) -> float:
            tried = self._try((fault,), (value,), exact)
            return tried.residual if tried else math.inf

        value = fitted(fault.parameter, cost, lambda v: cost(v, True))
        return self._try((fault,), (value,), True)

    def _pairs(self) -> list[Hypothesis]:
        """Partners of the best singles, and pairs whose effects add up to the error where each is small."""
        order = sorted(self.kept, key=lambda h: h.residual)
        chosen = [(a, b) for a, b in self._adding_up()[:16]]
        for best in order[:3]:
            chosen += [(best, other) for other in order if other.faults != best.faults]
        found, seen = [], set()
        for a, b in chosen:
            first, second = sorted((a, b), key=lambda h: ("input", "module", "output").index(h.faults[0].where))
            key = (first.faults[0].name, first.values, second.faults[0].name, second.values)
            if key in seen or self._late("pairs"):
                continue
            seen.add(key)
            found.append(self._try(first.faults + second.faults, first.values + second.values))
        return [h for h in found if h is not None]

    def _adding_up(self) -> list[tuple[Hypothesis, Hypothesis]]:
        """Pairs by how much of the sampled error is left when both effects are taken from it, the least first."""
        usable = [h for h in self.kept if math.isfinite(h.residual)]
        if len(usable) < 2:
            return []
        right = self._part(self.clean)
        error = self.yardstick.vector(right, self._part(self.artefact))
        effects = np.stack([self.yardstick.vector(right, h.rows) for h in usable])
        if not np.isfinite(error).all():
            return []
        products, squares = effects @ effects.T, np.square(effects).sum(1)
        toward = effects @ error
        left = squares[:, None] + squares[None] + 2 * products - 2 * (toward[:, None] + toward[None])
        rows, columns = np.triu_indices(len(usable), 1)
        order = np.argsort(left[rows, columns])[:64]
        return [(usable[rows[k]], usable[columns[k]]) for k in order]

    def _others(self, stored: Stored) -> list[Hypothesis]:
        """The weights that the file itself holds, where they are not the model's: nothing in them is fitted to the
        outputs. What names a reason for them is better, so they come last."""
        tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in stored.tensors.items()}
        fault = Fault(OTHER_WEIGHTS, stored.sentence, "weights", "module", lambda s: s.with_tensors(tensors))
        found = self._try((fault,), (None,))
        return [found] if found else []

    def _try(
        self, faults: tuple[Fault, ...], values: tuple[Value | None, ...], exact: bool = False
    ) -> Hypothesis | None:
        """The hypothesis on the sampled cases; None where it has no place in the model."""
        hypothesis = Hypothesis(faults, values, [])
        rows = self._evaluated(hypothesis, exact, sampled=True)
        if rows is None:
            return None
        self.tried += 1
        residual = self.yardstick.pooled(rows, self._part(self.artefact))
        if len(faults) == 1 and faults[0].where == "output":  # known on all cases: one of them may be the one
            whole = self._evaluated(hypothesis, exact=True, sampled=False)
            residual = self.yardstick.pooled(whole, self.artefact) if whole is not None else residual
        return replace(hypothesis, rows=rows, residual=residual)

    def _evaluated(self, hypothesis: Hypothesis, exact: bool, sampled: bool) -> Rows | None:
        """The hypothesis's outputs, from memory where a single fault was evaluated before; None where it has no place.

        What changes outputs over all cases is evaluated on all, and, where it needs no run of the model, exactly.
        """
        names = tuple(f.name for f in hypothesis.faults)
        key, passing = (names, hypothesis.values, exact, sampled), len(names) > 1 or names == (OTHER_WEIGHTS,)
        if passing or key not in self.on.memory:
            self.on.memory[key] = None
            with contextlib.suppress(Inapplicable):
                subject = self._subject(hypothesis)
                if subject is not None:
                    whole = bool(subject.after)
                    exact = exact or (whole and len(names) == 1)
                    rows = self._ran(hypothesis, subject, exact, self.sample if sampled and not whole else None)
                    right = self._part(self.clean) if sampled else self.clean
                    rows = self._part(rows) if sampled and whole else rows
                    self.on.memory[key] = rows if _alike(rows, right) else None
        return self.on.memory.pop(key) if passing else self.on.memory[key]

    def _subject(self, hypothesis: Hypothesis) -> Subject | None:
        subject: Subject | None = self.on.subject
        for fault, value in zip(hypothesis.faults, hypothesis.values, strict=True):
            subject = put(fault, subject, value) if subject is not None else None
        return subject

    def _ran(self, hypothesis: Hypothesis, subject: Subject, exact: bool, cases: list[int] | None) -> Rows:
        """The subject's outputs, checked where one of the faults is a project's own."""
        strange = next((f for f in hypothesis.faults if foreign(f.apply)), hypothesis.faults[0])
        clean = self._part(self.clean) if cases is not None else self.clean
        return ran(strange, lambda: self._run(subject, exact, cases), clean)

    def _run(self, subject: Subject, exact: bool, cases: list[int] | None) -> Rows:
        """As the reference computes them; at int8, where a fault stands before the file, as the twin does. The file's
        grids end where the calibration data did, at every operator, and what the fault drives beyond them is lost. A
        fault in the file is there already when its grids are made."""
        before = subject.inputs is not self.on.subject.inputs and not subject.tensors and not subject.patches
        if self.ranges is None or not before:
            return self.on.run(subject, exact, cases)
        chosen = range(len(subject.inputs)) if cases is None else cases
        try:
            rows = self.on.twin(subject, chosen, self.flavour, self.calibration, self.ranges)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise Inapplicable(f"the model does not run with it: {str(error).splitlines()[0]:.120}") from error
        for change in subject.after:
            rows = change(rows)
        return rows

    def _part(self, rows: Rows) -> Rows:
        return [rows[i] for i in self.sample]

    # Deciding on all cases.

    def _decided(self, candidates: Sequence[Hypothesis]) -> list[Cause]:
        """The candidates that explain the artefact, best first."""
        sampled = self.yardstick.pooled(self._part(self.clean), self._part(self.artefact))

        def promise(h: Hypothesis) -> float:
            whole = len(h.faults) == 1 and h.faults[0].where == "output"
            return _share(h.residual, self.without if whole else sampled)

        near = [
            h for h in sorted(candidates, key=promise, reverse=True)
            if promise(h) > 0.8 or (promise(h) > 0.1 and h.residual < 2 * self.limits["pooled"])
        ]  # fmt: skip
        limit = self.limits["pooled"]
        if any(h.residual <= limit for h in near):
            near = [h for h in near if h.residual <= HOPELESS * limit]
        found = []
        for rank, hypothesis in enumerate(near[:FINALISTS]):
            if rank >= 3 and self._late("finalists"):
                break
            cause = self._decide(hypothesis)
            if cause is not None:
                found.append((hypothesis, cause))
        if not found:
            return []
        least = min(cause.residual for _, cause in found)
        tied = [f for f in found if f[1].residual <= max(least * TIE, least + 0.02)]
        rest = [f for f in found if f not in tied]
        tied.sort(key=lambda f: f[0].complexity)
        rest.sort(key=lambda f: f[1].residual)
        return [replace(cause, same=self._same(h, found)) for h, cause in (*tied, *rest)]

    def _same(self, hypothesis: Hypothesis, found: Sequence[tuple[Hypothesis, Cause]]) -> tuple[str, ...]:
        """The other causes that are this one's function, by the reference's own outputs."""
        rows = self._function(hypothesis) if len(found) > 1 else None
        names = []
        for other, _ in found:
            theirs = self._function(other) if other.faults != hypothesis.faults else None
            if rows and theirs and self.one_function(rows, theirs, (*hypothesis.faults, *other.faults)):
                names.append(" + ".join(f.name for f in other.faults))
        return tuple(dict.fromkeys(names))

    def _function(self, hypothesis: Hypothesis) -> Rows | None:
        """The reference's own outputs, whatever a file makes of them."""
        if self.ranges is None:
            return self._evaluated(hypothesis, exact=True, sampled=False)
        subject = self._subject(hypothesis)
        with contextlib.suppress(Inapplicable):
            return self.on.run(subject) if subject is not None else None
        return None

    def one_function(self, rows: Rows, others: Rows, faults: Sequence[Fault]) -> bool:
        """Whether two hypotheses are too near to each other for any file to tell them apart. What acts on pictures is
        computed from them again, in float32."""
        drawn = any(f.where == "input" for f in faults)
        return self.yardstick.pooled(rows, others) < EQUAL or (drawn and distance(rows, others) < SAME_INPUT)

    def _decide(self, hypothesis: Hypothesis) -> Cause | None:
        subject = self._subject(hypothesis)
        rows = self._evaluated(hypothesis, exact=True, sampled=False)
        if subject is None or rows is None:
            return None
        residual, own = self.yardstick.pooled(rows, self.artefact), 1.0
        share = _share(residual, self.without)
        if not share >= SHARE or self._numbers() < hypothesis.fitted(self.on.subject) + SPARE:
            return None
        if self.yardstick.over(rows, self.artefact, self.limits):
            loose = {**self.limits, "worst": CASE_SLACK * self.limits.get("worst", math.inf)}
            for cases in (self.sample, range(len(rows))):  # what rounds falls to the other side in few cases, if in any
                own = self._own_floor(subject, rows, cases)
                near = not self.yardstick.over(rows, self.artefact, loose, own)
                if near or self._late("finalists"):
                    break
            if not near:
                return None
        sentence = " and ".join(f.say(v) for f, v in zip(hypothesis.faults, hypothesis.values, strict=True))
        names = tuple(f.name for f in hypothesis.faults)
        return Cause(names, hypothesis.values, sentence, share, residual / own, self.without)

    def _numbers(self) -> int:
        """How many numbers there are to explain."""
        return sum(row[name].size for row in self.artefact for name in self.yardstick.units)

    def _own_floor(self, subject: Subject, rows: Rows, cases: Sequence[int]) -> float:
        """How many times the floor its precision costs the faulty model, on some cases: larger values make larger
        noise."""
        try:
            noisy = self.on.twin(subject, cases, self.flavour, self.calibration)
        except (RuntimeError, ParityError):
            return 1.0
        if subject.after:
            exact = [dict(row) for row in self.twin]
            for i, row in zip(cases, noisy, strict=True):
                exact[i] = row
            for change in subject.after:
                exact = change(exact)
            noisy = [exact[i] for i in cases]
        cost = self.yardstick.pooled([rows[i] for i in cases], noisy)
        usual = self.yardstick.pooled([self.clean[i] for i in cases], [self.twin[i] for i in cases])
        return max(1.0, cost / max(usual, 1.0)) if math.isfinite(cost) else 1.0


def _share(residual: float, before: float) -> float:
    """Share of the squared error that is explained; where nothing could be measured before, all of it."""
    if not math.isfinite(residual):
        return -math.inf
    return 1.0 if not math.isfinite(before) else 1 - (residual / before) ** 2 if before else 0.0


def _alike(rows: Rows, clean: Rows) -> bool:
    return all(row[k].shape == right[k].shape for row, right in zip(rows, clean, strict=True) for k in right)


def _comparable(artefact: Rows, clean: Rows) -> tuple[Rows, str]:
    """The artefact's outputs in float64, and why they cannot be compared, if so."""
    if len(artefact) != len(clean):
        return [], f"{len(clean)} cases were asked for and {len(artefact)} came back"
    for row, right in zip(artefact, clean, strict=True):
        for name, want in right.items():
            if name not in row:
                return [], f"the artefact does not give the output {name!r}"
            if row[name].shape != want.shape:
                return [], f"{name}: shape {list(row[name].shape)}, the oracle's is {list(want.shape)}"
    return [{k: np.asarray(row[k], np.float64) if v.dtype.kind == "f" else row[k] for k, v in right.items()}
            for row, right in zip(artefact, clean, strict=True)], ""  # fmt: skip
