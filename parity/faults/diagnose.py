"""What explains this artefact? Every fault of the library is tried as a hypothesis, in a child process.

A hypothesis explains when the artefact is as near to it as a correct artefact is to the oracle: within the noise that
the precision costs. What nothing explains is said to be unexplained, never guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping

from parity.core.record import build, plain
from parity.faults.base import registered, rows_of
from parity.faults.causes import Cause, Diagnosis
from parity.faults.extra import load
from parity.faults.library import bench
from parity.faults.messages import DiagnosisRequest
from parity.faults.search import Search
from parity.process.child import stage

__all__ = ["LIMITS", "Cause", "Diagnosis", "Search", "explain"]

LIMITS: Mapping[str, Mapping[str, float]] = {
    "fp32": {"pooled": 4.0, "worst": 8.0},
    "fp16": {"pooled": 2.0, "worst": 4.0},
    "dynamic": {"pooled": 1.5, "worst": 3.0},
    "int8": {"pooled": 1.6, "worst": 4.0},
}
"""Noise ratios that count as noise where the caller gives no measured ones: what correct exports have, with room."""


def explain(request: DiagnosisRequest) -> Diagnosis:
    """The diagnosis of an artefact from its outputs."""
    stage("diagnosis")
    load(request.plugins)
    precision = request.precision
    on = bench(request.model, request.contract, request.cases, precision, request.sources)
    hypotheses = [
        fault
        for fault in registered(precision, request.faults)
        if not fault.benign and fault.name not in request.without
    ]
    search = Search(
        on,
        rows_of(request.artefact),
        rows_of(request.twin),
        hypotheses,
        request.limits or LIMITS[precision],
        request.flavour,
        request.seconds,
        rows_of(request.calibration),
        request.stored,
    )
    # Through builtins: what is not finite becomes None, as the record holds it.
    return build(Diagnosis, plain(search.diagnose()))
