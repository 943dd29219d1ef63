"""`parity promote`: make the inputs that property tests found golden cases, so that every later run measures them."""

from __future__ import annotations

import argparse
from typing import Any

from parity.cases import kept
from parity.core.plan import choose
from parity.session import project


def add(commands: Any) -> None:
    command = commands.add_parser("promote", help="make kept failing inputs golden cases", description=__doc__)
    command.add_argument("model", metavar="MODEL")
    command.add_argument("recipes", nargs="*", metavar="ID", help="the last word of its case (default: all)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    config = project.here()
    choose("model", options.model, config.models)
    model = config.models[options.model]
    for path in kept.promote(config.root, model, options.recipes):
        print(f"{path.relative_to(config.root) if path.is_relative_to(config.root) else path}: written")
    return 0
