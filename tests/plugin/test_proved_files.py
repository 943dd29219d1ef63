"""Whole runs of a right file that is beyond what correct files have shown: proved, it passes in every process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from parity.judging import gate
from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

TABLE = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32"]
timeout = 120

[tool.parity.models.tiny]
factory = "tinynet:tiny"
inputs = [{ name = "x", shape = ["batch", 20], range = [-3, 3] }]
outputs = [{ name = "y", kind = "embedding" }]
golden = "drawn"
artifacts = { "onnx-fp32" = "file.onnx" }
properties = { examples = 4 }
"""
MODEL = """
import torch
from torch import nn

def tiny():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
"""
# One channel of 64 is off by some units in the last place, as after another order of summation.
MAKE = """
import sys, onnx, torch, tinynet
from onnx import helper, numpy_helper
import numpy as np
torch.onnx.export(tinynet.tiny(), torch.ones(1, 20), "file.onnx", input_names=["x"], output_names=["y"], dynamo=False,
                  dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}})
model = onnx.load("file.onnx")
model.graph.node[-1].output[0] = "before"
offset = np.zeros(64, np.float32)
offset[5] = float(sys.argv[1])
model.graph.initializer.append(numpy_helper.from_array(offset, "offset"))
model.graph.node.append(helper.make_node("Add", ["before", "offset"], ["y"]))
onnx.save(model, "file.onnx")
"""
FEW_UNITS = "3e-7"  # of an output of rms 0.3
LIMITS = "\n[tool.parity.limits]\nfp32 = { noise_ratio_channel = 4.0 }\n"


def write(project: Project, more: str = "", offset: str = FEW_UNITS) -> None:
    project.write("tinynet.py", MODEL)
    project.write("pyproject.toml", TABLE + more)
    subprocess.run([sys.executable, "-c", MAKE, offset], cwd=project.path, check=True, capture_output=True)
    rng = np.random.default_rng(2)
    (project.path / "drawn").mkdir()
    for number in range(12):
        np.savez(project.path / "drawn" / f"{number:02}.npz", x=rng.normal(size=(1, 20)).astype("float32"))


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "xdist"])
def test_a_proved_file_passes_with_a_warning(project: Project, workers: list[str]) -> None:
    write(project)
    run = project.run(*workers)
    (cell,) = run.record.cells
    assert (run.result.ret, cell.state) == (0, "pass"), run.text
    assert cell.proof is not None and cell.proof.complete
    assert "noise_ratio_channel" in {check.metric for check in gate.warnings(cell)}
    assert "beyond what correct files have shown: warning" in run.text
    assert not cell.diagnosis and cell.first_divergence is None, "what is right has no cause"
    command = [sys.executable, "-m", "parity.cli", "gate", "reports/parity.json"]
    done = subprocess.run(command, cwd=project.path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "beyond what correct files have shown" in done.stdout, done.stdout + done.stderr


def test_its_golden_test_alone_asks_for_the_proof_itself(project: Project) -> None:
    write(project)
    run = project.run("-k", "golden")
    assert "1 passed" in run.text, run.text


@pytest.mark.parametrize("more", ["proof = false\n", LIMITS], ids=["no proof", "a limit of the project"])
def test_it_is_refused_otherwise(project: Project, more: str) -> None:
    write(project, more)
    run = project.run()
    (cell,) = run.record.cells
    assert cell.state == "fail" and "noise_ratio_channel" in cell.reason, run.text


def test_a_fault_is_refused_by_the_chain(project: Project) -> None:
    write(project, offset="3e-3")
    run = project.run()
    assert run.states() == {"tiny-onnx-fp32": "fail"}
