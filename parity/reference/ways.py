"""Which way a module's decisions by data go on given inputs. In a child process only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parity.reference import modelling
from parity.reference.decisions import watched
from parity.reference.messages import Ways, WaysRequest


def ways(request: WaysRequest) -> Ways:
    """The ways of the module in float32, one mapping a case."""
    module = modelling.load(request.model)
    outcomes: list[Mapping[str, int]] = []
    refused: list[str] = []
    turned: list[Mapping[str, Sequence[int]]] = []
    thresholds: set[float] = set()
    for case in request.cases:
        seen, error = watched(module, case)
        outcomes.append(seen.outcomes)
        turned.append({site: sorted(ways) for site, ways in seen.turned.items()})
        thresholds |= seen.thresholds
        refused.append("" if error is None else f"{type(error).__name__}: {error}".splitlines()[0][:160])
    return Ways(outcomes, refused, sorted(thresholds), turned)
