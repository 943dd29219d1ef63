"""The chain on real Core ML packages: correct ones are faithful, faults in the saved weights and program are found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parity import formats as targets
from parity.core.settings import ModelSpec
from parity.mil.package import Package
from parity.mil.types import TensorType
from parity.process import serialise
from parity.proof import prove
from parity.proof.messages import ProofRequest
from parity.reference.messages import OracleRequest, TwinRequest
from tests.mil import zoo
from tests.proof.seeded import ROOT

pytest.importorskip("coremltools")
PRECISIONS = ("fp32", "fp16", "dynamic")
SHAPE = (1, 3, 16, 20)


class Small(nn.Module):
    """Folded and unfolded BatchNorm, depthwise and transposed convolution, attention-like products, LayerNorm, LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm = nn.BatchNorm2d(16)
        self.up = nn.ConvTranspose2d(16, 24, 2, 2)
        self.cell = nn.LSTM(24, 20, batch_first=True)
        self.last, self.wide, self.out = nn.LayerNorm(20), nn.Linear(20, 128), nn.Linear(128, 32)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.up(torch.relu(self.norm(x + self.deep(x))))
        x = self.cell(x.mean(2).transpose(1, 2))[0]
        return self.out(torch.relu(self.wide(self.last(x)))) * self.scale


def network(name: str = "") -> nn.Module:
    """The factory: `Small`, or a network of `tests/mil/zoo.py`."""
    if name:
        return zoo.model(name)
    torch.manual_seed(0)
    module = Small()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.normal_(part.running_mean)
            nn.init.normal_(part.bias)
    return module.eval()


def inputs(name: str = "", count: int = 6) -> list[dict[str, Any]]:
    if name:
        return [{"x": zoo.example(name, seed).numpy()} for seed in range(count)]
    return [{"x": np.random.default_rng(i).normal(0, 1, SHAPE).astype(np.float32)} for i in range(count)]


def saved(folder: Path, precision: str, name: str = "") -> tuple[Path, dict[str, Any]]:
    """A package in `folder`, by the target's own code, and its notes."""
    from parity.formats.coreml.convert import convert

    folder.mkdir(parents=True, exist_ok=True)
    example = {"x": torch.from_numpy(inputs(name, 1)[0]["x"])}
    with zoo.quiet(), torch.no_grad():
        module = network(name)
        out = module(*example.values())
        traced = torch.jit.trace(module, tuple(example.values()))
        (folder / "traced").mkdir(exist_ok=True)
        from parity.formats.torch.convert import SCRIPT_FILE

        traced.save(str(folder / "traced" / SCRIPT_FILE))
        count = len(out) if isinstance(out, tuple) else 1
        dtype = "int32" if not example["x"].is_floating_point() else "float32"
        contract = {
            "inputs": [{"name": "x", "dtype": dtype, "shape": list(example["x"].shape)}],
            "outputs": [{"name": f"y{i}"} for i in range(count)],
        }
        options = {"precision": precision, "backend": "mlprogram"}
        notes = convert(
            str(folder), str(folder / "traced"), options, contract, {n: v.numpy() for n, v in example.items()}
        )
    return folder, notes


