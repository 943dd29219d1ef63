"""Ask every checker every case it can answer, and tell who passes what."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from . import arrays, limits, records, runs
from .protocol import Case, Checker, File, Limited, Loss, NotApplicable, Pair, Saved

try:
    from . import files
except ImportError:  # onnx writes the files; the other families need NumPy alone
    FILES: tuple[File, ...] = ()
else:
    FILES = (*files.CASES, *files.HONEST)

FAMILIES: Mapping[str, tuple[Case, ...]] = {
    "arrays": (*arrays.CASES, *arrays.HONEST),
    "limits": (*limits.CASES, *limits.HONEST),
    "files": FILES,
    "runs": (*runs.CASES, *runs.HONEST),
    "runs of their own": runs.ALONE,
    "records": (*records.CASES, *records.HONEST),
}


@dataclass
class Answers:
    """What one checker said: True for pass, False for anything else, by case; what it was not asked is not there."""

    name: str
    said: dict[str, bool] = field(default_factory=dict)

    def wrong(self, cases: Iterable[Case]) -> list[str]:
        """Cases that it passes and should not."""
        return [c.id for c in cases if not c.honest and self.said.get(c.id)]

    def refused(self, cases: Iterable[Case]) -> list[str]:
        """Honest cases that it does not pass."""
        return [c.id for c in cases if c.honest and self.said.get(c.id) is False]

    def asked(self, cases: Iterable[Case]) -> int:
        return sum(c.id in self.said for c in cases if not c.honest)


def ask(checker: Checker, families: Sequence[str] = tuple(FAMILIES)) -> Answers:
    """Every case of the families that the checker can answer. An exception other than NotApplicable is no pass."""
    answers = Answers(checker.name)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for family in families:
            cases = FAMILIES[family]
            whole = {"files": checker.files, "runs": checker.runs, "runs of their own": checker.runs}.get(family)
            if whole is not None:
                with contextlib.suppress(NotApplicable):
                    passed = whole(cases)  # type: ignore[arg-type]
                    answers.said |= {case.id: case.id in passed for case in cases}
                continue
            for case in cases:
                with contextlib.suppress(NotApplicable):
                    answers.said[case.id] = _one(checker, case)
    return answers


def _one(checker: Checker, case: Case) -> bool:
    try:
        if isinstance(case, Pair):
            return bool(checker.pair(case))
        if isinstance(case, Limited):
            return bool(checker.limited(case))
        assert isinstance(case, Saved) and not isinstance(case, (File, Loss))
        return bool(checker.saved(case))
    except NotApplicable:
        raise
    except Exception:
        return False


def made(makers: Iterable[Callable[[], Checker]]) -> tuple[list[Checker], list[str]]:
    """The checkers that can be had here, and why the others cannot."""
    found, absent = [], []
    for maker in makers:
        try:
            found.append(maker())
        except ImportError as error:
            absent.append(f"{getattr(maker, 'name', maker)}: {error}")
    return found, absent


def markdown(answers: Sequence[Answers], families: Sequence[str] = tuple(FAMILIES)) -> str:
    """Two tables: counts by family, and each case with who passes it wrongly (`X`)."""
    lines = ["| checker | " + " | ".join(families) + " | in all | honest cases refused |"]
    lines.append("| --- |" + " ---: |" * (len(families) + 1) + " --- |")
    for a in answers:
        cells = []
        for family in families:
            n = a.asked(FAMILIES[family])
            cells.append(f"{len(a.wrong(FAMILIES[family]))} of {n}" if n else "")
        every = [c for family in families for c in FAMILIES[family]]
        refused = ", ".join(f"`{c}`" for c in a.refused(every)) or "none"
        cells += [f"**{len(a.wrong(every))} of {a.asked(every)}**", refused]
        lines.append(f"| {a.name} | " + " | ".join(cells) + " |")
    for family in families:
        asked = [a for a in answers if a.asked(FAMILIES[family])]
        lines += ["", f"### {family}", "", "| case | what | " + " | ".join(a.name for a in asked) + " |"]
        lines.append("| --- | --- |" + " :-: |" * len(asked))
        for case in FAMILIES[family]:
            if not case.honest:
                marks = ["" if case.id not in a.said else "**X**" if a.said[case.id] else "." for a in asked]
                lines.append(f"| `{case.id}` | {case.sentence} | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"
