"""What a file keeps from call to call, however it keeps it, and the module does not."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from parity.core.settings import ModelSpec
from parity.proof.operators import operators
from tests.proof.seeded import ROOT

X = torch.ones(1, 4)


class Plain(nn.Module):
    """x [1, 4] -> [1, 3], and what the classes below keep from call to call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(4, 3)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("table", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x)


COUNT, TABLE = torch.zeros(()), torch.zeros(4)


class Constant(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x) + torch.relu(COUNT.detach().add_(1) - 3000)


class PartOfConstant(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = TABLE[1:].unsqueeze(0)[0, 0].add_(1)
        return self.out(x) + torch.relu(count - 3000)


class Late(Plain):
    """Overwrites a buffer after the outputs took it: the next call has what this one left."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(x + self.table)
        self.table.copy_(x[0])
        return y


class Scratch(Plain):
    """Overwrites a constant before anything reads it, as code does that fills a tensor of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        TABLE[1:3].copy_(x[0, :2])
        return self.out(x + TABLE)


class ViewOfBuffer(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.table[1:].add_(1)
        return self.out(x) + torch.relu(self.table.sum() - 3000)


class List(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.jit.Attribute([], list[torch.Tensor])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return self.out(x) + float(max(len(self.seen) - 3000, 0))


class OfList(Plain):
    """Writes into a tensor that lies in a list of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = [torch.zeros(())]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen[0].add_(1)
        return self.out(x) + torch.relu(self.seen[0] - 3000)


class Listed(Plain):
    """Writes into a buffer by way of a list that is made anew."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x, self.count]
        parts[1].add_(1)
        return self.out(x) + torch.relu(self.count - 3000)


class Parameter(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.out.bias.add_(1e-9)
        return self.out(x)


class Branch(Plain):
    """Chooses by data which tensor it writes into."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = self.count
        if bool(x.sum() > 0):
            chosen = self.table[0]
        chosen.add_(1)
        return self.out(x) + torch.relu(self.table.sum() - 3000)


class OwnScratch(Plain):
    """Writes into tensors and lists that it makes itself in each call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x, self.count]
        made = torch.zeros(3)
        made[1:].add_(1)
        copied = self.table.clone()
        copied.mul_(2)
        parts.append(made)
        return self.out(x + copied) + parts[2]


def plain() -> nn.Module:
    return Plain().eval()


class OwnList(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return self.out(x)


def own_list() -> nn.Module:
    return OwnList().eval()


def traced(module: nn.Module, file: Path) -> str:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, (X,), check_trace=False).save(str(file))
    return "script"


def scripted(module: nn.Module, file: Path) -> str:
    torch.jit.script(module).save(str(file))
    return "script"


def exported(module: nn.Module, file: Path) -> str:
    with torch.no_grad():
        torch.export.save(torch.export.export(module, (X,), strict=False), str(file))
    return "program"


Maker = Callable[[nn.Module, Path], str]


def state(made: Maker, module: type[Plain], tmp_path: Path, factory: str = "plain") -> str:
    """The state of the link, and what it says."""
    file = tmp_path / "m.pt"
    reader = made(module().eval(), file)
    spec = ModelSpec(str(ROOT), f"tests.proof.test_state:{factory}", {})
    found = operators(f"parity.formats.torch.survey:{reader}", str(tmp_path), {"entry": file.name}, spec,
                      {"x": X.numpy()})  # fmt: skip
    return f"{found.state} {' '.join(map(str, found.culprits))}"


@pytest.mark.parametrize(
    ("made", "module"),
    [
        (traced, Constant),
        (traced, PartOfConstant),
        (scripted, Late),
        (traced, ViewOfBuffer),
        (scripted, Parameter),
        (scripted, ViewOfBuffer),
        (scripted, List),
        (scripted, OfList),
        (scripted, Listed),
        (scripted, Branch),
        (exported, Constant),
        (exported, PartOfConstant),
        (exported, ViewOfBuffer),
    ],
)
def test_state_of_any_kind_is_refused_by_name(made: Maker, module: type[Plain], tmp_path: Path) -> None:
    said = state(made, module, tmp_path)
    assert said.startswith("failed") and "keeps state for the next call" in said, said


@pytest.mark.parametrize(
    ("made", "module"),
    [
        (traced, Scratch),
        (traced, OwnScratch),
        (scripted, OwnScratch),
        (exported, OwnScratch),
        (traced, Plain),
        (scripted, Plain),
        (exported, Plain),
    ],
)
def test_a_file_that_carries_nothing_over_passes(made: Maker, module: type[Plain], tmp_path: Path) -> None:
    assert state(made, module, tmp_path).startswith("proved")


def test_a_list_that_the_module_keeps_too_is_its_own(tmp_path: Path) -> None:
    assert state(scripted, List, tmp_path, "own_list").startswith("proved")


@functools.cache
def counting_tflite(counts: bool) -> bytes:
    """A file that reads a variable, and counts its calls in it or not."""
    tf = pytest.importorskip("tensorflow")
    module = plain()

    class Net(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32, name="x")])
        def run(self, x):  # type: ignore[no-untyped-def]
            y = tf.matmul(x, module.out.weight.detach().numpy().T) + module.out.bias.detach().numpy()
            count = self.count.assign_add(1.0, read_value=True) if counts else self.count.read_value()
            return {"y": y + tf.nn.relu(count - 3000.0)}

    net = Net()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([net.run.get_concrete_function()], net)
    converter.experimental_enable_resource_variables = True
    return bytes(converter.convert())


@pytest.mark.parametrize("counts", [True, False])
def test_a_variable_of_a_tflite_file_that_is_assigned_in_a_run_is_state(counts: bool, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(counting_tflite(counts))
    spec = ModelSpec(str(ROOT), "tests.proof.test_state:plain", {})
    found = operators("parity.formats.tflite.survey:survey", str(tmp_path), {"entry": "m.tflite"}, spec,
                      {"x": X.numpy()})  # fmt: skip
    assert found.state == ("failed" if counts else "proved"), found
    if counts:
        assert "keeps state for the next call" in found.culprits[0].what
        assert found.culprits[0].name == "ASSIGN_VARIABLE"


class Carrying(Plain):
    """Adds what the call before gave."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(x)
        result = y + 2.0 * self.last
        self.last[:] = y
        return result


class Rewriting(Carrying):
    """Writes its state in each call before it reads it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last[:] = self.out(x)
        return self.last * 1.0


@pytest.mark.parametrize(
    ("module", "states", "verdict"),
    [
        (Carrying, {}, "failed"),
        (Carrying, {"last": "next_last"}, "proved"),  # each call is measured with a state that is given
        (Rewriting, {}, "proved"),
    ],
)
def test_a_state_of_a_core_ml_file_that_the_contract_does_not_declare_is_refused(
    module: type[Plain], states: dict[str, str], verdict: str, tmp_path: Path
) -> None:
    ct = pytest.importorskip("coremltools")
    traced = torch.jit.trace(module().eval(), X, check_trace=False)
    held = ct.StateType(wrapped_type=ct.TensorType(shape=(1, 3), dtype=np.float16), name="last")
    made = ct.convert(traced, inputs=[ct.TensorType("x", shape=X.shape)], outputs=[ct.TensorType("y")], states=[held],
                      minimum_deployment_target=ct.target.iOS18, skip_model_load=True)  # fmt: skip
    made.save(str(tmp_path / "m.mlpackage"))
    notes = {"entry": "m.mlpackage", "states": states}
    spec = ModelSpec(str(ROOT), "tests.proof.test_state:plain", {})
    link = operators("parity.formats.coreml.survey:survey", str(tmp_path), notes, spec, {"x": X.numpy()})
    assert link.state == verdict, link
    if verdict == "failed":
        assert [(culprit.name, "keeps state" in culprit.what) for culprit in link.culprits] == [("write_state", True)]
        assert "at last," in link.culprits[0].what
