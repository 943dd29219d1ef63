"""A file in place of a factory: `reference = "model.pt2"`, a TorchScript or an ONNX file. Names only; the rooms that
open them are `torch_files` and `onnx_files`, in a child process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from parity.core.errors import ParityError
from parity.core.settings import REFERENCE_KINDS

if TYPE_CHECKING:
    from torch import nn


def named(file: Path) -> str:
    """How the record calls a reference file."""
    return f"{REFERENCE_KINDS.get(file.suffix, 'unknown')} file {file.name}"


def module(path: Path, inputs: Sequence[str], outputs: Sequence[str], left: str = "") -> nn.Module:
    """What the file computes, as a module that takes `inputs` in that order. Raises ParityError.

    `left`: why an ONNX file is left to ONNX Runtime, where it cannot be executed here.
    """
    kind = REFERENCE_KINDS.get(path.suffix)
    if kind == "ONNX":
        from parity.reference import onnx_files

        return onnx_files.graph(path, inputs, outputs, left)
    if kind is None:
        raise ParityError(f"{path.name}: no reference can be read from it; use {', '.join(REFERENCE_KINDS)}")
    from parity.reference import torch_files

    return (torch_files.program if kind == "ExportedProgram" else torch_files.script)(path, inputs)
