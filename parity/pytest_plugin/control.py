"""The run as a whole: what the tests told to records, records to a verdict, the verdict to reports and exit code.

The plugin's hooks call this object; it knows no pytest.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity import config as configuration
from parity import formats
from parity.cases import references
from parity.cases.drawing import Drawing
from parity.core.errors import ConfigError, ParityError
from parity.core.executors import HOST, cell_of, execution_id, split_id
from parity.core.plan import Plan, PlannedCell
from parity.core.record import Environment, RunRecord, ShardRecord
from parity.core.settings import Config, ModelConfig
from parity.core.visible import visible
from parity.core.words import plural
from parity.formats.target import version
from parity.judging import answer, gate
from parity.judging.applicable import unapplied
from parity.judging.baseline import INSTRUMENTS
from parity.process import processor
from parity.pytest_plugin.heard import Heard, recorded
from parity.report import publishing, terminal
from parity.report.annotations import lines as annotated
from parity.report.progress import Board
from parity.report.redact import redacted
from parity.session import origin, project, toolchains
from parity.session.ledger import Keeper
from parity.session.planning import make_plan, waiting
from parity.session.profile import Profile
from parity.store.cache import Store
from parity.suite import planned_kinds

if TYPE_CHECKING:
    from parity.core.case import Case
    from parity.session.session import Session

PACKAGES = (*INSTRUMENTS, "hypothesis", "pytest", "pytest-xdist", "pytest-parity")
"""What a run's numbers depend on beside what makes and runs its files."""


