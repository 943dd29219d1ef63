"""Whether a module writes into its inputs, which the caller still holds. In a child process only."""

from __future__ import annotations

import numpy as np
import torch

from parity.process.child import stage
from parity.reference import modelling
from parity.reference.messages import WaysRequest


def overwritten(request: WaysRequest) -> list[str]:
    """The names of the inputs that the module changes in any of the cases. PyTorch counts the changes of a tensor in
    place."""
    stage("oracle")
    module = modelling.load(request.model)
    names = set[str]()
    for case in request.cases:
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in case.items()}
        with modelling.plain_attention(), torch.no_grad():
            module(*tensors.values())
        names.update(name for name, tensor in tensors.items() if tensor._version)
    return sorted(names)
