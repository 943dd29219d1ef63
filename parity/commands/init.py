"""`parity init SOURCE`: set parity up in an existing project, for a model that a factory makes or that is a file.

What can be found out is not asked: names, shapes and types of inputs and outputs from the module or the file, golden
data where it usually lies, where the tests are. Then a first quick run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from parity import config as configuration
from parity import formats as targets
from parity.cases import draw
from parity.cases.files import golden_files
from parity.commands import tools
from parity.commands.messages import Discovered, DiscoveryRequest
from parity.core.contract import DTYPES
from parity.core.errors import ConfigError, ParityError
from parity.core.plan import did_you_mean, model_name
from parity.core.settings import DEFAULT_TARGETS, REFERENCE_KINDS, ModelSpec
from parity.formats.target import installed
from parity.process.isolate import Budget, ChildFailure, Children
from parity.session import project, signature
from parity.store import atomic

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

TEST = '''"""Every exported file against its PyTorch model; run with: pytest -m parity"""

from parity.suite import *  # noqa: F403
'''
IMPORT = re.compile(r"^from parity\.suite import", re.MULTILINE)


def add(commands: Any) -> None:
    command = commands.add_parser("init", help="set up parity in an existing project", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    command.add_argument("source", metavar="SOURCE", help="MODULE:FUNCTION, a callable that returns the module; "
                         f"or a file in its place: {', '.join(REFERENCE_KINDS)}")  # fmt: skip
    command.add_argument("--name", help="the model's name (default: the function's or file's)")
    command.add_argument(
        "--input", action="append", default=[], metavar="NAME=DIMS[:TYPE]",
        help="an input and its shape, dynamic axes by name, as in image=batch,3,224,224; repeat for more (default: "
             "what the model says of itself)",
    )  # fmt: skip
    command.add_argument("--output", action="append", default=[], metavar="NAME",
                         help="an output's name (default: the model's own, else output)")  # fmt: skip
    command.add_argument("--option", action="append", default=[], metavar="KEY=VALUE",
                         help="an argument of the factory; VALUE as in TOML, else text; repeat for more")  # fmt: skip
    command.add_argument("--checkpoint", metavar="FILE", help="weights to load into it")
    command.add_argument("--golden", metavar="FOLDER", help="pictures or .npz files to compare on (default: "
                         "golden/NAME, filled with drawn inputs where there is none)")  # fmt: skip
    command.add_argument("--no-run", action="store_true", help="leave out the first quick run")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """0 when the project is set up, whatever the first run says of its files."""
    root = Path.cwd()
    file = root / "pyproject.toml"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    here = configuration.find(root)
    if here is not None and here != file:
        raise ParityError(f"{here} has a [tool.parity] table already: run parity init there")
    name = options.name or _name(options.source)
    base = text if not text or text.endswith("\n") else text + "\n"
    head = "" if here == file else _head() if text else _head().lstrip()
    table = f"\n[tool.parity.models.{name}]\n" + _origin(options)
    if here == file and name in tomllib.loads(text)["tool"]["parity"].get("models", {}):
        raise ParityError(f"{file.name} has a model {name!r} already: edit its table, or add another with --name")
    try:
        found = _discover(options, root, name)
    except ConfigError as error:  # the table is not written yet: its line would be that of no file
        raise ConfigError(str(error).partition(f"[tool.parity.models.{name}] ")[2] or str(error)) from None
    golden = Path(options.golden or f"golden/{name}")
    table += _contract(found)
    config = project.parse(base + head + table, file, factories=True)
    table += f"golden = {json.dumps(golden.as_posix())}\n"
    drawn = not (root / golden).exists()
    if drawn and options.golden:
        raise ParityError(f"golden data: there is no {golden}; without --golden, inputs are drawn into golden/{name}")
    if not drawn and not golden_files(root / golden):
        raise ParityError(f"golden data: {golden} holds no picture and no .npz file")
    test = _test(root, text)
    try:
        if drawn:
            draw.golden(config.models[name].contract, root / golden, config.seed)
        atomic.publish({file: base + head + table, **({test: TEST} if test else {})})
    except (OSError, ParityError) as error:
        if drawn:
            shutil.rmtree(root / golden, ignore_errors=True)
            with contextlib.suppress(OSError):  # the folder that was made for it, if nothing else is there
                (root / golden).parent.rmdir()
        said = f"{error.filename}: cannot be written: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise ParityError(f"{said}; nothing was set up") from None
    if drawn:
        print(f"drew 8 inputs into {golden}: replace them by real ones, which find more")
    print(f"wrote [tool.parity.models.{name}] to {file.name}" + (f" and {test.relative_to(root)}" if test else ""))
    for side in ("inputs", "outputs"):
        print(f"  {side}: " + ", ".join(_shown(entry) for entry in found[side]))
    _offer_toolchains()
    if not options.no_run:
        _first_look(root, name)
    print("next:  pytest -m parity      the verdict; then open reports/parity.html")
    print("       parity doctor         what else can run here")
    return 0


def _name(source: str) -> str:
    text = source.rpartition(":")[2] if _is_factory(source) else Path(source).name.partition(".")[0]
    return model_name(text, targets.names())


def _is_factory(source: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", source))


def _origin(options: argparse.Namespace) -> str:
    """The lines that say what makes the model."""
    if _is_factory(options.source):
        lines = [f"factory = {json.dumps(options.source)}"]
    elif Path(options.source).suffix in REFERENCE_KINDS:
        lines = [f"reference = {json.dumps(options.source)}"]
    else:
        raise ConfigError(f"{options.source!r} is neither MODULE:FUNCTION nor a file of {', '.join(REFERENCE_KINDS)}")
    given = [_option(entry) for entry in options.option]
    lines += [f"options = {{ {', '.join(given)} }}"] if given else []
    lines += [f"checkpoint = {json.dumps(options.checkpoint)}"] if options.checkpoint else []
    return "".join(line + "\n" for line in lines)


def _option(entry: str) -> str:
    key, sign, value = entry.partition("=")
    if not sign or not re.fullmatch(r"[A-Za-z_]\w*", key):
        raise ConfigError(f"--option {entry!r}: write KEY=VALUE, as in num_classes=10")
    try:
        tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        return f"{key} = {json.dumps(value)}"
    return f"{key} = {value}"


def _inputs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The inputs of the command line; a shape alone is the shape of the argument in that place."""
    inputs = []
    for entry in options.input:
        key, _, rest = entry.rpartition("=")
        dims, _, dtype = rest.partition(":")
        shape = [d.strip() for d in dims.split(",")]
        if not all(re.fullmatch(r"[1-9]\d*|[A-Za-z_]\w*", d) for d in shape):
            raise ConfigError(f"--input {entry!r}: write name=dims, as in image=batch,3,224,224")
        if dtype and dtype not in DTYPES:
            raise ConfigError(f"--input {entry!r}: unknown type {dtype!r}{did_you_mean(dtype, DTYPES)}")
        typed = {"dtype": dtype} if dtype else {}
        inputs.append({"name": key, "shape": [int(d) if d.isdigit() else d for d in shape], **typed})
    return inputs


