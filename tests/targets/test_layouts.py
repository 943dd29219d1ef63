"""Layouts in onnx2tf's files: told by sizes and by the ONNX graph, where sizes coincide too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from parity import config as configuration
from parity import formats as targets
from parity.core.plan import Cell
from parity.formats.tflite import layout
from parity.session.session import Session
from parity.store.cache import Store

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.strided = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 6, 3, stride=2, padding=1)
        self.head, self.embed = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, mel, tokens):
        maps = self.first(mel).relu()
        embedded = self.embed(tokens)
        return maps, self.strided(maps), self.head(maps.transpose(1, 2)), embedded, embedded.softmax(-1)

def net():
    return Net().eval()
"""

CONFIG = """
[tool.parity]
targets = ["tflite"]
precisions = ["fp32"]
[tool.parity.models.net]
factory = "models:net"
inputs = [{ name = "mel", shape = ["batch", 8, 8] }, { name = "tokens", shape = ["batch", 8, 8] }]
outputs = [{ name = "maps" }, { name = "half" }, { name = "frames" }, { name = "embedded" }, { name = "weights" }]
"""


@pytest.mark.slow
def test_what_stays_and_what_turns_is_declared(tmp_path: Path) -> None:
    pytest.importorskip("onnx2tf")
    (tmp_path / "models.py").write_text(MODEL)
    (tmp_path / "pyproject.toml").write_text(CONFIG)
    config = configuration.load(tmp_path / "pyproject.toml", targets.facts())
    session = Session(config, "test", store=Store(tmp_path / "cache"))
    try:
        runtime = session.runtime(Cell("net", "tflite", "fp32")).open()
        notes = runtime.artifact.notes
        assert [notes["outputs"][n].get("layout") for n in ("maps", "half", "frames", "embedded", "weights")] == [
            "NLC", "NLC", None, None, None,
        ]  # fmt: skip
        assert [notes["inputs"][n].get("layout") for n in ("mel", "tokens")] == [None, None]
        rng = np.random.default_rng(0)
        case = {name: rng.standard_normal((1, 8, 8)).astype(np.float32) for name in ("mel", "tokens")}
        (got,) = runtime.run([case])
    finally:
        session.close()
    scope: dict[str, object] = {}
    exec(MODEL, scope)
    with torch.no_grad():
        want = scope["net"]()(*map(torch.from_numpy, case.values()))  # type: ignore[operator]
    for name, value in zip(("maps", "half", "frames", "embedded", "weights"), want, strict=True):
        np.testing.assert_allclose(got[name], value.numpy(), atol=1e-5, err_msg=name)


class Lengthwise(nn.Module):
    """From `x` [1, 4, 4]: feature maps at several places, and tensors that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        map1 = self.one(nn.functional.pad(x * 2, (1, 1)))[:, :, 1:-1]
        map2 = self.two(map1[:, :, None].expand(-1, -1, 4, -1))
        scores = tokens @ tokens.transpose(1, 2)
        turned = map1.transpose(1, 2)
        return map1.tanh(), map2, map2.mean(2), map2.mean(1), turned, turned.softmax(-1).transpose(1, 2), scores


def test_feature_maps_are_followed_through_the_graph(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    file = str(tmp_path / "m.onnx")
    names = ["tanh", "map2", "rows", "pooled", "turned", "back", "scores"]
    torch.onnx.export(
        Lengthwise().eval(), (torch.rand(1, 4, 4), torch.rand(1, 4, 4)), file, dynamo=False, opset_version=17,
        input_names=["x", "tokens"], output_names=names,
    )  # fmt: skip
    graph = onnx.shape_inference.infer_shapes(onnx.load(file)).graph
    assert layout.maps_read(graph) == {"x"}
    assert layout.maps_written(graph) == {"tanh", "map2", "rows", "back"}


@pytest.mark.parametrize(
    ("sizes", "stored", "is_map", "want"),
    [
        ((1, 6, 8), (1, 8, 6), False, "NLC"),  # sizes tell
        ((1, 6, 8), (1, 6, 8), True, None),
        ((1, 8, 8), (1, 8, 8), True, "NLC"),  # the graph tells
        ((1, 8, 8), (1, 8, 8), False, None),
        ((1, 6, 8), (1, None, None), True, "NLC"),  # sizes that the file leaves open do not tell
        ((1, 6, 8), (1, None, 8), True, None),
        ((1, 6, 8, 4, 4), (1, 8, 4, 4, 6), False, "NDHWC"),
        ((1, 8, 8, 8), (1, 8, 8, 8), False, None),
        ((1, 6, 8), (1, 48), True, None),
        ((2, 1, 1), (2, 1, 1), True, None),
        ((4,), (4,), True, None),
        ((), (), True, None),
    ],
)
def test_sizes_tell_first(
    sizes: tuple[int, ...], stored: tuple[int | None, ...], is_map: bool, want: str | None
) -> None:
    assert layout.declared("y", sizes, stored, is_map).get("layout") == want