def proof(folder: Path, notes: Mapping[str, Any], precision: str, name: str = "") -> dict[str, Any]:
    spec = ModelSpec(str(ROOT), "tests.proof.test_coreml:network", {"name": name})
    return prove(
        ProofRequest(
            spec, targets.get("coreml").graph, precision, str(folder), notes, inputs(name), list(notes["outputs"])
        )
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    base = tmp_path_factory.mktemp("coreml")
    return {precision: saved(base / precision, precision) for precision in PRECISIONS}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_correct_package_is_faithful(files: Any, precision: str) -> None:
    result = proof(*files[precision], precision)
    assert result.state == "proved", result.summary
    assert result.link("lift").figures["relative_rms"] < 1e-6
    assert result.link("match").figures["unmatched"] == [] and result.link("match").figures["unused"] == []
    assert (result.link("local").state, result.link("local").offered) == ("not possible", False)
    assert "no local: no runtime executes" in result.summary
    json.dumps(serialise.to_builtins(result), allow_nan=False)


def test_a_package_of_another_precision_class_fails(files: Any) -> None:
    result = proof(*files["fp16"], "fp32")
    assert result.link("audit").state == "failed"
    assert "stored as float16 in an fp32 file" in str(result.link("audit").culprits)


def weight(parameter: str, operator: str, act: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Change the stored values that the first such operator reads as `parameter`."""

    def edit(folder: Path) -> None:
        package = Package(folder / "model.mlpackage")
        function = package.spec.mlProgram.functions["main"]
        listed = function.block_specializations[function.opset].operations
        name = next(op for op in listed if op.type == operator).inputs[parameter].arguments[0].name
        op = next(op for op in listed if op.outputs[0].name == name)
        value = op.attributes["quantized_data" if "quantized_data" in op.attributes else "val"]
        declared = TensorType.of(value.type.tensorType)
        file = folder / "model.mlpackage" / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
        content = bytearray(file.read_bytes())
        blob = package.weight_file(value.blobFileValue.fileName).blobs[value.blobFileValue.offset]
        span = slice(blob.data, blob.data + blob.size)
        held = np.frombuffer(bytes(content[span]), declared.dtype.numpy).reshape(declared.static_shape)
        changed = np.ascontiguousarray(act(held.copy()), held.dtype)
        assert not np.array_equal(changed, held)
        content[span] = changed.tobytes()
        file.write_bytes(content)

    return edit


def program(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Change the operations of the saved program."""

    def edit(folder: Path) -> None:
        package = Package(folder / "model.mlpackage")
        function = package.spec.mlProgram.functions["main"]
        change(list(function.block_specializations[function.opset].operations))
        file = folder / "model.mlpackage" / "Data" / "com.apple.CoreML" / "model.mlmodel"
        file.write_bytes(package.spec.SerializeToString())

    return edit


def relu6(listed: Any) -> None:
    next(op for op in listed if op.type == "relu").type = "relu6"


def _step(values: np.ndarray) -> np.ndarray:
    """One value by one step: an integer, or a unit in the last place."""
    flat = values.reshape(-1)
    at = int(np.abs(flat.astype(np.float64)).argmax())
    if values.dtype.kind == "f":
        flat[at] = np.nextafter(flat[at], values.dtype.type(0)) if values.dtype == np.float16 else flat[at] * 0.99999
    else:
        flat[at] -= np.sign(flat[at])
    return values


FAULTS = {
    "stale": ("conv", "weight", lambda w: np.roll(w, 1, 0), "stem.0.weight"),
    "transposed": ("conv", "weight", lambda w: w.swapaxes(-1, -2), "stem.0.weight"),
    "reversed": ("conv_transpose", "weight", lambda w: w[::-1], "up.weight"),
    "rows": ("linear", "weight", lambda w: np.roll(w, 1, 0), "wide.weight"),
    "one step": ("linear", "weight", _step, "wide.weight"),
    "gates": ("lstm", "weight_ih", lambda w: np.roll(w, w.shape[0] // 4, 0), ""),
    "cell": ("lstm", "weight_hh", lambda w: w * 1.01, "cell.weight_hh_l0"),
}  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_weights_is_found_and_named(files: Any, tmp_path: Path, precision: str, fault: str) -> None:
    operator, parameter, act, culprit = FAULTS[fault]
    folder, notes = files[precision]
    shutil.copytree(folder, tmp_path / "edited")
    weight(parameter, operator, act)(tmp_path / "edited")
    result = proof(tmp_path / "edited", notes, precision)
    assert result.state == "failed", result.summary
    named = [c.name for link in result.links for c in link.culprits]
    assert any(culprit in name for name in named), result.summary


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_fault_in_the_program_is_found_by_the_lift(files: Any, tmp_path: Path, precision: str) -> None:
    shutil.copytree(files[precision][0], tmp_path / "edited")
    program(relu6)(tmp_path / "edited")
    result = proof(tmp_path / "edited", files[precision][1], precision)
    failed = [link.name for link in result.links if link.state == "failed"]
    assert failed == ["lift"], result.summary


def test_palettised_weights_say_which_link_cannot_be_made(files: Any, tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.optimize import coreml as optimize

    folder, notes = files["fp32"]
    with zoo.quiet():
        model = ct.models.MLModel(str(folder / "model.mlpackage"), skip_model_load=True)
        setting = optimize.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=512)
        made = optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=setting))
        made.save(str(tmp_path / "model.mlpackage"))
    result = proof(tmp_path, notes, "dynamic")
    assert result.state == "not possible"
    assert "palettised weights lie on no grid of even steps" in result.summary


def test_replaced_values_take_the_places_of_constants(files: Any) -> None:
    from parity.mil.program import Program

    package = Package(files["fp32"][0] / "model.mlpackage")
    plain = Program(package)
    case = inputs(count=1)[0]
    name = next(n for n in (o.outputs[0].name for o in plain.proto.operations if o.type == "const") if "scale" in n)
    zero = Program(package, replaced={name: np.zeros(32)}).run(case, "fp64")
    assert np.abs(plain.run(case, "fp64")["y0"]).max() > 0
    assert not zero["y0"].any()


SEEDED = {
    "correct": (None, False),
    "one sign": (("linear", "weight", lambda w: np.where(np.abs(w) == np.abs(w).max(), -w, w)), True),
    "bias dropped": (("linear", "bias", lambda b: b * 0), True),
    "layer by 2 %": (("conv_transpose", "weight", lambda w: w * 1.02), True),
}  # fmt: skip


@pytest.mark.parametrize("fault", SEEDED)
def test_fp16_cells_are_gated_by_the_measured_noise_ratio(files: Any, tmp_path: Path, fault: str) -> None:
    """Under the default limits alone, as correct exports to Core ML were measured to have."""
    from parity import mil
    from parity.core.contract import OutputSpec
    from parity.core.plan import Cell
    from parity.judging import judge
    from parity.judging.floor import natural, raw_floors
    from parity.judging.gate import passes
    from parity.judging.limits import MEASURED, NOISE, resolve
    from parity.reference import oracle, twin

    edit, broken = SEEDED[fault]
    shutil.copytree(files["fp16"][0], tmp_path / "edited")
    if edit is not None:
        operator, parameter, act = edit
        weight(parameter, operator, act)(tmp_path / "edited")
    cell, spec = Cell("small", "coreml", "fp16"), OutputSpec("y0")
    limits = {name: limit for name, limit in resolve((), cell).items() if name in NOISE}
    assert all(limit.source.startswith(MEASURED) and "coreml fp16" in limit.source for limit in limits.values())
    model = ModelSpec(str(ROOT), "tests.proof.test_coreml:network")
    wants = oracle.evaluate(OracleRequest(model, inputs(), ["y0"])).outputs
    measured = natural("coreml", "fp16")
    assert measured is not None
    costs = twin.evaluate(TwinRequest(model, inputs(), ["y0"], "fp16", None, measured.flavour)).outputs
    program = mil.load(tmp_path / "edited" / "model.mlpackage")
    rows = [program.run(case)["y0"] for case in inputs()]
    known = raw_floors(wants, costs, "fp16", [spec])["y0"]
    checks = judge.check_noise("golden", spec, [str(i) for i in range(len(rows))], rows, known, limits)
    assert {c.metric for c in checks if c.limit is not None} >= {"noise_ratio", "noise_ratio_case"}
    assert any(not passes(c) for c in checks) is broken, checks


@pytest.mark.nightly
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [n for n in zoo.everything() if n != "gated_mlp"])
def test_correct_packages_of_many_networks_raise_no_alarm(tmp_path: Path, name: str, precision: str) -> None:
    result = proof(*saved(tmp_path, precision, name), precision, name)
    assert result.state != "failed", result.summary
