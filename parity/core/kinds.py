"""The kinds of check, in the order of a plan: what gate, ledger, capsule and report have to know of each.

What a kind measures, and for which cells it is planned, is in the file of its name in `parity/suite/`. To add a kind,
add its word to `Kind` and its entry to `KINDS` here, and write that file. Imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# The words that a record may hold (`parity.run/1`): adding one is fine, renaming one is not.
Kind = Literal["contract", "static", "golden", "video", "property", "sequence", "batch", "accuracy"]


@dataclass(frozen=True)
class CheckKind:
    """One kind of check: its word in the record, and how everything that reads a record treats it."""

    name: Kind
    sentence: str  # what it measures, for the report's glossary
    limited: bool = True  # by the configuration's limits; other kinds bring limits that nobody sets
    per_case: bool = False  # every case needs a limit in force, on each of its outputs
    cases: Literal["golden", "video", ""] = ""  # the project's own cases whose outputs it judges
    ordered: bool = False  # its cases follow each other in time: the report draws a line of them
    unit: str = "case"  # what the report calls one of its cases
    pooled: bool = False  # judges all cases together too, by noise ratios that have a natural spread
    power: bool = False  # its test measures the power of the cell's limits, where a run asks for it
    in_ledger: bool = False  # measured on data that is the same in every run
    in_capsule: bool = False  # needs nothing but outputs, which another machine can bring back
    in_export: bool = False  # an export is verified by it


CONTRACT = CheckKind(
    "contract",
    "Names, count, shapes, dtypes, declared dynamic axes and operators of the file.",
    limited=False,
    in_export=True,
)
STATIC = CheckKind(
    "static",
    "The stored weights against the PyTorch weights, without running anything.",
    limited=False,
    in_export=True,
)
GOLDEN = CheckKind(
    "golden",
    "Outputs on the golden inputs that the project keeps.",
    per_case=True,
    cases="golden",
    pooled=True,
    power=True,
    in_ledger=True,
    in_capsule=True,
    in_export=True,
)
ACCURACY = CheckKind(
    "accuracy",
    "The task metric of the file against that of the PyTorch model.",
    cases="golden",
    in_ledger=True,
    in_capsule=True,
    in_export=True,
)
VIDEO = CheckKind(
    "video",
    "Outputs frame by frame on a video, from the encoded frame on.",
    per_case=True,
    cases="video",
    ordered=True,
    unit="frame",
    pooled=True,
    in_ledger=True,
    in_capsule=True,
)
SEQUENCE = CheckKind(
    "sequence",
    "State over time: step by step, replayed, reordered, fresh against reused.",
    per_case=True,
    ordered=True,
    unit="step",
    in_ledger=True,
)
BATCH = CheckKind(
    "batch",
    "Every row of a batch against the same input alone.",
    per_case=True,
    in_ledger=True,
    in_export=True,
)
PROPERTY = CheckKind(
    "property",
    "Outputs on drawn inputs: extremes, flat, amplified, other sizes.",
    per_case=True,
)

KINDS = (CONTRACT, STATIC, GOLDEN, ACCURACY, VIDEO, SEQUENCE, BATCH, PROPERTY)
BY_NAME: Mapping[str, CheckKind] = {kind.name: kind for kind in KINDS}
