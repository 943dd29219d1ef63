"""What several commands share: the project at hand, and a session on it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parity import config as configuration
from parity.core.errors import ConfigError
from parity.core.settings import Config
from parity.process.isolate import Budget
from parity.report.progress import Narrator
from parity.session import project
from parity.session.session import Session
from parity.store.cache import Store


def load(*, factories: bool = False, checkpoints: bool = True) -> Config:
    """The configuration of the project that the current folder is in; whether its factories and checkpoints must be
    there is the command's choice. Raises ConfigError."""
    start = Path.cwd().resolve()
    file = configuration.find(start)
    if file is None:
        raise ConfigError(f"{start}: no pyproject.toml with a [tool.parity] table here or above; run: parity init")
    return project.load(file, factories=factories, checkpoints=checkpoints)


@contextlib.contextmanager
def session(
    config: Config, cache: str | None = None, timeout: float | None = None, **options: Any
) -> Iterator[Session]:
    """A session that says on stderr what it is doing, and forgets its notes when it ends."""
    run, narrator = uuid.uuid4().hex, Narrator()
    store = Store.at(cache or config.cache, config.root)
    budget = Budget(timeout or config.timeout, config.memory)
    opened = Session(config, run, store=store, budget=budget, progress=narrator.say, **options)
    try:
        yield opened
    finally:
        narrator.stop()
        opened.close()
        store.end(run)