def _discover(options: argparse.Namespace, root: Path, name: str) -> dict[str, Any]:
    """The model's contract, from the file or from making the module and running it once."""
    given = _inputs(options)
    if not _is_factory(options.source):
        path = root / options.source
        if not path.is_file():
            raise ParityError(f"{options.source}: no such file")
        if not given or not all(i["name"] for i in given) or not options.output:
            found = signature.read(path, "reference", root)
            return {**found, "preprocess": None}
        stated = [{"dtype": "float32", **entry} for entry in given]
        return {"inputs": stated, "outputs": [{"name": o} for o in options.output], "preprocess": None}
    text = _head() + f"\n[tool.parity.models.{name}]\n" + _origin(options)
    text += 'inputs = [{ name = "x", shape = [1] }]\noutputs = [{ name = "y" }]\n'  # as yet unknown
    model = project.parse(text, root / "pyproject.toml", factories=True).models[name]
    checkpoint = str(model.checkpoint) if model.checkpoint else None
    spec = ModelSpec(str(root), model.factory, model.options, checkpoint)
    request = DiscoveryRequest(spec, given, options.output)
    function = "parity.commands.discovery:discover"
    with Children(root, Budget(600)) as children:
        try:
            discovered = children.call("torch", function, request, Discovered, stage="export")
        except ChildFailure as failure:
            raise ParityError(failure.reason) from None
    return {
        "inputs": [dict(entry) for entry in discovered.inputs],
        "outputs": [{"name": name} for name in discovered.outputs],
        "preprocess": discovered.preprocess,
    }


