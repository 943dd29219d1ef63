"""`parity completion bash|zsh|tcsh`: print the script by which the shell completes commands, options and files.

For this shell, and for those to come:

    eval "$(parity completion bash)"
    parity completion bash > ~/.local/share/bash-completion/completions/parity

For zsh, into a folder that is in $fpath before compinit runs:

    parity completion zsh > ~/.zfunc/_parity
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from parity.core.errors import ParityError

SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Any) -> None:
    command = commands.add_parser(
        "completion",
        help="print a script that completes this command",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("shell", choices=SHELLS, help="the shell that reads the script")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the script for the whole command, whose parser is `options.parser`."""
    try:
        import shtab
    except ImportError:
        raise ParityError("completion needs shtab, which is not installed: pip install shtab") from None
    _prepare(options.parser, shtab.FILE)
    print(shtab.complete(options.parser, options.shell))
    return 0


def _prepare(parser: argparse.ArgumentParser, files: Any) -> None:
    """Mark arguments that are paths and describe each command by its line of help, in a parser and all below it."""
    for action in parser._actions:
        if action.type is Path:
            action.complete = files  # type: ignore[attr-defined]  # shtab reads this attribute
        if isinstance(action, argparse._SubParsersAction):
            lines = {choice.dest: choice.help for choice in action._choices_actions}
            for name, command in action.choices.items():
                command.description = lines[name]
                _prepare(command, files)
