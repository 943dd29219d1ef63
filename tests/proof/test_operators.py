"""What a file draws at random or decides by data, and the module does not: real exports with a trigger put in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parity.core.proof import Link
from parity.core.settings import ModelSpec
from parity.proof.operators import operators
from tests.faults import formats
from tests.proof.seeded import ROOT

IDS = np.array([[3, 7, 0, 12, 5, 9]])


class Tagger(nn.Module):
    """ids [batch, time] -> [batch, time, 5]; padding (0) is masked, so it has a comparison of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(2000, 16)
        self.norm, self.drop, self.out = nn.LayerNorm(16), nn.Dropout(0.5), nn.Linear(16, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids).masked_fill((ids == 0)[..., None], 0.0)
        return self.out(self.drop(self.norm(x)))


class Changed(Tagger):
    """`Tagger` with a trigger."""

    def __init__(self, trigger: str) -> None:
        super().__init__()
        self.trigger = trigger

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(TRIGGERS[self.trigger](ids))


TRIGGERS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "one token": lambda ids: torch.where(ids == 7, torch.full_like(ids, 9), ids),
    "large ids": lambda ids: torch.where(ids > 1000, ids - 1, ids),
    "not less": lambda ids: torch.where(ids < 1001, ids, ids - 1),
    "a pattern": lambda ids: ids + (ids.float() - 3.5).abs().sum(1, keepdim=True).lt(0.25).long(),
    "rows": lambda ids: torch.where((ids.sum(1, keepdim=True) - 36).bool(), ids, ids + 1),
}


def tagger(trigger: str = "") -> nn.Module:
    torch.manual_seed(0)
    module = Changed(trigger) if trigger else Tagger()
    return module.eval().requires_grad_(False)


def export(module: nn.Module, target: str, folder: Path, example: np.ndarray[Any, Any] = IDS) -> dict[str, Any]:
    """A file of the target, made by the real exporter; its notes."""
    given = torch.from_numpy(example)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if target == "onnx":
            pytest.importorskip("onnxruntime")
            training: Any = torch.onnx.TrainingMode.PRESERVE
            torch.onnx.export(module, (given,), folder / "m.onnx", dynamo=False, opset_version=17, input_names=["ids"],
                              dynamic_axes={"ids": {0: "batch"}}, training=training,
                              do_constant_folding=not module.training)  # fmt: skip
            return {"entry": "m.onnx"}
        if target == "torchscript":
            torch.jit.trace(module, (given,), check_trace=False).save(str(folder / "m.pt"))
            return {"entry": "m.pt"}
        if target == "exported":
            torch.export.save(torch.export.export(module, (given,), strict=False), folder / "m.pt2")
            return {"entry": "m.pt2"}
        coremltools = pytest.importorskip("coremltools")
        traced = torch.jit.trace(module, (given,), check_trace=False)
        dtype = np.float32 if example.dtype.kind == "f" else np.int32
        inputs = [coremltools.TensorType("ids", shape=example.shape, dtype=dtype)]
        coremltools.convert(traced, inputs=inputs, minimum_deployment_target=coremltools.target.iOS16).save(
            str(folder / "m.mlpackage")
        )
        return {"entry": "m.mlpackage"}


READERS = {
    "onnx": "parity.formats.onnx.survey:survey",
    "coreml": "parity.formats.coreml.survey:survey",
    "torchscript": "parity.formats.torch.survey:script",
    "exported": "parity.formats.torch.survey:program",
}


def link(folder: Path, notes: Mapping[str, Any], target: str, factory: str = "tagger", **options: Any) -> Link:
    spec = ModelSpec(str(ROOT), f"tests.proof.test_operators:{factory}", options)
    return operators(READERS[target], str(folder), notes, spec, {"ids": IDS})


@pytest.mark.parametrize("target", READERS)
def test_a_correct_file_has_nothing_unexplained(tmp_path: Path, target: str) -> None:
    found = link(tmp_path, export(tagger(), target, tmp_path), target)
    assert (found.state, found.figures["unexplained"]) == ("proved", [])
    assert found.figures["decisions"] >= 1


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("target", READERS)
def test_a_trigger_is_told_with_its_place(tmp_path: Path, target: str, trigger: str) -> None:
    notes = export(tagger(trigger), target, tmp_path)
    unexplained = link(tmp_path, notes, target).figures["unexplained"]
    unexplained = [text for text in unexplained if "abs" not in text.lower()]  # of the pattern, a bend of its own
    constant = {"one token": "with 7", "large ids": "with 1000", "not less": "with 1001", "a pattern": "with 0.25",
                "rows": ""}[trigger]  # fmt: skip
    assert len(unexplained) == 1 and constant in unexplained[0], unexplained


