"""TorchScript and ExportedProgram files, opened by PyTorch itself. In the child."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.errors import ParityError
from parity.formats.target import Array


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


def script_signature(file: Path) -> dict[str, Any]:
    """Raises ParityError: what a TorchScript file states is not enough."""
    raise ParityError(
        f"{file.name}: a TorchScript file does not say the shapes of its inputs: declare inputs and outputs"
    )


def program_signature(file: Path) -> dict[str, Any]:
    """An ExportedProgram: its user inputs in order; outputs by the keys of the dict that it returns, else numbered."""
    from parity.files.torch_archives import open_program

    program: Any = open_program(file)
    given = set(program.graph_signature.user_inputs)
    inputs = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in given:
            value = node.meta["val"]
            shape = [d if isinstance(d, int) else str(d) for d in value.shape]
            inputs.append({"name": node.name, "shape": shape, "dtype": str(value.dtype).removeprefix("torch.")})
    spec = program.call_spec.out_spec
    keys = list(spec.context) if spec.type is dict else None
    count = len(program.graph_signature.user_outputs)
    names = keys or (["output"] if count == 1 else [f"output_{i}" for i in range(count)])
    return {"inputs": inputs, "outputs": [{"name": str(name)} for name in names]}
