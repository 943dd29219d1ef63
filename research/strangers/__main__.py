"""Strangers: the suite on models that nobody here has seen, beside a judge by hand.

    python -m research.strangers environment FOLDER
    python -m research.strangers run --environment FOLDER --work DIR --out FILE.jsonl
        [--only NAME,...] [--held-back] [--shard K/N] [--targets ...] [--precisions ...] [--timeout S] [--again]
        [--profile quick|full|nightly]
    python -m research.strangers files --environment FOLDER --work DIR --out FILE.jsonl [--only NAME,...]
    python -m research.strangers mutate --environment FOLDER --work DIR --out FILE.jsonl FILE.jsonl...
        [--only NAME,...] [--shard K/N] [--count N]
    python -m research.strangers table FILE.jsonl...
    python -m research.strangers check --environment FOLDER [--only NAME,...] [--held-back]
    python -m research.strangers list

`run` measures the architectures that are not held back, or with --held-back those that are: once, at the end. Each has
a project of its own below DIR, made from its table in `models.toml`; one that has a record there is not run again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from research.strangers import environment, lines, project, run, table  # noqa: E402
from research.strangers.suite import strangers  # noqa: E402


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m research.strangers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    make = commands.add_parser("environment")
    make.add_argument("folder", type=Path)
    show = commands.add_parser("table")
    show.add_argument("files", type=Path, nargs="+")
    check = commands.add_parser("check")
    check.add_argument("--environment", type=Path, required=True, metavar="FOLDER")
    check.add_argument("--only", default="", metavar="NAME,...")
    check.add_argument("--held-back", action="store_true")
    for name in ("run", "files", "mutate"):
        command = commands.add_parser(name)
        command.add_argument("--environment", type=Path, required=True, metavar="FOLDER")
        command.add_argument("--work", type=Path, required=True, metavar="DIR")
        command.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
        command.add_argument("--only", default="", metavar="NAME,...")
        command.add_argument("--shard", default="1/1", metavar="K/N")
        command.add_argument("--timeout", type=float, default=project.TIMEOUT, metavar="S")
        if name == "mutate":
            command.add_argument("files", type=Path, nargs="+", help="what `run` wrote")
            command.add_argument("--count", type=int, default=12, help="faults of a file, at most")
        if name == "run":
            command.add_argument("--profile", default="full", choices=("quick", "full", "nightly"))
            command.add_argument("--held-back", action="store_true")
            command.add_argument("--again", action="store_true")
            command.add_argument("--targets", default=",".join(project.TARGETS))
            command.add_argument("--precisions", default=",".join(project.PRECISIONS))
    return parser


def chosen(names: list[str], only: str, shard: str) -> list[str]:
    """The names of `only`, all where it is empty, and of them every Nth from the Kth on."""
    wanted = only.split(",") if only else names
    if unknown := set(wanted) - set(names):
        raise SystemExit(f"not in the list: {', '.join(sorted(unknown))}")
    part, _, parts = shard.partition("/")
    return wanted[int(part) - 1 :: int(parts)]


def _run(options: argparse.Namespace) -> int:
    suite = {s.name: s for s in strangers() if s.held_back == options.held_back}
    packages = options.environment.resolve() / "packages"
    for name in chosen(list(suite), options.only, options.shard):
        told = run.measure(
            suite[name], options.work.resolve() / name, packages, tuple(options.targets.split(",")),
            tuple(options.precisions.split(",")), options.timeout, options.again, options.profile,
        )  # fmt: skip
        lines.write(options.out, told)
        for line in told:
            print(f"{line.cell}: {line.state}; by hand {line.verdict or '-'}; {line.outcome}", flush=True)
    return 0


def _check(options: argparse.Namespace) -> int:
    from research.strangers.check import check

    suite = {s.name: s for s in strangers() if s.held_back == options.held_back}
    failed = 0
    for name in chosen(list(suite), options.only, "1/1"):
        try:
            print(f"{name}: {check(suite[name], options.environment.resolve() / 'packages')}", flush=True)
        except Exception as error:  # whatever a factory raises is what is asked for
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
    return int(failed > 0)


def main() -> int:
    options = _parser().parse_args()
    if options.command == "environment":
        return environment.make(options.folder)
    if options.command == "table":
        print(table.summary(lines.read(options.files)))
        return 0
    if options.command == "mutate":
        from research.strangers import mutations

        return mutations.measure_all(options)
    if options.command == "check":
        return _check(options)
    if options.command == "list":
        for stranger in strangers():
            print(stranger.name, "held back" if stranger.held_back else "", stranger.settings["factory"])
        return 0
    if options.command == "files":
        from research.strangers import public

        return public.measure_all(options)
    return _run(options)


if __name__ == "__main__":
    sys.exit(main())