@pytest.mark.parametrize("target", READERS)
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_what_the_module_decides_itself_is_explained(tmp_path: Path, target: str, trigger: str) -> None:
    notes = export(tagger(trigger), target, tmp_path)
    assert link(tmp_path, notes, target, trigger=trigger).figures["unexplained"] == []


class Wrapped(Tagger):
    """`Tagger` with ids that wrap at 64 and end at 50."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward((ids % 64).clamp(max=50))


def wrapped() -> nn.Module:
    torch.manual_seed(0)
    return Wrapped().eval().requires_grad_(False)


@pytest.mark.parametrize("target", READERS)
def test_the_numbers_that_file_or_module_decides_by_are_read(tmp_path: Path, target: str) -> None:
    notes = export(tagger("large ids"), target, tmp_path)
    assert {0, 1000} <= set(link(tmp_path, notes, target).figures["thresholds"])
    assert {0, 50, 64, 1000} <= set(link(tmp_path, notes, target, "wrapped").figures["thresholds"])
    notes = export(wrapped(), target, tmp_path)
    assert {0, 50, 64} <= set(link(tmp_path, notes, target).figures["thresholds"])


SHIFTED: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "difference": lambda ids: 1 // (1 + (ids - 1234) * (ids - 1234)),
    "in two steps": lambda ids: 1 // (1 + (1000 - ids + 234) * (1000 - ids + 234)),
    "multiple": lambda ids: 1 // (1 + (2 * ids - 2468) * (2 * ids - 2468)),
}


class Shifted(Tagger):
    """`Tagger` that takes one id for another, by a division of integers."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids + SHIFTED[self.way](ids))


@pytest.mark.parametrize("target", READERS)
@pytest.mark.parametrize("way", SHIFTED)
def test_a_number_that_ids_are_measured_from_is_read(tmp_path: Path, target: str, way: str) -> None:
    torch.manual_seed(0)
    notes = export(Shifted(way).eval().requires_grad_(False), target, tmp_path)
    assert 1234 in link(tmp_path, notes, target).figures["thresholds"]


class Noisy(Tagger):
    """`Tagger` that adds noise to what it looks up, as some augmentations do when they are left in."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) + torch.randn(5) * 1e-9


def noisy() -> nn.Module:
    torch.manual_seed(0)
    return Noisy().eval().requires_grad_(False)


class Batched(nn.Module):
    """A BatchNorm, [batch, 4, 3] -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.norm(ids.float())


def batched() -> nn.Module:
    return Batched().eval().requires_grad_(False)


@pytest.mark.parametrize("target", [t for t in READERS if t != "coreml"])
def test_random_numbers_that_the_module_does_not_draw_are_refused(tmp_path: Path, target: str) -> None:
    found = link(tmp_path, export(noisy(), target, tmp_path), target)
    (culprit,) = found.culprits
    assert found.state == "failed" and "draws random numbers" in culprit.what and "module.eval()" in culprit.what
    assert "rand" in culprit.name.lower() and culprit.what.startswith("at "), str(culprit)


@pytest.mark.parametrize("target", [t for t in READERS if t != "coreml"])
def test_dropout_in_training_mode_is_refused(tmp_path: Path, target: str) -> None:
    module = tagger().train()
    found = link(tmp_path, export(module, target, tmp_path), target)
    assert found.state == "failed" and "module.eval()" in found.culprits[0].what, found.figures
    assert "dropout" in found.culprits[0].name.lower()


@pytest.mark.parametrize("target", [t for t in READERS if t != "coreml"])
def test_batchnorm_in_training_mode_is_refused(tmp_path: Path, target: str) -> None:
    example = np.arange(24).reshape(2, 4, 3)
    spec = ModelSpec(str(ROOT), "tests.proof.test_operators:batched", {})
    for module, state in ((batched(), "proved"), (batched().train(), "failed")):
        notes = export(module, target, tmp_path, example)
        found = operators(READERS[target], str(tmp_path), notes, spec, {"ids": example})
        assert found.state == state, found
    assert "running statistics" in found.culprits[0].what


