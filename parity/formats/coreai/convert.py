"""The step that makes a Core AI asset of an exported program, in the child of its toolchain: coreai-torch."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.formats.target import Array
from parity.formats.torch.convert import PROGRAM_FILE
from parity.process.child import stage

ASSET = "model.aimodel"


def convert(
    work: str, after: str, contract: Mapping[str, Any], example: Mapping[str, Array], **_: Any
) -> dict[str, Any]:
    """The exported program under the declared names. fp16 is the module in float16 between float32 inputs and outputs,
    as apps feed them."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it compares "2.13.0+cpu" with "2.13.0"
        from coreai_torch import TorchConverter, get_decomp_table

    stage("convert")
    names = [spec["name"] for spec in contract["inputs"]]
    outputs = [spec["name"] for spec in contract["outputs"]]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.load(str(Path(after, PROGRAM_FILE))).run_decompositions(get_decomp_table())
        converter = TorchConverter()
        converter.add_exported_program(program, input_names=names, output_names=outputs)
        converter.to_coreai().save_asset(Path(work, ASSET))
    operators = Counter(str(n.target) for n in program.graph.nodes if n.op == "call_function")
    return {
        "entry": ASSET,
        "inputs": {name: {"name": name} for name in names},
        "outputs": {name: {"name": name} for name in outputs},
        "fixed": {name: list(value.shape) for name, value in example.items()},
        "ops": dict(sorted(operators.items())),  # of the exported program: files do not list theirs
    }
