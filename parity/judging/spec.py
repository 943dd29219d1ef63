"""What the suite must know of a metric: one frozen record, from which limits, bounds, senses, the
glossary, the report and the ledger derive. Imports the core only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy.typing as npt

Sense = Literal["max", "min"]
Scope = Literal["case", "all cases", "cell"]
Family = Literal[
    "difference",  # between the two arrays of one case, by `compare`
    "decision",  # between classes along an axis, by `compare`
    "noise",  # the error in units of the noise floor, on golden cases and video frames
    "drawn",  # the error of one drawn input, size or step of a sequence
    "integers",  # the elements of integer outputs, on every input
    "accuracy",  # on labelled golden cases
    "resizing",  # what another resizer costs, on a video frame
    "proof",  # the chain of proof
    "lowering",  # a Core ML file with no activation rounded
    "operators",  # what the file's operators need of an app
    "power",  # the share of injected faults that are noticed
    "description",  # recorded for people; correct files have any value
    "measurement",  # the limit belongs to the measurement, and is the same for every project
    "contract",  # yes or no: the file keeps what was declared
]

# Keys of `MetricSpec.limits` beside "default" and the precisions: cells of targets that have such a
# check.
CHAIN_OF_PROOF = "the chain of proof"
LOWERING = "lowering"

_COMPARED: tuple[Family, ...] = ("difference", "decision")
_UNLIMITED: Mapping[Family, str] = {
    "description": "describes the error and gates nothing, because correct files have any value: "
    "limit mean_signed, "
    "rel_rms or max_abs",
    "measurement": "has a limit of its own, the same in every project: take this one away",
    "contract": "is a fact of the contract, which the file keeps or not: take the limit away",
}


@dataclass(frozen=True)
class MetricSpec:
    """One number that a record can hold, and all that is said of it anywhere.

    `sense` says on which side a limit lies: "max" (value <= limit) or "min" (value >= limit).
    `signed` metrics are judged by their magnitude. `low` and `high` are the least and the greatest
    value that there can be. `scope` is what one value is about: a case, all cases of an output
    together, or the cell as a whole. `fn(got, want)` measures a registered metric on two arrays of
    one shape; None where the suite has code of its own for the family.
    """

    name: str
    sense: Sense
    unit: str
    doc: str
    family: Family = "difference"
    scope: Scope = "case"
    low: float = 0.0
    high: float = math.inf
    limits: Mapping[str, float] = field(default_factory=dict)
    """Limits that hold where nobody set one, by "default", precision, CHAIN_OF_PROOF or
    LOWERING."""
    fallback: Mapping[str, float] = field(default_factory=dict)
    """The limit by precision of an output that has no noise floor."""
    statistic: str = ""
    """Which statistic of the table of correct exports (`judging/natural.json`) limits it where
    nobody set a limit."""
    ledger_floor: float | None = None
    """The least change that the ledger reports, in the unit of the error; None: a share of the
    limit."""
    natural: float = 0.0
    """Values up to this say nothing of a file, so the ledger counts them as this."""
    tail: bool = False
    """Whether it is about the worst element, channel, case or input: of a file whose chain of proof
    is complete it warns, where nobody set the limit."""
    fn: Callable[[npt.NDArray[Any], npt.NDArray[Any]], float] | None = None
    signed: bool = False

    @property
    def compared(self) -> bool:
        """Whether `compare` measures it from the arrays of one case."""
        return self.family in _COMPARED

    @property
    def unlimited(self) -> str:
        """Why no project can limit it; empty where one can."""
        return _UNLIMITED.get(self.family, "")

    def impossible(self, limit: float) -> str:
        """Why the metric cannot have this limit; empty where it can."""
        if self.low <= limit <= self.high:
            return self.empty(limit)
        return f"{limit:g} is no limit for {self.name}, which is {self._span}"

    def empty(self, limit: float) -> str:
        """Why this limit judges nothing, since every value that there can be keeps it; empty where
        some do not."""
        always = limit >= self.high if self.sense == "max" else limit <= self.low
        if not always or not math.isfinite(limit):
            return ""
        word = "at most" if self.sense == "max" else "at least"
        return f"{word} {limit:g} judges nothing: {self.name} is {self._span}, so every value would pass"

    @property
    def _span(self) -> str:
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        return f"from {self.low:g} to {self.high:g}"
