"""`parity capsule run`: execute every artefact of a capsule in a child process and write what came out, sealed.

Needs NumPy, psutil, cattrs and the runtimes of the capsule's targets; no torch, no converter, no project.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from parity import formats as targets
from parity.capsule.archive import Archive, pack
from parity.capsule.contents import (
    RUN,
    CellPlan,
    Executed,
    Execution,
    Plan,
    RunReport,
    dump,
    load_array,
    load_plan,
    members,
    save_array,
)
from parity.core.errors import ParityError
from parity.formats.serve import Opened, OpenRequest, Outputs, RunRequest
from parity.formats.target import lacking, version, versions
from parity.process.isolate import Budget, ChildFailure, Children

_STATES: Mapping[str, Literal["crash", "timeout"]] = {"crash": "crash", "timeout": "timeout"}
_AT_ONCE = 16  # cases in one message to the child


def run(
    path: Path,
    output: Path,
    *,
    seal: str | None = None,
    budget: Budget | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> RunReport:
    """Execute the whole plan of the capsule `path` and write the outputs to `output`. An execution that cannot run or
    dies is reported as such, in its place. Raises ParityError for a capsule that is not as it was made."""
    with Archive(path, "capsule") as capsule, tempfile.TemporaryDirectory(prefix="parity-capsule-") as scratch:
        expect(capsule, seal)
        plan = load_plan(capsule)
        results = Path(scratch, "outputs")
        results.mkdir()
        executed = []
        for cell in plan.cells:
            folder = Path(scratch, "artifacts", cell.id)
            for file in cell.files:
                capsule.extract(f"artifacts/{cell.id}/{file.path}", folder / file.path)
            for number, execution in enumerate(cell.executions):
                done = _execute(capsule, plan, cell, number, execution, folder, results, budget or Budget())
                executed.append(done)
                say(f"{cell.id}: {execution.name}: {done.state}" + (f": {done.reason}" if done.reason else ""))
        found = {
            name: v for name, v in versions(("numpy", *targets.packages(), "pytest-parity")).items() if v != "absent"
        }
        report = RunReport(platform.machine(), _system(), platform.python_version(), found, tuple(executed))
        (results / RUN).write_text(dump(report), encoding="utf-8")
        pack(results, output, "outputs", capsule.seal)
    return report


def expect(capsule: Archive, seal: str | None) -> None:
    """Raise ParityError unless the capsule has the seal that was told apart from it; None tells nothing."""
    if seal is not None and capsule.seal != seal:
        raise ParityError(
            f"{capsule.path}: its seal is {capsule.seal[:16]}..., expected {seal[:16]}...: another capsule"
        )


def _system() -> str:
    mac = platform.mac_ver()[0]
    return f"macOS {mac}" if mac else f"{platform.system()} {platform.release()}"


def _unavailable(cell: CellPlan, execution: Execution) -> str | None:
    if execution.executor == "coreml-runtime":
        return lacking("coreml-runtime")
    package = targets.get(cell.target).runtime_package
    return None if version(package) != "absent" else f"{package} is not installed: pip install {package}"


def _execute(
    capsule: Archive,
    plan: Plan,
    cell: CellPlan,
    number: int,
    execution: Execution,
    folder: Path,
    results: Path,
    budget: Budget,
) -> Executed:
    target = targets.get(cell.target)
    facts: dict[str, Any] = {"cell": cell.id, "executor": execution.executor, "compute_unit": execution.compute_unit,
                             "version": version(target.runtime_package)}  # fmt: skip
    reason = _unavailable(cell, execution)
    if reason:
        return Executed(**facts, state="unavailable", reason=reason)
    how = {"session": target.session, "executor": execution.executor, "compute_unit": execution.compute_unit}
    data = plan.data(cell)
    times: list[float] = []
    devices: dict[str, int] = {}
    names = {(kind, case, output): member for kind, case, output, member in members(plan, cell, number)}
    try:
        with Children(None, budget) as children:
            child = children.get(target.family, confined=target.session.startswith("parity."))
            opening = OpenRequest("parity.capsule.device:Device", str(folder), {**cell.notes, "run_by": how})
            function = "parity.formats.serve:open_session"
            opened = child.call(function, opening, Opened, budget=budget, stage="load")
            devices = opened.description["devices"]
            for kind in cell.batches:
                count = len(data.cases(kind))
                for start in range(0, count, _AT_ONCE):
                    indices = range(start, min(start + _AT_ONCE, count))
                    rows = [
                        {n: load_array(capsule, f"data/{cell.model}/{kind}/{i:05d}/in.{k}.npy")
                         for k, n in enumerate(data.inputs)} for i in indices
                    ]  # fmt: skip
                    result = child.call(
                        "parity.formats.serve:run",
                        RunRequest(opened.handle, rows),
                        Outputs,
                        budget=budget,
                        stage="run",
                        again=False,
                    )
                    times += result.milliseconds
                    for i, row in zip(indices, result.outputs, strict=True):
                        for k, name in enumerate(data.outputs):
                            if name not in row:
                                raise ChildFailure("error", "run", f"the artefact does not give the output {name!r}")
                            save_array(results, names[kind, i, k], row[name])
    except ChildFailure as failure:
        for member in names.values():
            (results / member).unlink(missing_ok=True)
        return Executed(
            **facts,
            state=_STATES.get(failure.state, "error"),
            stage=failure.stage,
            reason=failure.reason,
            log=failure.log[-2000:],
        )
    return Executed(**facts, state="ok", milliseconds=statistics.median(times), devices=devices)
