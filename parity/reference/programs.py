"""What torch.export makes of a module, written so that it can be saved and read operator by operator."""

from __future__ import annotations

import torch

_VMAP = "torch._functorch.predispatch"  # the module of the functions that stand in a graph for vmap


def without_vmap(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program with vmap traced away: the same operators on tensors of one more axis; other programs as they are.

    Attention masks of transformers are made under vmap. It stands in an exported graph as calls of Python functions,
    which torch.export.save cannot write, and between which a tensor has not the shape that it says.
    """
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    if not any(getattr(target, "__module__", "") == _VMAP for target in targets):
        return program
    decomposed: torch.export.ExportedProgram = program.run_decompositions({})
    return decomposed
