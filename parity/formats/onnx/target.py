"""ONNX: exported by torch.onnx, quantised and halved by ONNX Runtime's own tools, run by ONNX Runtime on the CPU.

torch.onnx has two exporters: one traces the module, the other goes through torch.export. The first is taken whose file
keeps the declared axes, which is tried by running it at other sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from parity.core.plan import Cell
from parity.core.settings import REFERENCE_KINDS, Config, ModelConfig
from parity.files.onnx_external import external_files
from parity.formats.target import Route, Step, Target

TRACED_OPSET = 17
"""What a traced file has where none is asked for."""
NATIVE_OPSET = 18
"""What `torch.onnx.export(dynamo=True)` writes; an older opset is converted from it where it is asked for."""


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
    executors: ClassVar[tuple[str, ...]] = ("arm64",)
    survey: ClassVar[str] = "parity.formats.onnx.survey:survey"
    constants: ClassVar[str] = "parity.formats.onnx.survey:constants"
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
        convert = {
            "fp16": Step("fp16", self.family, "parity.formats.onnx.convert:to_fp16", ("onnx", "onnxruntime")),
            "dynamic": Step("dynamic", self.family, "parity.formats.onnx.convert:to_dynamic", ("onnx", "onnxruntime")),
            "int8": Step(
                "int8", self.family, "parity.formats.onnx.convert:to_int8", ("onnx", "onnxruntime"), calibration=True
            ),
        }
        exports = export_routes(model, dynamic=True)
        if cell.precision not in convert:
            return exports
        return [Route(f"{e.name}+onnxruntime", (*e.steps, convert[cell.precision])) for e in exports]


def export_routes(model: ModelConfig, *, dynamic: bool) -> list[Route]:
    """The ways to an ONNX file, the one to try first at the head: with the declared dynamic axes, or every axis fixed.

    An ONNX reference is the file itself. TorchScript has been traced already: there is nothing that a trace could not
    follow.
    """
    kind = REFERENCE_KINDS.get(model.reference.suffix) if model.reference else None
    traced = _traced_step(model, dynamic=dynamic)
    if kind == "ONNX":
        return [Route("the reference file", (traced if dynamic else _fixed_step(),))]
    routes = [Route("torch.onnx", (traced,))]
    if kind != "TorchScript":
        routes.append(Route("torch.onnx dynamo", (_dynamo_step(model, dynamic=dynamic),)))
    if dynamic and model.contract.sizes():
        # Where no exporter keeps the axes, the cell is judged by the first one's file, at the sizes that it has.
        routes.append(Route("torch.onnx, other sizes untried", (_traced_step(model, dynamic=True, tried=False),)))
    return routes


def _traced_step(model: ModelConfig, *, dynamic: bool, tried: bool = True) -> Step:
    """The step that traces; with declared axes the file is `tried` at other sizes than the example's."""
    options = {"opset": model.opset or TRACED_OPSET, "dynamic": dynamic}
    return Step(
        "onnx" if dynamic else "onnx-static",
        "torch",
        "parity.formats.onnx.convert:export",
        ("torch", "onnx", "onnxruntime") if dynamic else ("torch", "onnx"),
        options if tried else {**options, "tried": False},
        stage="export",
    )


def _fixed_step() -> Step:
    """The step that writes an ONNX reference with every axis fixed, for onnx2tf and by what its toolchain holds."""
    function, packages = "parity.formats.onnx.convert:fix_sizes", ("onnx", "onnxsim")
    return Step("onnx-fixed", "tensorflow", function, packages, stage="export", toolchain="onnx2tf")


def _dynamo_step(model: ModelConfig, *, dynamic: bool) -> Step:
    """The step that exports by way of torch.export. At fixed sizes the file is another converter's to read: its opset
    is not the user's to see, and what is not converted down cannot suffer by it."""
    opset = model.opset or NATIVE_OPSET
    return Step(
        "onnx-dynamo" if dynamic else "onnx-dynamo-static",
        "torch",
        "parity.formats.onnx.dynamo:export",
        ("torch", "onnx", "onnxscript", "onnxruntime") if dynamic else ("torch", "onnx", "onnxscript"),
        {"opset": opset if dynamic else max(opset, NATIVE_OPSET), "dynamic": dynamic},
        stage="export",
    )
