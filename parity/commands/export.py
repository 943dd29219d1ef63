"""`parity export`: export models of the project, verify each file against the oracle, and write a manifest.

Or convert one TorchScript or ExportedProgram file to Core ML as its contract.json says. Every option can also come from
the environment: EXPORT_OUTPUT_DIR for --output-dir, and so on; the option wins.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity import formats as targets
from parity.commands import project
from parity.core.errors import ConfigError, ParityError
from parity.core.plan import Cell
from parity.core.settings import Config
from parity.exporting import adapt, contracts, options, publish, table, torch_file, verify
from parity.exporting.adapt import Work
from parity.formats.target import version
from parity.process.isolate import ChildFailure
from parity.session import project as project_config
from parity.session.session import Session
from parity.session.toolchains import unavailable

_FINE = ("pass", "unverified", "unavailable", "skipped")


def add(commands: Any) -> None:
    options.declare(commands.add_parser("export", help="export, verify and list models", description=__doc__))
    commands.choices["export"].set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    options.fill(given, os.environ)
    output = Path(given.output_dir or "exports")
    if targets.recognised(output):
        raise ConfigError(f"--output-dir {output}: names a folder; --model-name names the files in it")
    files = [m for m in given.models if Path(m).suffix in torch_file.SUFFIXES]
    print_environment()
    start = time.monotonic()
    with staged(output) as staging:
        if files:
            results, described = torch_file.convert(files, staging, given)
            for result in results:
                say(result)
        else:
            results, described = _models(staging, given)
        publish.publish(staging, output, results, described)
    for line in table.lines(results):
        print(line)
    made = [r for r in results if r["files"]]
    print(f"{len(made)} of {len(results)} exported to {output}/ in {time.monotonic() - start:.0f} s, "
          f"listed in {publish.MANIFEST}")  # fmt: skip
    failed = [r for r in results if r["state"] not in _FINE]
    told = set()
    for result in failed:  # what is wrong with a model is wrong with each of its cells: said once
        whose = result["model"] if result.get("of_model") else result["cell"]
        if (whose, result["reason"]) not in told:
            told.add((whose, result["reason"]))
            print(f"parity export: {whose}: {result['state']}: {result['reason']}", file=sys.stderr)
    return 1 if failed or not made else 0


def print_environment() -> None:
    named = dict.fromkeys(("torch", "numpy", *targets.packages(), "timm"))
    packages = [f"{n} {version(n)}" for n in named if version(n) != "absent"]
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; {', '.join(packages)}")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A folder beside `output` to make things in; gone afterwards."""
    staging = output.parent / f".{output.name}.{uuid.uuid4().hex[:8]}"
    try:
        staging.mkdir(parents=True)
        yield staging
    except OSError as error:
        raise ParityError(f"{output}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _models(staging: Path, given: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Export the models that were asked for: a result a cell, and the contract of each model that could be made."""
    config = project_config.here(factories=True, checkpoints=False)
    models, absent = adapt.chosen(config, given)
    jobs, variants = adapt.work(models.values(), given)
    chosen = [Cell(job.base, job.cell.target, job.cell.precision) for job in jobs]
    for cell in (c for model in models.values() for c in adapt.left_out(model, given, chosen)):
        print(
            f"note: {cell.id} is configured and left out, as int8 is unless asked for: --int8 adds it", file=sys.stderr
        )
    for name, reason in absent.items():
        print(f"warning: {name} is left out: {reason}", file=sys.stderr)
    config = replace(config, models={**config.models, **models, **variants})
    results: list[dict[str, Any]] = []
    described: dict[str, Any] = {}
    with project.session(config, given.cache) as session:
        wrong = dict(absent)
        for name, model in models.items():
            if name not in absent:
                try:
                    described[name] = contracts.describe(session, model)
                except ChildFailure as failure:
                    wrong[name] = failure.reason
        for job in jobs:
            if job.base in wrong:
                state = "skipped" if job.base in absent else "error"
                results.append(_result(job) | {"state": state, "reason": wrong[job.base], "of_model": True})
                continue
            results.append(_export(session, job, staging, given))
            say(results[-1])
    return results, described


def _result(job: Work) -> dict[str, Any]:
    cell = job.cell
    found = {"cell": cell.id, "model": job.base, "target": cell.target, "precision": cell.precision}
    return found | ({"length": job.length} if job.length else {}) | {"state": "error", "reason": "", "files": []}


def _export(session: Session, job: Work, staging: Path, given: argparse.Namespace) -> dict[str, Any]:
    cell, result = job.cell, _result(job)
    reason = unavailable(session.config, cell)
    if reason:
        return result | {"state": "unavailable", "reason": reason}
    start = time.monotonic()
    try:
        artifact = session.artifact(cell)
        record = None if given.no_verify else verify.verify(session, cell)
    except ChildFailure as failure:
        return result | {"state": failure.state, "reason": str(failure), "log": failure.log}
    except ParityError as error:
        return result | {"reason": str(error)}
    result |= {
        "route": artifact.route,
        "routes_failed": list(artifact.routes_failed),
        "seconds": round(time.monotonic() - start, 3),
        "cached": artifact.record.cached,
    }
    if record is None:
        result |= {"state": "unverified"}
    else:
        result |= {"state": record.state, "reason": record.reason, "checks": len(record.checks)}
        result |= {"worst": verify.worst_of(record.checks), "median_ms": session.runtime(cell).record().median_ms}
        result |= {"findings": list(dict.fromkeys(finding.text for finding in record.findings))}
        if record.state != "pass":
            return result
    name = _name(session.config, job, given) + (f".T{job.length}" if job.length else "")
    result["files"] = publish.copy(artifact, cell, name, staging)
    result["published"] = publish.top(result["files"][0]["path"])
    return result


def _name(config: Config, job: Work, given: argparse.Namespace) -> str:
    """The published name of a model: --model-name, with the mode where several modules share it."""
    if not given.model_name:
        return job.base
    mode = config.models[job.base].options.get("mode")
    return f"{given.model_name}_{mode}" if given.mode == "both" else str(given.model_name)


def say(result: Mapping[str, Any]) -> None:
    print(f"{result['state']:<11} {result['cell']}" + (f": {result['reason']}" if result["reason"] else ""))
    for failed in result.get("routes_failed") or ():
        print(f"            by {result['route']}, because {failed}")
    worst = result.get("worst") or {}
    if "cosine" in worst:
        print(f"            cosine {worst['cosine']:.6f}, max abs {worst['max_abs']:.3g}, the worst of "
              f"{result['checks']} checks, in {result['seconds']:.1f} s")  # fmt: skip
    for text in result.get("findings") or ():
        print(f"            {text}")
