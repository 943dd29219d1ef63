"""The `parity` fixture's object: collects checks while a test runs, and judges when it is over. Knows no pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from parity.core.case import OVER_ALL
from parity.core.errors import ParityError
from parity.core.executors import HOST
from parity.core.kinds import Kind
from parity.core.plan import Cell
from parity.core.record import Check, Finding, build, plain
from parity.core.settings import Rule, Waiver
from parity.core.visible import visible
from parity.core.words import plural
from parity.judging import executions, tails
from parity.judging.answer import describe, excess, figure
from parity.judging.compare import METRICS, compare
from parity.judging.gate import SET_BY_TEST, excuses, passes
from parity.judging.limits import Limit, resolve

MOST = 20  # lines of a failing test about its metrics


class Recorder:
    """Collects the checks of one test of one cell. All are recorded; a broken one fails the test when it ends."""

    def __init__(
        self,
        cell: Cell | None,
        kind: Kind,
        rules: Iterable[Rule] = (),
        waivers: Iterable[Waiver] = (),
        proved: Callable[[], bool] | None = None,
        decides: Callable[[], Mapping[str, Any]] | None = None,
        unaudited: Callable[[], Mapping[str, int]] | None = None,
        executor: str = HOST,
    ):
        """`proved` says whether the chain of proof of the cell's file is complete. It is asked where nothing but
        figures of the tail is broken, by whatever test that happens in: tests may run in any order and process.
        `decides` gives what the same chain read of what file and module decide by (`session.proof.decides`);
        `unaudited` the inputs that choose rows of tables which it could not audit, with the number of rows."""
        self.cell, self.kind, self.executor = cell, kind, executor
        self._proved, self._decides, self._unaudited = proved, decides, unaudited
        self._rules = tuple(rules)
        self._waivers = tuple(waivers)  # those in force for this cell
        self.checks: list[Check] = []
        self.findings: list[Finding] = []
        self.explained: list[str] = []
        self.notes: list[str] = []  # what else a person should read when the test fails
        self.finished = False  # whether the test's body ran to its end
        self.details: dict[str, Any] = {}  # route, artifact, runtime: what the record says of the cell

    def limits(self, output: str | None = None) -> Mapping[str, Limit]:
        """The limits in force for an output of this test's cell, by metric."""
        if self.cell is None:
            raise ParityError("this test has no cell: request the parity_cell fixture beside parity")
        return resolve(self._rules, self.cell, output)

    def add(self, *checks: Check) -> None:
        """Record checks as they are. Raises ParityError for one that no record could hold.

        Of another executor than the host a limit that nobody set is not recorded: it was measured on hosts. What is
        beyond it is told.
        """
        for check in checks:
            build(Check, plain(check), "check")
        if self.executor == HOST:
            self.checks += checks
            return
        for text in _beyond_the_limits_of_hosts(self.executor, checks):
            self.find(text, "warning")
        self.checks += map(executions.without_borrowed_limit, checks)

    def find(self, text: str, level: str = "note") -> None:
        """Note something that a person should know and that does not gate."""
        self.findings.append(build(Finding, {"text": text, "level": level}, "finding"))

    def explain(self, text: str) -> None:
        """Say why this test fails, in words: in its message, and in the report."""
        self.explained.append(text)
        self.find(f"why: {text}", "warning")

    def check(
        self,
        output: str,
        got: Any,
        want: Any,
        *,
        metric: str | None = None,
        at_most: float | None = None,
        at_least: float | None = None,
        case: str = "case",
        **limits: Any,
    ) -> bool:
        """Compare `got` with `want` and record it: under one `metric` with `at_most` or `at_least`, or under
        `limits` by metric name, or, with neither, under the configured limits of this cell and output.

        Returns whether it held; the test goes on either way, and fails at its end if anything did not.

            parity.check("mask", got, want, metric="iou", at_least=0.98)
            parity.check("logits", got, want, cosine=0.999, max_abs=1e-3, case="hand_07")
        """
        if self.cell is None:
            raise ParityError("parity.check needs a cell: request the parity_cell fixture in this test too")
        sources: dict[str, str] = {}
        if metric is not None:
            if (at_most is None) == (at_least is None):
                raise ParityError(f"parity.check(metric={metric!r}) needs at_most or at_least, one of them")
            bound = at_most if at_most is not None else at_least
            assert bound is not None
            if metric in METRICS and (METRICS[metric].sense == "max") != (at_most is not None):
                word = "at_most" if METRICS[metric].sense == "max" else "at_least"
                raise ParityError(f"parity.check: {metric} is limited with {word}")
            limits[metric] = bound
        elif not limits:
            found = {
                n: lim
                for n, lim in self.limits(output).items()
                if n in METRICS and METRICS[n].compared and lim.value is not None
            }
            limits = {n: lim.value for n, lim in found.items()}
            sources = {n: lim.source for n, lim in found.items()}
            if not limits:
                raise ParityError(f"parity.check({output!r}): no limit is configured; pass one, as in cosine=0.99")
        result = compare(got, want, **limits)
        for c in result.checks:
            value = c.value if np.isfinite(c.value) else None
            detail = result.error or result.mismatch
            if not detail and result.worst:
                detail = (
                    f"worst at {list(result.worst.index)}: got {result.worst.got:.6g}, want {result.worst.want:.6g}"
                )
            self.add(
                Check(self.kind, case, output, c.metric, value, c.limit, c.sense, c.passed,
                      nonfinite=result.nonfinite.refused, source=sources.get(c.metric, SET_BY_TEST), detail=detail)
            )  # fmt: skip
        return bool(result)

    def broken(self) -> list[Check]:
        return [c for c in self.checks if not passes(c)]

    def proved(self) -> bool:
        """Whether the chain of proof of the cell's file is complete."""
        return self._proved is not None and self._proved()

    def decides(self) -> Mapping[str, Any]:
        """What file and module decide by, as the chain of proof read it; empty where nothing did."""
        return self._decides() if self._decides is not None else {}

    def unaudited(self) -> Mapping[str, int]:
        """The inputs that choose rows of tables which the chain of proof could not audit, with the number of rows."""
        return self._unaudited() if self._unaudited is not None else {}

    def refused(self) -> list[Check]:
        """The broken checks that fail the test: no waiver covers them, and they are no figures of the tail of a file
        that is proved."""
        broken = [c for c in self.broken() if not any(excuses(w, c) for w in self._waivers)]
        warned = tails.warning(broken, self.checks)
        if not broken or len(warned) < len(broken):
            return broken
        return [] if self.proved() else broken

    def verdict(self, because: str = "") -> str:
        """Why the test that used this recorder fails, one line for each metric that broke; empty when it passes.

        The first line begins with the cause, `because`, where tests of the cell have seen it. No check against a
        limit is a failure too: a test that measured nothing proved nothing.
        """
        if self.executor != HOST and not any(c.value is not None or c.nonfinite for c in self.checks):
            return "nothing was measured"
        if self.executor == HOST and not any(c.limit is not None or c.undecided is not None for c in self.checks):
            return "no check was recorded against a limit, so nothing was proved"
        broken = self.refused()
        if not broken:
            return ""
        metrics = self._by_metric(broken)
        lines = [describe(broken, because), f"  {self._count(broken)}"]
        lines += [f"  why: {text}" for text in self.explained]
        lines += [f"  {line}" for line in metrics[:MOST]]
        if len(metrics) > MOST:
            lines.append(f"  and {len(metrics) - MOST} more metrics, in the report")
        return "\n".join([*map(visible, lines), *(visible(note, lines=True) for note in self.notes)])

    def brief(self) -> list[str]:
        """What a test that fails adds to the other failing tests of its cell: one line on its checks, then its notes.

        Empty where none of its checks is broken.
        """
        broken = self.refused()
        if not broken:
            return []
        worst = f"why: {self.explained[0]}" if self.explained else self._by_metric(broken)[0]
        return [visible(f"{self._count(broken)}; {worst}"), *(visible(note, lines=True) for note in self.notes)]

    def _count(self, broken: Sequence[Check]) -> str:
        return f"{len(broken)} of {plural(len(self.checks), 'check')} broken"

    def _by_metric(self, broken: Sequence[Check]) -> list[str]:
        """A line for each output's metric, the worst first."""
        by_metric: dict[tuple[str, str], list[Check]] = {}
        for c in sorted(broken, key=excess, reverse=True):
            by_metric.setdefault((c.output, c.metric), []).append(c)
        lines = []
        for (output, metric), checks in by_metric.items():
            cases = len({c.case for c in self.checks if (c.output, c.metric) == (output, metric)})
            lines.append(f"{f'{output} {metric}'.strip()}: {_told(checks, cases)}")
        return lines

    def export(self) -> dict[str, Any]:
        """Everything recorded, as JSON builtins."""
        return {
            "checks": [plain(c) for c in self.checks],
            "findings": [plain(f) for f in self.findings],
            "details": plain(self.details),
            "finished": self.finished,
        }


