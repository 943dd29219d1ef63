"""Core AI (.aimodel): torch.export, then Apple's coreai-torch, run by the runtime that coreai-core brings (beta).

Its wheels execute their files on Linux x86-64 and on macOS, so that a cell says what the runtime computes. They want a
newer NumPy than the TFLite converter allows, and so live in an environment of their own: `make coreai`, named by
`[tool.parity.routes.coreai] python`. Without one they are looked for beside this package (the extra `coreai`).
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.settings import Config, ModelConfig
from parity.formats.target import Array, Route, Step, Target, narrowed, versions
from parity.formats.torch.target import prepared
from parity.process.child import stage

ASSET = "model.aimodel"
PACKAGES = ("coreai-torch", "coreai-core", "torch")


class CoreAI(Target):
    name: ClassVar[str] = "coreai"
    starts_from: ClassVar[tuple[str, ...]] = ("ExportedProgram",)
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    requires: ClassVar[tuple[str, ...]] = ("torch", "coreai_torch", "coreai")
    extra: ClassVar[str] = "coreai"
    session: ClassVar[str] = "parity.formats.coreai.target:CoreAISession"
    family: ClassVar[str] = "coreai"
    runtime_package: ClassVar[str] = "coreai-core"
    fixed_dims: ClassVar[bool] = True
    environment: ClassVar[str] = "coreai"

    def stored_dtype(self, declared: str) -> str:
        return "int32" if declared == "int64" else declared  # Core AI has no int64 inputs

    def routes(self, cell: Cell, model: ModelConfig, config: Config) -> Sequence[Route]:
        python = self.python(config)
        options = {"half": cell.precision == "fp16"}
        step = Step(
            f"aimodel-{cell.precision}", self.family, "parity.formats.coreai.target:convert", PACKAGES, options,
            stage="export", python=None if python == sys.executable else python,
        )  # fmt: skip
        return [Route("torch.export+coreai-torch", (step,))]


# In the child.


def convert(
    work: str, options: Mapping[str, Any], model: Mapping[str, Any], contract: Mapping[str, Any],
    example: Mapping[str, Array], **_: Any,
) -> dict[str, Any]:  # fmt: skip
    """Export at the example's sizes and convert under the declared names. fp16 is the module in float16 between
    float32 inputs and outputs, as apps feed them."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it compares "2.13.0+cpu" with "2.13.0"
        from coreai_torch import TorchConverter, get_decomp_table

    from parity.reference import modelling

    module = prepared(model, options["half"])
    names = [spec["name"] for spec in contract["inputs"]]
    arguments = tuple(torch.from_numpy(example[name].copy()) for name in names)
    with modelling.plain_attention(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, arguments).run_decompositions(get_decomp_table())
        stage("convert")
        converter = TorchConverter()
        outputs = [spec["name"] for spec in contract["outputs"]]
        converter.add_exported_program(program, input_names=names, output_names=outputs)
        converter.to_coreai().save_asset(Path(work, ASSET))
    operators = Counter(str(n.target) for n in program.graph.nodes if n.op == "call_function")
    return {
        "entry": ASSET,
        "inputs": {name: {"name": name} for name in names},
        "outputs": {name: {"name": name} for name in outputs},
        "fixed": {name: list(value.shape) for name, value in example.items()},
        "ops": dict(sorted(operators.items())),  # of the exported program: files do not list theirs
    }


class CoreAISession:
    """One asset, loaded for as long as the session lives: the runtime's interface is asynchronous, ours is not."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        from coreai.authoring import AIModelAsset
        from coreai.runtime import NDArray

        self.notes, self.array = notes, NDArray
        self.loop = asyncio.new_event_loop()
        self.held = AIModelAsset.load(Path(folder, notes["entry"])).executable()
        self.model = self.loop.run_until_complete(self.held.__aenter__())
        known = list(self.model.function_names)
        if "main" not in known:
            raise ParityError(f"the asset has no function 'main'; it has {', '.join(known) or 'none'}")
        self.function = self.model.load_function("main")

    def describe(self) -> dict[str, Any]:
        described = self.function.desc
        sides = {}
        for side in ("input", "output"):
            names = getattr(described, f"{side}_names")
            find = getattr(described, f"{side}_descriptor")
            sides[f"{side}s"] = [_feature(name, find(name)) for name in names]
        installed = versions(PACKAGES)
        return {**sides, "ops": self.notes.get("ops", {}), "executor": "coreai-runtime",
                "runtime_version": installed["coreai-core"]}  # fmt: skip

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        fed = {name: self.array(value) for name, value in narrowed(inputs).items()}
        got = self.loop.run_until_complete(self.function(fed))
        return {name: value.numpy().copy() for name, value in got.items()}


def _feature(name: str, descriptor: Any) -> dict[str, Any]:
    """Name, shape and element type of an input or output; a size that the file leaves open is None."""
    shape = [None if d is None or int(d) < 0 else int(d) for d in descriptor.shape]
    return {"name": name, "shape": shape, "dtype": str(descriptor.dtype)}
