"""`parity bisect CELL --package NAME`: by which version of a converter, runtime or PyTorch does this cell change?

The versions come from the package index, the cell is measured with each that a binary search asks for, and the last
line says the last version before the change and the first after it. Nothing that is installed is touched: each version
lies in a small environment of its own over the one that holds the package, which stays as it is otherwise. All are
kept in the cache, so that asking again is quick.

  parity bisect skin-tflite-int8 --package onnx2tf                  installed against newest, then oldest
  parity bisect skin-tflite-int8 --package onnx2tf --good 1.28.5    it was right with this one
  parity bisect skin-onnx-fp16 --package onnxruntime --metric noise_ratio --limit 2
                                                                    it passes, but not as well as it did

Where is the package? In the toolchain whose converter it is (onnx2tf, litert-torch, coremltools, pnnx), else in this
environment (onnxruntime, ai-edge-litert, ncnn), else in a toolchain of the cell's target that holds it
(ai-edge-quantizer); --toolchain names another. The exit code is 0 where the change is found, 1 where the cell is the
same at both ends, 2 for a mistake in the command.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from parity import formats as targets
from parity.core.errors import ConfigError, ParityError
from parity.core.plan import PROFILES, Cell, choose, did_you_mean
from parity.core.record import Check, read
from parity.core.settings import Config
from parity.core.visible import visible
from parity.core.words import plural
from parity.judging.registry import METRICS
from parity.process.toolchains import environments, versions
from parity.process.toolchains.definitions import BUILT_IN, Definition, off_platform, recipe
from parity.process.toolchains.resolving import Toolchain
from parity.process.toolchains.versions import Base, normal
from parity.session import bisecting, project
from parity.session.bisecting import Change, Measure, Trial
from parity.session.toolchains import forget, toolchain
from parity.store import atomic

SCHEMA = "parity.bisect/1"
HERE = "here"
"""What --toolchain says of the environment that this command runs in."""


def add(commands: Any) -> None:
    command = commands.add_parser("bisect", help="find the version by which a cell changes", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    command.add_argument("cell", metavar="CELL", help="as reports call it: MODEL-TARGET-PRECISION")
    command.add_argument("--package", required=True, metavar="NAME", help="the distribution whose versions are tried")
    command.add_argument("--good", default="", metavar="V", help="a version with which the cell is right (default: "
                         "the one in use, or the oldest that the route takes)")  # fmt: skip
    command.add_argument("--bad", default="", metavar="V", help="a version with which it is not (default: the one in "
                         "use, or the newest); it may be older than the good one")  # fmt: skip
    command.add_argument("--metric", default=bisecting.NOISE, metavar="NAME", help="the figure that is told of each "
                         f"version, and that --limit is for (default: {bisecting.NOISE})")  # fmt: skip
    command.add_argument("--limit", type=float, metavar="X", help="look for the version by which the cell's worst "
                         "figure crosses X, whatever its state is")  # fmt: skip
    command.add_argument("--toolchain", default="", metavar="NAME", help=f"the toolchain that holds the package, or "
                         f"{HERE!r} for this environment")  # fmt: skip
    command.add_argument("--profile", choices=PROFILES, default="full", help="how much is measured with each version, "
                         "as --parity-profile says it (default: full)")  # fmt: skip
    command.add_argument("--output", type=Path, default=Path("reports", "bisect"), metavar="FOLDER", help="where the "
                         "record and a report of each version go (default: reports/bisect)")  # fmt: skip
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """0 where a change is found, 1 where the ends do not differ."""
    config = project.here()
    cell = _cell(config, options.cell)
    choose("metric", options.metric, METRICS)
    is_brought = f"{cell.target}-{cell.precision}" in config.models[cell.model].artifacts
    # No converter makes a file that the project brings: only this environment has a say in it.
    place = _place(config, cell, options.package, HERE if is_brought else options.toolchain)
    every = versions.offered(options.package, place.base.minor)
    usual = _usual(every, options.package, place)
    current = next(iter(versions.ordered([place.base.version(options.package)])), "")
    search = _Search(config, cell, options, place)
    ranges = list(bisecting.ranges(every, usual, current, options.good, options.bad))
    if not ranges:
        raise ConfigError(f"{options.package} {current or every[0]} is the only version that there is to try")
    search.say(
        f"{cell.id}: {options.package} {current} in {place.words}, Python {place.base.minor}; the index has "
        f"{plural(len(every), 'release')} for it, {every[0]} to {every[-1]}"
    )
    for given in ranges:
        ends = bisecting.tried_ends(given, search.trial)
        if ends is None:
            continue
        low, high = search.trial(ends.versions[0]), search.trial(ends.versions[-1])
        if search.measure.side(low) == search.measure.side(high):
            search.note_equal(low, high)
            continue
        return search.found(bisecting.first_change(ends.versions, search.side))
    return search.no_change()


@dataclass(frozen=True)
class _Place:
    """The environment that holds the package: that of a toolchain, or this one where `chain` is "" and the whole run
    goes under another version."""

    base: Base
    chain: str = ""

    @property
    def words(self) -> str:
        return f"the toolchain {self.chain}" if self.chain else "this environment"


class _Search:
    """The trials of one command: each version is run once, told, and noted in the record."""

    def __init__(self, config: Config, cell: Cell, options: argparse.Namespace, place: _Place):
        self.config, self.cell, self.place = config, cell, place
        self.package, self.profile = str(options.package), str(options.profile)
        self.measure = Measure(options.metric, options.limit)
        stem = f"{cell.id}-{normal(self.package)}"
        self.folder, self.record = options.output.resolve() / stem, options.output / f"{stem}.json"
        self.trials: dict[str, Trial] = {}
        self.equal = ""

    def say(self, line: str) -> None:
        print(visible(line), file=sys.stderr, flush=True)

    def side(self, version: str) -> str | None:
        trial = self.trial(version)
        return self.measure.side(trial) if trial.was_tried else None

    def trial(self, version: str) -> Trial:
        if version not in self.trials:
            start = time.monotonic()
            try:
                trial = self._run(version)
            except ParityError as error:
                trial = Trial(version, reason=str(error))
            self.trials[version] = replace(trial, seconds=round(time.monotonic() - start, 1))
            self._tell(self.trials[version])
            self._write("", None)
        return self.trials[version]

    def _tell(self, trial: Trial) -> None:
        said = [trial.state or "cannot be tried", self.measure.figure(trial), f"{trial.seconds:.0f} s"]
        said += [f"with {name} {now}" for name, (_, now) in trial.moved.items()]
        line = f"  {self.package} {trial.version}: {', '.join(filter(None, said))}"
        self.say(line if trial.state == "pass" or not trial.reason else f"{line}: {trial.cause}")

    def _run(self, version: str) -> Trial:
        """Measure the cell with that version. Raises ParityError where it cannot be installed, or nothing runs."""
        environment = versions.with_version(self.place.base, self.package, version, self._installing)
        moved = versions.moved(self.place.base, environment.packages, self.package)
        html = self.folder / f"{version}.html"
        record = html.with_suffix(".json")
        record.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        cell = self.cell
        options = [
            "--parity-models", cell.model, "--parity-targets", cell.target, "--parity-precisions", cell.precision,
            "--parity-profile", self.profile, "--parity-report", str(html), "--parity-gate", "off",
        ]  # fmt: skip
        python = environment.python
        if self.place.chain:
            setting = f"toolchains.{self.place.chain} = {{ python = {json.dumps(python)} }}"
            options += [f"--parity-set={setting}", "--parity-toolchain", f"{cell.target}={self.place.chain}"]
            python = sys.executable
        log = html.with_suffix(".log")
        code = _pytest(python, self.config, options, log)
        if not record.is_file():
            raise ParityError(f"the run ended with code {code}: {_last(log)}; see {log}")
        return bisecting.trial_of(version, read(record).cell(cell.id), moved, str(record))

    def _installing(self, line: str) -> None:
        """Of an installer's lines only that it waits or downloads, which may last."""
        if "Downloading" in line or "waiting" in line:
            self.say(f"    {line.partition(': ')[2]}")

    def note_equal(self, low: Trial, high: Trial) -> None:
        figures = [self.measure.figure(trial) or f"no {self.measure.metric}" for trial in (low, high)]
        does = self.measure.does(low)
        self.equal = (
            f"no change: {self.cell.id} {does} with {self.package} {low.version} and {high.version}: "
            f"{figures[0]} and {figures[1]}"
        )
        if low.reason and low.state != "pass":
            self.equal += f"; {low.cause}"

    def no_change(self) -> int:
        sentence = self.equal or f"no two versions of {self.package} could be tried"
        self._write(sentence, None)
        print(visible(sentence))
        return 1

    def found(self, change: Change) -> int:
        before, after = self.trials[change.before], self.trials[change.after]
        sentence = sentence_of(self.cell.id, self.package, self.measure, before, after, change.untried)
        self._write(sentence, change)
        newest = max((trial for trial in self.trials.values() if trial.was_tried), key=_place_of(change, self.trials))
        for line in hints(self.package, self.measure, before, after, newest):
            self.say(line)
        self.say(f"record: {self.record}")
        self.say(f"figure by figure: parity diff {_short(before.report)} {_short(after.report)}")
        print(visible(sentence))
        return 0

    def _write(self, sentence: str, change: Change | None) -> None:
        ordered = [self.trials[version] for version in versions.ordered(self.trials)]
        said = {
            "schema": SCHEMA,
            "cell": self.cell.id,
            "package": self.package,
            "where": self.place.chain or HERE,
            "python": self.place.base.minor,
            "metric": self.measure.metric,
            "limit": self.measure.limit,
            "sentence": sentence,
            "last_before": change.before if change else None,
            "first_after": change.after if change else None,
            "untried_between": list(change.untried) if change else [],
            "versions": [_entry(trial, self.measure) for trial in ordered],
        }
        self.record.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(self.record, json.dumps(said, indent=1) + "\n")


