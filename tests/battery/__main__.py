"""python -m tests.battery [--checker MODULE:NAME] [--family NAME ...]: who passes what, as Markdown.

NAME is a class with the methods of `protocol.Checker`, or a function that says whether one `protocol.Pair` passes.
Exits 1 if this suite, or the checker that was named, passes a case wrongly or refuses an honest one; 2 where there is
no such checker, or it can be asked nothing.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Callable

from .protocol import Base, Checker, Pair
from .table import FAMILIES, ask, made, markdown


def named(text: str) -> Callable[[], Checker]:
    """What makes the checker that MODULE:NAME says; the current folder is looked in too."""
    module, _, name = text.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise SystemExit(_refused(f"--checker {text}: {error}; give MODULE:NAME, as in my_pkg.adapter:Mine")) from None
    if inspect.isclass(found):
        return found
    if not callable(found):
        raise SystemExit(_refused(f"--checker {text}: neither a class nor a function"))

    class Function(Base):
        name = found.__name__

        def pair(self, case: Pair) -> bool:
            return bool(found(case))

    return Function


def _refused(text: str) -> int:
    print(text, file=sys.stderr)
    return 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.battery", description=__doc__)
    parser.add_argument("--checker", metavar="MODULE:NAME", help="ask this checker instead of those known here")
    parser.add_argument("--family", action="append", choices=tuple(FAMILIES), help="only these cases; may be repeated")
    options = parser.parse_args()
    families = tuple(options.family or FAMILIES)
    if options.checker:
        makers, judged = (named(options.checker),), 1
    else:
        from .checkers import NAIVE, PEERS, SUITE

        makers, judged = (*SUITE, *PEERS, *NAIVE), len(SUITE)
    checkers, absent = made(makers)
    answers = [ask(checker, families) for checker in checkers]
    every = [case for family in families for case in FAMILIES[family]]
    if options.checker and not any(a.said for a in answers):
        return _refused("; ".join(absent) or f"--checker {options.checker}: it can be asked no case of these families")
    print(markdown(answers, families))
    for line in absent:
        print(f"Left out: {line}")
    if "files" in families and not FAMILIES["files"]:
        print("Left out: files: onnx is not installed, which writes them")
    return int(any(a.wrong(every) or a.refused(every) for a in answers[:judged]))


if __name__ == "__main__":
    sys.exit(main())
