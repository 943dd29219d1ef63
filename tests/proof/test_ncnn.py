"""The chain on real NCNN files: correct ones are faithful, faults in the .param and the .bin are found and named."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parity import formats as targets
from parity.core.errors import ParityError
from parity.core.settings import ModelSpec
from parity.formats.graph import Operator
from parity.formats.ncnn.graph import NcnnArtefact
from parity.formats.ncnn.runtime import row
from parity.process import serialise, steps
from parity.proof import prove
from parity.proof.messages import ProofRequest
from parity.proof.operators import operators
from tests.proof.seeded import ROOT

pytest.importorskip("pnnx")
pytest.importorskip("ncnn")
SHAPE = (1, 3, 17, 21)


class Small(nn.Module):
    """Folded and unfolded BatchNorm, depthwise and transposed convolution, LayerNorm, a recurrent and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.last, self.out = nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.up(torch.relu(self.norm(x + self.deep(x))))
        return self.out(self.last(x.mean((2, 3))))


def small() -> nn.Module:
    torch.manual_seed(0)
    module = Small()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.normal_(part.running_mean)
            nn.init.normal_(part.bias)
    module.stem[0].weight.data[0, 0, 0, 0] = 3e-5  # subnormal in fp16: pnnx stores 0
    return module.eval()


SPEC = ModelSpec(str(ROOT), "tests.proof.test_ncnn:small")
CASES = [
    {"x": np.random.default_rng(i).normal(0, 1, SHAPE).astype(np.float32)} for i in range(6)
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    base = tmp_path_factory.mktemp("ncnn")
    contract = {"inputs": [{"name": "x", "dtype": "float32"}], "outputs": [{"name": "y"}]}
    made: dict[str, tuple[Path, dict[str, Any]]] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for name in ("traced", "fp32", "fp16"):
            (folder := base / name).mkdir()
            before = os.getcwd()
            os.chdir(folder)
            function, half = ("torch:trace", False) if name == "traced" else ("ncnn:convert", name == "fp16")
            step, after = "parity.formats." + function.replace(":", ".convert:"), str(base / "traced")
            request = steps.StepRequest(step, "convert", str(folder), after, {"half": half}, SPEC, contract, CASES[0])
            made[name] = folder, steps.run(request)
            os.chdir(before)
    return made


def proof(folder: Path, notes: dict[str, Any], precision: str) -> dict[str, Any]:
    return prove(ProofRequest(SPEC, targets.get("ncnn").graph, precision, str(folder), notes, CASES, ["y"]))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_correct_file_is_faithful(files: Any, precision: str) -> None:
    result = proof(*files[precision], precision)
    assert result.state == "proved", result.summary
    assert result.link("lift").figures["relative_rms"] < 1e-6
    assert result.link("match").figures["unmatched"] == []
    local = result.link("local").figures
    assert local["within"] == local["operators"] >= 10 and set(local["worst"]) == {"ncnn", "plain"}
    json.dumps(serialise.to_builtins(result), allow_nan=False)


def test_an_fp16_file_is_no_fp32_file(files: Any) -> None:
    result = proof(*files["fp16"], "fp32")
    assert result.link("audit").state == "failed"
    assert "stored as float16 in an fp32 file" in str(result.link("audit").culprits)


def weights(name: str, act: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, dict[str, Any]], None]:
    """Change one array of the .bin, as it is stored."""

    def edit(folder: Path, notes: dict[str, Any]) -> None:
        artefact = NcnnArtefact(str(folder), notes)
        artefact.stored[name] = act(artefact.stored[name].copy()).astype(artefact.stored[name].dtype)
        (folder / notes["weights"]).write_bytes(artefact._bin({}, lifted=False))

    return edit


def param(old: str, new: str) -> Callable[[Path, dict[str, Any]], None]:
    def edit(folder: Path, notes: dict[str, Any]) -> None:
        file = folder / notes["entry"]
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return edit


def named(files: Any, kind: str, number: int) -> str:
    artefact = NcnnArtefact(str(files["fp32"][0]), files["fp32"][1])
    return f"{next(layer for layer in artefact.layers if layer.kind == kind).name}/{number}"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("kind", "number", "act", "culprit"),
    [
        ("Convolution", 0, lambda w: w * 1.01, "stem.0.weight"),
        ("Convolution", 0, lambda w: w.swapaxes(2, 3), "stem.0.weight"),
        ("Convolution", 0, lambda w: w.round(1), "stem.0.weight"),
        ("Convolution", 1, lambda b: b * 0, "stem.0.bias"),
        ("ConvolutionDepthWise", 0, lambda w: np.flip(w, 0), "deep.weight"),
        ("Deconvolution", 0, lambda w: w[::-1], "up.weight"),
        ("BatchNorm", 1, lambda v: v + 0.02, "norm.running_mean"),
        ("InnerProduct", 0, lambda w: np.roll(w, 1, 0), "out.weight"),
    ],
)
def test_a_fault_in_the_weights_is_found(
    files: Any, tmp_path: Path, precision: str, kind: str, number: int, act: Any, culprit: str
) -> None:
    folder, notes = files[precision]
    edited = tmp_path / "edited"
    shutil.copytree(folder, edited)
    weights(named(files, kind, number), act)(edited, notes)
    result = proof(edited, notes, precision)
    assert result.state == "failed", result.summary
    found = [c.name for link in result.links for c in link.culprits]
    assert any(culprit in name for name in found), result.summary


