"""How many inputs a run draws, and from which seed: the same for every process of the run and every target of a model.

Imports nothing heavy: planning needs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parity.core.settings import ModelConfig

QUICK = 10
NIGHTLY = 10  # times as many as under the full profile


@dataclass(frozen=True)
class Drawing:
    """`entropy` is the configured seed, or under `nightly` something new in every run. `before` (epoch seconds): kept
    failures from later than this were found by this very run and are not replayed in it."""

    entropy: str
    explores: bool = False
    profile: str = "full"
    asked: int | None = None
    before: float | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], seed: int, shared: Mapping[str, Any]) -> Drawing:
        profile = options.get("profile") or "full"
        explores = profile == "nightly"
        entropy = f"{seed} {shared['run']}" if explores else str(seed)
        return cls(entropy, explores, profile, options.get("examples"), shared.get("started"))

    def examples(self, model: ModelConfig) -> int:
        if self.asked is not None:
            return self.asked
        full = model.properties.examples
        return {"quick": min(full, QUICK), "nightly": NIGHTLY * full}.get(self.profile, full)

    def seed(self, model: ModelConfig) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.entropy} {model.name}".encode()).digest()[:8], "big")
