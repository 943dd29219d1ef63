"""What is asked of the reference's child functions, and what they answer. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from parity.cases.sequence import Free
from parity.core.case import Array
from parity.core.settings import ModelSpec

Rows = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class OracleRequest:
    """The float64 module on `cases` (inputs by name); `outputs` names what it returns, in order."""

    model: ModelSpec
    cases: Rows
    outputs: Sequence[str]


@dataclass(frozen=True)
class PlainRequest:
    """The module on `cases` as PyTorch runs it: in float32, or in float16 where `half`."""

    model: ModelSpec
    cases: Rows
    outputs: Sequence[str]
    half: bool = False


@dataclass(frozen=True)
class TwinRequest:
    """The module on `cases`, rounded as `flavour` of `precision` rounds.

    `calibration` gives the ranges of full int8, as it gives them to the converter; `cases` stand in
    where there is none. `flavour` None is the precision's first.
    """

    model: ModelSpec
    cases: Rows
    outputs: Sequence[str]
    precision: str
    calibration: Rows | None = None
    flavour: str | None = None


@dataclass(frozen=True)
class ChainRequest:
    """Steps that feed one another, by the oracle, or by the twin of a precision.

    `steps` are inputs by name, the first with the initial state; `carry` says which output replaces
    which input; `keep` names the outputs that are wanted.
    """

    model: ModelSpec
    steps: Rows
    outputs: Sequence[str]
    carry: Mapping[str, str]
    keep: Sequence[str]
    free: Free | None = None
    precision: str | None = None
    flavour: str | None = None
    calibration: Rows | None = None


@dataclass(frozen=True)
class WaysRequest:
    """The module on `cases`, watched for what it decides by them."""

    model: ModelSpec
    cases: Rows


@dataclass(frozen=True)
class Ways:
    """Of each case the ways that decisions went, by their site (`parity.core.decisions`), in the order in which they
    were first met; and why the module refuses the case, "" where it does not.

    `thresholds` are the numbers that it compared with; `turned`, of each case, the sides of bounds and the choices.
    """

    outcomes: Sequence[Mapping[str, int]]
    refused: Sequence[str]
    thresholds: Sequence[float] = ()
    turned: Sequence[Mapping[str, Sequence[int]]] = ()


@dataclass(frozen=True)
class SettleRequest:
    """A reference file, and one `case` to settle on how it is executed."""

    model: ModelSpec
    case: Mapping[str, Array]


@dataclass(frozen=True)
class Settled:
    """Why a reference file is left to its own runtime; empty where it is executed here, in float64."""

    why: str


@dataclass(frozen=True)
class Reads:
    """What a project's code read: SHA-256 by name, "" of what is not there. Files count from the project's folder."""

    files: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated:
    """Outputs by name, float64 where they are real numbers, one row a case.

    `dtype` is what was computed in; `note` says what a reader should know of how. `reads`: what the
    project's code read for it.
    """

    outputs: Rows
    dtype: str
    note: str
    reads: Reads = field(default_factory=Reads)


@dataclass(frozen=True)
class DrivingRequest:
    """A module to drive from each of `bases` on, by inputs in `ranges` (low, high) by name; all others stay as they
    are. `measured` are the cases whose choices are made already. `places`: drive to these places of bounds alone."""

    model: ModelSpec
    bases: Rows
    measured: Rows
    ranges: Mapping[str, tuple[float, float]]
    places: Sequence[str] = ()


@dataclass(frozen=True)
class Driven:
    """Inputs by name, each with what it drives the module to; `note` says why there are none."""

    rows: Rows
    words: Sequence[str]
    note: str
    reads: Reads = field(default_factory=Reads)


@dataclass(frozen=True)
class Memory:
    """Names of inputs that a module writes into, and of those in whose memory one of its outputs lies; whether its
    outputs follow memory that nothing wrote."""

    overwritten: Sequence[str]
    returned: Sequence[str]
    uninitialised: bool
