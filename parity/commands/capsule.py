"""`parity capsule`: what the command is lives in its own room, for it also runs where this package's rest cannot."""

from __future__ import annotations

from typing import Any

from parity.capsule import command


def add(commands: Any) -> None:
    command.add_actions(
        commands.add_parser("capsule", help="measure a run's files on another machine", description=command.__doc__)
    )
