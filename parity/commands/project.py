"""What several commands share: a session on a project that says on stderr what it is doing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from parity.core.settings import Config
from parity.report.progress import Narrator
from parity.session import project
from parity.session.session import Session


@contextlib.contextmanager
def session(
    config: Config, cache: str | None = None, timeout: float | None = None, **options: Any
) -> Iterator[Session]:
    """A session that narrates, and forgets its notes when it ends."""
    narrator = Narrator()
    try:
        with project.opened(config, cache, timeout, narrator.say, **options) as opened:
            yield opened
    finally:
        narrator.stop()