def _beyond_the_limits_of_hosts(executor: str, checks: Iterable[Check]) -> list[str]:
    """A sentence for each output with figures beyond limits that nobody set: the worst of all cases together, where
    one of those is, else of a case."""
    by_output: dict[str, list[Check]] = {}
    for check in checks:
        if executions.is_borrowed(check) and check.value is not None and not passes(check):
            by_output.setdefault(check.output, []).append(check)
    sentences = []
    for output, beyond in by_output.items():
        worst = max(beyond, key=lambda c: (c.metric == "noise_ratio", c.case == OVER_ALL, excess(c)))
        metrics = len({check.metric for check in beyond}) - 1
        more = f" and {plural(metrics, 'more figure')}" if metrics else ""
        sentences.append(
            f"{output}: {worst.metric} {figure(worst)} (case {worst.case}){more} beyond the limits of hosts: told and "
            f"not gated, since none is measured on {executor} yet"
        )
    return sentences


def _told(broken: Sequence[Check], cases: int) -> str:
    """The broken checks of one metric, the worst first: its figure and place, who set the limit, which cases else."""
    worst, *others = broken
    text = f"{figure(worst)} in {worst.case or 'its only case'}"
    text += f"; {worst.detail}" if worst.detail else ""
    text += f"; limit from {worst.source}" if worst.source else ""
    if others:
        more = f" and {len(others) - 2} more" if len(others) > 2 else ""
        text += f"; {len(broken)} of {cases} cases, also {', '.join(c.case for c in others[:2])}{more}"
    return text
