"""Targets, metrics and faults that other packages bring, through the entry point group `parity`.

An entry point names a module; importing it registers what it has to offer, with `register_target`, `register_metric`
and the like, just as a project's own conftest.py does. Imports nothing heavy itself, and extensions should not either.
"""

from __future__ import annotations

import functools
from importlib import metadata

from parity.core.errors import ConfigError

GROUP = "parity"


@functools.cache
def load() -> tuple[str, ...]:
    """Import every installed extension, once a process; their names. Raises ConfigError for one that fails to."""
    found = []
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: p.name):
        try:
            point.load()
        except Exception as error:
            package = point.dist.name if point.dist else point.value
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConfigError(
                f"extension {point.name} of {package}: {reason}; mend it or uninstall {package}"
            ) from error
        found.append(point.name)
    return tuple(found)
