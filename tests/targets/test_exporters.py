"""What one exporter cannot follow, another does: the file is right, keeps its axes, and the record names the route.

Small nets of the kinds that fail: masks made under vmap as transformers makes them, and a block of ConvNeXt.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from parity import config as configuration
from parity import formats as targets
from parity import suite
from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.proof import Proof
from parity.formats.onnx import dynamo
from parity.process.isolate import ChildFailure
from parity.process.toolchains.resolving import resolve
from parity.session.proof import proof_of
from parity.session.session import Session
from parity.store.cache import Store
from parity.suite.check_kind import CheckContext
from parity.suite.recorder import Recorder

MODEL = '''
import torch
from torch import nn
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex


def allowed(real):
    rows, places = torch.arange(real.shape[0]), torch.arange(real.shape[1])
    mask = lambda row, query, key: (key == query) | ((key < query) & real[row, key])
    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
        mask = torch.vmap(mask, axes)
    with TransformGetItemToIndex():
        return mask(rows, places, places)[:, None]


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(20, 8)
        self.norm = nn.RMSNorm(8)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, ids):
        x = self.embed(ids)
        query, key, value = (part(self.norm(x))[:, None] for part in (self.query, self.key, self.value))
        x = x + nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed(ids > 2))[:, 0]
        return self.head(x)


class Decided(Masked):
    def forward(self, ids):
        return super().forward(ids) * (2 if ids.sum() > 60 else 1)


class Crossed(nn.Module):
    """Attention between channels, whose norms onnx2tf's search for layouts trips over."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.mix, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, image):
        x = self.stem(image)
        count, channels, height, width = x.shape
        flat = self.mix(x.flatten(2).transpose(1, 2)).reshape(count, height * width, 3, 2, 4)
        query, key, value = flat.permute(2, 0, 3, 4, 1).unbind(0)
        near = nn.functional.normalize(query, dim=-1) @ nn.functional.normalize(key, dim=-1).transpose(-2, -1)
        near = near.masked_fill(~allowed(x.mean((2, 3))[:, :4] > 0), -9.0).softmax(-1)
        y = self.out((near @ value).permute(0, 3, 1, 2).reshape(count, height * width, channels))
        return x + y.transpose(1, 2).reshape(x.shape)


class Halved(nn.Module):
    """A size that is computed: a trace takes it for a constant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(20, 8)

    def forward(self, ids):
        return self.embed(ids)[:, : self.half(ids.shape[1])].mean(1)

    def half(self, size):
        return torch.sym_int(size / 2)


class Baked(Halved):
    """One that no exporter follows."""

    def half(self, size):
        return int(size) // 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.spatial = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, image):
        x = self.stem(image)
        y = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        y = self.narrow(nn.functional.gelu(self.wide(y))) * self.scale
        return x + y.permute(0, 3, 1, 2)
'''

BY_ONNX2TF = pytest.mark.skipif(not resolve("onnx2tf").python, reason="onnx2tf is not here: it needs Python 3.11")
LOST = "the trace loses values, as under torch.vmap (RuntimeError: unordered_map::at)"

CONFIG = """
[tool.parity]
targets = ["onnx", "tflite", "coreml", "exported", "torchscript"]
precisions = ["fp32", "int8"]
cache = "cache"

[tool.parity.models.masked]
factory = "models:Masked"
inputs = [{ name = "ids", shape = ["batch", "sequence"], dtype = "int64", range = [0, 19] }]
outputs = [{ name = "embedding" }]
golden = "ids"
dims = { sequence = [6, 4] }

[tool.parity.models.older]
factory = "models:Masked"
inputs = [{ name = "ids", shape = ["batch", "sequence"], dtype = "int64", range = [0, 19] }]
outputs = [{ name = "embedding" }]
golden = "ids"
opset = 17
dims = { sequence = [6, 4] }

[tool.parity.models.decided]
factory = "models:Decided"
inputs = [{ name = "ids", shape = ["batch", 6], dtype = "int64", range = [0, 19] }]
outputs = [{ name = "logits" }]
golden = "ids"

