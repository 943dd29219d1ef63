"""What is asked of the chain of proof in a child, and its answers beside `core.proof`. Imports no
torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.core.case import Array
from parity.core.settings import ModelSpec

TRACING = "trace the module"  # the stage at which torch itself, and no file, may end the process
EDITED = (
    "lift",
    "local",
    "range",
)  # links that run what was made of the file, which may end a process that it does not


@dataclass(frozen=True)
class ProofRequest:
    """One artefact to prove, and the model that it is to be.

    `reader` is the target's `graph`, `survey` its `survey`, `notes` the artefact's. `cases` are golden inputs by the
    model's names, `outputs` the names of what it returns, `calibration` what an int8 file was
    calibrated on, `wants` the oracle's outputs where they are known already, empty for a case of which they are not.
    Not `whole`: one link
    that fails is answer enough; none is made after it, and nothing that only describes. Links in
    `held` hold already and are not made again. `constants` is the target's part of that name,
    `reference_constants` that of the file that takes the model's place. `traced`: the types in which torch may
    trace the module, in order. `off`: the configuration switches the chain off; what is read beside it stays.
    """

    model: ModelSpec
    reader: str
    precision: str
    folder: str
    notes: Mapping[str, Any]
    cases: Sequence[Mapping[str, Array]]
    outputs: Sequence[str]
    calibration: Sequence[Mapping[str, Array]] = ()
    whole: bool = True
    wants: Sequence[Mapping[str, Array]] | None = None
    held: Sequence[str] = ()
    survey: str = ""
    constants: str = ""
    reference_constants: str = ""
    traced: Sequence[str] = ("float64", "float32")
    ended: Mapping[str, str] = field(default_factory=dict)
    off: bool = False


@dataclass(frozen=True)
class StoredRequest:
    """What an artefact stores where the model's weights belong, seen on one golden `case`."""

    model: ModelSpec
    reader: str
    precision: str
    folder: str
    notes: Mapping[str, Any]
    case: Mapping[str, Array]


@dataclass(frozen=True)
class StoredWeights:
    """The tensors that make a module hold what a file holds in every layer whose constants fail the
    audit.

    `tensors`: float64 values by the name of a parameter or buffer; `layers`: the modules that hold
    them, in their order; `modules`: how many modules the file has weights of. A file whose
    constants are all the module's has none of these and no reason; `reason` says why they cannot be
    told.
    """

    tensors: Mapping[str, Array]
    layers: Sequence[str]
    modules: int
    reason: str = ""


@dataclass(frozen=True)
class PlacementRequest:
    """A twin from a file's own graph on `cases`, inputs by the model's names.

    `proof` asks for the links without which the file is not known to be the module; its calibration data give the grids
    their ends, `cases` where there is none.
    """

    proof: ProofRequest
    cases: Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class Placement:
    """What a file's own twin computes: `outputs` by name, one row a case, float64 where they are real numbers.

    `kinds`: how many operators of each kind, in the format's words, have their results put on grids. `weights`: how
    many constants are.
    """

    outputs: Sequence[Mapping[str, Array]]
    kinds: Mapping[str, int]
    weights: int
