"""A module that takes any number of tensors keeps its dynamic axes in every format of PyTorch's own."""

from __future__ import annotations

import numpy as np
import pytest

from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

TABLE = """
[tool.parity]
targets = ["exported"]
precisions = ["{precision}"]
timeout = 120

[tool.parity.models.tiny]
factory = "tinynet:tiny"
inputs = [{{ name = "x", shape = ["batch", 3] }}, {{ name = "y", shape = ["batch", 3] }}]
outputs = [{{ name = "sum" }}]
properties = {{ examples = 4 }}
golden = "drawn"
"""

MODEL = """
import torch

class Sum(torch.nn.Linear):
    def forward(self, first, *others):
        return super().forward(first + sum(others))

def tiny():
    torch.manual_seed(0)
    return Sum(3, 2).eval()
"""


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_module_of_any_number_of_tensors_keeps_its_dynamic_axes(project: Project, precision: str) -> None:
    """Each tensor of `*others` was taken for a parameter of its own; the export fell back to fixed sizes."""
    project.write("tinynet.py", MODEL)
    project.write("pyproject.toml", TABLE.format(precision=precision))
    (project.path / "drawn").mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        inputs = {name: rng.standard_normal((1, 3)).astype(np.float32) for name in "xy"}
        np.savez(project.path / "drawn" / f"{number}.npz", **inputs)
    run = project.run()
    (cell,) = run.record.cells
    assert cell.state == "pass", run.text
    assert not [f.text for f in cell.findings if "fixed" in f.text], cell.findings
    assert any(check.kind == "batch" and "=3" in check.case for check in cell.checks)
