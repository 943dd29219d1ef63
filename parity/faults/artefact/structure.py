"""Faults in what a file computes: an activation lost, a sum turned round, padding on one side, a file cut off."""

from __future__ import annotations

from parity.faults.base import FileFault, register_fault
from parity.formats.draft import Draft


def truncated(draft: Draft) -> bool:
    """The last tenth of the file's bytes is gone, as after a download that broke off."""
    draft.cut = 0.1
    return True


for name, sentence, edit in (
    ("activation_lost", "the file's first activation function is gone", lambda d: d.change_activation(lost=True)),
    ("activation_other", "the file's first activation function is another one",
     lambda d: d.change_activation(lost=False)),
    ("sum_to_difference", "a residual connection of the file is subtracted", lambda d: d.subtract()),
    ("operands_exchanged", "two inputs of a concatenation, difference or quotient of the file are exchanged",
     lambda d: d.exchange_operands()),
    ("padding_at_end", "a layer of the file pads as TensorFlow's SAME does, after and not before",
     lambda d: d.pad_at_end()),
    ("input_scaled", "the file scales its input by 1/256 for 1/255", lambda d: d.scale_input(255 / 256, 0.0)),
    ("input_mean_twice", "the file takes a mean from its input once more", lambda d: d.scale_input(1.0, -0.1)),
    ("epsilon", "normalisations of the file use epsilon 1e-3", lambda d: d.set_epsilon(1e-3)),
    ("truncated", "the last tenth of the file is missing", truncated),
):  # fmt: skip
    register_fault(FileFault(f"file_{name}", sentence, edit))
