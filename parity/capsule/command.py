"""`parity capsule`: cells of a run in one sealed file, executed on another machine and judged into the record.

`make` where the run was, `run` where the runtime is (Core ML: macOS), `judge` where the record is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from parity.core.errors import ConfigError
from parity.core.kinds import BY_NAME
from parity.core.words import plural
from parity.store import atomic


def add_actions(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    make = actions.add_parser("make", help="pack artefacts, cases, references, floors and limits of a run")
    make.add_argument("--record", type=Path, default=Path("reports/parity.json"), metavar="FILE",
                      help="the run's record (default reports/parity.json)")  # fmt: skip
    make.add_argument("--targets", type=_names, default=(), metavar="LIST", help="only these, as in coreml,coreml_nn")
    make.add_argument("--cells", type=_names, default=(), metavar="LIST", help="only these cells")
    make.add_argument("--output", type=Path, required=True, metavar="FILE", help="the capsule to write")
    make.add_argument("--parity-cache", dest="cache", metavar="URL", help="the run's artefact cache")
    make.set_defaults(run=_make)
    run = actions.add_parser("run", help="execute a capsule with the runtimes of this machine")
    run.add_argument("capsule", type=Path, metavar="CAPSULE", help="what make wrote")
    run.add_argument("--output", type=Path, required=True, metavar="FILE", help="the outputs to write")
    run.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="for one batch (default 600)")
    run.set_defaults(run=_run)
    judge = actions.add_parser("judge", help="judge outputs and merge them into the run's record")
    judge.add_argument("capsule", type=Path, metavar="CAPSULE", help="what make wrote")
    judge.add_argument("outputs", type=Path, metavar="OUTPUTS", help="what run wrote")
    judge.add_argument("--record", type=Path, default=Path("reports/parity.json"), metavar="FILE",
                       help="the run's record, unchanged (default reports/parity.json)")  # fmt: skip
    judge.add_argument("--output", type=Path, metavar="FILE", help="write the merged record here")
    judge.set_defaults(run=_judge)
    for action in (run, judge):
        action.add_argument("--seal", metavar="SHA256", help="refuse every capsule but the one with this seal")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _make(options: argparse.Namespace) -> int:
    from parity.capsule.make import Selection, make
    from parity.core.record import read
    from parity.session import project
    from parity.session.profile import Profile

    record = read(options.record)
    text = options.record.read_text(encoding="utf-8")
    selection = Selection(Profile(record.profile), options.targets, options.cells)
    with project.opened(project.here(), options.cache) as session:
        made = make(session, record, options.output, selection, text=text)
    for cell, why in made.left_out.items():
        print(f"left out {cell}: {why}")
    print(f"{options.output}: {plural(len(made.cells), 'cell')}, {options.output.stat().st_size / 2**20:.1f} MiB")
    print(f"seal {made.seal}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from parity.capsule.run import run
    from parity.process.isolate import Budget

    if not 0 < options.timeout < float("inf"):
        raise ConfigError("--timeout: expected a number of seconds above 0")
    report = run(
        options.capsule, options.output, seal=options.seal, budget=Budget(options.timeout),
        say=lambda line: print(line, flush=True),
    )  # fmt: skip
    done = sum(e.state == "ok" for e in report.executed)
    print(f"{options.output}: {done} of {len(report.executed)} executions, on {report.system} {report.machine}")
    return int(done != len(report.executed))


def _declared() -> set[str]:
    """The post-processing functions that the project in the current folder declares, and that can be imported from it;
    none where there is no project."""
    from parity.session import project

    try:
        config = project.here()
    except ConfigError:
        return set()
    sys.path.insert(0, str(config.root))
    outputs = [output for model in config.models.values() for output in model.contract.outputs]
    return {name for output in outputs for name in (output.post, output.match) if name and ":" in name}


def _judge(options: argparse.Namespace) -> int:
    from parity.capsule.judge import judged
    from parity.core.record import dumps
    from parity.judging import gate

    record = judged(options.capsule, options.outputs, options.record, seal=options.seal, declared=_declared)
    for cell in gate.by_urgency(record.cells):
        if cell.executions or cell.state != "pass":
            print(f"{cell.state:<11} {cell.id}" + (f": {cell.reason}" if cell.reason else ""))
        for execution in cell.executions:
            mine = [c for c in cell.checks if c.case.startswith(f"{execution.name}: ")]
            each = [c for c in mine if BY_NAME[c.kind].per_case]
            cases = {c.case for c in each if c.case != f"{execution.name}: all"}
            bad = sum(not c.passed for c in mine)
            if not mine:
                said = [f.text for f in cell.findings if f.text.startswith(f"{execution.name}: ")]
                print(f"            {'; '.join(said)}")
                continue
            print(f"            by {execution.name} {execution.version}: {len(cases)} cases, {len(mine)} checks, "
                  f"{bad} outside their limits")  # fmt: skip
    if options.output:
        atomic.publish({options.output: dumps(record)})
        print(options.output)
    print(f"verdict: {record.verdict}: {record.reason}")
    return gate.exit_code(record)
