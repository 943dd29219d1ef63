"""pytest hooks and markers, and nothing else: each delegates to a module that knows no pytest."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parity.core.errors import ParityError
from parity.core.executors import HOST, REFUSES, execution_id
from parity.core.kinds import BY_NAME
from parity.core.words import plural
from parity.pytest_plugin import failures, fixtures, options
from parity.pytest_plugin.fixtures import CONTROL, RECORDER

if TYPE_CHECKING:
    from parity.core.plan import Cell
    from parity.pytest_plugin.control import Control
    from parity.report.progress import Watcher

WATCHER: pytest.StashKey[Watcher] = pytest.StashKey()

_EXECUTION = re.compile(r"\[(([a-z0-9_]+-[a-z0-9_]+-[a-z0-9]+)(?:@[a-z0-9:-]+)?)\]$")


# Options and set-up.


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "parity: measures a cell of the parity plan; `pytest -m parity` runs them all",
        "cell(model, target, precision): the cell that a test measures; select with -m \"cell(target='onnx')\"",
        "needs(capability): skip where this machine lacks the capability, with the reason in the report",
        "parity_power: measures which faults a cell's limits would notice; `-m parity_power` implies --parity-power",
        "slow: takes more than a few seconds",
        "nightly: takes minutes; not part of an everyday run",
    ):
        config.addinivalue_line("markers", line)
    config.pluginmanager.register(fixtures, "parity-fixtures")  # by name it would be imported, with a warning
    config.pluginmanager.register(failures, "parity-failures")
    control = _prepared(config)
    if control is not None:
        config.stash[CONTROL] = control


def _prepared(config: pytest.Config) -> Control | None:
    from parity.pytest_plugin import control

    try:
        return control.prepare(config.invocation_params.dir, config.rootpath, options.given(config), _shared(config))
    except ParityError as error:
        if not (hasattr(config, "workerinput") or config.option.collectonly or config.getoption("parity_show_plan")):
            control.put_aside(config.invocation_params.dir, config.rootpath, options.given(config))
        raise pytest.UsageError(str(error)) from None


def _shared(config: pytest.Config) -> dict[str, Any]:
    """What the processes of one run share: its name and when it began."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        return dict(worker["parity"])
    return {"run": uuid.uuid4().hex, "started": time.time()}


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    control = node.config.stash.get(CONTROL, None)
    node.workerinput["parity"] = control.shared if control else {"run": uuid.uuid4().hex, "started": time.time()}


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    if not config.getoption("parity_show_plan"):
        return None
    from parity.session.planning import shown

    control = _prepared(config)  # this hook runs before pytest_configure
    if control is None:
        where = config.invocation_params.dir
        raise pytest.UsageError(f"no pyproject.toml with a [tool.parity] table in {where}; run: parity init")
    print(shown(control.config, control.plan, control.options))
    return 0


def pytest_unconfigure(config: pytest.Config) -> None:
    control = config.stash.get(CONTROL, None)
    if control is not None:
        control.close()


# Collection.


def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> list[pytest.Item] | None:
    """No test of the suite that no cell of the plan asks for; pytest would count each, skipped for no parameters."""
    kind, control = getattr(obj, "parity_kind", None), collector.config.stash.get(CONTROL, None)
    if not isinstance(kind, str) or control is None or kind in control.plan.kinds:
        return None
    return []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "parity_cell" not in metafunc.fixturenames:
        return
    control = metafunc.config.stash.get(CONTROL, None)
    if control is None:
        where = metafunc.config.invocation_params.dir
        raise pytest.Collector.CollectError(
            f"no pyproject.toml with a [tool.parity] table in {where}; run: parity init"
        )
    kind = getattr(metafunc.function, "parity_kind", None)
    about = BY_NAME.get(kind) if isinstance(kind, str) else None
    runs_files = "parity_executor" in metafunc.fixturenames
    params = []
    for cell, executor, unavailable in _executions(control, kind, others=runs_files):
        marks = [
            pytest.mark.parity,
            pytest.mark.cell(model=cell.model, target=cell.target, precision=cell.precision),
        ]
        if about is not None and about.power and executor == HOST:
            marks.append(pytest.mark.parity_power)
        if unavailable:
            marks.append(pytest.mark.skip(reason=unavailable))
        values = (cell, executor) if runs_files else (cell,)
        params.append(pytest.param(*values, id=execution_id(cell.id, executor), marks=marks))
    names = ("parity_cell", "parity_executor") if runs_files else ("parity_cell",)
    metafunc.parametrize(names, params, indirect=True, scope="session")


