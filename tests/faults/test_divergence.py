"""First divergence on real files: the module with the fault is named, and a correct file has none."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from parity import formats as targets
from parity.core.contract import Contract, InputSpec, OutputSpec
from parity.core.plan import Cell
from parity.core.record import plain
from parity.core.settings import ModelSpec
from parity.divergence import Bounds, DivergenceRequest, locate
from parity.divergence.blame import _laid, _readers, within
from parity.divergence.pair import arrangements
from parity.divergence.reference import Value
from parity.faults import faulty
from parity.formats.ncnn import convert as ncnn_convert
from parity.formats.onnx import convert as onnx_convert
from parity.formats.torch import convert as torch_convert
from parity.reference import modelling
from parity.session.divergence import first_divergence

ROOT = Path(__file__).resolve().parents[2]
SPEC = ModelSpec(str(ROOT), "tests.faults.diverging:net")
CONTRACT = plain(Contract((InputSpec("image", (1, 3, 20, 28)),), (OutputSpec("y", "logits"),)))
EXAMPLE = {"image": np.random.default_rng(0).standard_normal((1, 3, 20, 28)).astype(np.float32)}
FAULTS: tuple[tuple[str, Any, str, str], ...] = (  # fault, value, confined to, the module that holds it
    ("sign_flipped", "body.0.weight", "", "body.0"),
    ("kernel_transposed", "body.0.weight", "", "body.0"),
    ("statistics_reset", "body.1", "", "body.1"),
    ("bias_dropped", "mix.bias", "", "mix"),
    ("silu_hard_swish", None, "stem.2", "stem.2"),
    ("relu6_unclipped", None, "body.2", "body.2"),
    ("layer_norm_epsilon", None, "norm", "norm"),
    ("gelu_formula", None, "act", "act"),
    ("layer_scaled", "head.weight", "", "head"),
)


def to_onnx(spec: ModelSpec, work: Path) -> dict[str, Any]:
    options = {"opset": 17, "dynamic": False}
    return onnx_convert.export(str(work), options, spec, CONTRACT, EXAMPLE)


def to_program(spec: ModelSpec, work: Path) -> dict[str, Any]:
    options = {"half": False, "dynamic": False}
    return torch_convert.export_program(str(work), options, spec, CONTRACT, EXAMPLE)


def to_ncnn(spec: ModelSpec, work: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(work)
    torch_convert.trace(str(work), {"half": False}, spec, CONTRACT, EXAMPLE)
    (work / "done").mkdir()
    return ncnn_convert.convert(str(work / "done"), str(work), {"half": False}, CONTRACT, EXAMPLE)


def found(target: str, folder: Path, notes: dict[str, Any], **more: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps = targets.get(target).steps
        return locate(DivergenceRequest(SPEC, steps, "fp32", str(folder), notes, EXAMPLE, ["y"], **more))


@pytest.mark.parametrize(("target", "export"), [("onnx", to_onnx), ("exported", to_program)])
def test_a_correct_file_diverges_nowhere(target: str, export: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    told = found(target, tmp_path, export(SPEC, tmp_path))
    assert told.divergence is None and told.reason == ""
    assert len(told.drift) > 8 and max(d.error for d in told.drift) < 1e-5
    assert {"stem.2", "body.2", "mix", "wide", "head"} <= {d.layer for d in told.drift}


@pytest.mark.parametrize("target", ["onnx", "exported"])
@pytest.mark.parametrize(("fault", "value", "within", "truth"), FAULTS)
def test_the_module_with_the_fault_is_named(
    target: str, fault: str, value: Any, within: str, truth: str, tmp_path: Path
) -> None:
    spec = faulty.spec_of(SPEC, CONTRACT, fault, value, within)
    notes = (to_onnx if target == "onnx" else to_program)(spec, tmp_path)
    told = found(target, tmp_path, notes)
    assert told.divergence.layer == truth, told.divergence
    file, _, line = told.divergence.source.rpartition(":")
    assert Path(file).name == "diverging.py" and int(line) > 20
    if truth != "head" and told.drift[-1].layer == "head":  # the curve goes on where a counterpart is near
        assert told.drift[-1].introduced < 1e-6, "what only passed an error on is not blamed for it"
        assert told.drift[-1].error > 1e-5
    assert (fault, target) == ("gelu_formula", "onnx") or told.drift[-1].layer in ("head", "wide", "act")


def test_a_mask_s_huge_numbers_hide_no_layer_before_it(tmp_path: Path) -> None:
    spec = replace(SPEC, factory="tests.faults.diverging:masked")
    contract = plain(Contract((InputSpec("x", (1, 6, 8)),), (OutputSpec("y", "logits"),)))
    case = {"x": np.random.default_rng(0).standard_normal((1, 6, 8)).astype(np.float32)}
    options = {"opset": 17, "dynamic": False}
    for fault, truth in (("layer_6_bits", "match"), ("", "")):
        given = faulty.spec_of(spec, contract, fault, f"{truth}.weight") if fault else spec
        folder = tmp_path / f"{fault}file"
        folder.mkdir()
        notes = onnx_convert.export(str(folder), options, given, contract, case)
        steps = targets.get("onnx").steps
        told = locate(DivergenceRequest(spec, steps, "fp32", str(folder), notes, case, ["y"]))
        assert (told.divergence.layer if told.divergence else "") == truth, told.divergence


def test_a_layer_of_ncnn_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    notes = to_ncnn(faulty.spec_of(SPEC, CONTRACT, "bias_dropped", "mix.bias"), tmp_path, monkeypatch)
    told = found("ncnn", tmp_path / "done", notes, submodel=str(tmp_path / "saved"))
    assert told.divergence.layer == "mix", told.divergence
    param = (tmp_path / "saved" / told.submodel).read_text()
    assert param.startswith("7767517") and "Convolution" in param


def test_the_step_is_saved_as_a_model_that_runs(tmp_path: Path) -> None:
    notes = to_onnx(faulty.spec_of(SPEC, CONTRACT, "sign_flipped", "wide.weight"), tmp_path)
    told = found("onnx", tmp_path, notes, submodel=str(tmp_path / "saved"))
    file = tmp_path / "saved" / told.submodel
    assert 1 <= len(onnx.load(str(file)).graph.node) <= 3
    onnx.checker.check_model(str(file), full_check=True)
    with np.load(tmp_path / "saved" / "inputs.npz") as inputs:
        results = onnxruntime.InferenceSession(str(file)).run(None, dict(inputs))
    assert all(np.isfinite(r).all() for r in results)


def test_what_is_no_number_is_found_where_it_begins(tmp_path: Path) -> None:
    notes = to_onnx(SPEC, tmp_path)
    file = str(tmp_path / onnx_convert.FILE)
    model = onnx.load(file)
    weight = next(i for i in model.graph.initializer if i.name == "wide.bias")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(24, np.nan, np.float32), weight.name))
    onnx.save(model, file)
    told = found("onnx", tmp_path, notes)
    assert told.divergence.layer == "wide" and told.divergence.introduced is None


def test_a_format_that_cannot_be_walked_says_so() -> None:
    nothing: Any = None  # no child is asked
    cell = Cell("small", "torchscript", "fp32")
    divergence, drift, text = first_divergence(nothing, cell, [], [], nothing)
    assert divergence is None and drift == ()
    assert text == "no first divergence: no way to run torchscript files step by step"


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in modelling.load(SPEC).state_dict().items()}
    found("onnx", tmp_path, to_onnx(SPEC, tmp_path))
    assert all(torch.equal(v, before[k]) for k, v in modelling.load(SPEC).state_dict().items())


@pytest.mark.parametrize(("right", "got", "order"), [
    ((1, 8, 5, 7), (8, 5, 7), (0, 1, 2)), ((1, 8, 5, 7), (1, 5, 7, 8), (1, 2, 0)), ((1, 9, 6), (6, 9), (1, 0)),
])  # fmt: skip
def test_layouts_of_converters_are_known(right: tuple[int, ...], got: tuple[int, ...], order: tuple[int, ...]) -> None:
    value = np.arange(np.prod(right), dtype=np.float64).reshape(right)
    want = value.reshape([n for n in right if n != 1]).transpose(order).reshape(got)
    assert any(np.array_equal(arrange(value), want) for exact, arrange in arrangements(right, got, False) if not exact)


def test_a_value_of_another_size_is_never_laid_out_as_this_one() -> None:
    value = Value(0, (1, 160), 1.0, np.zeros(5), "gate", "", "mean", ())
    assert _laid(value, np.zeros((1, 160, 12, 12))) == [] and len(_laid(value, np.zeros((160,)))) == 1


def test_a_normalisation_taken_apart_behind_a_transpose_is_named() -> None:
    """What reads the moved tensor in the file reads the tensor itself in the module."""
    values = [
        Value(0, (1, 4, 6), 1.0, np.zeros(5), "conv", "net.py:1", "convolution", ()),
        Value(1, (1, 6, 4), 1.0, np.zeros(5), "net", "net.py:2", "move", (0,)),
        Value(2, (1, 6, 4), 1.0, np.zeros(5), "norm", "net.py:3", "native_layer_norm", (0,)),
        Value(3, (1, 6, 1), 1.0, np.zeros(5), "norm", "net.py:3", "native_layer_norm", (0,)),
    ]
    assert [v.number for v in _readers(values, (1, 3), False)] == [2]
    assert _readers(values, (2,), False) == []


def test_a_wrong_transpose_is_no_layout() -> None:
    value = np.arange(16.0).reshape(1, 4, 4)
    usual = [arrange(value) for exact, arrange in arrangements((1, 4, 4), (4, 4), False) if not exact]
    assert all(np.array_equal(v.reshape(4, 4), value[0]) for v in usual[:1])


def test_the_place_lies_inside_the_bounds_of_the_chain_of_proof(tmp_path: Path) -> None:
    notes = to_onnx(faulty.spec_of(SPEC, CONTRACT, "layer_scaled", "head.weight"), tmp_path)
    assert found("onnx", tmp_path, notes).divergence.layer == "head"
    assert found("onnx", tmp_path, notes, bounds=Bounds(("head.weight",))).divergence.layer == "head"
    assert found("onnx", tmp_path, notes, bounds=Bounds(("mix.weight",))).divergence.layer == "mix"
    assert found("onnx", tmp_path, notes, bounds=Bounds(after="wide.weight")).divergence.layer == "head"
    assert found("onnx", tmp_path, notes, bounds=Bounds(before="mix.weight")).divergence.layer.startswith("body")


def test_bounds_of_a_structure_hold_what_lies_between_two_layers() -> None:
    values = [
        Value(number, (4,), 1.0, np.zeros(5), layer, "", kind, reads)
        for number, (layer, kind, reads) in enumerate(
            [("x", "input", ()), ("a", "conv", (0,)), ("act", "relu", (1,)), ("", "move", (2,)), ("b", "linear", (3,)),
             ("out", "sigmoid", (4,))]
        )
    ]  # fmt: skip
    layers = [value.layer for value in within(values, Bounds(after="a.weight", before="b.weight"))]
    assert layers == ["a", "act"]
    assert [value.layer for value in within(values, Bounds(after="b.weight"))] == ["b", "out"]
    assert [value.layer for value in within(values, Bounds(("a.bias",)))] == ["a", "act", ""]
    assert within(values, Bounds(("elsewhere.weight",))) == []