[tool.parity.models.halved]
factory = "models:Halved"
inputs = [{ name = "ids", shape = ["batch", "sequence"], dtype = "int64", range = [0, 19] }]
outputs = [{ name = "logits" }]
golden = "ids"
dims = { sequence = [6, 4] }

[tool.parity.models.baked]
factory = "models:Baked"
inputs = [{ name = "ids", shape = ["batch", "sequence"], dtype = "int64", range = [0, 19] }]
outputs = [{ name = "logits" }]
golden = "ids"
dims = { sequence = [6, 4] }

[tool.parity.models.crossed]
factory = "models:Crossed"
inputs = [{ name = "image", shape = ["batch", 3, 12, 10] }]
outputs = [{ name = "features" }]
golden = "images"

[tool.parity.models.block]
factory = "models:Block"
inputs = [{ name = "image", shape = ["batch", 3, 12, 10] }]
outputs = [{ name = "features" }]
golden = "images"
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    root = tmp_path_factory.mktemp("project")
    (root / "models.py").write_text(MODEL)
    (root / "pyproject.toml").write_text(CONFIG)
    rng = np.random.default_rng(5)
    for folder in ("ids", "images"):
        (root / folder).mkdir()
    for i in range(6):
        np.savez(root / "ids" / f"{i}.npz", ids=rng.integers(0, 20, (1, 6)))
        np.savez(root / "images" / f"{i}.npz", image=rng.standard_normal((1, 3, 12, 10)).astype(np.float32))
    opened = Session(configuration.load(root / "pyproject.toml", targets.facts()), "test", store=Store(root / "cache"))
    yield opened
    opened.close()


def proved(session: Session, cell: Cell) -> Proof:
    """The chain of proof of a cell's file, whose contract, other sizes and golden outputs were right."""
    model = session.config.models[cell.model]
    runtime, cases = session.runtime(cell), session.golden(model)
    reference = session.reference(model, cases)
    for kind in (suite.contract, suite.batch, suite.golden):
        recorder = Recorder(cell, kind.__name__.rpartition(".")[2])
        kind.run(CheckContext(runtime, recorder, golden=cases, reference=reference))
        assert recorder.verdict() == ""
    return proof_of(session, cell, cases)


@pytest.mark.parametrize(
    ("target", "route", "failed"),
    [
        ("onnx", "torch.onnx dynamo", (f"torch.onnx: export: {LOST}",)),
        pytest.param("tflite", "torch.onnx dynamo+onnx2tf", (f"torch.onnx+onnx2tf: export: {LOST}",), marks=BY_ONNX2TF),
        ("coreml", "torch.export, decomposed+coremltools", (f"coremltools: export: {LOST}",)),
        ("exported", "torch.export", ()),
    ],
)
def test_a_mask_under_vmap_is_exported_and_proved(
    session: Session, target: str, route: str, failed: tuple[str, ...]
) -> None:
    cell = Cell("masked", target, "fp32")
    if reason := targets.get(target).unavailable(cell, session.config.models["masked"]):
        pytest.skip(reason)
    proof = proved(session, cell)
    artifact = session.artifact(cell)
    assert artifact.route == route
    assert [text.partition(", at ")[0] for text in artifact.routes_failed[:1]] == list(failed)
    assert proof.state == "proved" and proof.link("lift").figures["relative_rms"] < 1e-6