def _place_of(change: Change, trials: Mapping[str, Trial]) -> Any:
    order = versions.ordered(trials)
    return lambda trial: order.index(trial.version)


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


def _entry(trial: Trial, measure: Measure) -> dict[str, Any]:
    worst = measure.worst(trial)
    broken = [check for check in trial.checks if not check.passed and check.limit is not None]
    return {
        "version": trial.version,
        "state": trial.state or None,
        "reason": trial.reason,
        "worst": None if worst is None else _figure(worst),
        "broken": [_figure(check) for check in sorted(broken, key=_share, reverse=True)[:3]],
        "route": trial.route,
        "moved": {name: list(pair) for name, pair in trial.moved.items()},
        "seconds": trial.seconds,
        "report": trial.report,
    }


def _figure(check: Check) -> dict[str, Any]:
    return {key: getattr(check, key) for key in ("kind", "case", "output", "metric", "value", "limit")}


def _share(check: Check) -> float:
    share = check.share()
    return float("inf") if share is None else share


def _cell(config: Config, name: str) -> Cell:
    cells = {cell.id: cell for cell in config.cells}
    return cells[choose("cell", name, cells)]


def _place(config: Config, cell: Cell, package: str, asked: str) -> _Place:
    """The environment that holds the package. Raises ConfigError or ParityError."""
    chains = targets.get(cell.target).toolchains
    if asked:
        name = choose("toolchain", asked, (HERE, *chains))
        return _of_chain(config, name) if name != HERE else _this(package, cell)
    mine = next((name for name in chains if normal(package) in _converters(name)), None)
    if mine is not None:
        return _of_chain(config, mine)
    here = versions.base_of("project", sys.executable)
    if here.version(package):
        return _Place(here)
    holding = [name for name in chains if _holds(config, name, package)]
    if holding:
        return _of_chain(config, holding[0])
    names = dict.fromkeys((*map(normal, here.packages), *(n for c in chains for n in _converters(c))))
    raise ConfigError(
        f"--package {package}: neither this environment nor a toolchain of {cell.target} "
        f"({', '.join(chains) or 'it has none'}) holds it{did_you_mean(normal(package), names)}"
    )