def _head() -> str:
    here = [t for t in DEFAULT_TARGETS if all(installed(m) for m in targets.get(t).requires)] or [DEFAULT_TARGETS[0]]
    return f'\n[tool.parity]\ntargets = {json.dumps(here)}\nprecisions = ["fp32", "fp16"]\n'


def _contract(found: dict[str, Any]) -> str:
    """Inputs, outputs and preprocessing as TOML."""
    lines = [f"{side} = [{', '.join(_inline(entry) for entry in found[side])}]" for side in ("inputs", "outputs")]
    lines += [f"preprocess = {_inline(found['preprocess'])}"] if found["preprocess"] else []
    return "".join(line + "\n" for line in lines)


def _inline(table: dict[str, Any]) -> str:
    kept = {k: v for k, v in table.items() if not (k == "dtype" and v == "float32")}
    return f"{{ {', '.join(f'{k} = {json.dumps(v)}' for k, v in kept.items())} }}"


def _shown(entry: dict[str, Any]) -> str:
    shape = f" {entry['shape']} {entry['dtype']}".replace("'", "") if "shape" in entry else ""
    return f"{entry['name']}{shape}"


def _test(root: Path, text: str) -> Path | None:
    """The test file to write, where the project's tests are; None where one with the suite is there already."""
    wanted = tomllib.loads(text).get("tool", {}).get("pytest", {}).get("ini_options", {}).get("testpaths") or "tests"
    folder = root / (wanted if isinstance(wanted, str) else wanted[0])
    for known in {root, folder}:
        for test in known.glob("test_*.py"):
            if IMPORT.search(test.read_text("utf-8", "replace")):
                return None
    test = folder / "test_parity.py"
    if test.exists():
        raise ParityError(
            f"{test.relative_to(root)} is there and is not parity's: add to it: from parity.suite import *"
        )
    return test


def _offer_toolchains() -> None:
    """Where cells of the project lack their converter: on a terminal, ask whether to install it; else say how."""
    config = project.here()
    names = [group[0] for group in tools.needed(config)]
    if not names:
        return
    plural, them = ("s", "them") if len(names) > 1 else ("", "it")
    lacking = f"converter{plural} not here: {', '.join(names)}"
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print(f"{lacking}; parity tools install adds {them}, in an environment apart from yours")
        return
    print(f"{lacking}. Install {them} now, in an environment apart from yours? [Y/n] ", end="", flush=True)
    answer = sys.stdin.readline()
    if answer.strip().lower() not in ("", "y", "yes") or not answer:  # no line at all is no answer
        print("later: parity tools install")
        return
    try:
        tools.install_needed(config)
    except ParityError as error:  # the project is set up all the same, and its cells say what they lack
        print(f"not installed: {error}")


def _first_look(root: Path, name: str) -> None:
    """A quick run of the new model's cells, shown as it comes."""
    print("$ pytest -m parity --parity-profile quick", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=no", "-rN", "-m", "parity", "-p",
               "no:cacheprovider", "--parity-profile", "quick", "--parity-models", name]  # fmt: skip
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    subprocess.run(command, cwd=root, env=environ, check=False)
