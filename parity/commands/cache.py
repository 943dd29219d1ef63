"""`parity cache`: where artefacts are kept, why one was built again, and how to bound the space."""

from __future__ import annotations

import argparse
from typing import Any

from parity import config as configuration
from parity import formats
from parity.commands import project
from parity.core.errors import ParityError
from parity.core.plan import Cell, did_you_mean
from parity.core.settings import Config
from parity.core.words import size
from parity.session import project as project_config
from parity.store.cache import Store, differences


def add(commands: Any) -> None:
    command = commands.add_parser("cache", help="explain, list and bound the artefact cache", description=__doc__)
    command.add_argument("--parity-cache", dest="cache", metavar="URL", help="the cache to use, as for pytest")
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    why = actions.add_parser("why", help="explain whether a cell would be built again, and what changed")
    why.add_argument("cell", metavar="CELL", help="a cell id, as in skin-tflite-int8")
    sweep = actions.add_parser("sweep", help="delete what was not used for longest, down to a size")
    sweep.add_argument("--keep", metavar="SIZE", help="bytes to keep, as in 5GiB (default: cache_size, or 10GiB)")
    actions.add_parser("info", help="say where the cache is and what it holds")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    config: Config | None
    try:
        config = project_config.here()
    except ParityError:
        if options.action == "why" or options.cache is None:
            raise
        config = None
    from pathlib import Path

    store = Store.at(options.cache or (config.cache if config else None), config.root if config else Path.cwd())
    if options.action == "why":
        assert config is not None
        return _why(config, options)
    if options.action == "sweep":
        keep = configuration.parse_size(options.keep) if options.keep else (config.cache_size if config else 10 << 30)
        count, freed = store.sweep(keep)
        print(f"deleted {count} entries, {size(freed)}; {size(sum(e[1] for e in store.entries()))} left")
        return 0
    entries = list(store.entries())
    print(f"{store.root}: {len(entries)} entries, {size(sum(e[1] for e in entries))}")
    return 0


def _why(config: Config, options: argparse.Namespace) -> int:
    known = {cell.id: cell for cell in config.cells}
    if options.cell not in known:
        Cell.parse(options.cell, formats.names())
        raise ParityError(f"{options.cell} is not in this project's plan{did_you_mean(options.cell, known)}")
    with project.session(config, options.cache) as session:
        for name, key, spec in session.step_keys(known[options.cell]):
            last, entry = session.store.last(name), session.store.get(key)
            step = name.partition("~")[2]
            if entry is not None:
                print(f"{step}: hit {key[:12]}, built in {entry.seconds:.1f} s")
                continue
            if last is None:
                print(f"{step}: miss: never built for this cell in this cache")
                continue
            # The epoch moves where the entries that vouch for a model are gone: nothing of the user's has changed.
            changed = [line for line in differences(last["spec"], spec) if not line.startswith("model.epoch: ")]
            if not changed:
                print(f"{step}: miss: it was built, and its entry is gone or damaged, or no longer vouched for")
                continue
            print(f"{step}: miss: what it depends on has changed")
            for line in changed:
                print(f"    {line}")
    return 0
