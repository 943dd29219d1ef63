"""`python -m parity` is the command `parity`, of the Python that runs it."""

from __future__ import annotations

import sys

from parity.cli import main

if __name__ == "__main__":
    sys.exit(main())
