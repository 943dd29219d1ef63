"""`parity export`: export models of the project, verify each file against the oracle, and write a manifest.

Every option can also come from the environment: EXPORT_OUTPUT_DIR for --output-dir, and so on; the option wins.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity import atomic, gate, targets
from parity.cache import sha256_file
from parity.cases import Case, draw
from parity.commands import project
from parity.config import Config, ModelConfig
from parity.errors import ConfigError, ParityError
from parity.isolate import ChildFailure
from parity.plan import PRECISIONS, Cell, choose
from parity.record import CellRecord, plain
from parity.recorder import Recorder
from parity.session import Artifact, Session
from parity.targets.base import version

_QUANTIZE = {"float16": "fp16", "dynamic": "dynamic", "int8": "int8"}
_EXTENSION = {"onnx": ".onnx", "tflite": ".tflite", "coreml": ".mlpackage", "coreml_nn": ".mlmodel", "ncnn": "",
              "coreai": ".aimodel", "torchscript": ".pt", "exported": ".pt2"}  # fmt: skip
_DRAWN = 8  # cases to verify on where a model has no golden data


def add(commands: Any) -> None:
    command = commands.add_parser("export", help="export, verify and list models", description=__doc__)
    option = command.add_argument
    option("models", nargs="+", metavar="MODEL", help="models of [tool.parity.models]")
    option("--output-dir", type=Path, default=_env("OUTPUT_DIR", "exports"), help="where to (default exports/)")
    option("--checkpoint", action="append", default=_env_list("CHECKPOINT"), metavar="FILE|MODEL=FILE",
           help="weights to load instead of the configured ones; MODEL=FILE with several models")  # fmt: skip
    option("--format", action="append", default=_env_list("FORMAT"), metavar="NAME",
           help=f"{', '.join(targets.names())}, all; repeat or separate by commas (default: configured)")  # fmt: skip
    option("--precision", action="append", default=_env_list("PRECISION"), metavar="NAME",
           help=f"{', '.join(PRECISIONS)}; repeat or separate by commas (default fp32)")  # fmt: skip
    option("--int8", action="store_true", default=_env_flag("INT8"), help="also export int8")
    option("--quantize", choices=sorted(_QUANTIZE), default=_env("QUANTIZE"), help="export this precision instead")
    option("--calibration-dir", type=Path, default=_env("CALIBRATION_DIR"), metavar="DIR", help="pictures for int8")
    option("--input-size", type=int, default=_env("INPUT_SIZE"), metavar="N", help="square picture size")
    option("--num-classes", type=int, default=_env("NUM_CLASSES"), metavar="N", help="passed to the factory")
    option("--sequence-length", type=int, default=_env("SEQUENCE_LENGTH"), metavar="N",
           help="size of the second dynamic axis in the export example")  # fmt: skip
    option("--opset", type=int, default=_env("OPSET"), metavar="N", help="ONNX opset (default: as configured, 17)")
    option("--dummy", action="store_true", default=_env_flag("DUMMY"), help="synthetic weights: ignore checkpoints")
    option("--no-verify", action="store_true", default=_env_flag("NO_VERIFY"), help="do not compare with the oracle")
    option("--backend", choices=("mlprogram", "neuralnetwork"), default=_env("BACKEND"),
           help="Core ML backend of --format coreml (default mlprogram)")  # fmt: skip
    option("--model-name", default=_env("MODEL_NAME"), metavar="NAME", help="name of the files (default: the model's)")
    option("--parity-cache", dest="cache", metavar="URL", help="the artefact cache to use, as for pytest")
    command.set_defaults(run=run)


def _env(name: str, default: str | None = None) -> str | None:
    return os.environ.get(f"EXPORT_{name}") or default


def _env_list(name: str) -> list[str]:
    value = os.environ.get(f"EXPORT_{name}")
    return [value] if value else []


def _env_flag(name: str) -> bool:
    return os.environ.get(f"EXPORT_{name}", "").lower() in ("1", "true", "yes", "on")


def run(options: argparse.Namespace) -> int:
    config = project.load()
    chosen = _models(config, options)
    cells = [cell for model in chosen.values() for cell in _cells(model, options)]
    config = replace(config, models={**config.models, **chosen})
    packages = [f"{n} {version(n)}" for n in ("torch", "numpy", "onnx", "coremltools") if version(n) != "absent"]
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; {', '.join(packages)}")
    start, results = time.monotonic(), []
    output = Path(options.output_dir)
    staging = output.parent / f".{output.name}.{uuid.uuid4().hex[:8]}"
    try:
        staging.mkdir(parents=True)
        with project.session(config, options.cache) as session:
            for cell in cells:
                results.append(_export(session, cell, staging, options))
                _say(results[-1])
        _publish(staging, output, results, chosen)
    except OSError as error:
        raise ParityError(f"{output}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    failed = [r for r in results if r["state"] not in ("pass", "unverified", "unavailable")]
    made = [r for r in results if r["files"]]
    print(
        f"{len(made)} of {len(results)} exported to {output}/ in {time.monotonic() - start:.0f} s, "
        "listed in manifest.json"
    )
    for result in failed:
        print(f"parity export: {result['cell']}: {result['state']}: {result['reason']}", file=sys.stderr)
    return 1 if failed or not made else 0


def _models(config: Config, options: argparse.Namespace) -> dict[str, ModelConfig]:
    for name in options.models:
        choose("model", name, config.models)
    if options.model_name and len(options.models) > 1:
        raise ConfigError("--model-name names one model's files: export one model at a time with it")
    checkpoints = _checkpoints(options)
    return {name: _adapted(config.models[name], checkpoints, options) for name in options.models}


def _checkpoints(options: argparse.Namespace) -> dict[str, Path]:
    found = {}
    for entry in options.checkpoint:
        name, sign, file = entry.partition("=")
        if not sign:
            if len(options.models) > 1:
                raise ConfigError(f"--checkpoint {entry}: which model? write MODEL=FILE")
            name, file = options.models[0], entry
        elif name not in options.models:
            raise ConfigError(f"--checkpoint {entry}: {name!r} is not among the models to export")
        path = Path(file)
        if not path.is_file():
            raise ParityError(f"checkpoint {file}: no such file")
        found[name] = path.resolve()
    return found


def _adapted(model: ModelConfig, checkpoints: Mapping[str, Path], options: argparse.Namespace) -> ModelConfig:
    """The model as the options want it."""
    contract = model.contract
    if options.input_size is not None:
        size = _positive("--input-size", options.input_size)
        spec = contract.picture_input()
        resized = replace(spec, shape=(*spec.shape[:2], size, size))
        contract = replace(contract, inputs=tuple(resized if i is spec else i for i in contract.inputs))
    if options.sequence_length is not None:
        length = _positive("--sequence-length", options.sequence_length)
        axes = [name for name in contract.sizes() if not contract.is_batch(name)]
        if not axes:
            raise ConfigError(f"--sequence-length: model {model.name} has no dynamic axis besides the batch")
        contract = replace(contract, dims={**contract.dims, axes[0]: (length, *contract.sizes()[axes[0]][1:])})
    factory_options = dict(model.options)
    if options.num_classes is not None:
        factory_options["num_classes"] = _positive("--num-classes", options.num_classes)
        contract = replace(contract, outputs=tuple(replace(o, labels=()) for o in contract.outputs))
    calibration = model.calibration
    if options.calibration_dir:
        calibration = Path(options.calibration_dir).resolve()
        if not calibration.is_dir():
            raise ParityError(f"--calibration-dir {options.calibration_dir}: no such folder")
        count = sum(f.is_file() for f in calibration.rglob("*"))
        if not 50 <= count <= 200:
            print(f"warning: {count} calibration files; 50 to 200 varied ones are usual", file=sys.stderr)
    changed = options.num_classes is not None and options.num_classes != model.options.get("num_classes")
    checkpoint = None if options.dummy or changed else checkpoints.get(model.name, model.checkpoint)
    if changed and not options.dummy:
        checkpoint = checkpoints.get(model.name)
    return replace(
        model,
        contract=contract,
        options=factory_options,
        checkpoint=checkpoint,
        calibration=calibration,
        opset=int(options.opset) if options.opset is not None else model.opset,
        artifacts={},
    )


def _positive(name: str, value: Any) -> int:
    number = int(value)
    if number < 1:
        raise ConfigError(f"{name} {number}: must be at least 1")
    return number


def _cells(model: ModelConfig, options: argparse.Namespace) -> list[Cell]:
    configured = tuple(dict.fromkeys(c.target for c in model.cells))
    formats = _split(options.format)
    if "all" in formats:
        formats = targets.names()
    chosen = [choose("format", f, (*targets.names(), "all")) for f in formats] or list(configured)
    if options.backend == "neuralnetwork":
        chosen = ["coreml_nn" if f == "coreml" else f for f in chosen]
    precisions = [choose("precision", p, PRECISIONS) for p in _split(options.precision)]
    if options.quantize:
        precisions.append(_QUANTIZE[options.quantize])
    precisions = precisions or ["fp32"]
    if options.int8:
        precisions.append("int8")
    return [Cell(model.name, f, p) for f in dict.fromkeys(chosen) for p in dict.fromkeys(precisions)]


def _split(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def _export(session: Session, cell: Cell, staging: Path, options: argparse.Namespace) -> dict[str, Any]:
    model = session.config.models[cell.model]
    result: dict[str, Any] = {"cell": cell.id, "state": "error", "reason": "", "files": []}
    reason = targets.get(cell.target).unavailable(cell, model)
    if reason:
        return result | {"state": "unavailable", "reason": reason}
    start = time.monotonic()
    try:
        artifact = session.artifact(cell)
        record = None if options.no_verify else verify(session, cell)
    except ChildFailure as failure:
        return result | {"state": failure.state, "reason": str(failure), "log": failure.log}
    name = options.model_name or cell.model
    result |= {
        "route": artifact.route,
        "routes_failed": list(artifact.routes_failed),
        "seconds": round(time.monotonic() - start, 3),
        "cached": artifact.record.cached,
    }
    if record is None:
        result |= {"state": "unverified"}
    else:
        result |= {"state": record.state, "reason": record.reason, "checks": len(record.checks),
                   "worst": _worst(record)}  # fmt: skip
        if record.state != "pass":
            return result
    result["files"] = _copy(artifact, cell, name, staging)
    return result


def verify(session: Session, cell: Cell) -> CellRecord:
    """The cell's record after contract and golden checks, by the very functions that the test suite runs."""
    from parity import suite

    model = session.config.models[cell.model]
    if model.golden is not None:
        cases = session.golden(model)
    else:
        example = model.contract.example()
        cases = [
            Case(f"drawn_{i}", draw.inputs(model.contract, example, session.config.seed + i)) for i in range(_DRAWN)
        ]
    runtime = session.runtime(cell)
    reference = session.reference(model, cases, "golden")
    contract = Recorder(cell, "contract", session.config.rules)
    golden = Recorder(cell, "golden", session.config.rules)
    suite.test_contract(cell, runtime, contract)
    suite.test_golden(cell, cases, reference, runtime, golden, False)
    kinds = ("contract", "golden")
    return gate.settle(
        CellRecord(cell.id, cell.model, cell.target, cell.precision, "missing", planned=kinds, measured=kinds,
                   planned_cases=len(cases), checks=(*contract.checks, *golden.checks))
    )  # fmt: skip


