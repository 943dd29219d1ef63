"""NCNN: traced, converted by the pnnx binary, run by the ncnn wheel. The batch dimension does not exist there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from parity.core.plan import Cell
from parity.core.settings import Config, ModelConfig
from parity.files.ncnn import weights_of
from parity.formats.target import Route, Step, Target
from parity.formats.torch.target import trace_step


class Ncnn(Target):
    name: ClassVar[str] = "ncnn"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    requires: ClassVar[tuple[str, ...]] = ("torch", "ncnn")
    extra: ClassVar[str] = "ncnn"
    session: ClassVar[str] = "parity.formats.ncnn.runtime:NcnnSession"
    family: ClassVar[str] = "ncnn"
    runtime_package: ClassVar[str] = "ncnn"
    packages: ClassVar[tuple[str, ...]] = ("torch", "ncnn", "pnnx")
    order: ClassVar[int] = 50
    suffixes: ClassVar[tuple[str, ...]] = (".param",)
    unmarked: ClassVar[str] = "fp32"
    executors: ClassVar[tuple[str, ...]] = ("arm64", "gpu")
    on_gpu: ClassVar[str] = "parity.formats.ncnn.gpu:NcnnGpuSession"
    graph: ClassVar[str] = "parity.formats.ncnn.graph:NcnnArtefact"
    survey: ClassVar[str] = "parity.formats.ncnn.survey:survey"
    steps: ClassVar[str] = "parity.formats.ncnn.steps:NcnnSteps"
    draft: ClassVar[str] = "parity.formats.ncnn.draft:NcnnDraft"
    script: ClassVar[str] = "parity.formats.ncnn.script:lines"
    fixed_dims: ClassVar[bool] = True
    toolchains: ClassVar[tuple[str, ...]] = ("pnnx",)

    def unavailable(self, cell: Cell, model: ModelConfig, python: str | None = None) -> str | None:
        if cell.precision in ("dynamic", "int8"):
            return "the ncnn wheels have no int8 calibration tools (ncnn2table, ncnn2int8)"
        return super().unavailable(cell, model, python)

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        options = {"half": cell.precision == "fp16"}
        function, name = "parity.formats.ncnn.convert:convert", f"pnnx-{cell.precision}"
        convert = Step(name, "ncnn", function, ("pnnx",), options, toolchain="pnnx")
        return [Route("pnnx", (trace_step(), convert))]

    def files(self, path: Path) -> tuple[Path, ...]:
        """The network and its weights, which have its name."""
        return (path, weights_of(path))

    def published(self, name: str, notes: Mapping[str, Any], files: Sequence[str]) -> dict[str, str]:
        """Network and weights side by side in a folder `ncnn`, the endings that apps look for kept."""
        pair = (str(notes["entry"]), str(notes["weights"]))
        return {file: f"ncnn/{name}.{file.rpartition('.')[2]}" for file in pair}