class Control:
    """One run in one process: in the controller it hears, judges and writes; in a worker it makes and measures."""

    def __init__(self, config: Config, plan: Plan, options: Mapping[str, Any], shared: Mapping[str, Any]):
        self.config, self.plan, self.options, self.shared = config, plan, options, dict(shared)
        self.collected: list[list[str]] = []
        self.deselected: list[list[str]] = []
        self.narrowing: list[str] = []
        self.record: RunRecord | None = None
        self.problem = ""
        self.written: list[Path] = []
        self.kept = ""  # a line about the report of the last whole run
        self.ledger = Keeper.prepare(config.root, plan.partial, options, latency_blocks=config.gate_latency)
        self.capsule: tuple[str, str] | None = None
        self._heard: dict[str, Heard] = {}
        self._evidence: dict[str, dict[str, Any]] = {}  # of the cells of this process: what names a cause
        self._failures = 0
        self._begun = False
        self._origin: Mapping[str, str] = {}  # of a shard: what it is made from, as it begins
        self._configuration = origin.configuration(config.file)  # as it was read: it may be edited meanwhile
        self._since = time.monotonic()  # the clock of the day may jump
        self._session: Session | None = None
        self._store = Store.at(options.get("cache") or config.cache, config.root)

    # In every process.

    def load(self, cell: str) -> int:
        """How many numbers the golden cases of a planned cell hold: a guess at what it takes to run them often."""
        planned = self.plan[cell_of(cell)]
        return planned.cases * self.config.models[planned.cell.model].contract.elements()

    @property
    def board(self) -> Board:
        return Board(self._store.root / "runs" / self.shared["run"] / "progress")

    @property
    def store_root(self) -> Path:
        return self._store.root

    @property
    def session(self) -> Session:
        """The session that makes and measures; started when first needed."""
        if self._session is None:
            from parity.process.isolate import Budget
            from parity.session.session import Session

            seconds = self.options.get("timeout") or self.config.timeout
            self._session = Session(
                self.config,
                self.shared["run"],
                store=self._store,
                budget=Budget.of(seconds, self.config.memory),
                rebuild_since=self.shared["started"] if self.options.get("rebuild") else None,
                progress=self.board.post,
            )
            if self.options.get("submodels"):
                self._session.submodels = self.config.root / self.options["submodels"]
                self._session.children.allow(self._session.submodels)
        return self._session

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    @property
    def profile(self) -> Profile:
        return Profile(self.options.get("profile") or "full")

    def golden(self, model: ModelConfig) -> list[Case]:
        return self.profile.golden(self.session.golden(model))

    @property
    def drawing(self) -> Drawing:
        """How many inputs each property test draws, from which seed, and since when this run has kept failures."""
        return Drawing.of(self.options, self.config.seed, self.shared)

    def cause(self, cell: str, details: Mapping[str, Any]) -> str:
        """What is wrong with a cell and where, by all that its tests in this process found, `details` of the last."""
        evidence = self._evidence.setdefault(cell, {})
        evidence |= {name: details[name] for name in ("diagnosis", "proof", "divergence") if details.get(name)}
        return answer.cause(evidence.get("diagnosis", ()), evidence.get("proof"), evidence.get("divergence"))

    def first_to_tell(self, cell: str, failure: Mapping[str, str]) -> bool:
        """True for exactly one test of the run that met this failure of this cell."""
        try:
            return self._store.first(self.shared["run"], f"told {cell} {failure['stage']} {failure['reason']}")
        except ParityError:  # where nothing can be written, everybody tells
            return True

    def failure(self, error: BaseException) -> dict[str, str] | None:
        """What went wrong outside the checks: state, stage, reason and log; None for a test's own failed checks."""
        from parity.process.isolate import ChildFailure

        if isinstance(error, ChildFailure):
            return {"state": error.state, "stage": error.stage, "reason": error.reason, "log": error.log}
        if type(error).__name__ == "Failed":  # pytest.fail: broken checks speak for themselves
            return None
        return {"state": "error", "stage": "", "reason": str(error) or type(error).__name__, "log": ""}

    def failure_text(self, failure: Mapping[str, str], cell: str) -> str:
        """The failure as a person reads it in the terminal: no traceback of ours, but the end of the child's log."""
        where = f" in {failure['stage']}" if failure["stage"] else ""
        text = f"{cell}: {failure['state']}{where}: " + failure["reason"].replace("\n", "\n  | ")
        if failure["log"]:
            text += "\n  the end of its log:" + "".join(f"\n  | {line}" for line in failure["log"].splitlines()[-12:])
        return visible(text, lines=True)

    def details(self, cell: str) -> dict[str, Any]:
        """What this process knows of an execution's artefact and runtime, by its id, for the record."""
        from parity.core.record import plain

        id, executor = split_id(cell)
        of_plan = self.plan[id].cell
        made = self.session.made(of_plan) if executor == HOST else self.session.made_by(of_plan, executor)
        return {k: plain(v) for k, v in made.items()}

    def told(self) -> dict[str, Any]:
        """What a worker tells the controller when it ends."""
        return {"collected": self.collected, "deselected": self.deselected, "narrowing": self.narrowing}

    # In the controller.

    def merge(self, told: Mapping[str, Any]) -> None:
        for key in ("collected", "deselected", "narrowing"):
            known = getattr(self, key)
            known += [entry for entry in told[key] if entry not in known]

    @property
    def active(self) -> bool:
        """Whether this run was about parity at all."""
        chosen = any(self.options.get(k) for k in ("models", "targets", "precisions", "shard", "require", "executors"))
        return bool(self._heard or self.collected) or chosen

    def hear(self, told: Mapping[str, Any]) -> None:
        """Take in the report of one phase of one test."""
        self._failures += told["outcome"] == "failed"
        self._heard.setdefault(told["cell"], Heard()).hear(told)

    def hear_crash(self, cell: str, nodeid: str, reason: str) -> None:
        heard = self._heard.setdefault(cell, Heard())
        self._failures += 1
        text = f"the pytest worker died while it ran {nodeid.rpartition('::')[2]}"
        heard.failure = {"state": "crash", "stage": "pytest", "reason": text, "log": reason[-2000:]}

    def finish(self, command: str, exitstatus: int) -> RunRecord:
        """Judge what was heard and write the reports. Raises ParityError when a report cannot be written."""
        plan, partial = self._in_force()
        cells = tuple(recorded(planned, self._heard, self.options.get("rerun") or "") for planned in plan)
        cells, waivers = gate.apply_waivers(cells, self.config.waive, datetime.date.today(), [p.cell.id for p in plan])
        if not partial:
            cells = unapplied(cells, self.config.rules)
        record = replace(
            self._record(partial),
            cells=cells,
            seconds=round(time.monotonic() - self._since, 3),
            command=command,
            shard=self._part() if partial == self.plan.partial else None,  # narrowed further, it is no part
            waiting=waiting(self.config, self.options),
            builds=sum(heard.details.get("steps_built", 0) for heard in self._heard.values()),
            waivers=waivers,
        )
        if exitstatus == 2:
            record = replace(record, partial=None)  # interrupted: whatever was narrowed, it is not complete
        self.record = redacted(self.ledger.judge(record), Path.home(), os.environ)
        try:
            if not self.options.get("no_report") and record.cells:
                self._write(self.record, whole=not partial and exitstatus != 2)
            elif self._begun and not record.cells:  # an empty selection leaves the last report alone
                publishing.withdraw(self._report)
            if self.options.get("capsule"):
                self.capsule = self._pack(self.record)
        finally:
            self._store.end(self.shared["run"])
        return self.record

    def _part(self) -> ShardRecord | None:
        """Which shard this run is, with what its plan was made from."""
        part = self.plan.part
        if part is None:
            return None
        now = origin.origin(self.config)
        made = origin.joined(self._origin or now, now)
        return replace(part, origin=made, models=origin.fingerprints(self.config, self._store, self.shared["run"]))

    def _record(self, partial: str | None) -> RunRecord:
        """The record of this run before anything was heard: every planned cell is missing."""
        started = datetime.datetime.fromtimestamp(self.shared["started"], datetime.timezone.utc)
        return RunRecord(
            verdict="incomplete",
            cells=tuple(recorded(planned, {}) for planned in self.plan),
            environment=replace(environment(), toolchains=toolchains.labels(self.config)),
            reason="the run that began has not ended: nothing is measured",
            started=started.isoformat(timespec="seconds"),
            partial=partial,
            config=self.config.file.name,
            configuration=self._configuration,
            read=origin.read(self.config, self._store, self.shared["run"]),
            profile=self.profile.name,
        )

    def _in_force(self) -> tuple[list[PlannedCell], str | None]:
        """The plan less what the user's own selection took out, and how the whole was narrowed.

        What disappeared without a selection on the command line stays planned, and will be missing.
        """
        if not self.narrowing:
            return list(self.plan.cells), self.plan.partial
        removed = {tuple(e) for e in self.deselected}
        only = {tuple(e) for e in self.collected} if "single tests named" in self.narrowing else None

        def selected(id: str, kinds: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(k for k in kinds if (id, k) not in removed and (only is None or (id, k) in only))

        kept = []
        for planned in self.plan.cells:
            id = planned.cell.id
            kinds = selected(id, planned.kinds)
            others = tuple(
                replace(e, kinds=selected(execution_id(id, e.executor), e.kinds)) for e in planned.executions
            )
            others = tuple(execution for execution in others if execution.kinds)
            if kinds or others:
                kept.append(replace(planned, kinds=kinds, executions=others))
        complete = tuple(kept) == self.plan.cells
        notes = [self.plan.partial] if self.plan.partial else []
        if not complete:
            notes += self.narrowing
        return kept, "; ".join(notes) or None

    def _pack(self, record: RunRecord) -> tuple[str, str]:
        """Write the capsule of this run; (style, line) for the terminal."""
        from parity.capsule.make import Selection, make

        path = Path(self.options["capsule"])
        path = path if path.is_absolute() else self.config.root / path
        try:
            if self.options.get("no_report"):
                raise ParityError("--parity-capsule needs the report: a capsule is judged against its parity.json")
            made = make(self.session, record, path, Selection(self.profile))
        except ParityError as error:
            return "red", f"capsule: not written: {error}"
        left = "".join(f"; left out {cell}: {why}" for cell, why in made.left_out.items())
        return "", f"capsule: {path.name}: {plural(len(made.cells), 'cell')}, seal {made.seal}{left}"

    @property
    def _report(self) -> Path:
        return report_path(self.config.root, self.options)

    def begin(self) -> None:
        """From the first moment on, no verdict of another run stands: not if this one dies, and not if it writes no
        report."""
        if self._begun:
            return
        self._begun = True
        if self.plan.part:
            self._origin = origin.origin(self.config)
        publishing.note_elsewhere(report_path(self.config.root, {}), self._report)
        if self.options.get("no_report"):
            publishing.clear(self._report)
        else:
            publishing.begin(self._report, self._record("the run that began has not ended"))

    def _write(self, record: RunRecord, whole: bool) -> None:
        html = self._report
        if html.suffix != ".html":
            raise ConfigError(f"--parity-report {html.name}: the report is HTML; give a path that ends in .html")
        written, self.kept = publishing.publish(html, record, whole=whole)
        self.written += written

    def exit_status(self, exitstatus: int, failed: int) -> int:
        """The session's exit code: the verdict's, unless tests outside the plan failed or the session broke off."""
        assert self.record is not None
        mode = self.options.get("gate")
        if exitstatus not in (0, 1, 5):
            return exitstatus
        if self.ledger.refused or (self.capsule and self.capsule[0] == "red"):
            return 1
        own = gate.exit_code(self.record)
        if mode == "block":
            return own if exitstatus in (0, 5) else 1
        return int(exitstatus == 1 and failed > self._failures)

    def summary_lines(self) -> list[tuple[str, str]]:
        """(style, text) lines for the terminal: what does not pass first, the verdict and the report's path last."""
        if self.problem:
            return [("red", f"error: {self.problem}")]
        if self.record is None or self.options.get("gate") == "off":
            return []
        lines = terminal.lines(self.record, blocking=self.options.get("gate") != "warn")
        lines += self.ledger.lines
        lines += [self.capsule] if self.capsule else []
        lines += [("yellow", self.kept)] if self.kept else []
        if shown := self.shown_report():
            lines.append(("", f"report: {shown}"))
        return lines

    def shown_report(self) -> str:
        """The path of the HTML report that this run wrote, from the project's folder; "" where it wrote none."""
        if not self.written:
            return ""
        path = self.written[-1]
        return str(path.relative_to(self.config.root) if path.is_relative_to(self.config.root) else path)

    def annotation_lines(self, environ: Mapping[str, str]) -> list[str]:
        """Workflow commands for GitHub, where this is one of its runners."""
        if self.record is None or environ.get("GITHUB_ACTIONS") != "true" or self.options.get("gate") == "off":
            return []
        root = self.config.root.resolve()
        top = Path(environ.get("GITHUB_WORKSPACE") or root).resolve()
        inside = root.is_relative_to(top) and root != top
        return annotated(self.record, root.relative_to(top).as_posix() if inside else "")


def report_path(root: Path, options: Mapping[str, Any]) -> Path:
    """Where the HTML report of a project at `root` goes; relative paths start there."""
    return root / Path(options.get("report") or Path("reports", "parity.html"))


def put_aside(start: Path, root: Path, options: Mapping[str, Any]) -> None:
    """Where the configuration is refused, so that no run begins: no verdict of another configuration stands."""
    file = configuration.find(start) or configuration.find(root)
    if file is not None:
        for path in (report_path(file.parent, {}), report_path(file.parent, options)):
            publishing.clear(path)


def environment() -> Environment:
    packages = {name: found for name in (*formats.packages(), *PACKAGES) if (found := version(name)) != "absent"}
    return Environment(platform.python_version(), packages, f"{sys.platform}-{platform.machine()}", 1, processor.name())


def prepare(start: Path, root: Path, options: Mapping[str, Any], shared: dict[str, Any]) -> Control | None:
    """The run of the project that `start` (where the command was given) or else `root` (pytest's) is in, told to the
    other processes through `shared`; None when there is no [tool.parity] table. Raises ConfigError.

    pytest's own root cannot decide: it follows the values of options that are folders, as in --parity-cache DIR.
    """
    file = Path(shared["file"]) if shared.get("file") else configuration.find(start) or configuration.find(root)
    if file is None:
        return None
    shared["file"] = str(file)
    if options.get("update"):
        references.refuse_in_ci(os.environ)
    config = project.load(file, options.get("set") or (), factories=True)
    config = toolchains.choose(config, options.get("toolchain") or ())
    return Control(config, make_plan(config, options, planned_kinds), options, shared)
