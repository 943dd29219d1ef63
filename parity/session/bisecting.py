"""The search for the version of a package by which a cell changes. Runs nothing: what runs a version is an argument."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from parity.core.errors import ConfigError
from parity.core.plan import did_you_mean
from parity.core.record import CellRecord, Check

NOISE = "noise_ratio"
_LINE = 160  # characters of a reason that a line has room for
_DOES = {
    "pass": "passes",
    "waived": "passes by a waiver",
    "fail": "fails",
    "error": "ends in an error",
    "crash": "crashes",
    "timeout": "runs out of time",
    "missing": "lacks evidence",
}


@dataclass(frozen=True)
class Trial:
    """What came of a cell with one version of a package.

    `state` is the cell's, "" where the version could not be installed or run at all; `reason` says why. `checks` are
    its checks, `moved` other distributions that this version moved, from and to; `report` the JSON of the run.
    """

    version: str
    state: str = ""
    reason: str = ""
    checks: tuple[Check, ...] = ()
    route: str = ""
    moved: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    report: str = ""
    seconds: float = 0.0

    @property
    def was_tried(self) -> bool:
        return bool(self.state)

    @property
    def cause(self) -> str:
        """The first clause of the reason, shortened to a line."""
        return textwrap.shorten(self.reason.partition("; ")[0], _LINE, placeholder=" ...")


def trial_of(version: str, cell: CellRecord, moved: Mapping[str, tuple[str, str]], report: str) -> Trial:
    """The trial that a cell's record tells. A cell that cannot be measured there says nothing of the version."""
    state = "" if cell.state == "unavailable" else cell.state
    return Trial(version, state, cell.reason, cell.checks, cell.route, moved, report)


@dataclass(frozen=True)
class Measure:
    """What counts as a change: the cell's state, or, with a limit, whether the worst figure of a metric is inside."""

    metric: str = NOISE
    limit: float | None = None

    def side(self, trial: Trial) -> str:
        """In which of the two or more ways the trial ended; equal words are no change."""
        check = self.worst(trial)
        if self.limit is None or check is None or check.value is None:
            return trial.state
        is_within = check.value <= self.limit if check.sense == "max" else check.value >= self.limit
        return "within" if is_within else "beyond"

    def worst(self, trial: Trial) -> Check | None:
        """The worst finite figure of the metric; None where nothing measured it."""
        checks = [check for check in trial.checks if check.metric == self.metric and check.value is not None]
        return max(checks, key=_badness, default=None)

    def figure(self, trial: Trial) -> str:
        """The worst figure in words, as in "noise_ratio 1.1 (logits)"; "" where there is none."""
        check = self.worst(trial)
        return "" if check is None else f"{self.metric} {check.value:.3g} ({check.output})"

    def does(self, trial: Trial) -> str:
        """The verb of a sentence about the cell: "passes", "fails", or on which side of the limit it is."""
        side = self.side(trial)
        if side in ("within", "beyond"):
            return f"is {side} {self.metric} {self.limit:g}"
        return _DOES[side]

    def why(self, trial: Trial) -> str:
        """What a sentence says of a trial that is not right: its reason, or its figure against the limit."""
        side = self.side(trial)
        if side in ("within", "beyond"):
            return self.figure(trial) if side == "beyond" else ""
        return "" if side == "pass" else trial.cause


def _badness(check: Check) -> float:
    assert check.value is not None
    return check.value if check.sense == "max" else -check.value


@dataclass(frozen=True)
class Change:
    """Neighbours of different sides: the last version before the change and the first after it. `untried` lie between
    and could not be tried."""

    before: str
    after: str
    untried: tuple[str, ...] = ()


def first_change(versions: Sequence[str], side: Callable[[str], str | None]) -> Change:
    """The change between the first and the last of the `versions`, whose sides are known to differ.

    `side` is asked for a version at most once; None says that it could not be tried. Where the side changes more than
    once, the change found is one from the first version's side to another.
    """
    low, high, start, untried = 0, len(versions) - 1, side(versions[0]), set[int]()
    # Invariant: versions[low] is on the side of the first version, versions[high] is not.
    while between := [i for i in range(low + 1, high) if i not in untried]:
        middle = min(between, key=lambda i: abs(2 * i - low - high))
        now = side(versions[middle])
        if now is None:
            untried.add(middle)
        elif now == start:
            low = middle
        else:
            high = middle
    return Change(versions[low], versions[high], tuple(versions[low + 1 : high]))


