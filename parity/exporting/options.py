"""The options of `parity export`, each with an environment override by one rule.

`--some-option` is `EXPORT_SOME_OPTION`; a flag is on for 1, true, yes, on; a list is separated by commas or blanks.
What stands on the command line wins. `EXPORT_WEIGHTS_PATH` is a second name of `EXPORT_CHECKPOINT`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from parity import formats as targets
from parity.core.errors import ConfigError
from parity.core.plan import PRECISIONS
from parity.core.settings import DEPLOYMENT_TARGETS

QUANTIZE = {"float16": "fp16", "dynamic": "dynamic", "int8": "int8"}
MODES = ("prefill", "decode", "both")
_SWITCH = {**dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off"), False)}
_SECOND_NAMES = {"EXPORT_CHECKPOINT": "EXPORT_WEIGHTS_PATH"}


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options to a parser. Each is None when it is not given; `fill` looks at the environment then."""
    actions: list[argparse.Action] = []
    command.set_defaults(declared=actions)
    command.add_argument(
        "models", nargs="+", metavar="MODEL",
        help="models of [tool.parity.models]; or one .pt or .pt2 file, which is converted to Core ML",
    )  # fmt: skip

    def option(*names: str, **settings: Any) -> None:
        actions.append(command.add_argument(*names, **settings))

    def flag(*names: str, help: str) -> None:
        option(*names, action="store_true", default=None, help=help)

    option("--output-dir", type=Path, metavar="DIR", help="folder to write to (default exports/)")
    option("--model-name", metavar="NAME", help="name of the files (default: the model's)")
    option("--checkpoint", "--weights", action="append", metavar="FILE|MODEL=FILE",
           help="weights to load instead of the configured ones; MODEL=FILE with several models, repeated")  # fmt: skip
    flag("--allow-whole-module", help="the checkpoint is a pickled module: load it, which RUNS THE CODE in it")
    flag("--dummy", help="synthetic weights: ignore checkpoints")
    flag("--scriptable", help="pass scriptable=True to the factory, as timm's create_model takes it")
    option("--num-classes", type=_count, metavar="N", help="passed to the factory")
    option("--device", metavar="NAME", help="cpu, the only one: files must not depend on a machine's accelerator")

    option("--format", action="append", metavar="NAME",
           help=f"{', '.join(targets.names())}, all; repeat or separate by commas (default: configured)")  # fmt: skip
    option("--precision", action="append", metavar="NAME",
           help=f"{', '.join(PRECISIONS)}; repeat or separate by commas (default: as configured)")  # fmt: skip
    flag("--fp32", help="the same as --precision fp32")
    flag("--fp16", help="the same as --precision fp16")
    flag("--int8", help="also export int8, in the formats that have it")
    option("--quantize", choices=sorted(QUANTIZE), help="export this precision instead")
    option("--calibration-dir", type=Path, metavar="DIR", help="pictures (JPG, PNG) or .npz files for int8, 50 to 200")

    option("--input-size", type=_count, metavar="N", help="height and width of the picture")
    option("--sequence-length", type=_count, metavar="N", help="size of the sequence axis in the export example")
    option("--mode", choices=MODES, help="of a language model: the module that reads a prompt, the one that "
           "appends a token to its cache, or both")  # fmt: skip
    option("--enumerated-T", type=_count, nargs="+", metavar="N",
           help="the lengths that the sequence axis can have (default: shape_sets.json, else any)")  # fmt: skip
    option("--shape-sets", type=Path, metavar="FILE",
           help="such lengths as {model: {axis: [N, ...]}} (default: shape_sets.json of the project)")  # fmt: skip
    option(
        "--opset",
        type=_count,
        metavar="N",
        help="ONNX opset (default: as configured, else 17, and 18 where a trace gives no file)",
    )
    option("--backend", choices=("mlprogram", "neuralnetwork"), help="of Core ML files (default mlprogram)")
    option("--deployment-target", choices=DEPLOYMENT_TARGETS, metavar="SYSTEM",
           help="oldest system for Core ML files, iOS14 to macOS15 (default iOS16, neural networks iOS14)")  # fmt: skip
    option("--contract", type=Path, metavar="FILE", help="contract.json to read when a file is converted")

    flag("--no-verify", "--no-validate", help="do not compare the files with the model")
    option("--parity-cache", dest="cache", metavar="URL", help="the artefact cache to use, as for pytest")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: must be at least 1")
    return number


_count.__name__ = "int"  # argparse names the type in its message


def fill(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Give every option that is not on the command line its value from the environment. Raises ConfigError."""
    for action in options.declared:
        if getattr(options, action.dest) is not None:
            continue
        name = variable(action)
        for known in (name, _SECOND_NAMES.get(name, name)):
            text = environ.get(known, "").strip()
            if text:
                setattr(options, action.dest, _value(action, known, text))
                break


def variable(action: argparse.Action) -> str:
    """The environment variable of an option: EXPORT_ and its first long name."""
    return "EXPORT_" + action.option_strings[0].removeprefix("--").replace("-", "_").upper()


def _value(action: argparse.Action, name: str, text: str) -> Any:
    if action.nargs == 0:
        if text.lower() not in _SWITCH:
            raise ConfigError(f"{name}={text}: write 1 or 0")
        return _SWITCH[text.lower()] or None
    if action.nargs == "+":
        return [_one(action, name, part) for part in re.split(r"[,\s]+", text) if part]
    if isinstance(action, argparse._AppendAction):
        return re.split(r"[,\s]+", text) if "=" in text or action.dest != "checkpoint" else [text]
    return _one(action, name, text)


def _one(action: argparse.Action, name: str, text: str) -> Any:
    convert: Callable[[str], Any] = action.type if callable(action.type) else str
    try:
        value = convert(text)
    except (ValueError, argparse.ArgumentTypeError) as error:
        told = str(error) if isinstance(error, argparse.ArgumentTypeError) else "not a whole number"
        raise ConfigError(f"{name}={text}: {told}") from None
    if action.choices is not None and value not in action.choices:
        raise ConfigError(f"{name}={text}: choose from {', '.join(map(str, action.choices))}")
    return value
