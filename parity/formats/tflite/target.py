"""TFLite: torch.onnx, then onnx2tf to a SavedModel, then TensorFlow's own converter; run by LiteRT.

Exported with every axis fixed: onnx2tf breaks recurrent and attention models whose batch is dynamic. Images are
NHWC on the way in and out, as every TFLite app expects; that layout is declared in the artefact's notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from parity.core.plan import Cell
from parity.core.settings import REFERENCE_KINDS, Config, ModelConfig
from parity.formats.onnx.target import export_routes
from parity.formats.target import Route, Step, Target
from parity.formats.torch.target import export_step

UNROLLED = "loops unrolled"
"""TensorFlow 2.19 segfaults when it quantises the loop of a recurrent layer; without the loop it does not."""
TENSORFLOW = ("tensorflow", "tensorflow-cpu")
"""The distributions that hold TensorFlow; the second one's Linux files lack 400 MB of kernels for GPUs."""
RECURRENT = ("GRU", "LSTM", "RNN")
UNCORRECTED = "uncorrected"
"""onnx2tf compares each operator with ONNX Runtime and tries other layouts until they agree. On some graphs that search
itself fails, and the plain conversion is right."""


class TFLite(Target):
    name: ClassVar[str] = "tflite"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "dynamic", "int8")
    requires: ClassVar[tuple[str, ...]] = ("torch", "onnx", "ai_edge_litert")
    extra: ClassVar[str] = "tflite"
    session: ClassVar[str] = "parity.formats.tflite.runtime:LiteRtSession"
    family: ClassVar[str] = "litert"
    runtime_package: ClassVar[str] = "ai-edge-litert"
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnx2tf", *TENSORFLOW, "ai-edge-litert")
    order: ClassVar[int] = 20
    suffixes: ClassVar[tuple[str, ...]] = (".tflite",)
    kernels: ClassVar[tuple[str, ...]] = ("XNNPACK", "builtin", "reference")
    toolchains: ClassVar[tuple[str, ...]] = ("onnx2tf", "litert")
    delegate: ClassVar[str] = "Flex"
    signature: ClassVar[str] = "parity.formats.tflite.runtime:signature"
    graph: ClassVar[str] = "parity.formats.tflite.graph:TFLiteArtefact"
    executors: ClassVar[tuple[str, ...]] = ("arm64", "gpu")
    on_gpu: ClassVar[str] = "parity.formats.tflite.gpu:LiteRtGpuSession"
    survey: ClassVar[str] = "parity.formats.tflite.survey:survey"
    constants: ClassVar[str] = "parity.formats.tflite.survey:constants"
    steps: ClassVar[str] = "parity.formats.tflite.steps:TFLiteSteps"
    draft: ClassVar[str] = "parity.formats.tflite.draft:TFLiteDraft"
    script: ClassVar[str] = "parity.formats.tflite.script:lines"
    fixed_dims: ClassVar[bool] = True

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        def by_onnx(export: Route, how: str = "") -> Route:
            saved = Step(
                f"savedmodel-{how.replace(' ', '-')}" if how else "savedmodel",
                "tensorflow",
                "parity.formats.tflite.convert:to_saved_model",
                ("onnx2tf", *TENSORFLOW),
                {"unrolled": how == UNROLLED, **({"corrected": False} if how == UNCORRECTED else {})},
                toolchain="onnx2tf",
            )
            convert = Step(
                cell.precision,
                "tensorflow",
                "parity.formats.tflite.convert:convert",
                TENSORFLOW,
                {"precision": cell.precision},
                calibration=cell.precision == "int8",
                toolchain="onnx2tf",
            )
            name = f"{export.name}+onnx2tf" + (f", {how}" if how else "")
            return Route(name, (*export.steps, saved, convert), RECURRENT if how == UNROLLED else ())

        first, *others = export_routes(model, dynamic=False)
        routes = [by_onnx(first), by_onnx(first, UNROLLED), *map(by_onnx, others)]
        routes += [by_onnx(export, UNCORRECTED) for export in (first, *others)]
        if not model.reference or REFERENCE_KINDS.get(model.reference.suffix) == "ExportedProgram":
            routes.append(_by_litert(cell.precision))
        return routes


def _by_litert(precision: str) -> Route:
    """The exported program to a file by litert-torch, which ai-edge-quantizer then makes smaller. The program is what
    travels: the toolchain has neither the user's code nor what that imports."""
    family, chain = "litert-torch", "litert"
    convert = Step(
        "litert",
        family,
        "parity.formats.tflite.convert:convert_program",
        ("litert-torch", "torch"),
        toolchain=chain,
    )
    if precision == "fp32":
        return Route("torch.export+litert-torch", (export_step(), convert))
    quantise = Step(
        f"litert-{precision}",
        family,
        "parity.formats.tflite.quantise:quantise",
        ("ai-edge-quantizer",),
        {"precision": precision},
        calibration=precision == "int8",
        toolchain=chain,
    )
    return Route("torch.export+litert-torch+ai-edge-quantizer", (export_step(), convert, quantise))