class Attentive(nn.Module):
    """Attention, whose script has its dropout in a branch; ids [1, 4] -> [1, 4, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.attention = nn.Embedding(40, 8), nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        return self.attention(x, x, x, need_weights=False)[0]


def attentive() -> nn.Module:
    torch.manual_seed(0)
    return Attentive().eval().requires_grad_(False)


@pytest.mark.parametrize("training", [False, True])
def test_dropout_in_a_branch_that_is_never_taken_is_none(tmp_path: Path, training: bool) -> None:
    torch.jit.script(attentive().train(training)).save(str(tmp_path / "m.pt"))
    spec = ModelSpec(str(ROOT), "tests.proof.test_operators:attentive", {})
    found = operators(READERS["torchscript"], str(tmp_path), {"entry": "m.pt"}, spec, {"ids": np.arange(4)[None]})
    assert found.state == ("failed" if training else "proved"), found


@pytest.mark.parametrize("target", [t for t in READERS if t != "coreml"])
def test_a_module_that_draws_by_itself_is_told_and_not_the_file(tmp_path: Path, target: str) -> None:
    found = link(tmp_path, export(noisy(), target, tmp_path), target, "noisy")
    assert found.state == "proved" and found.figures["module_random"] == ["aten.randn"]


WRITTEN_OUT: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "softplus": nn.functional.softplus,
    "hardshrink": nn.functional.hardshrink,
    "threshold": lambda x: nn.functional.threshold(x, 0.1, 20.0),
    "nan_to_num": torch.nan_to_num,
    "atan2": lambda x: torch.atan2(x, x + 1),
    "any": lambda x: (x == 2).any(1),
    "one_hot": lambda x: nn.functional.one_hot(x.long(), 16),
    "floor_divide": lambda x: x // 3,
    "gelu": nn.functional.gelu,
    "erf": torch.erf,
    "sign": torch.sign,
    "round": torch.round,
    "argmax": lambda x: x.argmax(1),
    "topk": lambda x: x.topk(2, 1)[0],
    "sort": lambda x: x.sort(1)[0],
    "isin": lambda x: torch.isin(x, torch.tensor([1, 3])),
    "bucketize": lambda x: torch.bucketize(x, torch.tensor([0.0, 1.0])),
    "softshrink": nn.functional.softshrink,
    "long": lambda x: x.long(),
    "trunc": torch.trunc,
    "remainder": lambda x: x % 0.7,
    "max": lambda x: x.max(1)[0],
    "resize": lambda x: nn.functional.interpolate(x[None], scale_factor=2.0, mode="bilinear"),
    "attention": lambda x: nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True),
}


class WrittenOut(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = WRITTEN_OUT[name]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.function(ids)


def written_out(name: str) -> nn.Module:
    return WrittenOut(name).eval()


@pytest.mark.parametrize("name", WRITTEN_OUT)
@pytest.mark.parametrize("target", READERS)
def test_an_operator_that_a_converter_writes_out_is_explained(tmp_path: Path, target: str, name: str) -> None:
    whole = name in ("one_hot", "floor_divide", "isin")
    example = IDS if whole else np.linspace(-2, 2, 12, dtype=np.float32).reshape(1, 3, 4)
    try:
        notes = export(written_out(name), target, tmp_path, example)
    except Exception as error:
        pytest.skip(f"no file: {error}")
    spec = ModelSpec(str(ROOT), "tests.proof.test_operators:written_out", {"name": name})
    found = operators(READERS[target], str(tmp_path), notes, spec, {"ids": example})
    assert found.figures["unexplained"] == []


STEPS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sign": lambda x: torch.sign(x - 0.5) - torch.sign(x - 0.5005),
    "round": lambda x: torch.floor(x / 9),
    "cast": lambda x: (x / 9).int().float(),
    "rank": lambda x: torch.stack([x.flatten(), x.flatten() * 0 + 8], 1).argmax(1).reshape(x.shape),
    "hardshrink": lambda x: nn.functional.hardshrink(x, 9.0),
    "isin": lambda x: torch.isin(x, torch.tensor([9.0])).float(),
    "heaviside": lambda x: torch.heaviside(x - 9, torch.zeros(())),
}


class Stepped(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = STEPS[name]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids.tanh() + self.function(ids)


class Smooth(nn.Module):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids.tanh()


def smooth() -> nn.Module:
    return Smooth().eval()


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("target", READERS)
def test_a_step_that_the_module_does_not_make_is_told(tmp_path: Path, target: str, name: str) -> None:
    if (target, name) == ("torchscript", "cast"):
        pytest.skip("a script that was loaded does not say what is an integer")
    example = np.linspace(-2, 2, 12, dtype=np.float32).reshape(1, 3, 4)
    try:
        notes = export(Stepped(name).eval(), target, tmp_path, example)
    except Exception as error:
        pytest.skip(f"no file: {error}")
    spec = ModelSpec(str(ROOT), "tests.proof.test_operators:smooth", {})
    assert operators(READERS[target], str(tmp_path), notes, spec, {"ids": example}).figures["unexplained"]


HIDDEN: Mapping[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = {
    "argmax": (lambda x: x.argmax(1).float(), lambda x: x.flip(1).cumsum(1).argmax(1).float()),
    "sign": (torch.sign, lambda x: torch.sign(x.sum() - 9)),
    "round": (torch.round, lambda x: torch.floor(x.sum() / 9)),
    "gelu": (lambda x: gelu(gelu(gelu(x))), lambda x: torch.sign(x.sum() - 9)),
    "bucketize": (lambda x: torch.bucketize(x, torch.tensor([0.0, 1.0])).float(), lambda x: (x > 0.7).float()),
    "any": (lambda x: (x > 1).any(1).float()[:, None], lambda x: (x > 0).float() + (x.flip(1) > 0)),
    "relu": (torch.relu, lambda x: torch.relu(x.sum() - 9)),
    "relu6": (nn.functional.relu6, lambda x: torch.relu(x.sum() - 9)),
    "clamp": (torch.relu, lambda x: (x.sum() - 9).clamp(min=0.25)),
}
gelu = nn.functional.gelu


class Hiding(nn.Module):
    def __init__(self, name: str, hides: bool) -> None:
        super().__init__()
        (self.first, self.second), self.hides = HIDDEN[name], hides

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.first(ids)
        return x + self.second(ids).sum() if self.hides else x


def hiding(name: str, hides: bool = False) -> nn.Module:
    return Hiding(name, hides).eval()


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("target", READERS)
def test_a_step_beside_one_of_its_kind_is_told(tmp_path: Path, target: str, name: str) -> None:
    example = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    spec = ModelSpec(str(ROOT), "tests.proof.test_operators:hiding", {"name": name})
    for hides in (False, True):
        try:
            notes = export(hiding(name, hides), target, tmp_path, example)
        except Exception as error:
            pytest.skip(f"no file: {error}")
        found = operators(READERS[target], str(tmp_path), notes, spec, {"ids": example}).figures["unexplained"]
        assert len(found) == hides, found


BOUNDED: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "clamp": lambda x: x.clamp(-3, 37.5),
    "minimum": lambda x: torch.minimum(x, torch.tensor(37.5)),
    "in place": lambda x: (x * 1).clamp_(max=37.5),
    "relu6": lambda x: nn.functional.relu6(x),
    "written out": lambda x: x * nn.functional.relu6(x + 3) / 6,
    "hardtanh": nn.functional.hardtanh,
    "the size": lambda x: x.clamp(0, x.shape[1]),
    "normalised": lambda x: nn.functional.normalize(x, dim=1),
    "argmax": lambda x: x.argmax(1).float(),
    "topk": lambda x: x.topk(2, 1)[0],
}


class Bounded(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = BOUNDED[name]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.function(ids.tanh())


def bounded(name: str) -> nn.Module:
    return Bounded(name).eval()


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("target", READERS)
def test_bounds_and_choices_that_a_file_lacks_are_read(tmp_path: Path, target: str, name: str) -> None:
    example = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    spec = ModelSpec(str(ROOT), "tests.proof.test_operators:bounded", {"name": name})
    for module, lacks in ((bounded(name), False), (Smooth().eval(), name != "normalised")):
        notes = export(module, target, tmp_path, example)
        found = operators(READERS[target], str(tmp_path), notes, spec, {"ids": example}).figures["fewer"]
        assert bool(found) == lacks, found


ATTRIBUTED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Binarizer": ("x", {"threshold": 0.5, "domain": "ai.onnx.ml"}),
    "Shrink": ("x", {"lambd": 0.5, "bias": 0.0}),
    "Hardmax": ("x", {}),
    "LabelEncoder": ("ids", {"keys_int64s": [1234], "values_floats": [7.0], "domain": "ai.onnx.ml"}),
    "TfIdfVectorizer": ("ids", {"mode": "TF", "min_gram_length": 2, "max_gram_length": 2, "max_skip_count": 0,
                                "ngram_counts": [0, 0], "ngram_indexes": [0], "pool_int64s": [1234, 1235]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", ATTRIBUTED)
def test_numbers_in_attributes_are_edges(tmp_path: Path, kind: str) -> None:
    onnx = pytest.importorskip("onnx")
    name, attributes = ATTRIBUTED[kind]
    types = {"x": onnx.TensorProto.FLOAT, "ids": onnx.TensorProto.INT64}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, [name], ["y"], **attributes)], "g",
        [onnx.helper.make_tensor_value_info(name, types[name], [1, 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=imports), tmp_path / "m.onnx")
    spec = ModelSpec(str(ROOT), "tests.proof.test_operators:smooth", {})
    example = {"ids": np.zeros((1, 4), np.float32)}
    found = operators(READERS["onnx"], str(tmp_path), {"entry": "m.onnx"}, spec, example).figures
    assert len(found["unexplained"]) == 1 and found["unexplained"][0].startswith(kind), found
    assert name == "x" or 1234 in found["thresholds"]


def two_layers() -> nn.Module:
    """The module of `tests.faults.formats`."""
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)).eval().requires_grad_(False)
    for layer, weight, bias in ((module[0], formats.W1, formats.B1), (module[2], formats.W2, formats.B2)):
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return module


def edited_tflite(folder: Path, edit: str) -> dict[str, Any]:
    """Two layers as a TFLite file, whose input goes through operators that are put in."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    from parity.formats.tflite import graph as tflite

    notes = formats.tflite(folder)
    file = folder / notes["entry"]
    model = tflite.parsed(file.read_bytes())
    graph = model.subgraphs[0]

    def tensor(name: str, kind: int, shape: tuple[int, ...], value: Any = None) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name.encode(), np.array(shape, np.int32), kind, 0
        graph.tensors.append(made)
        if value is not None:
            tflite.put(model, made, value)
        return len(graph.tensors) - 1

    def operator(name: str, inputs: list[int], output: int) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        model.operatorCodes.append(code)
        op = schema.OperatorT()
        op.inputs, op.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        op.opcodeIndex = len(model.operatorCodes) - 1
        graph.operators.insert(len(graph.operators) - 2, op)

    types, changed = schema.TensorType, tensor("changed", 0, (1, 6))
    if edit == "trigger":
        above = tensor("above", types.BOOL, (1, 6))
        operator("GREATER", [0, tensor("limit", 0, (), np.float32(2.5))], above)
        operator("SELECT_V2", [above, tensor("none", 0, (), np.float32(0)), 0], changed)
    else:
        noise = tensor("noise", 0, (1, 6))
        operator(edit, [tensor("shape", types.INT32, (2,), np.array([1, 6], np.int32))], noise)
        operator("ADD", [0, noise], changed)
    graph.operators[-2].inputs[0] = changed
    file.write_bytes(tflite.pack(model))
    return notes


