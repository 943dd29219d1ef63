"""A project's configuration as the whole program reads it: with every registered target, and files that state
their own contract. `config` itself knows neither."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from parity import config, formats
from parity.core.settings import Config
from parity.session import signature


def load(file: Path, settings: Sequence[str] = (), *, factories: bool = False, checkpoints: bool = True) -> Config:
    """The configuration in `file`; the arguments are those of `config.load`. Raises ConfigError."""
    return config.load(
        file,
        formats.names(),
        settings,
        factories=factories,
        checkpoints=checkpoints,
        read_contract=signature.read,
    )


def parse(text: str, file: Path, settings: Sequence[str] = (), *, factories: bool = False) -> Config:
    """The configuration in the text of a pyproject.toml that stands, or will stand, at `file`. Raises ConfigError."""
    return config.parse(text, file, formats.names(), settings, factories=factories, read_contract=signature.read)
