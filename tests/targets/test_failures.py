"""Models that a converter cannot convert: the reason names operator and module, and no converter is asked twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from parity import config as configuration
from parity import formats as targets
from parity.core.plan import Cell
from parity.process.isolate import ChildFailure, Children
from parity.session.session import Session
from parity.store.cache import Store

MODEL = """
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = Block(function)

    def forward(self, image):
        return self.body(self.stem(image)).relu()


def bicubic():
    return Net(lambda x: functional.interpolate(x, scale_factor=2, mode="bicubic")).eval()


def determinant():
    return Net(lambda x: torch.linalg.det(x)).eval()


def bessel():
    return Net(torch.special.bessel_j0).eval()


def cut():
    return Net(lambda x: x[..., : int(x.abs().sum()) % 4 + 1]).eval()


def rounded():
    return Net(lambda x: x * (x == x.round()).float()).eval()
"""

NAMES = ("bicubic", "determinant", "bessel", "cut", "rounded")
CONFIG = """
[tool.parity]
targets = ["onnx", "tflite", "coreml", "ncnn", "exported"]
precisions = ["fp32", "fp16", "int8"]
cache = "cache"
""" + "".join(
    f"""
[tool.parity.models.{name}]
factory = "failing_models:{name}"
inputs = [{{ name = "image", shape = [1, 3, 8, 8] }}]
outputs = [{{ name = "features" }}]
golden = "images"
calibration = "images"
"""
    for name in NAMES
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    root = tmp_path_factory.mktemp("project")
    (root / "failing_models.py").write_text(MODEL)
    (root / "pyproject.toml").write_text(CONFIG)
    (root / "images").mkdir()
    rng = np.random.default_rng(5)
    for i in range(2):
        np.savez(root / "images" / f"{i}.npz", image=rng.standard_normal((1, 3, 8, 8)).astype(np.float32))
    opened = Session(configuration.load(root / "pyproject.toml", targets.facts()), "test", store=Store(root / "cache"))
    yield opened
    opened.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each converter is asked, by the name of its function."""
    counted: Counter[str] = Counter()
    call = Children.call

    def counting(self: Children, family: str, function: str, request: Any, *args: Any, **options: Any) -> Any:
        counted[getattr(request, "function", function).rpartition(":")[2]] += 1
        return call(self, family, function, request, *args, **options)

    monkeypatch.setattr(Children, "call", counting)
    return counted


def failure_of(session: Session, text: str) -> ChildFailure:
    cell = Cell(*text.split("-"))
    if reason := targets.get(cell.target).unavailable(cell, session.config.models[cell.model]):
        pytest.skip(reason)
    with pytest.raises(ChildFailure) as caught:
        session.artifact(cell)
    return caught.value


def test_an_operator_that_tflite_lacks_is_named_and_met_once_for_all_precisions(
    session: Session, asked: Counter[str]
) -> None:
    failure = failure_of(session, "bicubic-tflite-fp32")
    flex = "only TensorFlow's Flex delegate runs that"
    assert failure.reason.startswith(f"TFLite itself lacks ResizeBicubic in /body/Resize: {flex}")
    by_route = dict(text.split(": ", 1) for text in failure.routes_failed)
    # Neither loops that it does not have are unrolled, nor layouts searched that are not at fault.
    assert [*by_route] == ["torch.onnx+onnx2tf", "torch.onnx dynamo+onnx2tf"]
    assert asked["to_saved_model"] == asked["convert"] == 2
    for precision in ("fp16", "int8"):
        assert failure_of(session, f"bicubic-tflite-{precision}").reason == failure.reason
    assert asked["to_saved_model"] == asked["convert"] == 2
    assert session.made(Cell("bicubic", "tflite", "int8"))["routes_failed"] == failure.routes_failed


def test_an_operator_that_coremltools_lacks_is_named_and_met_once_for_all_precisions(
    session: Session, asked: Counter[str]
) -> None:
    failure = failure_of(session, "determinant-coreml-fp32")
    assert "for op 'linalg_det' not implemented, in body" in failure.reason
    before = asked["convert"] + asked["convert_exported"]
    assert failure_of(session, "determinant-coreml-fp16").reason == failure.reason
    assert asked["convert"] + asked["convert_exported"] == before == 3


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        ("bessel-onnx-fp32", ("'aten::special_bessel_j0'", ", in body")),
        (
            "cut-exported-fp32",
            ("the module decides by its data", ", in body at failing_models.py:", "int(x.abs().sum())"),
        ),
        ("rounded-ncnn-fp32", ("torch.eq",)),
    ],
)
def test_the_reason_names_operator_and_module(session: Session, cell: str, parts: tuple[str, ...]) -> None:
    reason = failure_of(session, cell).reason
    assert all(part in reason for part in parts), reason


def test_a_failed_export_is_met_once_for_all_precisions(session: Session, asked: Counter[str]) -> None:
    for precision in ("fp16", "int8"):
        failure_of(session, f"bessel-onnx-{precision}")
    assert asked["export"] <= 2  # by two exporters, where no test before had them tried
