"""`parity doctor`: what can run on this machine, and the command that adds what cannot."""

from __future__ import annotations

import argparse
import platform
import sys
from typing import Any

from parity import targets
from parity.errors import ParityError
from parity.plan import PRECISIONS, Cell
from parity.targets.base import installed, lacking, version


def add(commands: Any) -> None:
    command = commands.add_parser("doctor", help="say what can run here, and how to add the rest", description=__doc__)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """0 when every target can export and run here, 1 otherwise."""
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    if sys.version_info[:2] != (3, 11):
        print("  the converters are tested together on Python 3.11 only")
    lack = False
    for name in targets.names():
        target = targets.get(name)
        missing = [m for m in target.requires if not installed(m)]
        lack = lack or bool(missing)
        found = f"{target.runtime_package} {version(target.runtime_package)}"
        if missing:
            print(f"{name:<12} no: {', '.join(missing)} missing: pip install 'pytest-parity[{target.extra}]'")
            continue
        print(f"{name:<12} yes: {', '.join(target.precisions)}; {found}")
        for precision in PRECISIONS:
            if precision not in target.precisions:
                print(f"{'':<12}   {precision}: {target.unavailable(Cell('model', name, precision), _ANY)}")
    reason = lacking("coreml-runtime")
    print(f"Core ML's own prediction: {'yes' if reason is None else 'no: ' + reason}")
    if reason:
        print("             programs are executed by this project's evaluator instead; the report says which ran")
    from parity.commands import project

    try:
        config = project.load(factories=True)
        print(f"project: {config.file}: {len(config.models)} models, {len(config.cells)} cells")
    except ParityError as error:
        print(f"project: {error}")
    return int(lack)


class _Any:
    """Stands for a model where only the target's own reasons matter."""

    calibration = ()


_ANY: Any = _Any()
