"""A project's configuration as the whole program reads it: with every registered target, and files that state
their own contract. `config` itself knows neither."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity import config, formats
from parity.cases import sizes
from parity.core.errors import ConfigError
from parity.core.settings import Config
from parity.process.isolate import Budget
from parity.session import signature
from parity.session.resources import Progress
from parity.session.session import Session
from parity.store.cache import Store


def here(*, factories: bool = False, checkpoints: bool = True) -> Config:
    """The configuration of the project that the current folder is in; whether its factories and checkpoints must be
    there is the command's choice. Raises ConfigError."""
    start = Path.cwd().resolve()
    file = config.find(start)
    if file is None:
        raise ConfigError(f"{start}: no pyproject.toml with a [tool.parity] table here or above; run: parity init")
    return load(file, factories=factories, checkpoints=checkpoints)


def load(file: Path, settings: Sequence[str] = (), *, factories: bool = False, checkpoints: bool = True) -> Config:
    """The configuration in `file`; the arguments are those of `config.load`. Raises ConfigError."""
    loaded = config.load(
        file,
        formats.facts(),
        settings,
        factories=factories,
        checkpoints=checkpoints,
        read_contract=signature.read,
    )
    return _sized(loaded)


def parse(text: str, file: Path, settings: Sequence[str] = (), *, factories: bool = False) -> Config:
    """The configuration in the text of a pyproject.toml that stands, or will stand, at `file`. Raises ConfigError."""
    parsed = config.parse(text, file, formats.facts(), settings, factories=factories, read_contract=signature.read)
    return _sized(parsed)


def _sized(config: Config) -> Config:
    """The configuration, with sizes of golden data where a model's dynamic axes have none of their own."""
    models = {
        name: replace(
            model,
            contract=sizes.from_golden(model.contract, model.golden),
            open_ranges=sizes.without_range(model.contract),
        )
        for name, model in config.models.items()
    }
    return replace(config, models=models)


@contextlib.contextmanager
def opened(
    config: Config,
    cache: str | None = None,
    timeout: float | None = None,
    progress: Progress = lambda subject, stage: None,
    **options: Any,
) -> Iterator[Session]:
    """A session on the project, as one run of its own: what it notes for its workers is forgotten when it ends."""
    run = uuid.uuid4().hex
    store = Store.at(cache or config.cache, config.root)
    budget = Budget.of(timeout or config.timeout, config.memory)
    session = Session(config, run, store=store, budget=budget, progress=progress, **options)
    try:
        yield session
    finally:
        session.close()
        store.end(run)