def _worst(record: CellRecord) -> dict[str, float]:
    worst: dict[str, float] = {}
    for check in record.checks:
        if check.kind == "golden" and check.value is not None:
            pick = max if check.sense == "max" else min
            worst[check.metric] = pick(worst.get(check.metric, check.value), check.value)
    return worst


def _copy(artifact: Artifact, cell: Cell, name: str, staging: Path) -> list[dict[str, Any]]:
    """Copy the artefact's files into the staging folder under their published names; their manifest entries."""
    suffix = "" if (cell.target, cell.precision) == ("onnx", "fp32") else f".{cell.precision}"
    if cell.target == "ncnn":
        pairs = [(artifact.folder / p, Path("ncnn") / f"{name}{suffix}.{p.rpartition('.')[2]}") for p in
                 (str(artifact.notes["entry"]), str(artifact.notes["weights"]))]  # fmt: skip
    else:
        pairs = [(artifact.entry, Path(f"{name}{suffix}{_EXTENSION.get(cell.target, artifact.entry.suffix)}"))]
        others = [f.path for f in artifact.record.files if f.path.partition("/")[0] != artifact.notes["entry"]]
        pairs += [(artifact.folder / p, Path(p)) for p in others]
    entries = []
    for source, target in pairs:
        destination = staging / target
        destination.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, destination)
        else:
            shutil.copyfile(source, destination)
        files = sorted(f for f in destination.rglob("*") if f.is_file()) if destination.is_dir() else [destination]
        entries += [
            {"path": f.relative_to(staging).as_posix(), "bytes": f.stat().st_size, "sha256": sha256_file(f)}
            for f in files
        ]
    return entries


