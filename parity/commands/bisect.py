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
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from parity.core.errors import ConfigError, ParityError
from parity.core.plan import PROFILES, Cell, choose
from parity.core.record import Check, read
from parity.core.settings import Config
from parity.core.visible import visible
from parity.core.words import plural
from parity.judging.registry import METRICS
from parity.process.toolchains import versions
from parity.session import bisecting, packages, project
from parity.session.bisecting import Change, Measure, Trial
from parity.session.packages import HERE, Place
from parity.store import atomic

SCHEMA = "parity.bisect/1"


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
    place = packages.place_of(config, cell, options.package, HERE if is_brought else options.toolchain, say)
    every = versions.offered(options.package, place.base.minor)
    usual = packages.usual(every, options.package, place)
    current = next(iter(versions.ordered([place.base.version(options.package)])), "")
    search = _Search(config, cell, options, place)
    ranges = list(bisecting.ranges(every, usual, current, options.good, options.bad))
    if not ranges:
        raise ConfigError(f"{options.package} {current or every[0]} is the only version that there is to try")
    say(
        f"{cell.id}: {options.package} {current} in {place.words}, Python {place.base.minor}; the index has "
        f"{plural(len(every), 'release')} for it, {every[0]} to {every[-1]}"
    )
    for given in ranges:
        ends = bisecting.tried_ends(given, search.trial)
        if ends is None:
            continue
        low, high = search.trial(ends.versions[0]), search.trial(ends.versions[-1])
        if search.measure.side(low) == search.measure.side(high):
            search.alike |= {low.version: low, high.version: high}
            continue
        between = len(ends.versions) - 2
        say(f"  these differ; {plural(between, 'release')} between them, some {between.bit_length()} to try")
        return search.found(bisecting.first_change(ends.versions, search.side))
    return search.no_change()


def say(line: str) -> None:
    print(visible(line), file=sys.stderr, flush=True)


class _Search:
    """The trials of one command: each version is run once, told, and noted in the record."""

    def __init__(self, config: Config, cell: Cell, options: argparse.Namespace, place: Place):
        self.config, self.cell, self.place = config, cell, place
        self.package, self.profile = str(options.package), str(options.profile)
        self.measure = Measure(options.metric, options.limit)
        stem = f"{cell.id}-{canonicalize_name(self.package)}"
        self.folder, self.record = options.output.resolve() / stem, options.output / f"{stem}.json"
        self.trials: dict[str, Trial] = {}
        self.alike: dict[str, Trial] = {}  # ends that do not differ

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
        say(line if trial.state == "pass" or not trial.reason else f"{line}: {trial.cause}")

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
        else:
            _check_visible(python, self.package, version)
        log = html.with_suffix(".log")
        code = _pytest(python, self.config, options, log)
        if not record.is_file():
            raise ParityError(f"the run ended with code {code}: {_last(log)}; see {log}")
        return bisecting.trial_of(version, read(record).cell(cell.id), moved, str(record))

    def _installing(self, line: str) -> None:
        """Of an installer's lines only that it waits or downloads, which may last."""
        if "Downloading" in line or "waiting" in line:
            say(f"    {line.partition(': ')[2]}")

    def no_change(self) -> int:
        sentence = f"no two versions of {self.package} could be tried"
        if self.alike:
            sentence = bisecting.no_change(self.cell.id, self.package, self.measure, list(self.alike.values()))
        self._write(sentence, None)
        print(visible(sentence))
        return 1

    def found(self, change: Change) -> int:
        before, after = self.trials[change.before], self.trials[change.after]
        sentence = bisecting.sentence_of(self.cell.id, self.package, self.measure, before, after, change.untried)
        self._write(sentence, change)
        newest = self.trials[versions.ordered(v for v, trial in self.trials.items() if trial.was_tried)[-1]]
        for line in bisecting.hints(self.package, self.measure, before, after, newest):
            say(line)
        say(f"record: {self.record}")
        say(f"figure by figure: parity diff {_short(before.report)} {_short(after.report)}")
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


def _check_visible(python: str, package: str, version: str) -> None:
    """Raise ParityError where PYTHONPATH puts another release before the one that `python` has."""
    code = f"from importlib import metadata; print(metadata.version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    seen = done.stdout.strip()
    if versions.ordered([seen]) != versions.ordered([version]):
        raise ParityError(f"a folder of PYTHONPATH holds {package} {seen or 'in part'}, which would be used instead")


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
