"""The `parity` command: parses, delegates, and turns a user's mistake into one line and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from parity.commands import (
    bisect,
    cache,
    capsule,
    completion,
    demo,
    diff,
    doctor,
    export,
    gate,
    init,
    promote,
    release,
    report,
    schema,
    tools,
    verify,
    video,
)
from parity.core.errors import ConfigError, ParityError
from parity.core.visible import visible
from parity.formats.target import version

COMMANDS = (
    init,
    demo,
    doctor,
    tools,
    export,
    verify,
    video,
    gate,
    diff,
    bisect,
    release,
    report,
    promote,
    capsule,
    cache,
    schema,
    completion,
)


class _Parser(argparse.ArgumentParser):
    """One line for bad usage, with the command that tells more."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message}; see: {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="parity",
        description="Does every exported file still compute what the PyTorch model computes?",
        epilog="The tests themselves run with: pytest -m parity",
    )
    top.add_argument("--version", action="version", version=f"pytest-parity {version('pytest-parity')}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for command in COMMANDS:
        command.add(commands)
    top.set_defaults(parser=top)  # what `parity completion` describes
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 failed, 2 bad usage or configuration."""
    options = parser().parse_args(arguments)
    try:
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except ConfigError as error:
        print(visible(f"parity {options.command}: {error}"), file=sys.stderr)
        return 2
    except ParityError as error:
        print(visible(f"parity {options.command}: {error}"), file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:
        print(f"parity {options.command}: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"parity {options.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
