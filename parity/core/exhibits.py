"""What a record holds for a person to look at: worst cases, how errors are spread, what is natural.

Plain frozen dataclasses, part of the record: nothing here gates, and a record without them is judged the same. They
are made in `evidence` and drawn by the report. Imports nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Picture:
    """A small encoded picture, and in words what it shows: `image, channels as red, green and blue`."""

    mime: Literal["image/png", "image/jpeg"]
    data: str  # base64
    width: int
    height: int
    caption: str = ""


@dataclass(frozen=True)
class Exhibit:
    """One of the worst cases: what went in, and for one output what the oracle and the file made of it.

    A small output is given by its values (`want`, `got`, at most some thirty, named by `names` where they are classes),
    a larger one as pictures on one scale, the difference on its own.
    """

    kind: str
    case: str
    output: str
    metric: str  # by which it is the worst
    value: float | None
    inputs: tuple[Picture, ...] = ()
    words: str = ""  # inputs that are no picture: `ids: 12 7 44`; and the label of the case
    names: tuple[str, ...] = ()
    want: tuple[float | None, ...] = ()
    got: tuple[float | None, ...] = ()
    left: int = 0  # values of the output that are not among these
    reference: Picture | None = None
    artefact: Picture | None = None
    difference: Picture | None = None


@dataclass(frozen=True)
class Distribution:
    """How the errors of an output's elements are spread, over all cases: counts by size, on a logarithmic scale.

    An error is |artefact - oracle| over the rms of the oracle's output. Bin i holds errors from 10^(first + i * step)
    on; the first holds smaller ones too (but not 0), the last larger ones. `twin` are the errors that the precision
    alone makes, in the same bins; empty where there is no twin.
    """

    kind: str
    output: str
    elements: int
    magnitude: float  # rms of the oracle's output
    first: float
    step: float
    artefact: tuple[int, ...]
    exact: int = 0  # elements without any error
    nonfinite: int = 0
    twin: tuple[int, ...] = ()
    twin_exact: int = 0


@dataclass(frozen=True)
class Spread:
    """What correct exports of a target and precision were measured to have in one metric: the natural spread."""

    metric: str  # noise_ratio, noise_ratio_case ...
    median: float
    p95: float
    largest: float
    count: int  # exports that were measured


@dataclass(frozen=True)
class FaultFate:
    """What became of one injected fault: whether the limits noticed it, and what would have caught a survivor."""

    fault: str
    fate: Literal["noticed", "survived", "equivalent", "not applicable"]
    words: str = ""  # what the fault is, and for a survivor the limit that would notice it
