"""First divergence: which step of an artefact is the first to compute something else than its module does?

The artefact is walked operator by operator. Each is run twice: on what the artefact gave before it (how far the error
has come), and on what the float64 reference says it should have been given (what the step itself introduces). Tensors
are paired by content, since converters lose names. `locate` runs in a child process; importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Case = Mapping[str, np.ndarray[Any, Any]]


def locate(
    model: Mapping[str, Any],
    steps: str,
    precision: str,
    folder: str,
    notes: Mapping[str, Any],
    case: Case,
    outputs: list[str],
    flavour: str | None = None,
    calibration: Sequence[Case] = (),
    submodel: str | None = None,
) -> dict[str, Any]:
    """{"divergence": a `parity.core.record.Divergence` or None, "drift": [`Drift`, ...], "reason": why there is none}.

    `model` is what `parity.reference.modelling.load` takes, `steps` the target's, `notes` the artefact's, `case` one
    set of inputs by the model's names, the one on which the artefact is worst. `flavour` and `calibration` are the
    precision's twin's. `submodel` is a folder in which the step and its neighbours are saved as a file that runs.
    Raises ParityError only where the model itself is no good.
    """
    from parity.core.record import plain
    from parity.divergence.reference import Reference
    from parity.divergence.walk import walk
    from parity.formats.graph import NotPossible
    from parity.formats.target import load_part
    from parity.process.child import stage

    stage("divergence")
    try:
        artefact = load_part(steps)(folder, notes)
        with Reference(model, case, outputs, precision, flavour, calibration) as reference:
            found = walk(artefact, reference, case)
            saved = ""
            if submodel and found.divergence is not None:
                saved = found.save(submodel)
    except NotPossible as obstacle:
        return {"divergence": None, "drift": [], "reason": str(obstacle)}
    return {**plain(found.told()), "submodel": saved}
