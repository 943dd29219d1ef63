"""The faults: a sentence each, the public thread that tells of it, the model, and how the artefact comes to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from tests.faults.corpus import models as m

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Input:
    name: str
    shape: Shape
    range: tuple[float, float] = (-3.0, 3.0)
    dtype: str = "float32"


@dataclass(frozen=True)
class Fault:
    """A reported fault. `right` makes the model, `faulty` the module whose export is the faulty artefact.

    `faulty` None: the exporter that this project uses has the fault today, and the cell is exported as usual.
    `static`: declared axes are not told to the exporter. `make`: how the artefact is written (`project`). A golden case
    is drawn from `ordinary` (a share of the range), as a small project's few golden files are.
    """

    name: str
    thread: str
    sentence: str
    right: Callable[[], nn.Module]
    faulty: Callable[[], nn.Module] | None
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...] = ("y",)
    cell: str = "onnx-fp32"
    dims: dict[str, list[int]] | None = None
    static: bool = False
    control: bool = True  # whether a right artefact of the same model can be made in the same way
    make: str = "onnx"
    ordinary: float = 0.5
    kind: str = "dense"

    def example(self, name: str) -> Shape:
        spec = next(i for i in self.inputs if i.name == name)
        sizes: dict[Any, int] = {axis: (self.dims or {}).get(axis, [1])[0] for axis in self._axes()}
        return tuple(sizes.get(d, d) for d in spec.shape)

    def _axes(self) -> list[str]:
        return [d for i in self.inputs for d in i.shape if isinstance(d, str)]


IMAGE = (Input("image", ("batch", 3, 8, 8), (0.0, 1.0)),)
STEPS = (Input("x", ("batch", "steps", 6)),)
LENGTHS = {"batch": [1, 2, 3, 5], "steps": [12, 1, 7, 20]}
ROW6, ROW16 = (Input("x", ("batch", 6)),), (Input("x", ("batch", 16)),)
GITHUB = "https://github.com/"

FAULTS = (
    Fault("batch_fixed", "pytorch/pytorch/issues/157621", "A dynamic batch axis is exported as the example's size 1.",
          m.picture, m.picture, IMAGE, static=True),
    Fault("steps_frozen", "pytorch/pytorch/issues/191855", "The example's number of time steps is a constant inside.",
          m.positions, m.positions_frozen, STEPS, dims=LENGTHS),
    Fault("encoder_fixed", "pytorch/pytorch/issues/110347", "A sequence model takes the example's length only.",
          m.sequence, m.sequence, STEPS, dims=LENGTHS, static=True),
    Fault("positions_cached", "neuralmagic/sparseml/pull/1826", "Positions beyond the example's length are not known.",
          m.positions, m.positions_cached, STEPS, dims=LENGTHS),
    Fault("output_fixed_length", "idiap/coqui-ai-TTS/issues/315", "The output has the example's length, cut or padded.",
          m.sequence, m.padded_output, STEPS, dims=LENGTHS),
    Fault("branch_frozen", "ccdv-ai/convert_checkpoint_to_lsg/issues/15", "Tracing keeps the branch for short inputs.",
          m.attention, m.attention, STEPS, dims={"batch": [1, 2, 3, 5], "steps": [6, 1, 12, 20]}, control=False),
    Fault("first_state_fixed", "microsoft/onnxruntime/issues/19270", "The initial state has the example's batch size.",
          m.begun, m.begun_one_row, STEPS, dims=LENGTHS),
    Fault("rows_wrong", "tensorflow/tensorflow/issues/51561", "Of a batch only the first row is right.",
          m.sequence, m.sequence_first_row, STEPS, dims=LENGTHS),
    Fault("input_folded", "facebookresearch/detectron2/pull/4237", "An input became a constant of the graph.",
          m.scaled, m.scaled, (*ROW6, Input("scale", (1,), (0.5, 2.0))), control=False),
    Fault("mask_ignored", "microsoft/onnxruntime/issues/6044", "The attention mask has no effect on padded rows.",
          m.masked, m.mask_ignored, (*STEPS, Input("mask", ("batch", "steps"), (0, 1), "int32")), dims=LENGTHS),
    Fault("state_leaks", "alibaba/MNN/issues/4447", "A second call begins with the state that the first one left.",
          m.recurrent, m.recurrent_leaky, STEPS, dims=LENGTHS, cell="torchscript-fp32", make="script"),
    Fault("average_pool_edge", "pytorch/pytorch/issues/183528", "The last row and column of a pool count its overhang.",
          m.average_pool, m.average_pool, (Input("x", ("batch", 2, "height", "width")),),
          dims={"height": [7, 8, 11], "width": [9, 10, 5]}, control=False),
    Fault("resize_to_one", "pytorch/pytorch/issues/183523", "A resize to one pixel takes a corner, not the middle.",
          m.one_pixel, m.corner_pixel, (Input("x", ("batch", 2, 6, 5)),)),
    Fault("same_padding", "taehoonlee/tensornets/issues/25", "SAME padding for symmetric padding at stride 2.",
          m.strided, m.strided_same, IMAGE),
    Fault("relu6_unclipped", "Tencent/ncnn/issues/1609", "ReLU6 became a clip to plus and minus 3.4e38.",
          m.relu6, m.relu6_lost, (Input("x", ("batch", 8), (-12.0, 12.0)),), ordinary=0.1),
    Fault("remainder_sign", "pytorch/pytorch/pull/64230", "The remainder has the sign of the dividend.",
          m.remainder, m.remainder_truncated, (Input("x", ("batch", 6), (-9.0, 9.0)),)),
    Fault("floor_division", "pytorch/pytorch/issues/44692", "Integer division rounds towards zero.",
          m.floor_division, m.truncated_division, (Input("x", ("batch", 6), (-20, 20), "int32"),)),
    Fault("ties", "pytorch/pytorch/issues/32343", "Of equal maxima another index is chosen.",
          m.first_maximum, m.last_maximum, ROW6),
    Fault("atan2_quadrant", "apple/coremltools/pull/2769", "atan2(0, x) for negative x is 0 instead of pi.",
          m.angle, None, (Input("rise", (4,)), Input("run", (4,))), ("angle",), cell="coreml-fp32"),
    Fault("reciprocal_epsilon", "apple/coremltools/pull/2773", "1 / x is converted to 1 / (x + 1e-4).",
          m.reciprocal, None, (Input("x", (16,)),), cell="coreml-fp32"),
    Fault("rms_norm_epsilon", "apple/coremltools/issues/2821", "RMSNorm's epsilon grows with the largest element.",
          m.rms_norm, m.rms_norm_inflated, ROW16),
    Fault("variance_overflow", "facebookresearch/ConvNeXt/issues/80", "LayerNorm's squares overflow in float16.",
          m.layer_norm, m.layer_norm_half, (Input("x", ("batch", 16), (-600.0, 600.0)),), make="trace",
          cell="torchscript-fp16",
          ordinary=0.05),
    Fault("epsilon_vanishes", "pytorch/pytorch/issues/41527", "LayerNorm's epsilon is 0 in float16: flat is NaN.",
          m.tiny_epsilon, m.tiny_epsilon_half, ROW16, cell="onnx-fp16"),
    Fault("normalize_zero", "pytorch/pytorch/issues/32137", "normalize's epsilon is 0 in float16: zeros give NaN.",
          m.unit, m.unit_half, ROW16, cell="onnx-fp16"),
    Fault("dropout_live", "microsoft/onnxruntime/issues/4589", "Exported in training mode: dropout is alive.",
          m.picture, m.picture_dropout, IMAGE, cell="torchscript-fp32", make="trace"),
    Fault("outputs_reordered", "tensorflow/tensorflow/issues/33303", "Two outputs of one shape change places.",
          m.two_outputs, m.two_outputs_swapped, ROW6, ("a", "b")),
    Fault("labels_shifted", "ultralytics/yolov5/issues/251", "The classes stand in another order than the labels.",
          m.picture, m.picture_rotated, IMAGE, ("logits",), kind="logits"),
    Fault("half_weights", "Tencent/ncnn/pull/4350", "A float32 file holds weights rounded to float16.",
          m.picture, m.picture_halved, IMAGE),
    Fault("calibration_range", "PINTO0309/onnx2tf/issues/942", "int8 ranges come from data of another size.",
          m.classifier, m.classifier, (Input("x", ("batch", 16)),), cell="onnx-int8", make="int8"),
    Fault("shared_scale", "ultralytics/ultralytics/pull/25524", "Boxes and scores share one int8 scale.",
          m.detector, m.detector, (Input("x", ("batch", 16)),), cell="onnx-int8", make="int8", control=False),
)  # fmt: skip


def by_name(name: str) -> Fault:
    return next(f for f in FAULTS if f.name == name)
