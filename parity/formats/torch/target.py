"""TorchScript and ExportedProgram: PyTorch's own files, traced or exported, and run by PyTorch itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from parity.core.plan import Cell
from parity.core.settings import Config, ModelConfig
from parity.formats.target import Route, Step, Target


class TorchScript(Target):
    name: ClassVar[str] = "torchscript"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    extra: ClassVar[str] = "torch"
    session: ClassVar[str] = "parity.formats.torch.runtime:ScriptSession"
    family: ClassVar[str] = "torch-runtime"
    runtime_package: ClassVar[str] = "torch"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    order: ClassVar[int] = 60
    suffixes: ClassVar[tuple[str, ...]] = (".pt", ".ts", ".jit", ".pth")
    signature: ClassVar[str] = "parity.formats.torch.runtime:script_signature"
    graph: ClassVar[str] = "parity.formats.torch.graph:ScriptArtefact"
    survey: ClassVar[str] = "parity.formats.torch.survey:script"
    script: ClassVar[str] = "parity.formats.torch.script:script_lines"

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        return [Route("torch.jit.trace", (trace_step(half=cell.precision == "fp16"),))]


class Exported(Target):
    name: ClassVar[str] = "exported"
    starts_from: ClassVar[tuple[str, ...]] = ("ExportedProgram",)
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    extra: ClassVar[str] = "torch"
    session: ClassVar[str] = "parity.formats.torch.runtime:ProgramSession"
    family: ClassVar[str] = "torch-runtime"
    runtime_package: ClassVar[str] = "torch"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    order: ClassVar[int] = 61
    suffixes: ClassVar[tuple[str, ...]] = (".pt2",)
    signature: ClassVar[str] = "parity.formats.torch.runtime:program_signature"
    graph: ClassVar[str] = "parity.formats.torch.graph:ProgramArtefact"
    survey: ClassVar[str] = "parity.formats.torch.survey:program"
    steps: ClassVar[str] = "parity.formats.torch.steps:ProgramSteps"
    script: ClassVar[str] = "parity.formats.torch.script:program_lines"

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        def route(name: str, dynamic: bool) -> Route:
            return Route(name, (export_step(dynamic=dynamic, half=cell.precision == "fp16"),))

        # A model whose graph cannot carry its dynamic axes is exported at fixed sizes, and the record says so.
        return [route("torch.export", True), route("torch.export, fixed sizes", False)]


def export_step(*, dynamic: bool = False, half: bool = False) -> Step:
    """The step that exports the model to an ExportedProgram; also the first step of routes that read one."""
    options = {"half": half, "dynamic": dynamic}
    return Step("program", "torch", "parity.formats.torch.convert:export_program", ("torch",), options, stage="export")


def trace_step(*, half: bool = False) -> Step:
    """The step that traces the model to a TorchScript file; also the first step of routes that read one."""
    name = "torchscript-fp16" if half else "torchscript"
    return Step(name, "torch", "parity.formats.torch.convert:trace", ("torch",), {"half": half}, stage="export")
