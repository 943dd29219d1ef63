"""TorchScript and ExportedProgram: PyTorch's own files, traced or exported, and run by PyTorch itself."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from parity.cases import draw
from parity.core.plan import Cell
from parity.core.settings import Config, ModelConfig
from parity.formats.target import Array, Route, Step, Target
from parity.process.child import stage

SCRIPT_FILE = "model.pt"
PROGRAM_FILE = "model.pt2"


class TorchScript(Target):
    name: ClassVar[str] = "torchscript"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    extra: ClassVar[str] = "torch"
    session: ClassVar[str] = "parity.formats.torch.target:ScriptSession"
    family: ClassVar[str] = "torch-runtime"
    runtime_package: ClassVar[str] = "torch"

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        return [Route("torch.jit.trace", (trace_step(half=cell.precision == "fp16"),))]


class Exported(Target):
    name: ClassVar[str] = "exported"
    starts_from: ClassVar[tuple[str, ...]] = ("ExportedProgram",)
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    extra: ClassVar[str] = "torch"
    session: ClassVar[str] = "parity.formats.torch.target:ProgramSession"
    family: ClassVar[str] = "torch-runtime"
    runtime_package: ClassVar[str] = "torch"

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        def route(name: str, dynamic: bool) -> Route:
            return Route(name, (export_step(dynamic=dynamic, half=cell.precision == "fp16"),))

        # A model whose graph cannot carry its dynamic axes is exported at fixed sizes, and the record says so.
        return [route("torch.export", True), route("torch.export, fixed sizes", False)]


def export_step(*, dynamic: bool = False, half: bool = False) -> Step:
    """The step that exports the model to an ExportedProgram; also the first step of routes that read one."""
    options = {"half": half, "dynamic": dynamic}
    return Step("program", "torch", "parity.formats.torch.target:export_program", ("torch",), options, stage="export")


def trace_step(*, half: bool = False) -> Step:
    """The step that traces the model to a TorchScript file; also the first step of routes that read one."""
    name = "torchscript-fp16" if half else "torchscript"
    return Step(name, "torch", "parity.formats.torch.target:trace", ("torch",), {"half": half}, stage="export")


# In the child.


def trace(
    work: str, options: Mapping[str, Any], model: Mapping[str, Any], contract: Mapping[str, Any],
    example: Mapping[str, Array], **_: Any,
) -> dict[str, Any]:  # fmt: skip
    """Trace with the export example. Sizes that the module computes from its input are baked in by tracing; running
    the declared dynamic axes at other sizes shows it."""
    import torch

    from parity.reference import modelling

    module = prepared(model, options["half"])
    arguments = tuple(torch.from_numpy(np.array(example[spec["name"]])) for spec in contract["inputs"])
    with modelling.plain_attention(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, arguments, check_trace=False)
    torch.jit.save(traced, str(Path(work, SCRIPT_FILE)))
    return _notes(contract, SCRIPT_FILE, None)


def export_program(
    work: str, options: Mapping[str, Any], model: Mapping[str, Any], contract: Mapping[str, Any],
    example: Mapping[str, Array], **_: Any,
) -> dict[str, Any]:  # fmt: skip
    """torch.export, with declared axes as `Dim`: one that the graph fixes is an error, never a silent loss."""
    import torch

    from parity.reference import modelling

    module = prepared(model, options["half"])
    dims: dict[str, Any] = {}
    inputs = dict(example)
    if options["dynamic"]:
        # Sizes of 1 are special to torch.export, so the example takes each axis at another of its declared sizes.
        sizes = {name: next((s for s in values if s > 1), values[0]) for name, values in contract["sizes"].items()}
        dims = {name: torch.export.Dim(name) for name in sizes}
        inputs = draw.inputs(_contract(contract), sizes, 0)
    shapes = [
        {i: dims[d] for i, d in enumerate(spec["shape"]) if isinstance(d, str) and d in dims}
        for spec in contract["inputs"]
    ]
    arguments = tuple(torch.from_numpy(np.array(inputs[spec["name"]])) for spec in contract["inputs"])
    with modelling.plain_attention(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        positional = {"args": tuple(shapes)} if options["half"] else tuple(shapes)
        program = torch.export.export(module, arguments, dynamic_shapes=positional if any(shapes) else None)
    torch.export.save(program, str(Path(work, PROGRAM_FILE)))
    fixed = None if any(shapes) else {name: list(value.shape) for name, value in example.items()}
    return _notes(contract, PROGRAM_FILE, fixed)


def _contract(contract: Mapping[str, Any]) -> Any:
    from parity.core.contract import Contract, InputSpec

    specs = tuple(
        InputSpec(s["name"], tuple(s["shape"]), s["dtype"], tuple(s["range"]) if s["range"] else None)
        for s in contract["inputs"]
    )
    return Contract(specs, ())


def prepared(model: Mapping[str, Any], half: bool) -> Any:
    """The module; with `half`, in float16 between float32 inputs and outputs."""
    import copy

    import torch

    from parity.reference import modelling

    module = modelling.load(model)
    stage("export")
    if not half:
        return module

    class Half(torch.nn.Module):
        """The module in float16, with float32 inputs and outputs as apps feed them."""

        def __init__(self) -> None:
            super().__init__()
            self.module = copy.deepcopy(module).half()

        def forward(self, *args: torch.Tensor) -> Any:
            result = self.module(*(a.half() if a.is_floating_point() else a for a in args))
            if isinstance(result, torch.Tensor):
                return result.float()
            if isinstance(result, dict):
                return {k: v.float() if v.is_floating_point() else v for k, v in result.items()}
            return tuple(v.float() if v.is_floating_point() else v for v in result)

    return Half().eval().requires_grad_(False)


def _notes(contract: Mapping[str, Any], file: str, fixed: Mapping[str, Any] | None) -> dict[str, Any]:
    notes: dict[str, Any] = {"entry": file}
    for side in ("inputs", "outputs"):
        notes[side] = {spec["name"]: {"name": spec["name"]} for spec in contract[side]}
    notes["dtypes"] = {spec["name"]: spec["dtype"] for spec in contract["inputs"]}
    return notes | ({"fixed": dict(fixed)} if fixed else {})


class _TorchSession:
    """Inputs go in by position, in the contract's order: these files carry no names, the route declares the order."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        import torch

        torch.set_num_threads(1)
        self.notes = notes
        self.module = self.load(Path(folder, notes["entry"]))
        self.count: int | None = None

    def load(self, path: Path) -> Any:
        raise NotImplementedError

    def operators(self) -> dict[str, int]:
        raise NotImplementedError

    def inputs(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        outputs = [{"name": name, "shape": None, "dtype": None} for name in self.notes["outputs"]]
        return {"inputs": self.inputs(), "outputs": outputs, "ops": self.operators()}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        import torch

        arguments = [torch.from_numpy(np.array(inputs[name])) for name in self.notes["inputs"]]
        with torch.no_grad():
            result = self.module(*arguments)
        if isinstance(result, torch.Tensor):
            result = (result,)
        if isinstance(result, Mapping):
            return {name: value.numpy() for name, value in result.items()}
        names = list(self.notes["outputs"])
        if len(result) != len(names):
            return {f"output {i} of {len(result)}": v.numpy() for i, v in enumerate(result)}
        return {name: value.numpy() for name, value in zip(names, result, strict=True)}


class ScriptSession(_TorchSession):
    def load(self, path: Path) -> Any:
        from parity.files.torch_archives import open_script

        return open_script(path)

    def inputs(self) -> list[dict[str, Any]]:
        given = list(self.module.graph.inputs())[1:]  # the first is the module itself
        names = list(self.notes["inputs"])
        if len(given) != len(names):
            names = [value.debugName() for value in given]
        return [{"name": name, "shape": None, "dtype": None} for name in names]

    def operators(self) -> dict[str, int]:
        graph = self.module.inlined_graph
        counted = Counter(node.kind() for node in graph.nodes() if not node.kind().startswith("prim::"))
        return dict(sorted(counted.items()))


class ProgramSession(_TorchSession):
    def load(self, path: Path) -> Any:
        from parity.files.torch_archives import open_program

        self.program = open_program(path)
        return self.program.module(check_guards=False)  # guards are source: never compiled from a file

    def inputs(self) -> list[dict[str, Any]]:
        user = set(self.program.graph_signature.user_inputs)
        nodes = [n for n in self.program.graph.nodes if n.op == "placeholder" and n.name in user]
        names = list(self.notes["inputs"])
        if len(nodes) != len(names):
            names = [n.name for n in nodes]
        return [
            {
                "name": name,
                "shape": [d if isinstance(d, int) else None for d in node.meta["val"].shape],
                "dtype": str(node.meta["val"].dtype).removeprefix("torch."),
            }
            for name, node in zip(names, nodes, strict=True)
        ]

    def operators(self) -> dict[str, int]:
        nodes = (n for n in self.program.graph.nodes if n.op == "call_function")
        return dict(sorted(Counter(str(n.target) for n in nodes).items()))