def _executions(control: Control, kind: str | None, others: bool) -> Iterator[tuple[Cell, str, str | None]]:
    """(cell, executor, why it cannot run here) of what a test is to measure: a test of the suite every execution that
    plans its kind, a project's own the host's."""
    for planned in control.plan.cells:
        if kind in planned.kinds or (kind is None and planned.kinds):
            yield planned.cell, HOST, planned.unavailable
        for execution in planned.executions if others else ():
            if kind in execution.kinds:
                yield planned.cell, execution.executor, execution.unavailable


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Power alone has one test a cell, of up to minutes: the largest models first, so that workers end together."""
    control = config.stash.get(CONTROL, None)
    if control is not None and "parity_power" in (config.option.markexpr or ""):
        items.sort(key=lambda item: -control.load(found[0]) if (found := _identity(item)) else 0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    from parity.formats.target import lacking

    for marker in item.iter_markers("needs"):
        for capability in marker.args:
            reason = lacking(capability)
            if reason:
                pytest.skip(reason)


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        control, identity = item.config.stash.get(CONTROL, None), _identity(item)
        if control is not None and identity is not None:
            control.deselected.append(identity)


def pytest_collection_finish(session: pytest.Session) -> None:
    control = session.config.stash.get(CONTROL, None)
    if control is not None:
        control.collected += [found for item in session.items if (found := _identity(item))]
        control.narrowing = _narrowing(session.config)


def _narrowing(config: pytest.Config) -> list[str]:
    """How the command line selected tests, beyond `-m parity`."""
    found = []
    if config.option.keyword:
        found.append(f"-k {config.option.keyword}")
    if config.option.markexpr and config.option.markexpr.strip() != "parity":
        found.append(f"-m {config.option.markexpr}")
    if config.getoption("deselect", None):
        found.append("--deselect")
    if config.getoption("lf", False):
        found.append("--last-failed")
    if any("::" in str(arg) for arg in config.args):
        found.append("single tests named")
    return found


def _identity(item: pytest.Item) -> list[str] | None:
    """[id of the execution, kind that the test completes or ''] of a parity test."""
    call = getattr(item, "callspec", None)
    cell = call.params.get("parity_cell") if call is not None else None
    if call is None or cell is None or not hasattr(cell, "id"):
        return None
    executor = call.params.get("parity_executor", HOST)
    return [execution_id(cell.id, executor), getattr(getattr(item, "function", None), "parity_kind", "")]


# Running and reporting.


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    result = yield
    recorder = pyfuncitem.stash.get(RECORDER, None)
    if recorder is not None:
        recorder.finished = True
        identity, control = _identity(pyfuncitem), pyfuncitem.config.stash.get(CONTROL, None)
        because = control.cause(identity[0], recorder.details) if identity and control else ""
        why = recorder.verdict(because)
        if why:
            pytest.fail(f"{recorder.cell}: {why}" if recorder.cell else why, pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    identity = _identity(item)
    control = item.config.stash.get(CONTROL, None)
    if identity is None or control is None:
        return report
    told: dict[str, Any] = {"cell": identity[0], "kind": identity[1], "when": report.when, "outcome": report.outcome}
    if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
        told["failure"] = control.failure(call.excinfo.value)
        if call.excinfo.errisinstance(ParityError) and told["failure"]:
            _tell_once(report, control, told["failure"], identity[0])
            told["outcome"] = report.outcome
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        told["skipped"] = str(report.longrepr[2]).removeprefix("Skipped: ")
    control.board.clear()
    recorder = item.stash.get(RECORDER, None)
    if recorder is not None and report.when == "call":
        told |= recorder.export()
        if recorder.finished and report.failed:
            told["broken"] = recorder.brief()
        told["details"] |= control.details(identity[0])
    told["seconds"] = report.duration
    report.parity = told
    return report


def _tell_once(report: pytest.TestReport, control: Control, failure: dict[str, str], cell: str) -> None:
    """A failed export or load fails the first test that meets it; the cell's other tests point to that one. A file that
    an executor refuses fails none: the record tells it, and the gate asks whether that executor is required."""
    if failure["reason"].startswith(REFUSES):
        report.outcome = "skipped"
        report.longrepr = (str(report.fspath), report.location[1] or 0, f"Skipped: {cell}: {failure['reason']}")
    elif control.first_to_tell(cell, failure):
        report.longrepr = control.failure_text(failure, cell)
    else:
        report.outcome = "skipped"
        reason = f"{cell} could not be measured ({failure['state']}): told once, by another of its tests"
        report.longrepr = (str(report.fspath), report.location[1] or 0, f"Skipped: {reason}")


def pytest_runtest_logstart(nodeid: str) -> None:
    """Before a test begins anywhere; in a worker nobody reports."""
    if _reporting is not None and _cell(_reporting, nodeid):
        _reporting.begin()


def pytest_runtest_logreport(report: Any) -> None:
    """Only the controller judges: workers' reports arrive there too."""
    control = _reporting
    if control is None:
        return
    if hasattr(report, "parity"):
        control.hear(report.parity)
    elif report.when == "???":
        cell = _cell(control, report.nodeid)
        if cell:
            control.hear_crash(cell, report.nodeid, str(report.longrepr))


