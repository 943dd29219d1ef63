"""`parity init`: write the [tool.parity] table and the one-line test for a model that a factory makes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from parity import atomic, targets
from parity import config as configuration
from parity.config import Config
from parity.errors import ConfigError, ParityError
from parity.isolate import Budget, Children

TEST = '''"""Every exported file against its PyTorch model; run with: pytest -m parity"""

from parity.suite import *  # noqa: F403
'''


def add(commands: Any) -> None:
    command = commands.add_parser("init", help="set up parity in an existing project", description=__doc__)
    command.add_argument("factory", metavar="MODULE:FUNCTION", help="a callable that returns the torch.nn.Module")
    command.add_argument("--name", help="the model's name (default: the function's)")
    command.add_argument(
        "--input", required=True, action="append", metavar="NAME=DIMS",
        help="an input and its shape, dynamic axes by name, as in image=batch,3,224,224; repeat for more",
    )  # fmt: skip
    command.add_argument("--output", action="append", metavar="NAME", help="an output's name (default: output)")
    command.add_argument("--checkpoint", metavar="FILE", help="weights to load into it")
    command.add_argument("--golden", metavar="FOLDER", help="pictures or .npz files to compare on")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    root = Path.cwd()
    file = root / "pyproject.toml"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if configuration.find(root) == file:
        raise ParityError(f"{file.name} has a [tool.parity] table already: edit it, then run pytest -m parity")
    name = options.name or re.sub(r"[^a-z0-9_]", "_", options.factory.rpartition(":")[2].lower())
    table = _table(name, options)
    config = configuration.parse(text + table, file, targets.names(), factories=True)
    _try(config, name)
    golden = options.golden or f"golden/{name}"
    if not options.golden:
        _draw_golden(config, name, root / golden)
        table = table.replace("# golden", f'golden = "{golden}"\n# golden')
    atomic.publish({file: text + table})
    test = root / "tests" / "test_parity.py"
    if not test.exists():
        test.parent.mkdir(exist_ok=True)
        test.write_text(TEST, encoding="utf-8")
    print(f"wrote [tool.parity] to {file.name} and {test.relative_to(root)}")
    print("next:  pytest -m parity --parity-profile quick     a first look")
    print("       pytest -m parity                            the verdict; then open reports/parity.html")
    return 0


def _table(name: str, options: argparse.Namespace) -> str:
    inputs = []
    for entry in options.input:
        key, sign, dims = entry.partition("=")
        shape = [d.strip() for d in dims.split(",")]
        if not sign or not key or not all(re.fullmatch(r"\d+|[A-Za-z_]\w*", d) for d in shape):
            raise ConfigError(f"--input {entry!r}: write name=dims, as in image=batch,3,224,224")
        listed = ", ".join(d if d.isdigit() else f'"{d}"' for d in shape)
        inputs.append(f'{{ name = "{key}", shape = [{listed}] }}')
    outputs = ", ".join(f'{{ name = "{o}" }}' for o in options.output or ["output"])
    here = [t for t in ("onnx", "tflite") if not any(_missing(t))] or ["onnx"]
    lines = [
        "",
        "[tool.parity]",
        f"targets = [{', '.join(chr(34) + t + chr(34) for t in here)}]",
        'precisions = ["fp32", "fp16"]',
        "",
        f"[tool.parity.models.{name}]",
        f'factory = "{options.factory}"',
    ]
    lines += [f'checkpoint = "{options.checkpoint}"'] if options.checkpoint else []
    lines += [f"inputs = [{', '.join(inputs)}]", f"outputs = [{outputs}]"]
    lines += (
        [f'golden = "{options.golden}"']
        if options.golden
        else ["# golden: put real inputs here, pictures or .npz files"]
    )
    return "\n".join(lines) + "\n"


def _missing(target: str) -> list[bool]:
    from parity.targets.base import installed

    return [not installed(m) for m in targets.get(target).requires]


def _try(config: Config, name: str) -> None:
    """Make the model and run it once, so that a wrong factory or shape is told now."""
    from parity.cases import draw

    model = config.models[name]
    spec: dict[str, Any] = {"root": str(config.root), "factory": model.factory, "options": {},
            "checkpoint": str(model.checkpoint) if model.checkpoint else None}  # fmt: skip
    example = draw.inputs(model.contract, model.contract.example(), config.seed)
    with Children(config.root, Budget(300)) as children:
        outputs = [o.name for o in model.contract.outputs]
        arguments = {"model": spec, "cases": [example], "outputs": outputs}
        children.call("torch", "parity.reference.oracle:evaluate", arguments, stage="run")


def _draw_golden(config: Config, name: str, folder: Path) -> None:
    """Eight drawn inputs as a start; real data finds more."""
    import numpy as np

    from parity.cases import draw

    contract = config.models[name].contract
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(8):
        np.savez(folder / f"drawn_{i}.npz", **draw.inputs(contract, contract.example(), config.seed + i))
    print(f"drew 8 inputs into {folder.relative_to(config.root)}: replace them by real ones, which find more")
