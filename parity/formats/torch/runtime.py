"""TorchScript and ExportedProgram files, opened by PyTorch itself. In the child."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.formats.labels import KEYS, every_list, in_extra_files, of_metadata, texts_in
from parity.formats.target import THREADS, Array

_SCATTERING = (
    "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put", "scatter", "scatter_", "index_copy",
    "index_copy_", "put", "put_",
)  # fmt: skip
"""What writes to given places: to one place twice in an order that threads do not keep."""


_DECLARED = re.compile(r"^ +(\w+) : ", re.MULTILINE)  # an attribute of a class in the code of a script
_HOLDING = (list, tuple, dict, str)


class _TorchSession:
    """Inputs go in by position, in the contract's order: these files carry no names, the route declares the order."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        import torch

        torch.set_num_threads(1)
        self.folder, self.notes = folder, notes
        self.overwritten: set[str] = set()
        self.returned: set[str] = set()
        self.module = self.load(Path(folder, notes["entry"]))
        self.count: int | None = None

    def load(self, path: Path) -> Any:
        raise NotImplementedError

    def operators(self) -> dict[str, int]:
        raise NotImplementedError

    def holds(self, names: Sequence[str]) -> bool:
        """Whether the file has one of the ATen operators `names`, in a branch or loop too."""
        raise NotImplementedError

    def inputs(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def arguments(self, tensors: list[Any]) -> list[Any]:
        """What the module is called with."""
        return tensors

    def describe(self) -> dict[str, Any]:
        outputs = [{"name": name, "shape": None, "dtype": None} for name in self.notes["outputs"]]
        labels = in_extra_files(Path(self.folder, self.notes["entry"]))
        lists = every_list(texts_in(Path(self.folder, self.notes["entry"])))
        described = {"inputs": self.inputs(), "outputs": outputs, "ops": self.operators()}
        scatters = self.holds(_SCATTERING)
        return described | {"labels": labels, "label_lists": lists, "scatters": scatters}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        import torch

        from parity.reference import memory

        tensors = [torch.from_numpy(np.array(inputs[name])) for name in self.notes["inputs"]]
        arguments = self.arguments(tensors)
        with torch.no_grad():
            result = self.module(*arguments)
        self._note_overwritten(tensors)
        if isinstance(result, torch.Tensor):
            result = (result,)
        values = result.values() if isinstance(result, Mapping) else result
        self.returned.update(memory.shared(dict(zip(self.notes["inputs"], tensors, strict=True)), values))
        if isinstance(result, Mapping):
            return {name: value.numpy() for name, value in result.items()}
        names = list(self.notes["outputs"])
        if len(result) != len(names):
            return {f"output {i} of {len(result)}": v.numpy() for i, v in enumerate(result)}
        return {name: value.numpy() for name, value in zip(names, result, strict=True)}

    def otherwise(self) -> Iterator[tuple[str, Callable[[Mapping[str, Array]], dict[str, Array]]]]:
        """Ways in which an app may run the file and no measurement does, where its operators make a difference."""
        from parity.reference import memory

        if self.holds(_SCATTERING):
            yield f"{THREADS} threads", self._threaded
        if self.holds(memory.UNINITIALISED):
            yield "used memory", self._in_used_memory

    def _threaded(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        import torch

        torch.set_num_threads(THREADS)
        try:
            return self.run(inputs)
        finally:
            torch.set_num_threads(1)

    def _in_used_memory(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """In a session of its own: what a script computes of no input, PyTorch keeps from its first call."""
        from parity.reference import memory

        with memory.Filled():
            return type(self)(self.folder, self.notes).run(inputs)

    def _note_overwritten(self, tensors: list[Any]) -> None:
        """Note the inputs that a run wrote into: PyTorch counts the changes of a tensor in place."""
        for name, tensor in zip(self.notes["inputs"], tensors, strict=True):
            if tensor._version:
                self.overwritten.add(name)


class ScriptSession(_TorchSession):
    def describe(self) -> dict[str, Any]:
        from parity.files.torch_archives import mobile_programs

        others = other_methods(self.module) + other_ways(self.module)
        others += mobile_programs(Path(self.folder, self.notes["entry"]))
        measured = {"signature": "forward", "unmeasured_signatures": others} if others else {}
        attributes = {name: getattr(self.module, name) for name in KEYS if hasattr(self.module, name)}
        names = {"tensor_names": self._names(), "label_attributes": of_metadata(attributes)}
        described = super().describe()
        described["label_lists"] += every_list(self._attributes())
        return described | measured | names

    def _attributes(self) -> dict[str, Any]:
        """The attributes of all modules that hold no tensor, as the code in the file declares them."""
        from parity.files.torch_archives import codes

        declared = {name for code in codes(Path(self.folder, self.notes["entry"])) for name in _DECLARED.findall(code)}
        pairs = ((part, name) for part in self.module.modules() for name in sorted(declared) if hasattr(part, name))
        held = ((part, name, getattr(part, name)) for part, name in pairs)
        return {f"{id(part)}.{name}": value for part, name, value in held if isinstance(value, _HOLDING)}

    def _names(self) -> dict[str, dict[str, str]]:
        """The names of the arguments of `forward` and of the fields of the named tuple that it returns, by the names of
        the inputs and outputs at their places."""
        arguments = [argument.name for argument in self.module.forward.schema.arguments[1:]]
        output = next(self.module.inlined_graph.outputs()).type().str()
        fields = re.findall(r"(\w+) : ", output) if output.startswith("NamedTuple(") else []
        sides = (("inputs", arguments), ("outputs", fields))
        return {side: dict(zip(self.notes[side], names, strict=False)) for side, names in sides}

    def load(self, path: Path) -> Any:
        from parity.files.torch_archives import open_script

        return open_script(path)

    def arguments(self, tensors: list[Any]) -> list[Any]:
        from parity.files.torch_scripts import arguments_of

        return arguments_of(self.module, tensors)

    def inputs(self) -> list[dict[str, Any]]:
        given = list(self.module.graph.inputs())[1:]  # the first is the module itself
        names = list(self.notes["inputs"])
        if len(given) != len(names):
            names = [value.debugName() for value in given]
        return [{"name": name, "shape": None, "dtype": None} for name in names]

    def holds(self, names: Sequence[str]) -> bool:
        graph = self.module.inlined_graph
        return any(graph.findAllNodes(f"aten::{name}", True) for name in names)

    def operators(self) -> dict[str, int]:
        graph = self.module.inlined_graph
        counted = Counter(node.kind() for node in graph.nodes() if not node.kind().startswith("prim::"))
        return dict(sorted(counted.items()))


class ProgramSession(_TorchSession):
    def load(self, path: Path) -> Any:
        from parity.files.torch_archives import module_of, open_program

        self.program = open_program(path)
        return module_of(self.program)

    def describe(self) -> dict[str, Any]:
        from parity.files.torch_archives import other_programs

        others = other_programs(Path(self.folder, self.notes["entry"]))
        measured = {"signature": "model", "unmeasured_signatures": others} if others else {}
        given = self.program.graph_signature.user_inputs
        named = len(given) == len(self.notes["inputs"])  # else there are constants among them
        arguments = dict(zip(self.notes["inputs"], given, strict=True)) if named else {}
        return super().describe() | measured | {"tensor_names": {"inputs": arguments}}

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

    def holds(self, names: Sequence[str]) -> bool:
        from torch import fx

        parts = (part for part in self.program.graph_module.modules() if isinstance(part, fx.GraphModule))
        schemas = (getattr(node.target, "_schema", None) for part in parts for node in part.graph.nodes)
        return any(schema.name.partition("::")[2] in names for schema in schemas if schema is not None)

    def operators(self) -> dict[str, int]:
        nodes = (n for n in self.program.graph.nodes if n.op == "call_function")
        return dict(sorted(Counter(str(n.target) for n in nodes).items()))


def other_methods(module: Any) -> list[str]:
    """The methods of a script that an app may call beside `forward`. Helpers, which `forward` calls for what it gives,
    are measured with it; names with an underscore are no interface."""
    helpers, ahead = set[str](), ["forward"]
    while ahead:
        graph = module._c._get_method(ahead.pop()).graph
        me = next(graph.inputs()).debugName()
        for node in graph.findAllNodes("prim::CallMethod"):
            name = node.s("name")
            own = next(node.inputs()).debugName() == me
            if own and name not in helpers and any(output.uses() for output in node.outputs()):
                helpers.add(name)
                ahead.append(name)
    names = module._c._method_names()
    return sorted(name for name in names if name != "forward" and name not in helpers and not name.startswith("_"))


def other_ways(module: Any) -> list[str]:
    """How else an app may run what `module(x)` runs, where that may give something else.

    Hooks of the outermost module run in `module(x)` and not in `module.forward(x)`, as C++ apps call it; hooks of inner
    modules are part of the code that calls these. `eval()` changes a module that was saved in training mode and reads
    it.
    """
    ways = []
    if module._c._get_forward_hooks() or module._c._get_forward_pre_hooks():
        ways.append("forward without hooks")
    if _reads_training(module):
        ways.append("forward after eval()")
    return ways


def _reads_training(module: Any) -> bool:
    """Whether `forward` reads the mode of a module that is in training mode."""
    from parity.files.torch_scripts import nodes

    graph = module.inlined_graph
    modules = {next(graph.inputs()).debugName(): module}
    for node in nodes(graph):
        if node.kind() != "prim::GetAttr" or next(node.inputs()).debugName() not in modules:
            continue
        owner = modules[next(node.inputs()).debugName()]
        if node.s("name") == "training" and owner.training and node.output().uses():
            return True
        value = getattr(owner, node.s("name"), None)
        if hasattr(value, "training"):
            modules[node.output().debugName()] = value
    return False


def script_signature(file: Path) -> dict[str, Any]:
    """The names of a TorchScript file's inputs, and its outputs as their number; it states no shapes and no types but
    those of plain numbers."""
    from parity.files.torch_archives import open_script

    script: Any = open_script(file)
    schema = script.forward.schema
    inputs = []
    for argument in schema.arguments[1:]:
        number = {"int": "int64", "float": "float64", "bool": "bool"}.get(str(argument.type))
        inputs.append({"name": argument.name, "shape": [] if number else None, "dtype": number})
    kind = schema.returns[0].type
    parts = kind.elements() if kind.kind() == "TupleType" else [kind]
    count = len(parts) if all(part.kind() == "TensorType" for part in parts) else 0
    names = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    return {"inputs": inputs, "outputs": [{"name": name} for name in names]}


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
