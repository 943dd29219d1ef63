"""The oracle or a twin over steps that feed one another, in a child process: each carries its own state."""

from __future__ import annotations

from typing import Any

from parity.cases.sequence import play
from parity.process.child import stage
from parity.reference import modelling, reads, twin
from parity.reference.exact import Exact
from parity.reference.messages import ChainRequest, Evaluated
from parity.reference.recipes import recipe


@reads.noting
def evaluate(request: ChainRequest) -> Evaluated:
    """The outputs `keep` of every step.

    Without a precision it is the float64 oracle; with one, the twin that rounds so, its state included.
    """
    stage("sequence")
    steps, outputs, calibration = request.steps, request.outputs, request.calibration
    loaded = modelling.load(request.model)
    if request.precision is not None:
        chosen = recipe(request.precision, request.flavour)
        ranges = twin.kept_ranges(request.model, chosen, calibration or steps[:1])
        with twin.rounding(loaded, steps[0], outputs, chosen, calibration, ranges=ranges) as round_:
            rows = play(round_, steps, request.carry, request.keep, request.free)
        return Evaluated(rows, "float32", "")
    exact = Exact(loaded)

    def reference(case: dict[str, Any], number: int) -> dict[str, Any]:
        return exact.run(case, outputs)

    with modelling.plain_attention():
        rows = play(reference, steps, request.carry, request.keep, request.free)
    return Evaluated(rows, "float32" if exact.note else "float64", exact.note)