def _cell(control: Control, nodeid: str) -> str:
    """The id of the planned execution that a node's name ends in, or "": other tests may have parameters that look
    like one."""
    found = _EXECUTION.search(nodeid)
    return found[1] if found and found[2] in control.plan else ""


_reporting: Control | None = None  # pytest_runtest_logreport is given no config


def pytest_sessionstart(session: pytest.Session) -> None:
    global _reporting
    config = session.config
    control = config.stash.get(CONTROL, None)
    if hasattr(config, "workerinput"):
        return
    _reporting = control
    if control is not None and _asked(config) and not config.option.collectonly:
        control.begin()
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if control is not None and terminal is not None and config.option.verbose >= 0:
        from parity.report.live import Terminal
        from parity.report.progress import Watcher

        config.stash[WATCHER] = Watcher(control.board, Terminal(terminal))
        config.stash[WATCHER].start()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    control = node.config.stash.get(CONTROL, None)
    told = getattr(node, "workeroutput", {}).get("parity")
    if control is not None and told:
        control.merge(told)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    watcher = config.stash.get(WATCHER, None)
    if watcher is not None:
        watcher.stop()
    control = config.stash.get(CONTROL, None)
    if control is None:
        return
    if hasattr(config, "workerinput"):
        config.workeroutput["parity"] = control.told()  # type: ignore[attr-defined]
        return
    if session.config.option.collectonly or not (control.active or _asked(config)):
        return
    try:
        control.finish(" ".join(["pytest", *_quoted(config.invocation_params.args)]), int(exitstatus))
    except ParityError as error:
        control.problem = str(error)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return
    session.exitstatus = control.exit_status(int(exitstatus), session.testsfailed)


def _asked(config: pytest.Config) -> bool:
    """Whether the command line asks for parity tests by their mark."""
    marks = config.option.markexpr or ""
    return bool(re.search(r"\bparity(_power)?\b", marks)) and not re.search(r"\bnot\s+parity\b", marks)


def _quoted(args: Any) -> list[str]:
    import shlex

    return [shlex.quote(str(arg)) for arg in args]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    failures.restore(terminalreporter, config)
    control = config.stash.get(CONTROL, None)
    if control is None or not control.summary_lines():
        return
    terminalreporter.section("parity")
    for style, line in control.summary_lines():
        terminalreporter.write_line(line, **({style: True} if style else {}))
    for line in control.annotation_lines(os.environ):
        terminalreporter.write_line(line)


def pytest_report_header(config: pytest.Config) -> str | None:
    control = config.stash.get(CONTROL, None)
    if control is None:
        return None
    return f"parity: {plural(len(control.plan.cells), 'cell')}, cache {_short(control.store_root)}"


def _short(path: Path) -> str:
    home = str(Path.home())
    return "~" + str(path)[len(home) :] if str(path).startswith(home + os.sep) else str(path)
