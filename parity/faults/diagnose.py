"""What explains this artefact? Every fault of the library is tried as a hypothesis, in a child process.

A hypothesis explains when the artefact is as near to it as a correct artefact is to the oracle: within the noise that
the precision costs. What nothing explains is said to be unexplained, never guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.core.record import plain
from parity.faults.base import Row, Rows, registered
from parity.faults.causes import Cause, Diagnosis, Stored
from parity.faults.extra import load
from parity.faults.library import bench
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


def explain(
    model: Mapping[str, Any],
    contract: Mapping[str, Any],
    cases: Sequence[Row],
    artefact: Rows,
    twin: Rows,
    precision: str,
    limits: Mapping[str, float] | None = None,
    sources: Sequence[str | None] | None = None,
    faults: Sequence[str] | None = None,
    without: Sequence[str] = (),
    plugins: Sequence[str] = (),
    flavour: str | None = None,
    calibration: Sequence[Row] = (),
    seconds: float = 20.0,
    stored: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The `Diagnosis` of an artefact from its outputs for `cases`, as builtins.

    `contract` is `plain(contract)`; `twin` are the outputs of the precision's twin (`flavour`) for the same cases.
    `limits` are the noise ratios that correct artefacts of this kind stay within, by statistic of
    `parity.judging.floor`. `faults` names the hypotheses, all that occur at this precision by default; `without`
    leaves some out. `calibration` are the cases that int8 ranges come from. No search is begun after `seconds` of
    processor time. `stored` is what `parity.proof.stored` found in the file in place of the model's weights.
    """
    stage("diagnosis")
    load(plugins)
    on = bench(model, contract, cases, precision, sources)
    known = [f for f in registered(precision, faults) if not f.benign and f.name not in without]
    others = Stored(stored["tensors"], tuple(stored["layers"]), stored["of"]) if stored else None
    search = Search(on, artefact, twin, known, limits or LIMITS[precision], flavour, seconds, calibration, others)
    return dict(plain(search.diagnose()))
