"""`parity verify FILE --model NAME`: does this file compute what the model computes? Nothing is exported.

Measures everything that `pytest -m parity` measures for such a cell, on the file as it is, and writes the same report.
`--reference OTHER` compares with a .pt2, TorchScript or ONNX file instead, and needs no project: names, shapes and
types are read from that file, and without --golden eight inputs are drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity import formats as targets
from parity.cases import draw
from parity.core.contract import DTYPES
from parity.core.errors import ConfigError, ParityError
from parity.core.executors import HOST, canonical, family_of
from parity.core.plan import PRECISIONS, Cell, choose, model_name
from parity.core.record import ExecutionRecord, read
from parity.core.settings import DEFAULT_TARGETS, Config, ModelConfig
from parity.core.words import plural
from parity.exporting.alone import inline, tensor
from parity.session import accepted, signature
from parity.session import project as project_config


def add(commands: Any) -> None:
    command = commands.add_parser("verify", help="measure a file that was exported elsewhere", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    command.add_argument("file", type=Path, metavar="FILE", help="the exported file or folder")
    command.add_argument("--model", metavar="NAME", help="the model that it should be (default: the only one)")
    command.add_argument("--reference", type=Path, metavar="OTHER", help="compare with this .pt2, TorchScript or ONNX "
                         "file instead of a project's model")  # fmt: skip
    command.add_argument("--golden", type=Path, metavar="FOLDER", help="with --reference: .npz cases to compare on")
    command.add_argument("--target", metavar="TARGET", help="its format (default: by its suffix)")
    command.add_argument("--precision", metavar="PRECISION", help=f"{', '.join(PRECISIONS)} (default: as the file's "
                         "name says, else fp32)")  # fmt: skip
    command.add_argument(
        "--tensor", action="append", default=[], metavar="NAME=THEIRS[:LAYOUT]",
        help="how the file calls an input or output of the model, and in which layout it has it, as in "
             "image=serving_default_image:0:NHWC or image=:NHWC; nothing is matched by position or permuted unasked",
    )  # fmt: skip
    command.add_argument(
        "--input", action="append", default=[], metavar="NAME=SHAPE[:DTYPE[:VALUES]]",
        help="with --reference: an input of the reference that it does not state, or otherwise, as in "
             "audio=1,512 or sr=:int64:16000 (a number) or image=batch,3,h,w:float32:0..1",
    )  # fmt: skip
    command.add_argument("--fixed", action="store_true", help="the file has every dynamic axis at one size, and is "
                         "meant to: the first of the model's dims, 1 for a batch")  # fmt: skip
    command.add_argument("--executors", metavar="LIST", help="execute the file by these too, as in arm64,gpu: a line "
                         "for each")  # fmt: skip
    command.add_argument("--report", type=Path, default=Path("reports", "verify.html"), metavar="HTML",
                         help="where to write the report (default: reports/verify.html)")  # fmt: skip
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """0 when everything that was planned for the file is measured and inside its limits, 1 otherwise."""
    if not options.file.exists():
        raise ParityError(f"{options.file}: no such file")
    if options.golden and not options.reference:
        raise ConfigError("--golden goes with --reference; a project's model has golden data in its table")
    if options.input and not options.reference:
        raise ConfigError("--input goes with --reference; a project's model has inputs in its table")
    with tempfile.TemporaryDirectory(prefix="parity-") as scratch:
        return _verify(
            alone(options, Path(scratch, "project")) if options.reference else project_config.here(), options
        )


def _verify(config: Config, options: argparse.Namespace) -> int:
    name = options.model or (next(iter(config.models)) if len(config.models) == 1 else None)
    if name is None:
        raise ConfigError(f"--model: which model should {options.file.name} be? One of: {', '.join(config.models)}")
    model = config.models[choose("model", name, config.models)]
    cell = _cell(model, options)
    key = f'"{cell.target}-{cell.precision}"'
    # The model's other cells stay in the plan, for its table may speak of them; the options narrow the run to this one.
    keys = [key, *(other for c in model.cells if (other := f'"{c.target}-{c.precision}"') != key)]
    settings = [
        f"models.{name}.cells = [{', '.join(keys)}]",
        f"models.{name}.artifacts = {{ {key} = {_artifact(model, options)} }}",
    ]
    settings += _executors(name, cell, options)
    html = options.report.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        test = Path(scratch, "test_verify.py")
        test.write_text("from parity.suite import *\n", encoding="utf-8")
        command = [
            sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", "-rN", "-m", "parity", "-p",
            "no:cacheprovider",
            f"--rootdir={scratch}", "-c", os.devnull, "--parity-models", name, "--parity-targets", cell.target,
            "--parity-precisions", cell.precision, "--parity-report", str(html),
            *(f"--parity-set={setting}" for setting in settings), f"--parity-rerun={_again(options)}", str(test),
        ]  # fmt: skip
        environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        paths = [str(config.root), *filter(None, [environ.get("PYTHONPATH")])]
        environ["PYTHONPATH"] = os.pathsep.join(paths)
        html.with_suffix(".json").unlink(missing_ok=True)
        code = subprocess.run(command, cwd=config.root, env=environ, check=False).returncode
    if code not in (0, 1) or not html.with_suffix(".json").is_file():
        raise ParityError(f"{options.file}: could not be verified: see above")
    whole = read(html.with_suffix(".json"))
    record = whole.cell(cell.id)
    measured = plural(len(record.checks), "check") if record.checks else "nothing was measured"
    said = f"{record.state}: {record.reason or measured}"
    if record.state == "pass" and record.reason:
        said = f"pass: {measured}; {record.reason}"
    if record.state == "pass" and code:  # what is not the cell's own: the baseline, a waiver
        said = f"{whole.verdict}: {whole.reason}"
    print(f"{options.file.name} as {cell.id}: {said}")
    for execution in record.executions:
        print(f"{options.file.name} on {execution.executor}: {_executed(execution)}")
    measured_by_all = all(execution.state in ("pass", "measured") for execution in record.executions)
    return 0 if record.state == "pass" and code == 0 and measured_by_all else 1


def _executors(model: str, cell: Cell, options: argparse.Namespace) -> list[str]:
    """The setting that has the file executed by what the command line asks for. Raises ConfigError."""
    if not options.executors:
        return []
    names = [canonical(word.strip()) for word in options.executors.split(",") if word.strip()]
    offered = (HOST, *targets.get(cell.target).executors)
    for name in names:
        if family_of(name) not in offered:
            raise ConfigError(f"--executors {name}: {cell.target} files do not run on it; on {', '.join(offered)}")
    key = f"{cell.target}-{cell.precision}"
    return [f"models.{model}.executors = {inline({key: names})}"]


def _executed(execution: ExecutionRecord) -> str:
    """What one executor made of the file, in a line."""
    by = execution.emulator or execution.driver
    said = [f"{execution.state}: {execution.reason}".removesuffix(": ")]
    said += [f"computed in {execution.precision}"] if execution.driver and execution.precision else []
    said += [f"by {by}"] if by else []
    said += [f"outputs of {execution.computed}"] if execution.computed else []
    return "; ".join(said)


def _again(options: argparse.Namespace) -> str:
    """The command that verifies the same file again."""
    words = ["parity", "verify", str(options.file)]
    for name in ("model", "reference", "golden", "target", "precision", "executors"):
        value = getattr(options, name)
        words += [f"--{name}", str(value)] if value is not None else []
    for name in ("input", "tensor"):
        words += [word for entry in getattr(options, name) for word in (f"--{name}", entry)]
    return shlex.join([*words, *(["--fixed"] if options.fixed else [])])


def alone(options: argparse.Namespace, root: Path) -> Config:
    """A project of its own, in the folder `root`, whose only model is the reference file."""
    for path in (options.reference, options.golden):
        if path is not None and not path.exists():
            raise ParityError(f"{path}: no such file or folder")
    golden = options.golden.resolve() if options.golden else root / "golden"
    golden.mkdir(parents=True, exist_ok=True)
    root.mkdir(exist_ok=True)
    name = model_name(options.reference.name.partition(".")[0], targets.names())
    target = _target(options) or DEFAULT_TARGETS[0]
    reference = options.reference.resolve()
    stated = signature.read(reference, "reference", Path.cwd(), dict(map(_declared, options.input)), how=_HOW)
    dims: dict[str, list[int]] = {}
    if not options.golden:
        try:
            dims = accepted.sizes(reference, stated["inputs"])
        except ParityError as why:
            raise ParityError(f"{why}; give --golden FOLDER, or {_HOW_VALUES}") from None
    text = f"""[tool.parity]
