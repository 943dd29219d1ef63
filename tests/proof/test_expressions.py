"""Constants that are expressions of parameters, and such that nothing of the module's explains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from parity import formats as targets
from parity.core.proof import Link, Proof
from parity.core.settings import ModelSpec
from parity.faults.artefact.make import every
from parity.proof import lift, prove
from parity.proof.match import settled
from parity.proof.messages import ProofRequest
from parity.proof.source import export
from tests.proof import seeded
from tests.proof.expressions import MODELS

ROOT = Path(__file__).resolve().parents[2]


def rows(shape: tuple[int, ...], count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(1, *shape)).astype(np.float32)} for _ in range(count)]


def subject(name: str) -> seeded.Subject:
    contract = {
        "inputs": [{"name": "x", "shape": ["batch", *MODELS[name][1]], "dtype": "float32"}],
        "outputs": [{"name": "y"}],
    }
    spec = ModelSpec(str(ROOT), "tests.proof.expressions:module", {"name": name})
    return seeded.Subject(name, spec, contract, rows(MODELS[name][1], 24, 1))


def proved(what: seeded.Subject, precision: str, folder: Path, notes: Any, seed: int = 2) -> Proof:
    calibration = what.calibration if precision == "int8" else []
    cases = rows(MODELS[what.name][1], 24, seed)
    reader = targets.get("onnx").graph
    return prove(ProofRequest(what.model, reader, precision, str(folder), notes, cases, ["y"], calibration))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("expressions")


@pytest.mark.parametrize("precision", ["fp32", "dynamic", "int8"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_right_file_of_expressions_is_proved(name: str, precision: str, work: Path) -> None:
    what = subject(name)
    folder = seeded.convert(what, work, "onnx", (precision,))[precision]
    found = proved(what, precision, folder, seeded.notes(folder))
    assert found.state == "proved", found.summary


@pytest.mark.parametrize("fault", ["file_bit_flipped", "file_channels_swapped", "file_bias_dropped"])
def test_a_fault_among_expressions_is_found(fault: str, work: Path, tmp_path: Path) -> None:
    """The gain that a changed value leads astray is no sign that torch's tensor does not belong there."""
    what = subject("product")
    folder = seeded.convert(what, work, "onnx", ("int8",))["int8"]
    copies = every("onnx", "int8", folder, seeded.notes(folder), tmp_path)
    place, notes = next((place, notes) for name, place, notes in copies if name == fault)
    assert proved(what, "int8", place, notes).state == "failed"


class Rolled(nn.Module):
    """Moves every column by one place: no tensor in it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, -1)


def rolled() -> nn.Module:
    return Rolled().eval()


def product_file(folder: Path, matrix: np.ndarray) -> dict[str, Any]:
    """y = x @ matrix, as a file."""
    node = helper.make_node("MatMul", ["x", "basis"], ["y"])
    ports = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 6]) for n in ("x", "y")]
    basis = numpy_helper.from_array(matrix.astype(np.float32), "basis")
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], [basis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    return {"entry": "model.onnx", "inputs": {"x": {"name": "x"}}, "outputs": {"y": {"name": "y"}}}


@pytest.mark.parametrize(("turned", "state"), [(False, "proved"), (True, "failed")])
def test_what_no_tensor_fits_is_judged_by_the_lift(turned: bool, state: str, tmp_path: Path) -> None:
    matrix = np.roll(np.eye(6), 1, 1)
    notes = product_file(tmp_path, matrix.T if turned else matrix)
    spec = ModelSpec(str(ROOT), "tests.proof.test_expressions:rolled", {})
    request = ProofRequest(spec, targets.get("onnx").graph, "fp32", str(tmp_path), notes, rows((6,), 8, 0), ["y"])
    found = prove(request)
    assert found.state == state, found.summary
    if state == "proved":
        assert found.link("match").figures["by_lift"] == ["basis"]


def test_what_no_tensor_fits_is_open_where_the_lift_says_nothing() -> None:
    match = Link("match", "failed", {}, (lift.Culprit("tensor", "w", "fits none"),))
    silent = Link("lift", "not possible", reason="no reader")
    assert settled(match, silent).state == "not possible" and "w" in settled(match, silent).reason
    assert settled(match, Link("lift", "failed")).state == "failed"


def test_a_lift_that_is_widened_to_the_error_of_the_file_says_no_more() -> None:
    link = Link("lift", "proved", {"widened_by": {"w": 0.01}, "limit": 0.03})
    assert lift.blind(link, 0.05).state == "proved"
    assert lift.blind(link, 0.02).state == "not possible" and "w" in lift.blind(link, 0.02).reason


class Chain(nn.Module):
    """What a converter may fold into the product in its middle, from both sides."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mean, self.std = nn.Parameter(torch.randn(6)), nn.Parameter(torch.rand(6) + 0.5)
        self.linear, self.gamma = nn.Linear(6, 4), nn.Parameter(torch.rand(4) + 0.5)
        self.norm = nn.BatchNorm1d(4)
        nn.init.uniform_(self.norm.running_mean)  # type: ignore[arg-type]
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear((x - self.mean) / self.std).transpose(1, 2) * self.gamma[:, None])


def test_a_layer_with_all_that_can_be_folded_in_is_offered() -> None:
    module = Chain().eval().double()
    with torch.no_grad():
        none, units = torch.zeros(1, 1, 6).double(), torch.eye(6)[:, None, None].double()
        bias = module(none)[0, :, 0]
        weight = torch.stack([module(unit)[0, :, 0] - bias for unit in units], 1).numpy()
    (layer,) = export(Chain().eval(), [torch.rand(1, 3, 6)]).weights
    offered = [layer.folded(folding) for folding in layer.foldings]
    assert any(np.allclose(o.values, weight) and np.allclose(o.bias.values, bias.numpy()) for o in offered)


def test_what_cancels_rounds_by_what_float32_makes_of_it() -> None:
    """A weight less its mean: the mean is a thousand times the rest."""

    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 50) + 1000)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.w - self.w.mean(1, keepdim=True))

    module = Centred().eval()
    (layer,) = export(module, [torch.rand(2, 50)]).weights
    single = (module.w - module.w.mean(1, keepdim=True)).detach().numpy()
    assert (np.abs(single - layer.values) <= 16 * 2.0**-24 * layer.magnitude).all()
    assert (layer.magnitude < 1e4).all()


def test_a_type_that_the_module_asks_for_is_float32_in_what_float32_makes_of_it() -> None:
    """The sine of hundreds of radians, of coordinates that are brought to the table's type first, as SAM has it."""

    class Position(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(2, 16) * 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ramp = (torch.arange(8).to(self.table.dtype) + 0.5) / 8
            return x + torch.sin(2 * torch.pi * torch.stack([ramp, 1 - ramp], 1) @ self.table)

    module = Position().eval()
    single = (module(torch.zeros(8, 16))).detach().double().numpy()
    terms = [term for term in export(module, [torch.rand(8, 16)]).terms if term.values.shape == (8, 16)]
    fitting = [term for term in terms if np.allclose(single, term.values, atol=1e-3)]
    assert fitting
    for term in fitting:
        assert (np.abs(single - term.values) <= 16 * 2.0**-24 * term.magnitude).all()
