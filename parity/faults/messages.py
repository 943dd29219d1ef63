"""What is asked of the fault library in a child, and what it answers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from parity.core.case import Array
from parity.core.contract import Contract
from parity.core.settings import ModelSpec
from parity.faults.causes import Stored
from parity.faults.power import CellPower

Rows = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class OfferedRequest:
    """Which faults of files are tried on a cell; `plugins` are modules that register more."""

    target: str
    precision: str
    plugins: Sequence[str] = ()


@dataclass(frozen=True)
class OfferedFault:
    """A fault of a file by name, and what it is."""

    name: str
    sentence: str
    benign: bool


@dataclass(frozen=True)
class FaultyFileRequest:
    """The artefact in `folder` with a fault, to be written into the empty folder `into`.

    `draft` is the target's; `notes` are those that the artefact is opened with.
    """

    draft: str
    folder: str
    notes: Mapping[str, Any]
    fault: str
    into: str
    plugins: Sequence[str] = ()


@dataclass(frozen=True)
class FaultyFile:
    """`state`: made, or inapplicable where the file has no place for the fault or cannot be edited,
    or broken where the fault itself fails. `notes` are those that the faulty file is opened
    with."""

    state: Literal["made", "inapplicable", "broken"]
    reason: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CellGate:
    """One cell of a model whose gate is measured: the outputs of its twin, None where it has none,
    and its limits by output and metric."""

    id: str
    precision: str
    twin: Rows | None
    limits: Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class PowerRequest:
    """A model whose library of faults is run once, for the gates of all of its `cells`.

    `ids` and `labels` belong to the cases; `sources` are the encoded pictures behind them, where
    every case is one; `faults` names those that are injected, by default all; `plugins` are modules
    that register a project's own.
    """

    model: ModelSpec
    contract: Contract
    cases: Rows
    ids: Sequence[str]
    cells: Sequence[CellGate]
    labels: Sequence[int | None] | None = None
    sources: Sequence[str | None] | None = None
    faults: Sequence[str] | None = None
    plugins: Sequence[str] = ()


@dataclass(frozen=True)
class MeasuredPower:
    """The power of each cell; `note` says what a reader should know of how it was measured."""

    cells: Sequence[CellPower]
    note: str


@dataclass(frozen=True)
class DiagnosisRequest:
    """An artefact's outputs for `cases`, to be explained.

    `twin` are the outputs of the precision's twin (`flavour`) for the same cases. `limits` are the
    noise ratios that correct artefacts of this kind stay within, by statistic of
    `parity.judging.floor`. `faults` names the hypotheses, all that occur at this precision by
    default; `without` leaves some out. `calibration` are the cases that int8 ranges come from. No
    search is begun after `seconds` of processor time. `stored` is what the file holds in place of
    the model's weights.
    """

    model: ModelSpec
    contract: Contract
    cases: Rows
    artefact: Rows
    twin: Rows
    precision: str
    limits: Mapping[str, float] | None = None
    sources: Sequence[str | None] | None = None
    faults: Sequence[str] | None = None
    without: Sequence[str] = ()
    plugins: Sequence[str] = ()
    flavour: str | None = None
    calibration: Rows = ()
    seconds: float = 20.0
    stored: Stored | None = None
