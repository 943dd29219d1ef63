"""What an execution noticed: not errors, but places where a device may compute something else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FP16_MAX = 65504.0

OVERFLOW = "fp16-overflow"
NEAR_OVERFLOW = "fp16-near-overflow"
NAN = "nan"
INFINITE = "infinite"
INTEGER_WRAP = "integer-wrap"
INDEX = "index-out-of-range"
MISMATCH = "declared-type-not-met"
UNDOCUMENTED = "undocumented-behaviour"


@dataclass(frozen=True)
class Event:
    """One finding.

    ``kind`` is one of this module's constants. ``operator`` and ``output`` say where; ``module`` names the
    layer of the original model as well as the file allows (programs carry no scopes, so it is read off the
    name of the nearest weight). For overflows ``detail`` has the largest magnitude, ``peak``, and
    ``headroom``: 65504 / peak.
    """

    kind: str
    operator: str
    output: str
    module: str
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def figures(self) -> str:
        """The detail in words."""
        return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.detail.items())

    def __str__(self) -> str:
        near = f" near {self.module}" if self.module else ""
        return f"{self.kind} in {self.operator} {self.output!r}{near}" + (f": {self.figures}" if self.detail else "")


@dataclass(frozen=True)
class Peak:
    """The largest finite magnitude that an execution stored as fp16, and where."""

    value: float
    operator: str
    output: str

    @property
    def headroom(self) -> float:
        """By what factor activations could still grow before fp16 overflows."""
        return FP16_MAX / self.value if self.value else float("inf")