@dataclass(frozen=True)
class Range:
    """Two ends to compare, the older first; which of them a person named, and so must be tried as they are."""

    versions: tuple[str, ...]
    is_low_named: bool = False
    is_high_named: bool = False


def ranges(versions: Sequence[str], usual: Sequence[str], current: str, good: str, bad: str) -> Iterator[Range]:
    """The ranges to compare the ends of, in order, until two ends differ.

    `versions` are all that there are, oldest first; `usual` those of them that the ends are taken from where nobody
    named them; `current` is the one in use, "" for none. Raises ConfigError.
    """
    for option, version in (("--good", good), ("--bad", bad)):
        if version and version not in versions:
            hint = did_you_mean(version, versions) or f"; the newest is {versions[-1]}"
            raise ConfigError(f"{option} {version}: the index offers no such release for this Python{hint}")
    if good and good == bad:
        raise ConfigError(f"--good and --bad are both {good}")
    named = good or bad
    if good and bad:
        pairs = [(good, bad)]
    elif named:
        farther = usual[-1] if good else usual[0]
        pairs = [(named, current if current in versions and current != named else farther)]
    elif current in versions:
        pairs = [(current, usual[-1]), (usual[0], current)]
    else:
        pairs = [(usual[0], usual[-1])]
    for first, second in pairs:
        low, high = sorted((versions.index(first), versions.index(second)))
        if low != high:
            is_named = {version: version in (good, bad) for version in (versions[low], versions[high])}
            yield Range(tuple(versions[low : high + 1]), *is_named.values())


def tried_ends(given: Range, run: Callable[[str], Trial]) -> Range | None:
    """The range between its outermost versions that could be tried; None where there are no two.

    Raises ConfigError where an end that a person named could not be tried.
    """
    low, high = 0, len(given.versions) - 1
    while low < high and not (trial := run(given.versions[low])).was_tried:
        low = _inwards(given.is_low_named, trial, low + 1)
    while low < high and not (trial := run(given.versions[high])).was_tried:
        high = _inwards(given.is_high_named, trial, high - 1)
    return Range(given.versions[low : high + 1]) if low < high else None


def _inwards(is_named: bool, trial: Trial, place: int) -> int:
    if is_named:
        raise ConfigError(f"{trial.version} could not be tried: {trial.reason}")
    return place


def sentence_of(
    cell: str, package: str, measure: Measure, before: Trial, after: Trial, untried: tuple[str, ...]
) -> str:
    """What was found, in a sentence."""
    reasons = [measure.why(before), measure.why(after)]
    first = f" ({reasons[0]})" if reasons[0] else ""
    second = f": {reasons[1]}" if reasons[1] else ""
    gap = f" ({', '.join(untried)} could not be tried)" if untried else ""
    return (
        f"{cell} {measure.does(before)} with {package} {before.version}{first} and {measure.does(after)} from "
        f"{after.version} on{gap}{second}"
    )


def no_change(cell: str, package: str, measure: Measure, alike: Sequence[Trial]) -> str:
    """What is said where all ends that were tried are on one side, with the figure of each."""
    ends = [f"{trial.version} ({measure.figure(trial) or f'no {measure.metric}'})" for trial in alike]
    why = measure.why(alike[0])
    said = f"no change: {cell} {measure.does(alike[0])} with {package} {' and '.join(ends)}"
    return f"{said}: {why}" if why else said


def hints(package: str, measure: Measure, before: Trial, after: Trial, newest: Trial) -> list[str]:
    """What else is worth knowing: the figures, packages that moved along, another route, and a further change."""
    figures = [f"{figure} with {trial.version}" for trial in (before, after) if (figure := measure.figure(trial))]
    lines = [f"worst figure: {', '.join(figures)}"] if figures else []
    names = sorted({*before.moved, *after.moved})
    along = [name for name in names if _now(before, after, name) != _now(after, before, name)]
    if along:
        pairs = [f"{name} {_now(before, after, name)} -> {_now(after, before, name)}" for name in along]
        lines.append(f"{package} {after.version} brings others along, which may be the cause: {', '.join(pairs)}")
    if before.route and after.route and before.route != after.route:
        lines.append(f"the file is made otherwise: by {before.route}, then by {after.route}")
    if measure.side(newest) != measure.side(after):
        lines.append(
            f"it changes again: with {newest.version} it {measure.does(newest)}; --good {after.version} --bad "
            f"{newest.version} finds where"
        )
    return lines


def _now(trial: Trial, other: Trial, name: str) -> str:
    """The version of a distribution that moved in one of two trials, in the first of them."""
    if name in trial.moved:
        return trial.moved[name][1]
    return other.moved[name][0] or "absent"
