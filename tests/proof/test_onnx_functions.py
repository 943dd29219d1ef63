"""ONNX files with functions of their own, as every reader finds them in a new process: `onnx` imports its inliner only
when it is asked to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults import formats
from tests.proof.seeded import ROOT

READERS = (
    "parity.formats.onnx.graph:OnnxArtefact",
    "parity.formats.onnx.steps:OnnxSteps",
    "parity.formats.onnx.survey:survey",
    "parity.formats.onnx.survey:constants",
)
READ = """
import json, sys
from parity.formats.target import load_part
part, folder, notes = sys.argv[1:]
load_part(part)(folder, json.loads(notes))
"""


def with_function(folder: Path) -> dict[str, Any]:
    """Two layers, whose activation is a function of the file."""
    import onnx
    from onnx import helper

    notes = formats.onnx(folder)
    model = onnx.load(folder / notes["entry"])
    node = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(helper.make_function("own", "Act", ["a"], ["b"], [node], [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[1].CopyFrom(helper.make_node("Act", ["h"], ["r"], domain="own"))
    onnx.save(model, folder / notes["entry"])
    return notes


@pytest.mark.parametrize("reader", READERS)
def test_a_file_with_a_function_is_read(reader: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    notes = json.dumps(with_function(tmp_path))
    command = [sys.executable, "-c", READ, reader, str(tmp_path), notes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
