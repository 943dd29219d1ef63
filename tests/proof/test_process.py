"""Files that read the process or the memory in which a tensor lies, so that an app gets something else than a test."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from parity.core.proof import Link
from parity.core.settings import ModelSpec
from parity.proof.operators import operators
from tests.proof.seeded import ROOT

X = torch.ones(1, 4, 8)


class Plain(nn.Module):
    """x [1, 4, 8] -> the same shape."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x)


class GradMode(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(x)
        return y * 2 if torch.is_grad_enabled() else y


class Offset(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(x)
        return y * 2 if x.storage_offset() > 7 else y


class Strides(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x) * float(x.stride(0)) / 32


class Contiguous(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(x)
        return y if x.is_contiguous() else y * 2


class Gradient(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(x)
        return y * 2 if x.requires_grad else y


class OnCuda(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(x)
        return y * 2 if x.is_cuda else y


class DeviceName(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(x)
        return y * 2 if x.device.type == "cuda" else y


class Device(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(x)
        return y if x.device == torch.device("cpu") else y * 2


class Beside(Plain):
    """Makes a tensor on the input's device, and looks at the gradient mode for a warning only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            print("slow")
        return self.out(x) + torch.zeros(8, device=x.device, dtype=x.dtype)


class Attention(Plain):
    """PyTorch's own attention, whose code looks at the gradient mode, devices and autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.attention(x, x, x)[0])


def plain() -> nn.Module:
    return Plain().eval()


def attention() -> nn.Module:
    return Attention().eval()


def no_script() -> nn.Module:
    """`plain` with code that TorchScript does not know."""

    class Python(Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(*tuple(value for value in (x,)))

    return Python().eval()


def link(module: nn.Module, tmp_path: Path, factory: str) -> Link:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module.eval()).save(str(tmp_path / "m.pt"))
    spec = ModelSpec(str(ROOT), f"tests.proof.test_process:{factory}", {})
    return operators("parity.formats.torch.survey:script", str(tmp_path), {"entry": "m.pt"}, spec, {"x": X.numpy()})


def names(found: Link) -> list[str]:
    return [text.partition(" ")[0] for text in found.figures["unexplained"]]


@pytest.mark.parametrize(
    ("module", "operator"),
    [
        (GradMode, "aten::is_grad_enabled"),
        (Offset, "aten::storage_offset"),
        (Strides, "aten::stride"),
        (Contiguous, "aten::is_contiguous"),
        (Gradient, "prim::requires_grad"),
        (OnCuda, "prim::is_cuda"),
        (DeviceName, "prim::type"),
        (Device, "aten::eq"),
    ],
)
def test_what_reads_the_process_is_refused_or_unexplained_where_no_script_shows_the_modules_own(
    module: type[Plain], operator: str, tmp_path: Path
) -> None:
    found = link(module(), tmp_path, "plain")
    assert found.state == "failed" and operator in {culprit.name for culprit in found.culprits}
    assert "reads the process or the memory of a tensor" in found.culprits[0].what
    found = link(module(), tmp_path, "no_script")
    assert found.state == "proved" and operator in names(found)


@pytest.mark.parametrize(("module", "factory"), [(Plain, "plain"), (Beside, "plain"), (Attention, "attention")])
def test_what_no_output_follows_or_the_module_reads_too_is_not(
    module: type[Plain], factory: str, tmp_path: Path
) -> None:
    found = link(module(), tmp_path, factory)
    assert names(found) == [] and not any("the process" in culprit.what for culprit in found.culprits)
