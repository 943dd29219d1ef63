"""What commands ask of a child, and what it answers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.core.settings import ModelSpec


@dataclass(frozen=True)
class DiscoveryRequest:
    """A model whose contract is to be found out.

    `given` are inputs from the command line, as tables of a configuration, whose name may be empty;
    `outputs` the names asked for, which must be as many as the model returns.
    """

    model: ModelSpec
    given: Sequence[Mapping[str, Any]]
    outputs: Sequence[str]


@dataclass(frozen=True)
class Discovered:
    """Inputs and preprocessing as tables of a configuration, and the names of the outputs."""

    inputs: Sequence[Mapping[str, Any]]
    outputs: Sequence[str]
    preprocess: Mapping[str, Any] | None
