"""What a diagnosis says: causes with the numbers that convince. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from parity.core.record import Explanation
from parity.faults.base import Array, Fault, Rows, Subject, Value

OTHER_WEIGHTS = "other_weights"
"""The name of the cause that lies in no library: the file holds weights that are not the model's."""
SHOWN = 3  # layers that a sentence names


@dataclass(frozen=True)
class Cause:
    """One or two faults that together explain the artefact.

    `residual` and `without` are the distance of the artefact from the hypothesis and from the oracle, in units of the
    noise floor; `explains` is the share of the squared error that is gone. `same` are other faults that are the same
    function of this model on these cases: no file can tell them apart.
    """

    faults: tuple[str, ...]
    values: tuple[Value | None, ...]
    sentence: str
    explains: float
    residual: float
    without: float
    same: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = (
            f"behaves as if {self.sentence}: residual {self.residual:.2g}x the noise floor, {self.without:.4g}x without"
        )
        return text + (f"; the same function of this model: {', '.join(self.same)}" if self.same else "")


@dataclass(frozen=True)
class Diagnosis:
    """`state`: explained, unexplained, sound (within the noise, nothing to explain) or incomparable.

    `skipped` names the searches that the time did not allow; `tried` counts hypotheses; `broken` are the faults of a
    project's own that failed when they were tried, with how. `seconds` are the processor's.
    """

    state: str
    sentence: str
    causes: tuple[Cause, ...] = ()
    tried: int = 0
    skipped: tuple[str, ...] = ()
    seconds: float = 0.0
    broken: tuple[str, ...] = ()

    def explanations(self) -> tuple[Explanation, ...]:
        """What the record of a cell holds."""
        return tuple(Explanation(" + ".join(c.faults), round(c.explains, 6), str(c), c.sentence) for c in self.causes)


@dataclass(frozen=True)
class Stored:
    """What the file stores where it is not the model's weights: `tensors` of the module by name, in float64; `layers`
    are the modules concerned, `of` how many the file has weights of."""

    tensors: Mapping[str, Array]
    layers: tuple[str, ...]
    of: int

    @property
    def sentence(self) -> str:
        """Completes "behaves as if ..."."""
        shown = ", ".join(self.layers[:SHOWN]) + (", ..." if len(self.layers) > SHOWN else "")
        which = f"{len(self.layers)} of {self.of} layers ({shown})"
        return f"{which} held other weights than the model's, namely those that the file stores"


@dataclass(frozen=True)
class Hypothesis:
    """Faults with their values, applied in the order of what they act on; `rows` are sampled outputs."""

    faults: tuple[Fault, ...]
    values: tuple[Value | None, ...]
    rows: Rows
    residual: float = math.inf

    def fitted(self, subject: Subject) -> int:
        """How many of the values are numbers that were fitted to what is to be explained."""
        pairs = zip(self.faults, self.values, strict=True)
        return sum(isinstance(v, float) and v != f.usual(subject) for f, v in pairs)

    @property
    def complexity(self) -> int:
        return len(self.faults) + sum(f.parameter is not None for f in self.faults)
