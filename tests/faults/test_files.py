"""Faults of the file in a cell's power: noticed, survived, equivalent or refused; benign changes that raise alarms."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parity import config
from parity import formats as targets
from parity.core.case import Case
from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.settings import ModelSpec
from parity.faults import FileFault, register_fault
from parity.faults import base as registry
from parity.faults.power import CellPower
from parity.process.isolate import ChildFailure
from parity.session.fault_files import Files, with_files
from tests.faults import formats
from tests.faults.test_artefact import opened, serve

PROJECT = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32"]

[tool.parity.models.two]
factory = "two:two"
inputs = [{ name = "x", shape = [1, 6] }]
outputs = [{ name = "y" }]
golden = "golden"
proof = PROOF

[tool.parity.limits]
LIMITS
"""
CELL = Cell("two", "onnx", "fp32")
CASES = [Case(f"case_{i}", {"x": x}) for i, x in enumerate(formats.X)]
ORACLE = [{"y": formats.right(x)} for x in formats.X]
TWIN = [{"y": row["y"] + 1e-6 * np.cos(np.arange(4) + i)} for i, row in enumerate(ORACLE)]
EMPTY = CellPower("two-onnx-fp32", "fp32", 0, 0, (), 0, (), (), {}, {}, (), (), (), ())


class Here:
    """A session whose children are this process, with the file of two layers."""

    def __init__(self, folder: Path, limits: str = "", proof: str = "false"):
        folder.joinpath("golden").mkdir()
        file = folder / "pyproject.toml"
        file.write_text(PROJECT.replace("LIMITS", limits).replace("PROOF", proof))
        folder.joinpath("two.py").write_text("def two(): ...\n")
        self.config = config.load(file, targets.facts())
        self.folder, self.notes = folder, formats.onnx(folder)
        self.scratch = folder
        self.children = self
        self.progress = lambda *_: None
        self.broken_links: dict[str, bool] = {}

    def artifact(self, cell: Cell) -> Any:
        return SimpleNamespace(folder=self.folder, notes=self.notes)

    def model_spec(self, model: Any) -> ModelSpec:
        return ModelSpec("", "two:two")

    def call(self, family: str, function: str, request: Any, answer: Any, stage: str) -> Any:
        if stage == "prove":
            return request.folder
        module, _, name = function.partition(":")
        return getattr(importlib.import_module(module), name)(request)


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files run here; the registry is left as it was."""

    @contextlib.contextmanager
    def here(self: Files, folder: str, notes: Any) -> Iterator[Any]:
        try:
            session = opened("onnx", Path(folder), notes)
        except Exception as error:
            raise ChildFailure("error", "load", str(error).splitlines()[0]) from None
        yield lambda chosen: [
            serve.named(notes, session.run(serve.fed(notes, self.cases[i].inputs))) for i in chosen
        ]  # fmt: skip

    monkeypatch.setattr(Files, "_opened", here)
    before = dict(registry._registry)
    yield
    registry._registry.clear()
    registry._registry.update(before)


def measured(session: Any) -> CellPower:
    return Files(session, CELL, CASES, ORACLE, TWIN).measure()


def test_faults_of_the_file_are_noticed_and_benign_changes_are_not(tmp_path: Path) -> None:
    found = measured(Here(tmp_path))
    assert found.share > 0.95 and found.injected >= 30, [str(s) for s in found.survivors]
    assert found.faults["file_bias_dropped"] == "killed" and found.faults["file_truncated"] == "killed"
    assert found.killed_by_kind["load"] == 1 and "file_epsilon" in found.absent
    assert not found.false_alarms, [str(s) for s in found.false_alarms]


def test_limits_that_are_loose_let_faults_through_and_say_what_would_catch_them(tmp_path: Path) -> None:
    ratios = ", ".join(f"noise_ratio{part} = 1e12" for part in ("", "_case", "_channel", "_peak"))
    found = measured(Here(tmp_path, f"fp32 = {{ {ratios}, cosine = 0.01, max_abs = 3.0 }}"))
    lost = {s.fault: s for s in found.survivors}
    assert "file_weights_bfloat16" in lost and lost["file_weights_bfloat16"].would_catch is not None
    assert "would catch it" in str(lost["file_weights_bfloat16"]) and found.killed > 0


def test_limits_below_the_noise_are_alarms(tmp_path: Path) -> None:
    found = measured(Here(tmp_path, "fp32 = { max_abs = 1e-12 }"))
    assert "file_written_again" in {s.fault for s in found.false_alarms}


def test_what_changes_nothing_is_told_by_the_outputs_and_what_fails_counts_as_not_noticed(tmp_path: Path) -> None:
    register_fault(FileFault("own_nothing", "nothing is done", lambda draft: True))
    register_fault(FileFault("own_raises", "it raises", lambda draft: 1 / 0))
    register_fault(FileFault("own_absent", "it has no place", lambda draft: False))
    found = measured(Here(tmp_path))
    assert "own_nothing" in found.equivalent and "own_absent" in found.absent
    assert found.faults["own_raises"] == "survived"
    (told,) = [str(s) for s in found.survivors if s.fault == "own_raises"]
    assert told == "own_raises: it raises; it could not be injected: ZeroDivisionError: division by zero"


def test_the_chain_of_proof_is_asked_of_what_no_figure_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def checks(found: str, limits: Any) -> list[Any]:
        bad = "/fault-" in found
        return [SimpleNamespace(metric="audit_faults", value=1.0 if bad else 0.0, limit=0.0, passed=not bad)]

    monkeypatch.setattr("parity.session.fault_files.proof_of", lambda *_: "right")
    monkeypatch.setattr("parity.session.fault_files.judge.check_proof", checks)
    monkeypatch.setattr("parity.session.fault_files.passes", lambda check: check.passed)
    monkeypatch.setattr("parity.faults.power.passes", lambda check: check.passed)
    loose = ", ".join(f"noise_ratio{part} = 1e12" for part in ("", "_case", "_channel", "_peak"))
    found = measured(Here(tmp_path, f"fp32 = {{ {loose}, cosine = 0.01 }}", "true"))
    assert found.killed_by_kind["static"] > 5 and not found.survivors
    (told,) = [str(s) for s in found.false_alarms if s.fault == "file_written_again"]
    assert told.endswith("the chain of proof refuses it: audit_faults")


def test_power_of_model_and_file_is_one(tmp_path: Path) -> None:
    here: Any = Here(tmp_path)
    found = with_files(here, CELL, CASES, ORACLE, TWIN, EMPTY)
    assert found.injected >= 30 and found.summary().killed == found.killed
    here.artifact = lambda cell: (_ for _ in ()).throw(ParityError("no route works"))
    assert with_files(here, CELL, CASES, ORACLE, TWIN, EMPTY) is EMPTY