@pytest.mark.parametrize(
    ("old", "new"), [(" 9=1", ""), ("1=1.000000e-5", "1=1.000000e-3"), ("4=1 5=1 6=", "4=0 15=2 14=0 5=1 6=")]
)
def test_a_fault_in_the_graph_is_found_by_the_lift(files: Any, tmp_path: Path, old: str, new: str) -> None:
    edited = tmp_path / "edited"
    shutil.copytree(files["fp16"][0], edited)
    param(old, new)(edited, files["fp16"][1])
    result = proof(edited, files["fp16"][1], "fp16")
    assert result.link("lift").state == "failed", result.summary


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_layer_is_judged_on_what_it_reads_itself(files: Any, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime whose fast kernels are wrong at one layer: that layer is named, and none behind it."""
    from parity.proof.local import local

    artefact = NcnnArtefact(str(files[precision][0]), files[precision][1])
    wrong = next(op for op in artefact.graph.operators if op.kind == "ConvolutionDepthWise")
    whole = NcnnArtefact._cut

    def faulty(self: NcnnArtefact, net: Any, half: bool, operators: Sequence[Operator]) -> Any:
        run = whole(self, net, half, operators)
        if net.opt.use_winograd_convolution:
            return lambda v: {n: 1.02 * x if n in wrong.outputs else x for n, x in run(v).items()}
        return run

    monkeypatch.setattr(NcnnArtefact, "_cut", faulty)
    link = local(artefact, [{"x": c["x"]} for c in CASES[:2]])
    assert link.state == "failed"
    assert [(c.kind, c.name) for c in link.culprits] == [("runtime", "ncnn ConvolutionDepthWise")]
    assert "right on plain" in link.culprits[0].what


def test_a_file_that_cannot_be_followed_says_why(files: Any, tmp_path: Path) -> None:
    for name, edit, why in (
        ("cut", lambda f: (f / "model.ncnn.bin").write_bytes((f / "model.ncnn.bin").read_bytes()[:-4]), "ends within"),
        ("odd", lambda f: param("InnerProduct", "Innovation  ")(f, files["fp32"][1]), "Innovation is not known"),
    ):
        shutil.copytree(files["fp32"][0], tmp_path / name)
        edit(tmp_path / name)
        result = proof(tmp_path / name, files["fp32"][1], "fp32")
        assert result.state == "not possible" and why in result.summary


def test_token_ids_reach_ncnn_as_32_bits() -> None:
    ids = row(np.array([[3, 1, 2]], np.int64))
    assert ids.dtype == np.int32 and ids.tolist() == [3, 1, 2]
    assert row(np.ones((1, 2), np.float32)).dtype == np.float32
    with pytest.raises(ParityError, match="needs more"):
        row(np.array([[2**40]], np.int64))


def figures(folder: Path, notes: dict[str, Any]) -> dict[str, Any]:
    return operators("parity.formats.ncnn.survey:survey", str(folder), notes, SPEC, CASES[0]).figures


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_correct_file_decides_by_nothing_of_its_own(files: Any, precision: str) -> None:
    found = figures(*files[precision])
    assert (found["unexplained"], found["absent"], found["fewer"]) == ([], [], [])


@pytest.mark.parametrize("layer", [
    "UnaryOp 1 0=0", "UnaryOp 1 0=7", "UnaryOp 1 0=8", "UnaryOp 1 0=18", "BinaryOp 2 0=4", "BinaryOp 1 0=4 1=1 2=250.0",
    "BinaryOp 2 0=5", "Eltwise 2 0=2", "Reduction 1 0=4 1=1", "Pooling 1 0=0 1=2", "ReLU 1 0=0.1", "AbsVal 1",
    "Clip 1 0=-3.402823e+38 1=250.0", "Threshold 1 0=250.0", "ArgMax 1 0=0", "LSTM 1 0=4 1=16 2=0", "UnaryOp 1 0=14",
    "InnerProduct 1 0=4 1=0 2=16 9=4", "InnerProduct 1 0=4 1=0 2=16 9=3 -23310=2,-9.0,250.0", "LRN 1", "GridSample 2",
])  # fmt: skip
def test_a_layer_that_bends_or_decides_is_told(files: Any, tmp_path: Path, layer: str) -> None:
    folder, notes = files["fp32"]
    shutil.copytree(folder, tmp_path / "net")
    file = tmp_path / "net" / notes["entry"]
    kind, count, *rest = layer.split()
    output = notes["outputs"]["y"]["name"]
    tops = " ".join([output] * int(count))
    text = f"{kind} added {count} 1 {tops} more {' '.join(rest)}"
    file.write_text(file.read_text().rstrip() + f"\n{text}\n")
    told = figures(tmp_path / "net", notes)["unexplained"]
    assert told and all("added" in decision for decision in told)
