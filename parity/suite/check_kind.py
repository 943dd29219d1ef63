"""What a file of this folder says of its kind of check: when it is planned, how it measures, and its test.

Knows no pytest: a test is a function whose parameters name fixtures, and it calls `run` with what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from parity.cases.drawing import Drawing
from parity.core.case import Case
from parity.core.kinds import CheckKind
from parity.core.settings import ModelConfig
from parity.formats.target import Target
from parity.session.evaluations import Reference
from parity.session.planning import Data
from parity.session.session import Runtime
from parity.suite.recorder import Recorder


@dataclass(frozen=True)
class CheckContext:
    """One cell ready to be measured, and the recorder that takes the checks.

    Beyond `runtime` and `recorder` each kind reads only what its test asks of the fixtures. `reference` holds the
    oracle's outputs on `golden`, one a case and in its order.
    """

    runtime: Runtime
    recorder: Recorder
    golden: Sequence[Case] = ()
    reference: Reference | None = None
    clips: Sequence[tuple[str, Sequence[Case]]] = ()  # (name, frames in their order)
    drawing: Drawing | None = None
    power: bool = False  # measure how many faults the limits would notice
    update: bool = False  # write the stored references anew


@dataclass(frozen=True)
class SuiteKind:
    """A kind of check that can be measured."""

    described: CheckKind
    planned: Callable[[ModelConfig, Target, Data], bool]
    run: Callable[[CheckContext], None]
    test: Callable[..., None]


F = TypeVar("F", bound=Callable[..., None])


def measures(kind: CheckKind) -> Callable[[F], F]:
    """Mark a test as the one that measures `kind` for every cell that plans it."""

    def mark(test: F) -> F:
        test.parity_kind = kind.name  # type: ignore[attr-defined]
        return test

    return mark


def always(model: ModelConfig, target: Target, data: Data) -> bool:
    """For a kind of check that every cell plans."""
    return True