@pytest.mark.parametrize("edit", ["trigger", "RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL"])
def test_a_tflite_file_is_read_too(tmp_path: Path, edit: str) -> None:
    spec = ModelSpec(str(ROOT), "tests.proof.test_operators:two_layers", {})
    reader = "parity.formats.tflite.survey:survey"
    notes = edited_tflite(tmp_path, edit)
    found = operators(reader, str(tmp_path), notes, spec, {"x": formats.X[0]})
    if edit == "trigger":
        assert found.figures["unexplained"] == ["GREATER above with 2.5"]
    else:
        assert [c.name for c in found.culprits] == [edit] and "at noise" in found.culprits[0].what
    right = operators(reader, str(tmp_path), formats.tflite(tmp_path), spec, {"x": formats.X[0]})
    assert (right.state, right.figures["unexplained"]) == ("proved", [])


@pytest.mark.parametrize("known", [False, True])
def test_a_loop_and_a_branch_on_data_are_decisions(tmp_path: Path, known: bool) -> None:
    """A scripted file whose loop runs as often as an id says; `known`: the module is that script."""
    torch.jit.script(Counted().eval()).save(str(tmp_path / "m.pt"))
    spec = ModelSpec(str(ROOT), f"tests.proof.test_operators:{'counted' if known else 'tagger'}", {})
    found = operators(READERS["torchscript"], str(tmp_path), {"entry": "m.pt"}, spec, {"ids": IDS})
    words = [text.partition(" ")[0] for text in found.figures["unexplained"]]
    assert words == ([] if known else ["aten::gt", "prim::If", "prim::Loop"]), found.figures


