"""python -m tests.battery [--checker MODULE:CLASS] [--family NAME ...]: who passes what, as Markdown.

Exits 1 if this suite, or the checker that was named, passes a case wrongly or refuses an honest one.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from tests.battery.checkers import NAIVE, PEERS, SUITE
from tests.battery.table import FAMILIES, ask, made, markdown


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.battery", description=__doc__)
    parser.add_argument("--checker", metavar="MODULE:CLASS", help="ask this checker instead of those known here")
    parser.add_argument("--family", action="append", choices=tuple(FAMILIES), help="only these cases; may be repeated")
    options = parser.parse_args()
    families = tuple(options.family or FAMILIES)
    makers = (*SUITE, *PEERS, *NAIVE)
    if options.checker:
        module, _, name = options.checker.partition(":")
        makers = (getattr(importlib.import_module(module), name),)
    judged = 1 if options.checker else len(SUITE)
    checkers, absent = made(makers)
    answers = [ask(checker, families) for checker in checkers]
    print(markdown(answers, families))
    for line in absent:
        print(f"Left out: {line}")
    every = [case for family in families for case in FAMILIES[family]]
    return int(any(a.wrong(every) or a.refused(every) for a in answers[:judged]))


if __name__ == "__main__":
    sys.exit(main())
