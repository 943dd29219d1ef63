"""Files whose graph no chain of proof follows, with tables in which no golden and no drawn input reads changed rows."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.plugin.tiny_project import Project

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytest_plugins = "pytester"

ROWS, READ = 600, 20
NETS = """
import torch

@torch.jit.script
def cut(x: torch.Tensor) -> torch.Tensor:
    if x.shape[1] > 4:
        return x[:, :4]
    return x

class Texts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(600, 8)
        self.mix, self.head = torch.nn.Linear(8, 8), torch.nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(cut(torch.relu(self.mix(self.table(ids)))).mean(1))

def texts():
    return Texts().eval()

if __name__ == "__main__":
    ids = torch.ones(1, 8, dtype=torch.int64)
    torch.onnx.export(texts(), (ids,), "file.onnx", dynamo=False, input_names=["ids"], output_names=["out"],
                      dynamic_axes={"ids": {0: "batch"}, "out": {0: "batch"}})
"""
PYPROJECT = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32"]

[tool.parity.models.net]
MODEL
inputs = [{ name = "ids", shape = ["batch", 8], dtype = "int64", range = [0, 599] }]
outputs = [{ name = "out" }]
golden = "golden"
properties = { examples = 0 }
artifacts = { "onnx-fp32" = "file.onnx" }
"""
FACTORY, OFF, REFERENCE = (
    'factory = "nets:texts"',
    'factory = "nets:texts"\nproof = false',
    'reference = "reference.onnx"',
)


@pytest.fixture(params=[OFF, REFERENCE], ids=["no proof", "file"])
def texts(project: Project, request: pytest.FixtureRequest) -> Project:
    """A project that verifies an ONNX file against its module with the chain of proof switched off, or one that only
    ONNX Runtime executes against itself."""
    project.write("nets.py", NETS)
    project.write("pyproject.toml", PYPROJECT.replace("MODEL", request.param))
    for path in (project.path / "golden").rglob("*.npz"):
        path.unlink()
    rng = np.random.default_rng(2)
    for number in range(4):
        np.savez(project.path / "golden" / f"{number}.npz", ids=rng.integers(0, READ, (1, 8)))
    subprocess.run([sys.executable, "nets.py"], cwd=project.path, check=True, capture_output=True)
    if request.param == REFERENCE:
        model = onnx.load(project.path / "file.onnx")
        relu = next(node for node in model.graph.node if node.op_type == "Relu")
        relu.CopyFrom(onnx.helper.make_node("QuickGelu", relu.input, relu.output, domain="com.microsoft"))
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
        for name in ("file", "reference"):
            onnx.save(model, project.path / f"{name}.onnx")
    return project


def change(project: Project, rows: slice) -> None:
    """Other values in rows of the file's table."""
    model = onnx.load(project.path / "file.onnx")
    (table,) = (i for i in model.graph.initializer if list(i.dims) == [ROWS, 8])
    values = onnx.numpy_helper.to_array(table).copy()
    values[rows] = values[rows][:, ::-1] + 1
    table.CopyFrom(onnx.numpy_helper.from_array(values, table.name))
    onnx.save(model, project.path / "file.onnx")


def test_a_right_file_passes(texts: Project) -> None:
    made = texts.run()
    (cell,) = made.record.cells
    assert made.code == 0, made.text
    assert cell.proof is not None and not cell.proof.complete
    assert next(c.value for c in cell.checks if c.metric == "copies_faults") == 0
    assert not any("every row was tried" in finding.text for finding in cell.findings)


def test_a_chain_that_is_switched_off_is_told(texts: Project) -> None:
    if "proof = false" not in (texts.path / "pyproject.toml").read_text():
        pytest.skip("the chain is not switched off")
    (cell,) = texts.run("-k", "proof").record.cells
    off = [finding for finding in cell.findings if "switched off by the configuration (proof = false)" in finding.text]
    assert [finding.level for finding in off] == ["warning"]
    assert cell.proof is not None and cell.proof.state == "not possible"


def test_a_right_file_with_a_branch_by_sizes_is_proved(texts: Project) -> None:
    text = (texts.path / "pyproject.toml").read_text()
    if "proof = false" not in text:
        pytest.skip("its operators are no module's")
    texts.write("pyproject.toml", text.replace("proof = false", ""))
    made = texts.run("-k", "proof")
    (cell,) = made.record.cells
    assert cell.proof is not None and cell.proof.complete, made.text


def test_a_few_changed_rows_are_named(texts: Project) -> None:
    change(texts, slice(500, 503))
    made = texts.run("-k", "proof")
    assert made.code == 1 and "rows: 500, 501, 502" in made.text, made.text


def test_every_row_of_a_table_that_resembles_none_is_tried(texts: Project) -> None:
    """All rows that neither golden data nor an extreme reads are changed, so that the table is no copy any more."""
    change(texts, slice(READ, ROWS - 1))
    made = texts.run("-k", "property or proof")
    (cell,) = made.record.cells
    bad = {c.case.split(" ")[0] for c in cell.checks if not c.passed and c.kind == "property"}
    assert made.code == 1 and "sweep" in bad, made.text
    assert next(c.value for c in cell.checks if c.metric == "copies_faults") == 0
    assert any("every row was tried, in 75 inputs" in finding.text for finding in cell.findings), made.text
