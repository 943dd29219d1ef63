"""Changes of a file, or of how it is run, that no check may notice: the same function by other bytes or other kernels.

They keep the tester honest from the other side: limits that catch every fault and these too are too tight.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from parity.faults.base import FileFault, register_fault
from parity.formats.draft import Draft


def last_bits(draft: Draft) -> bool:
    """One weight in 500 moved to the next number that its type holds, up or down.

    At fp32 only. A coarser grid tells: a stored fp16 number, or integer, beside the nearest one to the module's weight
    is one that no rounding gives, and the audit of the chain of proof refuses it.
    """
    changed = False
    for layer in draft.layers():
        stored = draft.graph.constants[layer.name].stored
        if stored.dtype.kind != "f":
            continue
        hit = draft.rng.random(stored.shape) < 0.002
        toward = np.where(draft.rng.random(stored.shape) < 0.5, -np.inf, np.inf).astype(stored.dtype)
        draft.store(layer.name, np.where(hit, np.nextafter(stored, toward), stored))
        changed |= bool(hit.any())
    return changed


def other_kernels(draft: Draft) -> bool:
    """The next of the runtime's kernel sets."""
    own = draft.notes.get("kernels") or (draft.kernel_sets or ("",))[0]
    if len(draft.kernel_sets) < 2:
        return False
    place = draft.kernel_sets.index(own)
    draft.notes["kernels"] = draft.kernel_sets[(place + 1) % len(draft.kernel_sets)]
    return True


def two_threads(draft: Draft) -> bool:
    draft.notes["threads"] = 2
    return draft.threads


def benign(name: str, sentence: str, edit: Callable[[Draft], bool], precisions: tuple[str, ...] = ()) -> None:
    more = {"precisions": precisions} if precisions else {}
    register_fault(FileFault(f"file_{name}", sentence, edit, benign=True, **more))


benign(
    "written_again", "the file is written again, with other names inside and in another order", lambda d: d.rewrite()
)
benign("optimised", "the runtime's own optimiser has rewritten the graph", lambda d: d.optimise("onnxruntime"))
benign("simplified", "a simplifier (onnxsim) has rewritten the graph", lambda d: d.optimise("onnxsim"))
benign("last_bits", "one weight in 500 differs in its last bit", last_bits, ("fp32",))
benign("two_threads", "the file runs on two threads", two_threads)
benign("other_kernels", "the file runs on another of its runtime's kernel sets", other_kernels)
