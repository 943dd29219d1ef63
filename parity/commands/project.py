"""What several commands share: the project at hand, and a session on it."""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parity import config as configuration
from parity import targets
from parity.cache import Store
from parity.config import Config
from parity.errors import ConfigError
from parity.isolate import Budget
from parity.session import Session


def load(folder: Path | None = None) -> Config:
    """The configuration of the project that the current folder is in. Raises ConfigError."""
    start = (folder or Path.cwd()).resolve()
    file = configuration.find(start)
    if file is None:
        raise ConfigError(f"{start}: no pyproject.toml with a [tool.parity] table here or above; run: parity init")
    return configuration.load(file, targets.names())


@contextlib.contextmanager
def session(
    config: Config, cache: str | None = None, timeout: float | None = None, **options: Any
) -> Iterator[Session]:
    """A session that says on stderr what it is doing, and forgets its notes when it ends."""
    run, start = uuid.uuid4().hex, time.monotonic()

    def say(what: str, stage: str) -> None:
        print(f"  {time.monotonic() - start:5.1f} s  {what}: {stage}", file=sys.stderr, flush=True)

    store = Store.at(cache or config.cache, config.root)
    opened = Session(
        config, run, store=store, budget=Budget(timeout or config.timeout, config.memory), progress=say, **options
    )
    try:
        yield opened
    finally:
        opened.close()
        store.end(run)
