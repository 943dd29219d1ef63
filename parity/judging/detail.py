"""What the tests of a cell tell besides their checks, and the fields of its record that are made of it. Pure.

Details travel from workers as builtins, by the name of the record's field that they end in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.core.exhibits import Distribution, Exhibit, Spread
from parity.core.record import (
    ArtifactRecord,
    Divergence,
    Drift,
    Explanation,
    Power,
    ProofRecord,
    RiskRecord,
    RuntimeRecord,
    ToolchainRecord,
    build,
)

_GATHERED: Mapping[str, type[Any]] = {"exhibits": Exhibit, "distributions": Distribution, "natural": Spread}
_LISTED: Mapping[str, type[Any]] = {"diagnosis": Explanation, "drift": Drift, **_GATHERED}
_SINGLE: Mapping[str, type[Any]] = {
    "artifact": ArtifactRecord, "runtime": RuntimeRecord, "proof": ProofRecord, "power": Power,
    "risk": RiskRecord, "toolchain": ToolchainRecord,
}  # fmt: skip


def merge(known: dict[str, Any], told: Mapping[str, Any]) -> None:
    """Add what one test told to what is known of its cell: the last word counts, but what several tests gather (golden
    cases, then a video's) is kept together."""
    for name, value in told.items():
        if name in _GATHERED:
            known[name] = [*known.get(name, ()), *(v for v in value if v not in known.get(name, ()))]
        else:
            known[name] = value


def fields(details: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `CellRecord` that `details` give. Raises ParityError for what no record could hold."""
    found: dict[str, Any] = {
        "route": details.get("route", ""),
        "routes_failed": tuple(details.get("routes_failed", ())),
        "faults_failed": tuple(details.get("faults_failed", ())),
    }
    if details.get("telling_cases") is not None:
        found["telling_cases"] = int(details["telling_cases"])
    for name, kind in _SINGLE.items():
        if details.get(name):
            found[name] = build(kind, details[name], name)
    if details.get("divergence"):
        found["first_divergence"] = build(Divergence, details["divergence"], "divergence")
    for name, kind in _LISTED.items():
        found[name] = tuple(build(kind, value, name) for value in details.get(name, ()))
    return found
