"""`python -m parity.capsule`: the `parity capsule` command where only a runtime, NumPy, psutil and cattrs are there."""

import argparse
import sys

from parity.capsule import command
from parity.core.errors import ParityError

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m parity.capsule", description=command.__doc__)
    command.add_actions(parser)
    options = parser.parse_args()
    try:
        sys.exit(options.run(options))
    except ParityError as error:
        print(f"parity capsule: {error}", file=sys.stderr)
        sys.exit(1)
