"""ONNX: exported by torch.onnx, quantised and halved by ONNX Runtime's own tools, run by ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from parity.core.plan import Cell
from parity.core.settings import Config, ModelConfig
from parity.files.onnx_external import external_files
from parity.formats.target import Route, Step, Target


class Onnx(Target):
    name: ClassVar[str] = "onnx"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "dynamic", "int8")
    requires: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxruntime")
    extra: ClassVar[str] = "onnx"
    session: ClassVar[str] = "parity.formats.onnx.runtime:OrtSession"
    family: ClassVar[str] = "onnxruntime"
    runtime_package: ClassVar[str] = "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxruntime")
    order: ClassVar[int] = 10
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    unmarked: ClassVar[str] = "fp32"
    graph: ClassVar[str] = "parity.formats.onnx.graph:OnnxArtefact"
    survey: ClassVar[str] = "parity.formats.onnx.survey:survey"
    steps: ClassVar[str] = "parity.formats.onnx.steps:OnnxSteps"
    draft: ClassVar[str] = "parity.formats.onnx.draft:OnnxDraft"
    script: ClassVar[str] = "parity.formats.onnx.script:lines"

    def files(self, path: Path) -> tuple[Path, ...]:
        """The file, and those that hold its weights."""
        return (path, *external_files(path))

    def published(self, name: str, notes: Mapping[str, Any], files: Sequence[str]) -> dict[str, str]:
        """A file whose weights are beside it gets a folder of its own: it knows them by a name that another file of the
        same export may use too."""
        places = super().published(name, notes, files)
        return {file: f"{name}/{place}" for file, place in places.items()} if len(places) > 1 else places

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        first = export_step(model, dynamic=True)
        convert = {
            "fp16": Step("fp16", self.family, "parity.formats.onnx.convert:to_fp16", ("onnx", "onnxruntime")),
            "dynamic": Step("dynamic", self.family, "parity.formats.onnx.convert:to_dynamic", ("onnx", "onnxruntime")),
            "int8": Step(
                "int8", self.family, "parity.formats.onnx.convert:to_int8", ("onnx", "onnxruntime"), calibration=True
            ),
        }
        steps = (first, convert[cell.precision]) if cell.precision in convert else (first,)
        return [Route(origin(model) + ("+onnxruntime" if len(steps) > 1 else ""), steps)]


def origin(model: ModelConfig) -> str:
    """What the first step of a route through ONNX is: a converter, or the ONNX file that is the reference itself."""
    return "the reference file" if model.reference and model.reference.suffix == ".onnx" else "torch.onnx"


def export_step(model: ModelConfig, *, dynamic: bool) -> Step:
    """The step that traces the model to ONNX, with its declared dynamic axes or with every axis fixed."""
    return Step(
        "onnx" if dynamic else "onnx-static",
        "torch",
        "parity.formats.onnx.convert:export",
        ("torch", "onnx"),
        {"opset": model.opset, "dynamic": dynamic},
        stage="export",
    )
