"""How much of a model's data a run measures: `--parity-profile quick`, `full` or `nightly`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parity.core.case import Case

QUICK_CASES = 8  # golden cases that the quick profile measures
_FRAMES = {"quick": 4, "full": 24}  # of each clip; nightly measures all


@dataclass(frozen=True)
class Profile:
    """One of the profiles of `core.plan.PROFILES`, by name."""

    name: str = "full"

    @property
    def quick(self) -> bool:
        return self.name == "quick"

    @property
    def frames(self) -> int | None:
        """How many frames of a clip are measured; None for all."""
        return _FRAMES.get(self.name)

    def golden(self, cases: Sequence[Case]) -> list[Case]:
        """Those of a model's golden cases that are measured, in their order."""
        return list(cases[:QUICK_CASES] if self.quick else cases)


FULL = Profile()