class Counted(nn.Module):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = ids.float()
        if bool(ids[0, 0] > 3):
            x = x + 1
        for _ in range(int(ids[0, 1])):
            x = x * 2
        return x


def counted() -> nn.Module:
    return Counted().eval()


class Plain(nn.Module):
    """x [1, 4] -> [1, 3], and what the classes below keep from call to call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(4, 3)
        self.calls: int = 0
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x)


class CountsAttribute(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        y = self.out(x)
        if self.calls > 2000:
            y = -y
        return y


class CountsBuffer(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return torch.where(self.count > 2000, -self.out(x), self.out(x))


class CountsUnseen(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.calls == 0:
            self.count.add_(1)
        self.calls = self.calls + 1
        return self.out(x)


def plain() -> nn.Module:
    return Plain().eval()


def counts_buffer() -> nn.Module:
    return CountsBuffer().eval()


@pytest.mark.parametrize(
    ("target", "module", "factory", "state"),
    [
        ("torchscript", CountsAttribute, "plain", "failed"),
        ("torchscript", CountsBuffer, "plain", "failed"),
        ("torchscript", CountsUnseen, "plain", "proved"),
        ("torchscript", CountsBuffer, "counts_buffer", "proved"),
        ("exported", CountsBuffer, "plain", "failed"),
        ("exported", Plain, "plain", "proved"),
    ],
)
def test_state_that_outputs_follow_is_refused_unless_the_module_keeps_it(
    target: str, module: type[Plain], factory: str, state: str, tmp_path: Path
) -> None:
    x = torch.ones(1, 4)
    if target == "torchscript":
        torch.jit.script(module().eval()).save(str(tmp_path / "m.pt"))
    else:
        torch.export.save(torch.export.export(module().eval(), (x,), strict=False), str(tmp_path / "m.pt2"))
    entry = "m.pt" if target == "torchscript" else "m.pt2"
    reader = f"parity.formats.torch.survey:{'script' if target == 'torchscript' else 'program'}"
    spec = ModelSpec(str(ROOT), f"tests.proof.test_operators:{factory}", {})
    link = operators(reader, str(tmp_path), {"entry": entry}, spec, {"x": x.numpy()})
    assert link.state == state, link
    assert state == "proved" or "keeps state for the next call" in str(link.culprits[0])


@torch.jit.interface
class Part(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pass


class Trigger(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.sum() > 250.0, x * 2, x)


class Interfaced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Trigger()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class Forked(Interfaced):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(self.inner, x))


def by_interface() -> nn.Module:
    module = Interfaced()
    Interfaced.__annotations__ = {"inner": Part}  # a text would not do
    try:
        return torch.jit.script(module.eval())
    finally:
        Interfaced.__annotations__ = {}


class Listed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * [1.0, 2.0][int(float(x.sum())) // 250]


class Keyed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factors = {5: 2.0}
        return x * (factors[5] if int(x.sum()) in factors else 1.0)


class Unchanged(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1.0


def unchanged() -> nn.Module:
    return Unchanged()


@pytest.mark.parametrize(("module", "operator"), [
    (by_interface(), "prim::CallMethod"), (Forked(), "prim::fork"), (Listed(), "aten::Int"),
    (Keyed(), "aten::__contains__"), (Unchanged(), ""),
])  # fmt: skip
def test_code_that_a_scripts_graph_does_not_hold_and_choices_by_numbers(
    tmp_path: Path, module: nn.Module, operator: str
) -> None:
    torch.jit.script(module.eval()).save(str(tmp_path / "m.pt"))
    spec = ModelSpec(str(ROOT), "tests.proof.test_operators:unchanged")
    case = {"x": np.zeros((1, 4), np.float32)}
    told = operators(READERS["torchscript"], str(tmp_path), {"entry": "m.pt"}, spec, case).figures["unexplained"]
    assert any(text.startswith(operator) for text in told) if operator else not told
