"""The commands of `parity`, one module each: `add(subparsers)` declares one, its function returns the exit code."""
