"""Softmax, sigmoid and tanh written out so that they overflow are told; written out safely, or as the module has them,
they are not. The same of movers whose place follows from values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity.core.settings import ModelSpec
from parity.proof.operators import operators
from tests.proof.seeded import ROOT
from tests.proof.test_operators import READERS, export

X = np.random.default_rng(0).standard_normal((1, 6, 4)).astype(np.float32)


def _safe_softmax(x: Tensor) -> Tensor:
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def _naive_softmax(x: Tensor) -> Tensor:
    e = torch.exp(x)
    return e / e.sum(-1, keepdim=True)


def _naive_tanh(x: Tensor) -> Tensor:
    e = torch.exp(2 * x)
    return (e - 1) / (e + 1)


MEANT: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(-1),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "softplus": F.softplus,
}
OVERFLOWING: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": _naive_softmax,
    "softmax by an inverse": lambda x: torch.exp(x) * torch.exp(x).sum(-1, keepdim=True).reciprocal(),
    "sigmoid": lambda x: torch.exp(x) / (torch.exp(x) + 1),
    "tanh": _naive_tanh,
    "tanh by two": lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x)),
    "silu": lambda x: x * torch.exp(x) / (1 + torch.exp(x)),
}
SAFE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": _safe_softmax,
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": lambda x: 2 / (1 + torch.exp(-2 * x)) - 1,
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "softplus": lambda x: torch.log1p(torch.exp(-x.abs())) + torch.relu(x),
}


class Net(nn.Module):
    """[batch, 6, 4] -> [batch, 6, 4]."""

    def __init__(self, bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.bend = bend
        self.dense, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bend(self.dense(x)))


class Double(nn.Module):
    """[batch, 6, 4] -> [batch, 6, 4]."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Placed(nn.Module):
    """`Double`, plus one where the sum of the input is a number that it never is."""

    def forward(self, x: Tensor) -> Tensor:
        offset = int(x.sum() - 1000)
        return 2 * x + torch.triu(torch.ones(1, 1), offset) * torch.tril(torch.ones(1, 1), offset)


def net(name: str, table: str) -> nn.Module:
    torch.manual_seed(0)
    return Net({"meant": MEANT, "overflowing": OVERFLOWING, "safe": SAFE}[table][name]).eval().requires_grad_(False)


def told(folder: Path, module: nn.Module, target: str, factory: str, **options: object) -> list[str]:
    notes = export(module, target, folder, X)
    notes |= {"inputs": {"x": {"name": "ids"}}} if target in ("onnx", "coreml") else {}
    spec = ModelSpec(str(ROOT), f"tests.proof.test_overflows:{factory}", options)
    return list(operators(READERS[target], str(folder), notes, spec, {"x": X}).figures["unexplained"])


@pytest.mark.parametrize("name", OVERFLOWING)
@pytest.mark.parametrize("target", READERS)
def test_what_overflows_where_the_module_does_not_is_told(tmp_path: Path, target: str, name: str) -> None:
    found = told(tmp_path, net(name, "overflowing"), target, "net", name=name.split()[0], table="meant")
    assert found and all("exp" in text.lower() for text in found), found


@pytest.mark.parametrize("name", SAFE)
@pytest.mark.parametrize("target", READERS)
def test_what_is_written_out_safely_is_explained(tmp_path: Path, target: str, name: str) -> None:
    assert told(tmp_path, net(name, "safe"), target, "net", name=name, table="meant") == []


@pytest.mark.parametrize("name", OVERFLOWING)
@pytest.mark.parametrize("target", READERS)
def test_what_the_module_writes_out_itself_is_explained(tmp_path: Path, target: str, name: str) -> None:
    assert told(tmp_path, net(name, "overflowing"), target, "net", name=name, table="overflowing") == []


def test_a_mover_whose_place_follows_from_values_is_told(tmp_path: Path) -> None:
    torch.jit.script(Placed().eval()).save(str(tmp_path / "m.pt"))  # type: ignore[no-untyped-call]
    found, own = (
        operators(
            READERS["torchscript"],
            str(tmp_path),
            {"entry": "m.pt"},
            ModelSpec(str(ROOT), f"tests.proof.test_overflows:{module}"),
            {"x": X},
        ).figures["unexplained"]
        for module in ("Double", "Placed")
    )
    assert {text.split()[0] for text in found} == {"aten::triu", "aten::tril"}
    assert own == []
