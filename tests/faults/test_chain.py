"""The chain of proof in power: only survivors are tried, only inside the module, and only where it proves the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from parity import config
from parity import formats as targets
from parity.core.case import Case
from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.proof import Proof
from parity.core.record import plain
from parity.core.settings import ModelSpec
from parity.faults import faulty
from parity.faults.power import CellPower, Survivor
from parity.formats.onnx import convert as onnx_convert
from parity.proof import prove, source
from parity.proof.messages import ProofRequest
from parity.proof.source import export
from parity.reference import modelling
from parity.session.fault_chain import with_chain
from tests.faults.test_divergence import CONTRACT, EXAMPLE, SPEC

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {"opset": 17, "dynamic": False}


def power(*survivors: str) -> CellPower:
    lost = tuple(Survivor(s, s, "", None, None, None, None) for s in survivors)
    fates = {"labels_rotated": "killed"} | dict.fromkeys(survivors, "survived")
    return CellPower("skin-onnx-int8", "int8", len(fates), 1, (), 0, lost, (), {}, {"golden": 1}, (), (), (), (), fates)


class Told:
    """A session whose child proves real files of a small model against the fault that it is asked about."""

    def __init__(self, folder: Path, sound: bool = True):
        self.config = config.load(ROOT / "pyproject.toml", targets.facts())
        self.folder, self.sound, self.asked = folder, sound, list[str]()
        self.notes = onnx_convert.export(str(folder), OPTIONS, SPEC, CONTRACT, EXAMPLE)
        self.children = self
        self.progress = lambda *_: None

    def model_spec(self, model: Any) -> ModelSpec:
        return SPEC

    def artifact(self, cell: Cell) -> Any:
        return SimpleNamespace(folder=self.folder, notes=self.notes)

    def proof(self, cell: Cell, cases: Any) -> Proof:
        proof = self.prove(SPEC)
        assert proof.state == "proved", proof.summary
        links = tuple(replace(link, state="failed") for link in proof.links)
        return proof if self.sound else replace(proof, links=links)

    def call(self, family: str, function: str, request: ProofRequest, answer: Any, stage: str) -> Proof:
        options = request.model.options
        self.asked.append(options["fault"])
        return self.prove(replace(request.model, options={**options, "contract": CONTRACT}))

    def prove(self, spec: ModelSpec, **more: Any) -> Proof:
        reader = targets.get("onnx").graph
        request = ProofRequest(spec, reader, "fp32", str(self.folder), self.notes, [EXAMPLE] * 2, ["y"], **more)
        return prove(request)


@pytest.fixture(autouse=True)
def asked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.session.fault_chain.proof_of", lambda session, cell, cases: session.proof(cell, cases))


CASES = [Case(f"case_{i}", {k: np.array(v) for k, v in EXAMPLE.items()}) for i in range(2)]
CELL = Cell("skin", "onnx", "int8")


def test_a_fault_in_the_module_is_proved_and_one_outside_it_survives(tmp_path: Path) -> None:
    told: Any = Told(tmp_path)
    found = with_chain(told, CELL, CASES, power("bit_flipped", "silu_hard_swish", "output_gain"))
    assert told.asked == ["bit_flipped", "silu_hard_swish", "output_gain"]
    assert [s.fault for s in found.survivors] == ["output_gain"]
    assert str(found.survivors[0]).endswith("acts before or behind the file, which the chain of proof does not see")
    assert (found.killed, found.killed_by_kind) == (3, {"golden": 1, "static": 2})
    assert found.summary().kinds == {"golden": 1, "static": 2}
    assert plain(found)["faults"]["bit_flipped"] == "killed"


def test_a_change_that_keeps_the_function_is_no_kill(tmp_path: Path) -> None:
    found = with_chain(Told(tmp_path), CELL, CASES, power("batch_norm_folded"))  # type: ignore[arg-type]
    assert found.killed_by_kind == {"golden": 1} and len(found.survivors) == 1
    assert str(found.survivors[0]).endswith("the chain of proof does not show it either")


def test_a_module_that_cannot_be_exported_with_its_fault_says_so(tmp_path: Path) -> None:
    found = with_chain(Told(tmp_path), CELL, CASES, power("first_layer_gain"))  # type: ignore[arg-type]
    (lost,) = [str(s) for s in found.survivors]
    assert "the chain of proof cannot be made of a module with it (torch.export cannot follow the module" in lost
    assert "\n" not in lost


def test_a_chain_that_does_not_prove_the_right_file_counts_for_nothing(tmp_path: Path) -> None:
    told: Any = Told(tmp_path, sound=False)
    before = power("bit_flipped")
    assert with_chain(told, CELL, CASES, before) is before and told.asked == []


def test_a_target_without_a_chain_is_left_alone() -> None:
    before = power("bit_flipped")
    session: Any = SimpleNamespace(config=config.load(ROOT / "pyproject.toml", targets.facts()))
    assert with_chain(session, Cell("skin", "coreml_nn", "fp32"), CASES, before) is before


def test_a_child_that_fails_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: Any = Told(tmp_path)

    def fails(*_: Any, **__: Any) -> Any:
        raise ParityError("the child is gone")

    monkeypatch.setattr(told, "call", fails)
    before = power("bit_flipped")
    assert with_chain(told, CELL, CASES, before) is before


@pytest.mark.parametrize(("fault", "exported"), [("bias_dropped", 0), ("silu_hard_swish", 1)])
def test_a_module_with_other_tensors_is_not_exported_again(
    fault: str, exported: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = {name: np.array(value) for name, value in EXAMPLE.items()}
    source.source(SPEC, case)
    spec = faulty.spec_of(SPEC, CONTRACT, fault, None)
    calls: list[Any] = []
    monkeypatch.setattr(source, "export", lambda *given: calls.append(given) or export(*given))
    monkeypatch.setattr(source, "_sources", dict(source._sources))
    found = source.source(spec, case)
    assert len(calls) == exported
    want = export(modelling.load(spec), [torch.from_numpy(case["image"])])
    for ours, theirs in ((found.weights, want.weights), (found.terms, want.terms)):
        assert [a.name for a in ours] == [b.name for b in theirs]
        assert all(np.array_equal(a.values, b.values) for a, b in zip(ours, theirs, strict=True))
    right = source.source(SPEC, case)
    layers = zip(found.weights, right.weights, strict=True)
    changed = [a.name for a, b in layers if not np.array_equal(a.bias.values, b.bias.values)]
    assert bool(changed) == (fault == "bias_dropped"), "and the right module's source is left as it was"


def test_what_the_right_file_was_found_to_be_by_itself_is_not_found_again(tmp_path: Path) -> None:
    told = Told(tmp_path)
    assert names(told.prove(SPEC, held=["local"])) == ["match", "audit", "lift", "range"]
    asked: list[Any] = []
    told.call = lambda *_, **__: asked.append(_[2]) or told.prove(SPEC)  # type: ignore[method-assign, func-returns-value]
    with_chain(told, CELL, CASES, power("bit_flipped"))  # type: ignore[arg-type]
    assert [request.held for request in asked] == [["local"]]


def test_one_link_that_fails_is_answer_enough_for_power(tmp_path: Path) -> None:
    told = Told(tmp_path)
    spec = faulty.spec_of(SPEC, CONTRACT, "bias_dropped", "mix.bias")
    whole, short = told.prove(spec), told.prove(spec, whole=False)
    assert whole.state == short.state == "failed"
    assert names(whole) == ["match", "audit", "lift", "local", "range"] and len(short.links) == 2
    assert names(told.prove(SPEC, whole=False)) == names(whole)


def names(proof: Proof) -> list[str]:
    return [link.name for link in proof.links]
