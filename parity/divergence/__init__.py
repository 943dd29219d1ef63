"""First divergence: which step of an artefact is the first to compute something else than its module does?

The artefact is walked operator by operator. Each is run twice: on what the artefact gave before it (how far the error
has come), and on what the float64 reference says it should have been given (what the step itself introduces). Tensors
are paired by content, since converters lose names. `locate` runs in a child process; importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.core.case import Array
from parity.core.record import Divergence, Drift, build, plain
from parity.core.settings import ModelSpec

Case = Mapping[str, Array]


@dataclass(frozen=True)
class Bounds:
    """Where the chain of proof says that a fault is.

    `tensors` are those of the module that the file holds otherwise. Where there are none, the structure is at fault:
    the layer of the tensor `after` is the last that reads what it should, that of `before` the first that does not.
    """

    tensors: tuple[str, ...] = ()
    after: str = ""
    before: str = ""


@dataclass(frozen=True)
class DivergenceRequest:
    """One artefact and the model that it is to be, on the case on which the artefact is worst.

    `steps` is the target's, `notes` the artefact's, `case` one set of inputs by the model's names. `flavour` and
    `calibration` are the precision's twin's. `submodel` is a folder in which the step and its neighbours are saved as a
    file that runs.
    """

    model: ModelSpec
    steps: str
    precision: str
    folder: str
    notes: Mapping[str, Any]
    case: Case
    outputs: Sequence[str]
    flavour: str | None = None
    calibration: Sequence[Case] = ()
    submodel: str | None = None
    bounds: Bounds | None = None


@dataclass(frozen=True)
class Located:
    """The first divergence, if any, and the drift curve; `reason` says why the artefact could not be walked, `submodel`
    names the file that was saved."""

    divergence: Divergence | None
    drift: Sequence[Drift] = ()
    reason: str = ""
    submodel: str = ""


def locate(request: DivergenceRequest) -> Located:
    """Walk the artefact beside its module. Raises ParityError only where the model itself is no good."""
    from parity.divergence.reference import Reference
    from parity.divergence.walk import walk
    from parity.formats.graph import NotPossible
    from parity.formats.target import load_part
    from parity.process.child import stage

    stage("divergence")
    try:
        artefact = load_part(request.steps)(request.folder, request.notes)
        reference = Reference(
            request.model,
            request.case,
            request.outputs,
            request.precision,
            request.flavour,
            request.calibration,
        )
        with reference:
            found = walk(artefact, reference, request.case, request.bounds)
            saved = ""
            if request.submodel and found.divergence is not None:
                saved = found.save(request.submodel)
    except NotPossible as obstacle:
        return Located(None, reason=str(obstacle))
    # Through builtins: what is not finite becomes None, as the record holds it.
    divergence = build(Divergence, plain(found.divergence)) if found.divergence else None
    drift = [build(Drift, plain(point)) for point in found.drift]
    return Located(divergence, drift, "", saved)
