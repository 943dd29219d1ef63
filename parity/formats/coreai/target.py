"""Core AI (.aimodel): torch.export, then Apple's coreai-torch, run by the runtime that coreai-core brings (beta).

Its wheels execute their files on Linux x86-64 and on macOS, so that a cell says what the runtime computes. They want a
newer NumPy than most environments hold, and so live in a toolchain: `parity tools install coreai`. Where this package's
own environment has them, they are used from there (the extra `coreai`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from parity.core.plan import Cell
from parity.core.settings import Config, ModelConfig
from parity.formats.target import Route, Step, Target
from parity.formats.torch.target import export_step


class CoreAI(Target):
    name: ClassVar[str] = "coreai"
    starts_from: ClassVar[tuple[str, ...]] = ("ExportedProgram",)
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    requires: ClassVar[tuple[str, ...]] = ("torch", "coreai_torch", "coreai")
    extra: ClassVar[str] = "coreai"
    session: ClassVar[str] = "parity.formats.coreai.runtime:CoreAISession"
    family: ClassVar[str] = "coreai"
    runtime_package: ClassVar[str] = "coreai-core"
    packages: ClassVar[tuple[str, ...]] = ("coreai-torch", "coreai-core", "torch")
    order: ClassVar[int] = 40
    suffixes: ClassVar[tuple[str, ...]] = (".aimodel",)
    fixed_dims: ClassVar[bool] = True
    toolchain: ClassVar[str] = "coreai"
    toolchains: ClassVar[tuple[str, ...]] = ("coreai",)
    script: ClassVar[str] = "parity.formats.coreai.script:lines"

    def stored_dtype(self, declared: str) -> str:
        return "int32" if declared == "int64" else declared  # Core AI has no int64 inputs

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        step = Step(
            f"aimodel-{cell.precision}",
            self.family,
            "parity.formats.coreai.convert:convert",
            self.packages,
            toolchain=self.toolchain,
        )
        return [Route("torch.export+coreai-torch", (export_step(half=cell.precision == "fp16"), step))]
