"""The module as it is, in a child process: in float32 with the kernels that PyTorch chooses, as a user runs it."""

from __future__ import annotations

import torch

from parity.process.child import stage
from parity.reference import modelling
from parity.reference.messages import Evaluated, OracleRequest
from parity.reference.oracle import run


def evaluate(request: OracleRequest) -> Evaluated:
    """Outputs of the untouched module for each case. A file that gives the same is right, however far both are from
    the float64 oracle."""
    stage("plain")
    module = modelling.load(request.model)
    rows = [run(module, case, request.outputs, torch.float32) for case in request.cases]
    return Evaluated(rows, "float32", "")
