"""How a file's metadata says that a picture becomes its input, against `preprocess`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import config as configuration
from parity import formats as targets
from parity import suite
from parity.core.plan import Cell
from parity.formats.pictures import of_onnx, of_tflite
from parity.suite.recorder import Recorder

CONFIG = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32"]
[tool.parity.models.net]
factory = "nets:net"
inputs = [{ name = "x", shape = [1, 3, 8, 8] }]
outputs = [{ name = "y" }]
preprocess = PREPROCESS
"""
IMAGENET = '{ color = "RGB", mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }'
SIGNED = '{ color = "RGB", mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }'
RAW = '{ color = "BGR", scale = 1.0 }'


def tflite(mean: list[float], std: list[float], color: int) -> bytes:
    """A TFLite model that holds nothing but TFLITE_METADATA, as TensorFlow Lite's metadata writer lays it out."""
    flatbuffers = pytest.importorskip("flatbuffers")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

    class Builder(flatbuffers.Builder):  # type: ignore[misc]
        def vector(self, values: list[Any], prepend: str) -> int:
            self.StartVector(4, len(values), 4)
            for value in reversed(values):
                getattr(self, prepend)(value)
            return int(self.EndVector())

        def table(self, size: int, **slots: tuple[str, int]) -> int:
            self.StartObject(size)
            for slot, (kind, value) in slots.items():
                getattr(self, f"Prepend{kind}Slot")(int(slot[1:]), value, 0)
            return int(self.EndObject())

    b, at = Builder(1024), "UOffsetTRelative"
    numbers = [b.vector(side, "PrependFloat32") for side in (mean, std)]
    options = b.table(2, _0=(at, numbers[0]), _1=(at, numbers[1]))
    units = b.vector([b.table(2, _0=("Uint8", 1), _1=(at, options))], f"Prepend{at}")
    image = b.table(2, _0=("Int8", color))
    content = b.table(3, _0=("Uint8", 2), _1=(at, image))
    tensors = b.vector([b.table(7, _3=(at, content), _4=(at, units))], f"Prepend{at}")
    graphs = b.vector([b.table(8, _2=(at, tensors))], f"Prepend{at}")
    b.Finish(b.table(8, _3=(at, graphs)), b"M001")
    model, entry, held = schema.ModelT(), schema.MetadataT(), schema.BufferT()
    held.data = np.frombuffer(bytes(b.Output()), np.uint8)
    entry.name, entry.buffer = b"TFLITE_METADATA", 1
    model.buffers, model.metadata = [schema.BufferT(), held], [entry]
    whole = flatbuffers.Builder(1024)
    whole.Finish(model.Pack(whole), b"TFL3")
    return bytes(whole.Output())


def warnings_of(root: Path, preprocess: str, picture: dict[str, Any]) -> list[str]:
    (root / "pyproject.toml").write_text(CONFIG.replace("PREPROCESS", preprocess))
    config = configuration.load(root / "pyproject.toml", targets.facts())
    recorder = Recorder(Cell("net", "onnx", "fp32"), "contract")
    suite.contract._picture(config.models["net"], picture, recorder)
    return [finding.text for finding in recorder.findings if finding.level == "warning"]


@pytest.mark.parametrize(
    ("preprocess", "mean", "std", "color", "warned"),
    [
        (IMAGENET, [127.5], [127.5], 1, True),
        (IMAGENET, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375], 1, False),
        (SIGNED, [127.5], [127.5], 1, False),
        (SIGNED, [127.0], [128.0], 1, False),  # as older examples have it
        (SIGNED, [127.5], [127.5], 2, True),
        (SIGNED, [0.0], [255.0], 1, True),
        (RAW, [0.0], [1.0], 0, False),
    ],
)
def test_tflite_metadata(
    tmp_path: Path, preprocess: str, mean: list[float], std: list[float], color: int, warned: bool
) -> None:
    found = warnings_of(tmp_path, preprocess, of_tflite(tflite(mean, std, color)))
    assert len(found) == warned, found
    if warned:
        assert f"mean {mean[0]:g}, std {std[0]:g} of pixels; preprocess says: RGB, pixels / 255, mean 0." in found[0]


@pytest.mark.parametrize(
    ("preprocess", "pixels", "span", "warned"),
    [
        (IMAGENET, "Bgr8", "NominalRange_0_255", True),
        (SIGNED, "Rgb8", "Normalized_1_1", False),
        (SIGNED, "Rgb8", "Normalized_0_1", True),
        (RAW, "Bgr8", "NominalRange_0_255", False),
        (RAW, "Rgba8", "NominalRange_0_255", True),
    ],
)
def test_onnx_metadata(tmp_path: Path, preprocess: str, pixels: str, span: str, warned: bool) -> None:
    picture = of_onnx({"Image.BitmapPixelFormat": pixels, "Image.NominalPixelRange": span})
    found = warnings_of(tmp_path, preprocess, picture)
    assert len(found) == warned, found
    assert not warned or f"{pixels}, {span}; preprocess says:" in found[0]


def test_a_file_without_metadata_or_with_broken_metadata_says_nothing(tmp_path: Path) -> None:
    whole = tflite([127.5], [127.5], 1)
    assert of_onnx({"author": "x"}) == {} and warnings_of(tmp_path, IMAGENET, {}) == []
    for cut in range(8, len(whole), 16):
        assert isinstance(of_tflite(whole[:cut]), dict)
