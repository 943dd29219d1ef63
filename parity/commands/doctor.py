"""`parity doctor`: what can run on this machine, and the command that adds what cannot."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib import metadata
from typing import Any

from parity import formats as targets
from parity.commands import tool_executors
from parity.commands.tools import known, lines, resolved
from parity.core import extensions
from parity.core.errors import ParityError
from parity.core.plan import PRECISIONS, Cell
from parity.core.settings import Config
from parity.core.words import plural
from parity.formats.target import Target, installed, lacking, version
from parity.process import sandbox
from parity.session.toolchains import python_of

WIDTH = 12
KEPT = "keep.txt"
"""What is installed, as constraints. Without them pip moves packages that its newest onnx or ml_dtypes wants newer."""


def add(commands: Any) -> None:
    command = commands.add_parser("doctor", help="say what can run here, and how to add the rest", description=__doc__)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """1 when a target that the project has cells of (without a project, any) lacks a package or its converter, else 0.
    A target whose runtime needs a toolchain is an addition, and only told."""
    from parity.session import project

    config: Config | None = None
    try:
        config = project.here(factories=True)
        found = f"{config.file}: {plural(len(config.models), 'model')}, {plural(len(config.cells), 'cell')}"
    except ParityError as error:
        found = str(error)
    _python()
    lack = False
    for name in targets.names():
        target = targets.get(name)
        wanted = not target.toolchain and (config is None or any(c.target == name for c in config.cells))
        lack = (_target(target, config) and wanted) or lack
    if lack:
        print(
            f"{'':<{WIDTH}} first: {sys.executable} -m pip list --format=freeze > {KEPT}, and pip moves nothing of it"
        )
    _toolchains(config)
    for name in tool_executors.NAMES:
        print("executor " + next(tool_executors.lines(name)))
    reason = lacking("coreml-runtime")
    print(f"Core ML's own prediction: {'yes' if reason is None else 'no: ' + reason}")
    if reason:
        print(f"{'':<{WIDTH}} programs are executed by this project's evaluator instead; the report says which ran")
    _confinement()
    _extensions()
    print(f"project: {found}")
    return int(lack)


def _python() -> None:
    """This interpreter, and whether the converters that are installed, or could be, support it."""
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}: {sys.executable}")
    print(f"{'':<{WIDTH}} the suite itself runs on 3.10 to 3.13; its converters are tested together on 3.11")
    # Converters and runtimes; the rest of the package is plain Python and supports what its own metadata says.
    refused = [f"{name} ({wanted})" for name in targets.packages() if (wanted := _refuses(name))]
    if refused:
        print(f"{'':<{WIDTH}} not made for Python {own}: {', '.join(refused)}: use a Python 3.11 environment")


def _refuses(package: str) -> str:
    """What an installed package demands of Python, where this interpreter is not that."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        stated = metadata.metadata(package)
        wanted = stated["Requires-Python"] if "Requires-Python" in stated else ""  # noqa: SIM401 - no mapping
        return "" if platform.python_version() in SpecifierSet(wanted) else wanted
    except (metadata.PackageNotFoundError, InvalidSpecifier):
        return ""


def _target(target: Target, config: Config | None) -> bool:
    """Say what a target can do; True where something is missing that a command would add."""
    python = python_of(config, target) if config is not None else sys.executable
    if python != sys.executable:
        print(f"{target.name:<{WIDTH}} by {python}: {', '.join(target.precisions)}")
        return False
    missing = [m for m in target.requires if not installed(m)]
    if missing:
        print(f"{target.name:<{WIDTH}} no: {', '.join(missing)} missing: {_command(target)}")
        return True
    converter = resolved(target.toolchains[0], config) if target.toolchains else None
    if converter is not None and converter.why:
        print(f"{target.name:<{WIDTH}} no: {converter.why}; files that you bring can be verified")
        return True
    print(f"{target.name:<{WIDTH}} yes: {', '.join(target.precisions)}; {target.runtime_package} "
          f"{version(target.runtime_package)}")  # fmt: skip
    for precision in PRECISIONS:
        if precision not in target.precisions:
            print(f"{'':<{WIDTH}}   {precision}: {target.unavailable(Cell('model', target.name, precision), _ANY)}")
    return False


def _command(target: Target) -> str:
    """The command that adds a target, for this very interpreter or as a toolchain."""
    if target.toolchain:
        return f"parity tools install {target.toolchain}"
    return f"{sys.executable} -m pip install -c {KEPT} '{target.distribution}'"


def _toolchains(config: Config | None) -> None:
    """Each toolchain, as `parity tools list` says it."""
    for name in known(config):
        print("toolchain " + next(lines(name, config)))


def _confinement() -> None:
    """Whether children that open foreign files can be kept from writing elsewhere, and from the network."""
    reason = sandbox.missing()
    can = "no" if reason else "yes"
    print(f"Foreign files are opened without the right to write elsewhere or to use the network: {can}")
    if reason:
        print(f"{'':<{WIDTH}} {reason}")


def _extensions() -> None:
    """The packages that bring targets, metrics or faults, and what each module names itself."""
    points = sorted(metadata.entry_points(group=extensions.GROUP), key=lambda p: p.name)
    if not points:
        print("extensions: none installed (docs/targets.md says how to write one)")
    for point in points:
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown package"
        print(f"extension {point.name}: {point.value}, from {package}")


class _Any:
    """Stands for a model where only the target's own reasons matter."""

    calibration = ()
    stateful = False
    reference = None


_ANY: Any = _Any()
