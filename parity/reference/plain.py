"""The module as it is, in a child process: with the kernels that PyTorch chooses, as a user runs it."""

from __future__ import annotations

import torch

from parity.process.child import stage
from parity.reference import modelling, reads
from parity.reference.copying import copied
from parity.reference.exact import run
from parity.reference.messages import Evaluated, PlainRequest
from parity.reference.onnx_files import Graph


@reads.noting
def evaluate(request: PlainRequest) -> Evaluated:
    """Outputs of the module for each case, in float32, or in float16 where asked. A file that gives the same is right,
    however far both are from the float64 oracle.

    A reference that is a file runs in float32 as its users run it: by its own runtime, whose kernels for a sigmoid may
    be coarser than PyTorch's.
    """
    stage("plain")
    module = modelling.load(request.model)
    dtype = torch.float32
    if isinstance(module, Graph) and not request.half:
        module = module.alternative("")
    if request.half:
        module, dtype = copied(module).half(), torch.float16
    rows = [run(module, case, request.outputs, dtype) for case in request.cases]
    return Evaluated(rows, str(dtype).removeprefix("torch."), "")
