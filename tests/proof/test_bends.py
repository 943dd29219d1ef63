"""Real exports with a hinge or a steep curve put in, which compares nothing, and right ones of every such operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parity.core.settings import ModelSpec
from parity.proof.operators import operators
from tests.proof.seeded import ROOT
from tests.proof.test_operators import READERS, export

F = nn.functional
X = np.linspace(-2, 2, 48, dtype=np.float32).reshape(2, 6, 4)

HINGES: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "leaky_relu": lambda u: F.leaky_relu(u, 0.0),
    "elu": lambda u: F.elu(u, 0.0),
    "selu": F.selu,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "abs": lambda u: u.abs() + u,
    "divided by abs": lambda u: u / u.abs() + 1,
    "amax": lambda u: torch.stack([u, u - u], 1).amax(1),
    "max_pool": lambda u: F.max_pool1d(torch.stack([u, u - u], 1)[:, None], 2).reshape(-1),
    "normalize": lambda u: F.normalize(u[:, None], dim=1)[:, 0] + 1,
    "sqrt": lambda u: torch.sqrt(u * u) + u,
    "layer_norm": lambda u: F.layer_norm(torch.stack([u, -u], 1), (2,), eps=1e-12)[:, 0],
    "sigmoid": lambda u: torch.sigmoid(u * 1000),
    "exp": lambda u: torch.exp(u * 10),
    "softplus": lambda u: F.softplus(u, 50.0),
    "maximum": lambda u: torch.maximum(u, u - u),
    "minimum": lambda u: u - torch.minimum(u, u - u),
    "clamp by a tensor": lambda u: torch.clamp(u, min=u - u),
    "power of a half": lambda u: (u * u) ** 0.5 + u,
    "computed power": lambda u: torch.pow(u * u + 1e-9, u - u + 0.5),
    "log": lambda u: torch.log(-u),
    "log2": lambda u: torch.log2(-u),
    "softmax": lambda u: torch.stack([u * 1000, u - u], 1).softmax(1)[:, 0],
    "log_softmax": lambda u: torch.stack([u * 1000, u - u], 1).log_softmax(1)[:, 0],
    "attention": lambda u: F.scaled_dot_product_attention(
        *3 * [torch.stack([u * 1000, u - u], 1)[:, :, None]])[:, 0, 0],
    "atan": lambda u: torch.atan(u * 1e6),
    "acos": lambda u: torch.acos((u + 250) / 250),
    "tan": lambda u: torch.tan(u / 250),
    "std": lambda u: torch.stack([u, -u], 1).std(1) + u,
    "cdist": lambda u: torch.cdist(u[:, None, None], (u - u)[:, None, None])[:, 0, 0] + u,
    "cosine_similarity": lambda u: F.cosine_similarity(u[:, None], (u - u)[:, None] + 1, dim=1),
    "fmod": lambda u: torch.fmod(u + 300, 300.0),
    "scatter by amax": lambda u: torch.zeros(len(u), 1).scatter_reduce(
        1, torch.zeros(len(u), 1, dtype=torch.int64), u[:, None], "amax")[:, 0],
    "local_response_norm": lambda u: F.local_response_norm(u[:, None, None] * 1e6, 1, 1.0, 0.5, 1e-9)[:, 0, 0],
    "grid_sample": lambda u: F.grid_sample(
        torch.ones(len(u), 1, 1, 2), torch.stack([-u - 1, u - u], 1)[:, None, None] / 2, align_corners=False,
    )[:, 0, 0, 0],
    "hypot": lambda u: torch.hypot(u, u - u) + u,
    "huber_loss": lambda u: F.huber_loss(u, u - u, reduction="none") + u,
    "lgamma": torch.lgamma,
    "matrix_exp": lambda u: torch.matrix_exp(u[:, None, None])[:, 0, 0],
    "svdvals": lambda u: torch.linalg.svdvals(u[:, None, None])[:, 0] + u,
    "angle": torch.angle,
    "renorm": lambda u: torch.renorm(u[:, None], 2, 0, 1.0)[:, 0],
}  # fmt: skip
RIGHT: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **HINGES,
    "relu": torch.relu,
    "floor": torch.floor,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "mish": F.mish,
    "silu": F.silu,
    "logsigmoid": F.logsigmoid,
    "softmax": lambda x: x.softmax(-1),
    "logsumexp": lambda x: x.logsumexp(-1),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "group_norm": lambda x: F.group_norm(x, 2),
    "instance_norm": F.instance_norm,
    "rms_norm": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "std": lambda x: x.std(-1),
    "upsample": lambda x: F.interpolate(x[:, None], scale_factor=1.7, mode="bicubic"),
    "adaptive_max_pool": lambda x: F.adaptive_max_pool2d(x[:, None], (1, 1)),
    "relu6 written out": lambda x: x * F.relu6(x + 3) / 6,
}


class Net(nn.Module):
    """[batch, 6, 4] -> [batch, 6, 4], with a hinge far beyond what its inputs reach, if any."""

    def __init__(self, hinge: str) -> None:
        super().__init__()
        self.hinge = hinge
        self.dense = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.dense(x))
        if not self.hinge:
            return y
        return y + HINGES[self.hinge](x.sum((1, 2)) - 250)[:, None, None]


class Plain(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return RIGHT[self.name](x[:, 0, 0]) if self.name in HINGES else RIGHT[self.name](x)


def net(hinge: str = "") -> nn.Module:
    torch.manual_seed(0)
    return Net(hinge).eval().requires_grad_(False)


def plain(name: str) -> nn.Module:
    return Plain(name).eval()


def unexplained(folder: Path, module: nn.Module, target: str, factory: str, **options: Any) -> list[str]:
    try:
        notes = export(module, target, folder, X)
    except Exception as error:
        pytest.skip(f"no file: {error}")
    spec = ModelSpec(str(ROOT), f"tests.proof.test_bends:{factory}", options)
    figures = operators(READERS[target], str(folder), notes, spec, {"x": X}).figures
    return list(figures["unexplained"])


@pytest.mark.parametrize("hinge", HINGES)
@pytest.mark.parametrize("target", READERS)
def test_a_hinge_that_the_module_does_not_have_is_told(tmp_path: Path, target: str, hinge: str) -> None:
    assert unexplained(tmp_path, net(hinge), target, "net")


@pytest.mark.parametrize("hinge", ["", *HINGES])
@pytest.mark.parametrize("target", READERS)
def test_a_hinge_of_the_module_is_explained(tmp_path: Path, target: str, hinge: str) -> None:
    assert unexplained(tmp_path, net(hinge), target, "net", hinge=hinge) == []


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("target", READERS)
def test_what_a_converter_writes_a_bend_out_in_is_explained(tmp_path: Path, target: str, name: str) -> None:
    assert unexplained(tmp_path, plain(name), target, "plain", name=name) == []


def test_a_hinge_beside_those_of_the_module_is_told_with_its_operator(tmp_path: Path) -> None:
    text = unexplained(tmp_path, net("leaky_relu"), "onnx", "net")
    assert len(text) == 1 and "LeakyRelu" in text[0]


@pytest.mark.parametrize("place", ["beside", "inside", "counted"])
def test_a_branch_on_sizes_hides_no_hinge(tmp_path: Path, place: str) -> None:
    """In the file: If(batch > 0) { y + hinge } else { y }, or an If that does nothing, and the hinge behind it; or a
    second rounding where the module has one."""
    onnx: Any = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    counted = place == "counted"
    notes = export(plain("floor") if counted else net(), "onnx", tmp_path, X)
    model = onnx.load(str(tmp_path / "m.onnx"))
    graph, (output,) = model.graph, [value.name for value in model.graph.output]
    last = next(node for node in graph.node if output in node.output)
    last.output[0] = "plain"
    zero = numpy_helper.from_array(np.zeros(1, np.int64), "zero")
    graph.initializer.append(zero)
    hinge = [helper.make_node("LeakyRelu", ["plain"], ["bent"], alpha=0.0),
             helper.make_node("Neg", ["bent"], ["left"])]  # fmt: skip
    same = [helper.make_node("Identity", ["plain"], ["left"])]
    result = [helper.make_tensor_value_info("left", TensorProto.FLOAT, None)]
    then, other = (
        helper.make_graph(nodes, "part", [], result) for nodes in (hinge if place == "inside" else same, same)
    )
    graph.node.extend([helper.make_node("Shape", ["ids"], ["shape"]),
                       helper.make_node("Gather", ["shape", "zero"], ["n"]),
                       helper.make_node("Greater", ["n", "zero"], ["several"]),
                       helper.make_node("If", ["several"], ["given"], then_branch=then,
                                        else_branch=other)])  # fmt: skip
    after = {"inside": "Identity", "beside": "HardSwish", "counted": "Floor"}[place]
    graph.node.append(helper.make_node(after, ["given"], [output]))
    onnx.save(model, str(tmp_path / "m.onnx"))
    factory, options = ("plain", {"name": "floor"}) if counted else ("net", {})
    spec = ModelSpec(str(ROOT), f"tests.proof.test_bends:{factory}", options)
    named = notes | {"inputs": {"x": {"name": "ids"}}}
    text = list(operators(READERS["onnx"], str(tmp_path), named, spec, {"x": X}).figures["unexplained"])
    word = {"inside": "LeakyRelu", "beside": "HardSwish", "counted": "1 of 2: Floor"}[place]
    assert len(text) == 1 and text[0].startswith(word)
