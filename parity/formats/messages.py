"""What is asked in a child of the parts that only some targets have, and their answers. Imports no
converter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.core.case import Array


@dataclass(frozen=True)
class FromFileRequest:
    """A TorchScript or ExportedProgram file to convert into `work`, without the module that it came
    from.

    `contract` has the inputs, outputs, sizes and enumerated axes; `example` the inputs at the first
    sizes.
    """

    work: str
    file: str
    options: Mapping[str, Any]
    contract: Mapping[str, Any]
    example: Mapping[str, Array]


@dataclass(frozen=True)
class LoweringRequest:
    """An artefact to execute otherwise than its own runtime does, on cases of inputs by the model's
    names."""

    folder: str
    notes: Mapping[str, Any]
    cases: Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class RiskEvent:
    """What an execution noticed, the first of its kind and place: `case` is its index, `cases`
    counts those that it happened in. The other fields are those of
    `parity.core.record.EventRecord`."""

    kind: str
    operator: str
    output: str
    module: str
    said: str
    headroom: float | None
    case: int
    cases: int


@dataclass(frozen=True)
class Peak:
    """The largest magnitude, its place, and how far below fp16's largest number it stayed."""

    value: float
    headroom: float | None
    operator: str
    output: str


@dataclass(frozen=True)
class Risk:
    """What a device may do to a file; `stress` says how far fp16 accumulation moves each output, in
    decibels of the worst case."""

    events: Sequence[RiskEvent]
    peak: Peak
    stress: Mapping[str, float]
