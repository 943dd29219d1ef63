"""Core ML: traced, converted by coremltools, and run by whichever executor this machine has.

Core ML itself predicts only on macOS. Everywhere else the file is executed by this project's own evaluator
(`parity.mil`), which reads the package and computes what the program says; the record names the executor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from parity.core.plan import Cell
from parity.core.settings import Config, ModelConfig
from parity.formats.target import Route, Step, Target
from parity.formats.torch.target import export_step, trace_step


class CoreML(Target):
    """ML Programs (.mlpackage)."""

    name: ClassVar[str] = "coreml"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "dynamic")
    requires: ClassVar[tuple[str, ...]] = ("torch", "coremltools")  # it brings the schema that files are read by
    extra: ClassVar[str] = "coreml"
    session: ClassVar[str] = "parity.formats.coreml.runtime:CoreMLSession"
    family: ClassVar[str] = "coreml"
    runtime_package: ClassVar[str] = "coremltools"
    packages: ClassVar[tuple[str, ...]] = ("torch", "coremltools")
    order: ClassVar[int] = 30
    suffixes: ClassVar[tuple[str, ...]] = (".mlpackage",)
    backend: ClassVar[str] = "mlprogram"
    executions: ClassVar[tuple[tuple[str, str], ...]] = (("coreml-runtime", "CPU_ONLY"), ("coreml-runtime", "ALL"))
    graph: ClassVar[str] = "parity.formats.coreml.graph:CoreMLArtefact"
    survey: ClassVar[str] = "parity.formats.coreml.survey:survey"
    steps: ClassVar[str] = "parity.formats.coreml.steps:open_coreml"
    draft: ClassVar[str] = "parity.formats.coreml.draft:CoreMLDraft"
    script: ClassVar[str] = "parity.formats.coreml.script:lines"
    lowering: ClassVar[str] = "parity.formats.coreml.modes"
    toolchains: ClassVar[tuple[str, ...]] = ("coremltools",)
    from_file: ClassVar[str] = "parity.formats.coreml.from_file:convert"
    fixed_dims: ClassVar[bool] = True
    enumerates: ClassVar[bool] = True

    def unavailable(self, cell: Cell, model: ModelConfig, python: str | None = None) -> str | None:
        if cell.precision == "int8":
            return "coremltools calibrates int8 activations by running Core ML, on macOS only"
        if model.stateful and cell.precision == "fp32":
            return "Core ML holds states in float16 only: a stateful file has no fp32 precision"
        return super().unavailable(cell, model, python)

    def stored_dtype(self, declared: str) -> str:
        return "int32" if declared == "int64" else declared  # Core ML has no int64 inputs

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        options = {"precision": cell.precision, "backend": self.backend, **_system(model)}
        if model.stateful:
            return [_stateful(model, options)]
        step = Step(
            f"mlprogram-{cell.precision}",
            "coremltools",
            "parity.formats.coreml.convert:convert",
            ("coremltools",),
            options,
            toolchain="coremltools",
        )
        routes = [Route("coremltools", (trace_step(), step))]
        if not model.enumerated:  # enumerated sizes need the traced module
            # Where tracing or its front end fails, the other front end may not. It converts most of torch's operators
            # and not every form of them; those that they decompose to are few and plain.
            name = f"mlprogram-{cell.precision}"
            routes += [
                _exported("torch.export+coremltools", f"{name}-exported", options),
                _exported(
                    "torch.export, decomposed+coremltools", f"{name}-decomposed", {**options, "decomposed": True}
                ),
            ]
        return routes


class CoreMLNeuralNetwork(CoreML):
    """Neural network specs (.mlmodel), for older systems. Their fp16 is weight compression after conversion."""

    name: ClassVar[str] = "coreml_nn"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    order: ClassVar[int] = 31
    suffixes: ClassVar[tuple[str, ...]] = (".mlmodel",)
    backend: ClassVar[str] = "neuralnetwork"
    graph: ClassVar[str] = ""
    survey: ClassVar[str] = ""
    draft: ClassVar[str] = ""

    def unavailable(self, cell: Cell, model: ModelConfig, python: str | None = None) -> str | None:
        if cell.precision in ("dynamic", "int8"):
            return f"neural network specs have no {cell.precision} route here; use the coreml target"
        if model.stateful:
            return "neural network specs hold no states; use the coreml target"
        return super().unavailable(cell, model, python)

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        options = {"precision": cell.precision, "backend": self.backend, **_system(model)}
        name = f"neuralnetwork-{cell.precision}"
        step = Step(name, "coremltools", "parity.formats.coreml.convert:convert", ("coremltools",), options,
                    toolchain="coremltools")  # fmt: skip
        return [Route("coremltools", (trace_step(), step))]


def _system(model: ModelConfig) -> dict[str, str]:
    """The deployment target as a step's option; the default is no option, so that its keys stay as they are."""
    return {"deployment_target": model.deployment_target} if model.deployment_target else {}


def _exported(name: str, step: str, options: Mapping[str, Any]) -> Route:
    """By way of torch.export, and coremltools' front end for that."""
    function, packages = "parity.formats.coreml.convert:convert_exported", ("coremltools", "torch")
    return Route(name, (export_step(), Step(step, "coremltools", function, packages, options, toolchain="coremltools")))


def _stateful(model: ModelConfig, options: Mapping[str, Any]) -> Route:
    """Traced with buffers in place of the states, then converted with a Core ML state for each buffer."""
    held = {"states": dict(model.states)}
    trace = Step(
        "torchscript-stateful",
        "torch",
        "parity.formats.coreml.state:trace",
        ("torch",),
        held,
        stage="export",
    )
    convert = Step(
        f"stateful-{options['precision']}",
        "coremltools",
        "parity.formats.coreml.state:convert",
        ("coremltools",),
        {"deployment_target": "iOS18", **options, **held},
        toolchain="coremltools",
    )
    return Route("coremltools, stateful", (trace, convert))