targets = [{json.dumps(target)}]

[tool.parity.models.{name}]
reference = {json.dumps(str(reference))}
golden = {json.dumps(str(golden))}
inputs = [{", ".join(map(_declaration, stated["inputs"]))}]
outputs = [{", ".join(map(_declaration, stated["outputs"]))}]
dims = {inline(dims)}
"""
    file = root / "pyproject.toml"
    file.write_text(text, encoding="utf-8")
    try:
        config = project_config.load(file)
    except ConfigError as error:  # it stands in a file that nobody but this command has seen
        raise ConfigError(_PLACE.sub("", str(error))) from None
    if not options.golden:
        draw.golden(config.models[name].contract, golden, config.seed)
        print("no golden data given: measured on 8 drawn inputs; real ones find more")
    return config


_HOW = "say --input NAME=SHAPE:DTYPE"
_HOW_VALUES = "say sizes and values that it takes: --input NAME=SHAPE:DTYPE:LOW..HIGH"
_PLACE = re.compile(r"^\S*pyproject\.toml:\d+ \[[^\]]*\] ?")


def _declared(entry: str) -> tuple[str, dict[str, Any]]:
    """`NAME=SHAPE[:DTYPE[:VALUES]]`, with sizes and names of axes between commas; no shape is that of a single number.
    Values are one number, or `LOW..HIGH`."""
    name, sign, rest = entry.partition("=")
    shape, dtype, values = (*rest.split(":", 2), "", "")[:3]
    dims = [int(part) if part.isdigit() else part for part in shape.split(",")] if shape else []
    if not (name and sign) or not all(d.isidentifier() if isinstance(d, str) else d for d in dims):
        raise ConfigError(f"--input {entry!r}: write NAME=SHAPE:DTYPE, as in image=batch,3,224,224:float32")
    given: dict[str, Any] = {"shape": dims, "dtype": choose("dtype", dtype or "float32", DTYPES)}
    if values:
        low, dots, high = values.partition("..")
        try:
            given["range"] = [float(low), float(high if dots else low)]
        except ValueError:
            raise ConfigError(f"--input {entry!r}: its values are a number, or LOW..HIGH") from None
    return name, given


def _declaration(entry: Mapping[str, Any]) -> str:
    """An input or output that a file states, as a model's table declares it."""
    return inline({key: value for key, value in entry.items() if key != "layout"})