def test_the_second_exporter_keeps_axes_names_and_opset_and_one_file(session: Session) -> None:
    artifact = session.artifact(Cell("masked", "onnx", "fp32"))
    model = onnx.load(str(artifact.entry))
    axes = [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", "sequence"]
    assert [o.name for o in model.graph.output] == ["embedding"]  # an operator's result has that name too
    assert model.opset_import[0].version == 18
    assert [file.path for file in artifact.record.files] == ["model.onnx"]


def test_a_block_of_convnext_becomes_a_right_tflite_file_by_the_first_route(session: Session) -> None:
    """onnx2tf calls a layer's LayerNormalization inside of its own layers, where nobody tracks its variables."""
    cell = Cell("block", "tflite", "fp32")
    assert proved(session, cell).state == "proved"
    assert session.artifact(cell).routes_failed == ()


@BY_ONNX2TF
def test_where_the_search_for_layouts_fails_the_plain_conversion_is_right(session: Session) -> None:
    cell = Cell("crossed", "tflite", "fp32")
    assert proved(session, cell).state == "proved"
    artifact = session.artifact(cell)
    assert artifact.route == "torch.onnx dynamo+onnx2tf, uncorrected"
    assert [failed.partition(": ")[0] for failed in artifact.routes_failed] == [
        "torch.onnx+onnx2tf",
        "torch.onnx dynamo+onnx2tf",
    ]


@BY_ONNX2TF
def test_where_no_exporter_follows_each_reason_is_told_once(session: Session) -> None:
    with pytest.raises(ChildFailure) as caught:
        session.artifact(Cell("decided", "tflite", "fp32"))
    assert caught.value.reason.startswith(LOST) and caught.value.reason.endswith("(1 other route failed too)")
    first, second = caught.value.routes_failed
    assert first.startswith(f"torch.onnx+onnx2tf: export: {LOST}")
    assert second.startswith("torch.onnx dynamo+onnx2tf: export: the module decides by its data")


def test_an_older_opset_is_written_where_it_is_asked_for(session: Session) -> None:
    """torch fails to convert reductions down and keeps its own opset; onnx's converter loses their axes."""
    cell = Cell("older", "onnx", "fp32")
    assert proved(session, cell).state == "proved"
    model = onnx.load(str(session.artifact(cell).entry))
    assert model.opset_import[0].version == 17
    assert "ReduceMean" in {node.op_type for node in model.graph.node}


def test_an_axis_that_was_fixed_is_refused(session: Session) -> None:
    """As torch.onnx fixes the batch of an example of one row."""
    file = session.artifact(Cell("masked", "onnx", "fp32")).entry
    contract = {"inputs": [{"name": "ids", "shape": ["batch", "sequence"]}], "outputs": [{"name": "embedding"}]}
    options = {"opset": 18, "dynamic": True}
    dynamo.check(file, contract, options)
    fixed = onnx.load(str(file))
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    other = file.parent.parent / "fixed.onnx"
    onnx.save(fixed, str(other))
    with pytest.raises(ParityError, match="fixed the axis 'batch' of 'ids' at 1"):
        dynamo.check(other, contract, options)
    with pytest.raises(ParityError, match="wrote opset 18 where 16 was asked for"):
        dynamo.check(file, contract, {"opset": 16, "dynamic": True})


def by_batch(session: Session, cell: Cell) -> str:
    """What running the cell's file at other sizes says against it."""
    recorder = Recorder(cell, "batch")
    golden = session.golden(session.config.models[cell.model])
    suite.batch.run(CheckContext(session.runtime(cell), recorder, golden=golden))
    return recorder.verdict()


def test_a_size_that_the_trace_bakes_is_kept_by_the_other_exporter(session: Session) -> None:
    cell = Cell("halved", "onnx", "fp32")
    artifact = session.artifact(cell)
    assert artifact.route == "torch.onnx dynamo", artifact.routes_failed
    (failed,) = artifact.routes_failed
    assert failed.startswith("torch.onnx: export: torch.onnx baked sizes in: at batch=5, sequence=4 'logits'")
    assert by_batch(session, cell) == ""


def test_a_file_whose_sizes_every_exporter_bakes_is_judged_all_the_same(session: Session) -> None:
    cell = Cell("baked", "onnx", "fp32")
    artifact = session.artifact(cell)
    assert artifact.route == "torch.onnx, other sizes untried"
    traced, exported = artifact.routes_failed
    assert "torch.onnx baked sizes in" in traced and "fixed the axis 'sequence' of 'ids' at 6" in exported
    assert "sequence=4" in by_batch(session, cell)
