"""The steps that trace a module to TorchScript or export it to an ExportedProgram, in the child."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.cases import draw
from parity.core.settings import ModelSpec
from parity.formats.target import Array
from parity.process.child import stage

SCRIPT_FILE = "model.pt"
PROGRAM_FILE = "model.pt2"


def trace(
    work: str, options: Mapping[str, Any], model: ModelSpec, contract: Mapping[str, Any],
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
    work: str, options: Mapping[str, Any], model: ModelSpec, contract: Mapping[str, Any],
    example: Mapping[str, Array], **_: Any,
) -> dict[str, Any]:  # fmt: skip
    """torch.export, with declared axes as `Dim`: one that the graph fixes is an error, never a silent loss."""
    import torch

    from parity.reference import modelling
    from parity.reference.programs import without_vmap

    module = prepared(model, options["half"])
    inputs, shapes = dict(example), list[dict[int, Any]]()
    if options["dynamic"]:
        inputs, shapes = dynamic_example(contract, example)
    arguments = tuple(torch.from_numpy(np.array(inputs[spec["name"]])) for spec in contract["inputs"])
    with modelling.plain_attention(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # PyTorch 2.6 would go through TorchDynamo, which follows less; later versions do not unless asked to.
        program = torch.export.export(
            module,
            arguments,
            dynamic_shapes=by_parameter(module.forward, shapes) if any(shapes) else None,
            strict=False,
        )
    torch.export.save(without_vmap(program), str(Path(work, PROGRAM_FILE)))
    fixed = None if any(shapes) else {name: list(value.shape) for name, value in example.items()}
    return _notes(contract, PROGRAM_FILE, fixed)


def dynamic_example(
    contract: Mapping[str, Any], example: Mapping[str, Array]
) -> tuple[dict[str, Array], list[dict[int, Any]]]:
    """Inputs to export a module with whose declared axes stay open, and the `Dim` of each axis, for every input.

    Sizes of 1 are special to torch.export, so an axis is taken at another of its declared sizes where it has one.
    """
    import torch

    sizes = {name: next((s for s in values if s > 1), values[0]) for name, values in contract["sizes"].items()}
    dims = {name: torch.export.Dim(name) for name in sizes}
    shapes = [
        {i: dims[d] for i, d in enumerate(spec["shape"]) if isinstance(d, str) and d in dims}
        for spec in contract["inputs"]
    ]
    return drawn_at(contract, sizes) if sizes else dict(example), shapes


def drawn_at(contract: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Array]:
    """Inputs that fit the contract, with its axes at these sizes."""
    return draw.inputs(_contract(contract), sizes, 0)


def by_parameter(forward: Callable[..., Any], shapes: Sequence[Mapping[int, Any]]) -> dict[str, Any]:
    """The dynamic axes of every positional argument under the name of its parameter, as torch.export wants them:
    `*tensors` takes a tuple of all that is left."""
    named: dict[str, Any] = {}
    left = list(shapes)
    for name, parameter in inspect.signature(forward).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            named[name], left = tuple(left), []
        elif left:
            named[name] = left.pop(0)
    return named


def _contract(contract: Mapping[str, Any]) -> Any:
    from parity.core.contract import Contract, InputSpec

    specs = tuple(
        InputSpec(s["name"], tuple(s["shape"]), s["dtype"], tuple(s["range"]) if s["range"] else None)
        for s in contract["inputs"]
    )
    return Contract(specs, ())


def prepared(model: ModelSpec, half: bool) -> Any:
    """The module; with `half`, in float16 between float32 inputs and outputs."""
    import torch

    from parity.reference import modelling
    from parity.reference.copying import copied

    module = modelling.load(model)
    stage("export")
    if not half:
        return module

    class Half(torch.nn.Module):
        """The module in float16, with float32 inputs and outputs as apps feed them."""

        def __init__(self) -> None:
            super().__init__()
            self.module = copied(module).half()

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
