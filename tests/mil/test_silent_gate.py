"""Conversions that are silently wrong fail under ``pytest -m parity`` with the limits that nobody set by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.core.record import CellRecord, read
from tests.mil import zoo
from tests.mil.silent import modules

pytest_plugins = ["pytester"]
QUICK = ("norm_layer", "log_probabilities", "sound_half")


def project(folder: Path, names: tuple[str, ...]) -> None:
    """A project whose models are `names`: modules, three golden cases each, and a configuration without limits."""
    tables = ["[tool.parity]", "timeout = 300"]
    for name in names:
        model = modules.MODELS[name]
        tables += [
            f"[tool.parity.models.{name}]", 'factory = "modules:build"', f'options = {{ name = "{name}" }}',
            f'inputs = [{{ name = "x", shape = {list(model.shape)} }}]', 'outputs = [{ name = "y" }]',
            f'golden = "golden/{name}"', f'cells = ["{model.cell}"]',
        ]  # fmt: skip
        if model.converted:
            tables.append(f'artifacts = {{ "{model.cell}" = "{convert(name, folder)}" }}')
        golden = folder / "golden" / name
        golden.mkdir(parents=True)
        for number in range(3):
            np.savez(golden / f"case{number}.npz", x=modules.case(name, number).numpy())
    (folder / "pyproject.toml").write_text("\n".join(tables))
    (folder / "test_parity.py").write_text("from parity.suite import *\n")
    shutil.copy(Path(modules.__file__), folder / "modules.py")


def convert(name: str, folder: Path) -> str:
    """A file of the model by one front end and nothing between; its path in the project."""
    model, module, x = modules.MODELS[name], modules.build(name).eval(), modules.case(name, 0)
    path = folder / f"{name}.mlpackage"
    precision = model.cell.rpartition("-")[2]
    with zoo.quiet():
        import coremltools as ct

        outputs = [ct.TensorType(name="y", dtype=np.float32)]
        if model.converted == "trace":
            zoo.convert(module, x, path, precision, outputs=outputs)
            return path.name
        options = {"compute_precision": ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32}
        program = torch.export.export(module, (x,), strict=False).run_decompositions({})
        target = ct.target.iOS16
        ct.convert(program, outputs=outputs, minimum_deployment_target=target, skip_model_load=True, **options).save(
            str(path)
        )
    return path.name


def run(pytester: pytest.Pytester, names: tuple[str, ...]) -> dict[str, CellRecord]:
    """The cells of one run, by model."""
    project(pytester.path, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        pytester.runpytest_subprocess("-m", "parity", "-p", "no:cacheprovider", "-q", "--parity-cache=cache")
    record = read(pytester.path / "reports" / "parity.json")
    return {cell.model: cell for cell in record.cells}


def judge(cells: dict[str, CellRecord], names: tuple[str, ...]) -> None:
    """Each fault is a failed cell, each sound module a passed one; nothing else stands in for either."""
    assert set(cells) == set(names)
    for name, cell in cells.items():
        model = modules.MODELS[name]
        assert cell.state == ("pass" if model.sound else "fail"), f"{name}: {cell.state} {cell.reason}\n{cell.log}"
        assert cell.runtime is not None and cell.runtime.executor == "mil-eval"
        assert not any(check.source.startswith("pyproject") for check in cell.checks)


def test_a_fault_of_each_precision_is_flagged_and_a_sound_module_passes(pytester: pytest.Pytester) -> None:
    cells = run(pytester, QUICK)
    judge(cells, QUICK)
    lowering = next(c for c in cells["norm_layer"].checks if c.metric == "lowering_db")
    assert not lowering.passed and lowering.value is not None and lowering.value < 100
    risk = cells["log_probabilities"].risk
    assert risk is not None
    event = risk.events[0]
    assert (event.kind, event.operator) == ("infinite", "log")
    assert any(f.level == "warning" and "infinite in log" in f.text for f in cells["log_probabilities"].findings)
    assert cells["sound_half"].risk is not None and not cells["sound_half"].risk.events


@pytest.mark.nightly
def test_every_known_fault_is_flagged(pytester: pytest.Pytester) -> None:
    names = tuple(modules.MODELS)
    cells = run(pytester, names)
    judge(cells, names)
    assert cells["scaled_skip"].route == "torch.export+coremltools"
    for name in ("sound_brought", "sound_program"):  # no fp32 sibling: held to what storing the weights costs
        (check,) = (c for c in cells[name].checks if c.kind == "static")
        assert check.metric == "lowering_ratio" and check.limit == 4.0