def _this(package: str, cell: Cell) -> _Place:
    base = versions.base_of("project", sys.executable)
    if not base.version(package):
        raise ConfigError(f"--package {package}: {cell.id} runs in this environment, which does not have it")
    return _Place(base)


def _converters(name: str) -> tuple[str, ...]:
    built_in: Definition | None = BUILT_IN.get(name)
    return (normal(built_in.distribution or name),) if built_in else (normal(name),)


def _holds(config: Config, name: str, package: str) -> bool:
    """Whether the toolchain's lock, or its environment where that is here, has the package."""
    chain = toolchain(config, name)
    if chain.python and not chain.is_own:
        return chain.versions((package,))[package] != "absent"
    text = recipe(name, config.toolchains.get(name)).text
    return any(re.match(r"[\w.-]+", line) and normal(re.split(r"[^\w.-]", line)[0]) == normal(package)
               for line in text.splitlines())  # fmt: skip


def _of_chain(config: Config, name: str) -> _Place:
    """The toolchain's environment, made first where it is not here."""
    chain: Toolchain = toolchain(config, name)
    if not chain.python:
        setting = config.toolchains.get(name)
        reason = off_platform(name, setting) or (chain.why if setting is not None and setting.is_environment else "")
        if reason:
            raise ParityError(f"{name}: {reason}")
        environments.install(recipe(name, setting), lambda line: print(line, file=sys.stderr, flush=True))
        forget()
        chain = toolchain(config, name)
    return _Place(versions.base_of(name, chain.python), name)


def _usual(every: tuple[str, ...], package: str, place: _Place) -> tuple[str, ...]:
    """The versions that ends are taken from where nobody names them: those that the toolchain's route takes."""
    built_in = BUILT_IN.get(place.chain)
    for text in built_in.requires if built_in else ():
        requirement = Requirement(text)
        if normal(requirement.name) == normal(package):
            return tuple(version for version in every if requirement.specifier.contains(version)) or every
    return every


def _pytest(python: str, config: Config, options: list[str], log: Path) -> int:
    """Run the suite's tests with these options, as a run of the project, its output into `log`; returns its code."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environ["PYTHONPATH"] = os.pathsep.join([str(config.root), *filter(None, [environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(prefix="parity-") as scratch, open(log, "wb") as output:
        test = Path(scratch, "test_bisect.py")
        test.write_text("from parity.suite import *\n", encoding="utf-8")
        command = [
            python, "-m", "pytest", "-q", "--no-header", "--tb=short", "-rN", "-m", "parity", "-p", "no:cacheprovider",
            f"--rootdir={scratch}", "-c", os.devnull, *options, str(test),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=config.root, env=environ, stdout=output, stderr=output, check=False)
    return done.returncode


def _last(log: Path) -> str:
    """The last line of a run that says something."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")[:300]


@functools.cache
def _short(path: str) -> str:
    """The path from the current folder, where it lies below."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