def _publish(
    staging: Path, output: Path, results: Sequence[Mapping[str, Any]], models: Mapping[str, ModelConfig]
) -> None:
    """Move what was made into place, manifest last: a reader of the manifest finds every file that it lists."""
    files = [entry for result in results for entry in result["files"]]
    if not files:
        return
    output.mkdir(parents=True, exist_ok=True)
    documents = {
        "contract.json": {name: plain(model.contract) for name, model in models.items()},
        "export_results.json": {"results": list(results)},
        "manifest.json": {"artifacts": files},
    }
    for top in sorted(p for p in staging.iterdir()):
        if top.is_dir() and top.suffix == "":
            (output / top.name).mkdir(exist_ok=True)
            for inner in top.iterdir():
                inner.replace(output / top.name / inner.name)
            continue
        final = output / top.name
        if final.is_dir():
            shutil.rmtree(final)
        top.replace(final)
    for name, value in documents.items():
        atomic.write_text(output / name, json.dumps(value, indent=1, allow_nan=False) + "\n")


def _say(result: Mapping[str, Any]) -> None:
    state = result["state"]
    print(f"{state:<11} {result['cell']}" + (f": {result['reason']}" if result["reason"] else ""))
    worst = result.get("worst") or {}
    if "cosine" in worst:
        print(f"            cosine {worst['cosine']:.6f}, max abs {worst['max_abs']:.3g}, worst of the golden cases")
    for entry in result["files"]:
        print(f"            {entry['path']}  {entry['bytes']:,} bytes  sha256 {entry['sha256'][:16]}…")
