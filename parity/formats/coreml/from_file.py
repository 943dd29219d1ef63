"""Core ML from a TorchScript or ExportedProgram file, without the module that it came from. In the child only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from parity.formats.coreml import convert as coreml
from parity.formats.messages import FromFileRequest
from parity.process.child import stage

SCRIPT, PROGRAM = ".pt", ".pt2"


def load(path: Path) -> Any:
    """The traced module or exported program in a file. Raises ParityError with one line for anything else, and for a
    file that would run code."""
    from parity.files import torch_archives

    return (torch_archives.open_script if path.suffix == SCRIPT else torch_archives.open_program)(path)


def convert(request: FromFileRequest) -> dict[str, Any]:
    """Convert a file with the names, shapes and enumerated sizes of its contract; the notes of the artefact."""
    stage("load")
    source = load(Path(request.file))  # before coremltools, whose import takes seconds: a wrong file is told at once
    ct = coreml.tools()
    stage("convert")
    if request.file.endswith(PROGRAM):
        source = source.run_decompositions({})
    contract, example, options = request.contract, request.example, request.options
    inputs = coreml.inputs(contract, example)
    outputs = [ct.TensorType(name=name) for name in coreml.names(contract, "outputs").values()]
    entry = coreml.save(source, inputs, outputs, options, Path(request.work))
    return coreml.notes(entry, contract, example, options)
