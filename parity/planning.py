"""The run as a whole: options and configuration to a plan, what the tests told to records, records to outputs.

The plugin's hooks call this object; it knows no pytest.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity import baseline, detail, gate, publishing, targets, terminal
from parity import config as configuration
from parity.annotations import lines as annotated
from parity.baseline_options import Keeper
from parity.cache import Store
from parity.cases import references
from parity.cases.drawing import Drawing
from parity.cases.files import clips, golden_files, labelled
from parity.config import Config, ModelConfig
from parity.errors import ConfigError, ParityError
from parity.limits import LOWERING, PROOF, resolve
from parity.plan import LOWERED, PROVED, Cell, Plan, PlannedCell
from parity.progress import Board
from parity.record import (
    CellRecord,
    Check,
    Environment,
    Finding,
    RunRecord,
    build,
)
from parity.redact import redacted
from parity.targets.base import version

if TYPE_CHECKING:
    from parity.cases import Case
    from parity.session import Session

QUICK_CASES = 8
PACKAGES = ("torch", "onnx", "onnxruntime", "onnx2tf", "tensorflow", "ai-edge-litert", "coremltools", "ncnn", "pnnx",
            "numpy", "opencv-python", "pillow", "hypothesis", "pytest", "pytest-xdist", "pytest-parity")  # fmt: skip


def make_plan(config: Config, options: Mapping[str, Any]) -> Plan:
    """The cells of the configuration, narrowed as the options say. Raises ConfigError."""
    required = {*config.require, *(options.get("require") or ())}
    known = {c.target for c in config.cells} | set(config.models)
    for name in options.get("require") or ():
        if name not in known:
            raise ConfigError(f"--parity-require: {name!r} is neither a target nor a model of this project's plan")
    quick = options.get("profile") == "quick"
    waiting = () if options.get("profile") == "nightly" else config.nightly
    cells = tuple(_planned(config, cell, required, quick) for cell in config.cells if cell not in waiting)
    # What the command line set is in no committed file: such a run is never a release verdict.
    notes = [*(f"--parity-set {s}" for s in options.get("set") or ()), *(["profile quick"] if quick else [])]
    plan = Plan(cells, "; ".join(notes) or None).narrow(
        models=options.get("models") or (),
        targets=options.get("targets") or (),
        precisions=options.get("precisions") or (),
    )
    if options.get("shard"):
        costs = baseline.costs(Keeper.prepare(config.root, plan.partial, options).known)
        k, n = options["shard"]
        plan = plan.shard(k, n, costs, config.file.read_text(encoding="utf-8"))
    return plan


def _planned(config: Config, cell: Cell, required: set[str], quick: bool) -> PlannedCell:
    model = config.models[cell.model]
    cases = len(golden_files(model.golden)) if model.golden else 0
    videos = len(clips(model))
    kinds = ["contract"]
    if cases and (cell.target in LOWERED or (cell.target in PROVED and model.proof)):
        kinds.append("static")
    if cases or not videos:  # without any data golden stays planned, and says that there is none
        kinds.append("golden")
    if labelled(model):
        kinds.append("accuracy")
    if videos:
        kinds.append("video")
    kinds.append("sequence")
    if model.contract.sizes() and not targets.get(cell.target).fixed_dims:
        kinds.append("batch")
    if model.properties.examples:
        kinds.append("property")
    target = targets.get(cell.target)
    reason = target.unavailable(cell, model, target.python(config))
    prebuilt = f"{cell.target}-{cell.precision}" in model.artifacts
    if prebuilt and reason and "calibration" in reason:
        reason = None
    return PlannedCell(
        cell,
        tuple(kinds),
        reason,
        bool({cell.target, cell.model} & required),
        min(cases, QUICK_CASES) if quick else cases,
        tuple(o.name for o in model.contract.outputs),
        videos,
    )


@dataclass
class _Heard:
    """What the tests of one cell told so far."""

    checks: list[Check] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)
    failure: dict[str, str] | None = None
    skipped: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


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
        self.ledger = Keeper.prepare(config.root, plan.partial, options)
        self.capsule: tuple[str, str] | None = None
        self._heard: dict[str, _Heard] = {}
        self._failures = 0
        self._begun = False
        self._session: Session | None = None
        self._store = Store.at(options.get("cache") or config.cache, config.root)

    # In every process.

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
            from parity.isolate import Budget
            from parity.session import Session

            seconds = self.options.get("timeout") or self.config.timeout
            self._session = Session(
                self.config,
                self.shared["run"],
                store=self._store,
                budget=Budget(seconds, self.config.memory),
                rebuild_since=self.shared["started"] if self.options.get("rebuild") else None,
                progress=self.board.post,
            )
            if self.options.get("submodels"):
                self._session.submodels = self.config.root / self.options["submodels"]
        return self._session

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    @property
    def frames(self) -> int | None:
        """How many frames of a clip this profile measures; None for all."""
        return {"quick": 4, "full": 24}.get(self.options.get("profile") or "full")

    def golden(self, model: ModelConfig) -> list[Case]:
        cases = self.session.golden(model)
        return cases[:QUICK_CASES] if self.options.get("profile") == "quick" else cases

    @property
    def drawing(self) -> Drawing:
        """How many inputs each property test draws, from which seed, and since when this run has kept failures."""
        return Drawing.of(self.options, self.config.seed, self.shared)

    @property
    def golden_name(self) -> str:
        return "quick" if self.options.get("profile") == "quick" else "golden"

    def first_to_tell(self, cell: str, failure: Mapping[str, str]) -> bool:
        """True for exactly one test of the run that met this failure of this cell."""
        try:
            return self._store.first(self.shared["run"], f"told {cell} {failure['stage']} {failure['reason']}")
        except ParityError:  # where nothing can be written, everybody tells
            return True

    def failure(self, error: BaseException) -> dict[str, str] | None:
        """What went wrong outside the checks: state, stage, reason and log; None for a test's own failed checks."""
        from parity.isolate import ChildFailure

        if isinstance(error, ChildFailure):
            return {"state": error.state, "stage": error.stage, "reason": error.reason, "log": error.log}
        if type(error).__name__ == "Failed":  # pytest.fail: broken checks speak for themselves
            return None
        return {"state": "error", "stage": "", "reason": str(error) or type(error).__name__, "log": ""}

    def failure_text(self, failure: Mapping[str, str], cell: str) -> str:
        """The failure as a person reads it in the terminal: no traceback of ours, but the end of the child's log."""
        where = f" in {failure['stage']}" if failure["stage"] else ""
        text = f"{cell}: {failure['state']}{where}: {failure['reason']}"
        if failure["log"]:
            text += "\n  the end of its log:\n" + "\n".join(f"  | {line}" for line in failure["log"].splitlines()[-12:])
        return text

    def details(self, cell: str) -> dict[str, Any]:
        """What this process knows of a cell's artefact and runtime, for the record."""
        from parity.record import plain

        made = self.session.made(self.plan[cell].cell)
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
        chosen = any(self.options.get(k) for k in ("models", "targets", "precisions", "shard", "require"))
        return bool(self._heard or self.collected) or chosen

    def hear(self, told: Mapping[str, Any]) -> None:
        """Take in the report of one phase of one test."""
        heard = self._heard.setdefault(told["cell"], _Heard())
        heard.seconds += told.get("seconds", 0.0)
        self._failures += told["outcome"] == "failed"
        if told.get("failure") and (heard.failure is None or heard.failure["state"] == "error"):
            heard.failure = told["failure"]
        if told.get("skipped"):
            heard.skipped = told["skipped"]
        for data in told.get("checks", ()):
            heard.checks.append(build(Check, data, "check"))
        for data in told.get("findings", ()):
            finding = build(Finding, data, "finding")
            if finding not in heard.findings:
                heard.findings.append(finding)
        detail.merge(heard.details, told.get("details", {}))
        ran = told["when"] == "call" and told["outcome"] != "skipped" and told.get("finished", False)
        if ran and told["kind"] and not told.get("failure"):
            heard.measured.append(told["kind"])

    def hear_crash(self, cell: str, nodeid: str, reason: str) -> None:
        heard = self._heard.setdefault(cell, _Heard())
        self._failures += 1
        text = f"the pytest worker died while it ran {nodeid.rpartition('::')[2]}"
        heard.failure = {"state": "crash", "stage": "pytest", "reason": text, "log": reason[-2000:]}

    def finish(self, command: str, exitstatus: int) -> RunRecord:
        """Judge what was heard and write the reports. Raises ParityError when a report cannot be written."""
        plan, partial = self._in_force()
        cells = tuple(self._cell(planned) for planned in plan)
        cells, waivers = gate.apply_waivers(cells, self.config.waive, datetime.date.today(), [p.cell.id for p in plan])
        started = datetime.datetime.fromtimestamp(self.shared["started"], datetime.timezone.utc)
        record = RunRecord(
            verdict="incomplete",
            cells=cells,
            environment=environment(),
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.time() - self.shared["started"], 3),
            partial=partial,
            command=command,
            config=self.config.file.name,
            profile=self.options.get("profile") or "full",
            shard=self.plan.part if partial == self.plan.partial else None,  # narrowed further, it is no part
            waiting=self._waiting(),
            builds=sum(heard.details.get("steps_built", 0) for heard in self._heard.values()),
            waivers=waivers,
        )
        if exitstatus == 2:
            record = replace(record, partial=None)  # interrupted: whatever was narrowed, it is not complete
        self.record = redacted(self.ledger.judge(record), Path.home(), os.environ)
        if not self.options.get("no_report") and record.cells:  # an empty selection leaves the last report alone
            self._write(self.record, whole=not partial and exitstatus != 2)
        if self.options.get("capsule"):
            self.capsule = self._pack(self.record)
        self._store.end(self.shared["run"])
        return self.record

    def _in_force(self) -> tuple[list[PlannedCell], str | None]:
        """The plan less what the user's own selection took out, and how the whole was narrowed.

        What disappeared without a selection on the command line stays planned, and will be missing.
        """
        if not self.narrowing:
            return list(self.plan.cells), self.plan.partial
        removed = {tuple(e) for e in self.deselected}
        only = {tuple(e) for e in self.collected} if "single tests named" in self.narrowing else None
        kept = []
        for planned in self.plan.cells:
            id = planned.cell.id
            kinds = tuple(k for k in planned.kinds if (id, k) not in removed and (only is None or (id, k) in only))
            if kinds:
                kept.append(replace(planned, kinds=kinds))
        complete = len(kept) == len(self.plan.cells) and all(
            k.kinds == p.kinds for k, p in zip(kept, self.plan.cells, strict=True)
        )
        notes = [self.plan.partial] if self.plan.partial else []
        if not complete:
            notes += self.narrowing
        return kept, "; ".join(notes) or None

    def _waiting(self) -> tuple[str, ...]:
        nightly = self.options.get("profile") == "nightly"
        return () if nightly else tuple(cell.id for cell in self.config.nightly)

    def _cell(self, planned: PlannedCell) -> CellRecord:
        cell, heard = planned.cell, self._heard.get(planned.cell.id, _Heard())
        details = heard.details
        record = CellRecord(
            id=cell.id,
            model=cell.model,
            target=cell.target,
            precision=cell.precision,
            state="missing",
            planned=planned.kinds,
            measured=tuple(k for k in planned.kinds if k in heard.measured),
            planned_cases=planned.cases,
            planned_outputs=planned.outputs,
            planned_clips=planned.clips,
            required=planned.required,
            checks=tuple(
                sorted(heard.checks, key=lambda c: planned.kinds.index(c.kind) if c.kind in planned.kinds else 9)
            ),
            findings=(*(Finding(text, "warning") for text in details.get("rebuilt", ())), *heard.findings),
            seconds=round(heard.seconds, 3),
            rerun=f"pytest -m parity -k {cell.id}",
            **detail.fields(details),
        )
        if planned.unavailable:
            return replace(record, state="unavailable", reason=planned.unavailable, rerun="")
        if heard.failure:
            failure = heard.failure
            where = f"{failure['stage']}: " if failure["stage"] else ""
            return replace(
                record,
                state=failure["state"],  # type: ignore[arg-type]
                stage=failure["stage"],
                reason=where + failure["reason"],
                log=failure["log"],
            )
        record = gate.settle(record)
        if record.state == "missing" and heard.skipped:
            record = replace(record, reason=f"{record.reason} (skipped: {heard.skipped})")
        return record

    def _pack(self, record: RunRecord) -> tuple[str, str]:
        """Write the capsule of this run; (style, line) for the terminal."""
        from parity.capsule.make import make

        path = Path(self.options["capsule"])
        path = path if path.is_absolute() else self.config.root / path
        try:
            if self.options.get("no_report"):
                raise ParityError("--parity-capsule needs the report: a capsule is judged against its parity.json")
            made = make(self, record, path)
        except ParityError as error:
            return "red", f"capsule: not written: {error}"
        left = "".join(f"; left out {cell}: {why}" for cell, why in made.left_out.items())
        return "", f"capsule: {path.name}: {len(made.cells)} cells, seal {made.seal}{left}"

    @property
    def _report(self) -> Path:
        html = Path(self.options.get("report") or self.config.root / "reports" / "parity.html")
        return html if html.is_absolute() else self.config.root / html

    def begin(self) -> None:
        """Before the first test: the last run's report goes, or a run that dies would leave its verdict standing."""
        if not self._begun and not self.options.get("no_report"):
            publishing.clear(self._report)
        self._begun = True

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
        for path in self.written[-1:]:
            shown = path.relative_to(self.config.root) if path.is_relative_to(self.config.root) else path
            lines.append(("", f"report: {shown}"))
        return lines

    def annotation_lines(self, environ: Mapping[str, str]) -> list[str]:
        """Workflow commands for GitHub, where this is one of its runners."""
        if self.record is None or environ.get("GITHUB_ACTIONS") != "true" or self.options.get("gate") == "off":
            return []
        root = self.config.root.resolve()
        top = Path(environ.get("GITHUB_WORKSPACE") or root).resolve()
        inside = root.is_relative_to(top) and root != top
        return annotated(self.record, root.relative_to(top).as_posix() if inside else "")

    # Showing the plan.

    def show_plan(self) -> str:
        """Every cell with its kinds of check, its limits and who set each, and what cannot run here and why."""
        lines = [f"{len(self.plan.cells)} cells" + (f" (narrowed: {self.plan.partial})" if self.plan.partial else "")]
        for planned in self.plan.cells:
            cell, model = planned.cell, self.config.models[planned.cell.model]
            required = ", required" if planned.required else ""
            films = f", {planned.clips} clips" if planned.clips else ""
            lines.append(f"\n{cell.id}: {', '.join(planned.kinds)}; {planned.cases} golden cases{films}{required}")
            if planned.unavailable:
                lines.append(f"  cannot run here: {planned.unavailable}")
            for spec in model.contract.outputs:
                for metric, limit in sorted(resolve(self.config.rules, cell, spec.name).items()):
                    if metric in (*PROOF, *LOWERING) and "static" not in planned.kinds:
                        continue
                    shown = "no limit" if limit.value is None else f"{limit.value:g}"
                    lines.append(f"  {spec.name:<12} {metric:<20} {shown:<10} {limit.source}")
        lines += [f"\n{id}: only with --parity-profile nightly" for id in self._waiting()]
        return "\n".join(lines)


def environment() -> Environment:
    packages = {name: found for name in PACKAGES if (found := version(name)) != "absent"}
    return Environment(platform.python_version(), packages, f"{sys.platform}-{platform.machine()}", 1)


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
    config = configuration.load(file, targets.names(), options.get("set") or (), factories=True)
    return Control(config, make_plan(config, options), options, shared)
