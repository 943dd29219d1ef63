"""`parity.verify`: one file against one module, without a project and without pytest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import parity

CELL = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, image):
        return self.head(torch.relu(self.convolution(image)).mean((2, 3)))
"""
"""What a cell of a notebook would say: no module that another process could import."""


@pytest.fixture(scope="module")
def module() -> nn.Module:
    names: dict[str, Any] = {"torch": torch, "nn": nn, "__name__": "__main__"}
    exec(CELL, names)
    torch.manual_seed(0)
    made: nn.Module = names["Net"]().eval()
    return made


@pytest.fixture(scope="module")
def cases() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"image": rng.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(8)]


@pytest.fixture(scope="module")
def right(module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("files") / "net.onnx"
    example = (torch.zeros(1, 3, 16, 16),)
    torch.onnx.export(module, example, file, dynamo=False, input_names=["image"], output_names=["scores"])
    return file


@pytest.fixture(scope="module")
def wrong(right: Path) -> Path:
    """The right file with half a unit added to one bias of the head."""
    model = onnx.load(right)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[1] += 0.5
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    file = right.with_name("wrong.onnx")
    onnx.save(model, file)
    return file


def test_a_right_file_of_a_class_that_no_module_holds_passes(
    module: nn.Module, right: Path, cases: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    record = parity.verify(module, right, cases, cache=tmp_path)
    assert (record.state, record.precision, record.target) == ("pass", "fp32", "onnx")
    assert record.proof is not None
    assert record.proof.complete
    assert str(record).startswith("model-onnx-fp32: pass")


def test_a_wrong_file_is_a_record_that_names_the_place(
    module: nn.Module, wrong: Path, cases: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    record = parity.verify(module, wrong, cases, cache=tmp_path)
    assert record.state == "fail"
    assert "head.bias" in record.reason
    shown = record._repr_html_()
    assert "head.bias" in shown
    assert shown.count("<tr") > 3


def test_a_file_may_stand_for_the_model(
    right: Path, wrong: Path, cases: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    assert parity.verify(right, right, cases, cache=tmp_path).state == "pass"
    assert parity.verify(str(right), wrong, cases, cache=tmp_path).state == "fail"


def test_names_and_layouts_of_the_file_may_be_told(
    module: nn.Module, cases: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    class AppsOwn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = module

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.net(picture.permute(0, 3, 1, 2))
            return result

    file, example = tmp_path / "nhwc.onnx", (torch.zeros(1, 16, 16, 3),)
    torch.onnx.export(AppsOwn().eval(), example, file, dynamo=False, input_names=["x"], output_names=["y"])
    tensors = {"image": "x:NHWC", "scores": "y"}
    record = parity.verify(module, file, cases, outputs=["scores"], tensors=tensors, cache=tmp_path)
    assert record.state == "pass", str(record)


def test_limits_are_those_of_the_caller(
    module: nn.Module, right: Path, cases: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    record = parity.verify(module, right, cases, limits={"max_abs": 1e-12}, cache=tmp_path)
    assert record.state == "fail"
    assert "max_abs" in record.reason


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"file": "no.onnx"}, "no.onnx: no such file"),
        ({"cases": []}, "cases: none given"),
        ({"cases": [{"image": np.zeros((1, 3))}, {"picture": np.zeros((1, 3))}]}, "'image' is not in all of them"),
        ({"cases": [{"image": np.zeros((1, 3))}, {"image": np.zeros(3)}]}, "another number of axes"),
        ({"precision": "fp8"}, "unknown precision 'fp8'; known: fp32"),
        ({"limits": {"cosin": 1.0}}, "did you mean 'cosine'"),
        ({"model": "no.pt2"}, "model: no.pt2: no such file"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_meant_is_one_line(
    module: nn.Module,
    right: Path,
    cases: list[dict[str, np.ndarray]],
    tmp_path: Path,
    changed: dict[str, Any],
    words: str,
) -> None:
    given = {"model": module, "file": right, "cases": cases, "cache": tmp_path, **changed}
    with pytest.raises(parity.ConfigError) as raised:
        parity.verify(given.pop("model"), given.pop("file"), given.pop("cases"), **given)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_module_that_cannot_be_pickled_is_told(
    right: Path, cases: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    module = nn.Identity()
    module.stream = open(right, "rb")  # noqa: SIM115
    with module.stream, pytest.raises(parity.ConfigError, match="Identity cannot be pickled"):
        parity.verify(module, right, cases, cache=tmp_path)


def test_what_a_notebook_shows_is_escaped() -> None:
    record = parity.CellRecord("a<b>", "a", "onnx", "fp32", "fail", "<script>alert(1)</script>\x1b[2J")
    shown = record._repr_html_()
    assert "<script>" not in shown
    assert "\x1b" not in shown