def _target(options: argparse.Namespace) -> str | None:
    """The target that was named, else the one whose files end as this one does."""
    if options.target:
        return str(options.target)
    target = targets.recognised(options.file)
    return target.name if target else None


def _cell(model: ModelConfig, options: argparse.Namespace) -> Cell:
    found = _target(options)
    if found is None:
        raise ConfigError(f"--target: {options.file.name!r} does not tell its format; one of: "
                          f"{', '.join(targets.names())}")  # fmt: skip
    precision = options.precision or _precision(options.file.name)
    return Cell(model.name, choose("target", found, targets.names()), choose("precision", precision, PRECISIONS))


# What converters write into the names of their files, the first that fits; onnx2tf has `_full_integer_quant`.
_MARKS = {
    **{precision: precision for precision in PRECISIONS}, "float16": "fp16", "half": "fp16", "float32": "fp32",
    "integer": "int8",
}  # fmt: skip


def _precision(name: str) -> str:
    """The precision that a file's name says; fp32 where it says none."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((precision for mark, precision in _MARKS.items() if mark in words), "fp32")


def _artifact(model: ModelConfig, options: argparse.Namespace) -> str:
    """The value of `artifacts` for the file, as TOML."""
    sides: dict[str, dict[str, dict[str, str]]] = {"inputs": {}, "outputs": {}}
    known = {s.name: side for side in sides for s in getattr(model.contract, side)}
    for entry in options.tensor:
        name, sign, theirs = entry.partition("=")
        if not sign or not theirs:
            raise ConfigError(f"--tensor {entry!r}: write NAME=THEIRS, NAME=THEIRS:NHWC or NAME=:NHWC")
        given = sides[known[choose("input or output", name, known)]]
        if name in given:
            raise ConfigError(f"--tensor {entry!r}: {name!r} is given twice")
        given[name] = tensor(name, theirs)
    return inline({"path": str(options.file.resolve()), **sides, "fixed": bool(options.fixed)})
