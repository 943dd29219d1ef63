"""Who executes a reference file: this package, in float64, or the file's own runtime. In a child process only."""

from __future__ import annotations

from parity.core.errors import Disagrees, ParityError
from parity.process.child import stage
from parity.reference import modelling
from parity.reference.messages import Settled, SettleRequest


def settle(request: SettleRequest) -> Settled:
    """Hold the execution here against the file's own runtime on one case.

    A case that the runtime itself refuses says nothing about the file.
    """
    stage("oracle")
    module = modelling.load(request.model)
    confirm = getattr(module, "confirm", None)
    if not callable(confirm):
        return Settled(getattr(module, "why", ""))
    try:
        confirm(request.case)
    except Disagrees as why:
        return Settled(str(why))
    except ParityError:
        return Settled("")
    return Settled("")
