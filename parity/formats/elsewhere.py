"""The child's side of every executor beside the host: a file opened without the tools that made it.

It stands between `parity.formats.serve`, which knows names and layouts, and the target's own session, whose description
of a file may need a converter that is not where the file is executed.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

from parity.formats.target import Array, load_part, version

EXECUTED_BY = "executed_by"
"""The key of an artefact's notes that says how it is opened elsewhere."""


class Elsewhere:
    """The session of a target, as `notes["executed_by"]` says: its class, the environment variables that its runtime
    reads, and the distribution that the runtime is."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        how = notes[EXECUTED_BY]
        os.environ.update(how["environment"])  # before the runtime is imported, which reads them
        self.package = how["package"]
        self.inner = load_part(how["session"])(folder, {**notes, **how["options"]})

    def describe(self) -> dict[str, Any]:
        """The runtime's version, the machine, and what the session itself says of how it runs the file."""
        said = self.inner.accelerated() if hasattr(self.inner, "accelerated") else {}
        return {"runtime_version": version(self.package), "machine": platform.machine(), **said}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict(self.inner.run(inputs))
