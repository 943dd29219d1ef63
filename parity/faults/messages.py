"""What is asked of the fault library in a child, and what it answers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


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
    """`state`: made, or inapplicable where the file has no place for the fault or cannot be edited, or broken where the
    fault itself fails. `notes` are those that the faulty file is opened with."""

    state: Literal["made", "inapplicable", "broken"]
    reason: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)
