"""TorchScript files and ExportedPrograms in the words of the proof. Child only.

Both keep the names of the module's parameters and buffers, so constants are matched by name. What has no name (a frozen
script's weights, a tensor in the code) has the slot of the operator that reads it, and is matched as in other formats.
The runtime is PyTorch itself, so no operator is judged alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from parity.files.torch_archives import open_program, open_script
from parity.files.torch_operators import schema_of
from parity.files.torch_scripts import nodes as every_node
from parity.formats.graph import (
    FLOAT_MAX,
    Array,
    Constant,
    Graph,
    NotOffered,
    Operator,
    Port,
    Run,
    Slot,
    WholeOnly,
    widened_ends,
)
from parity.formats.torch import folding
from parity.formats.torch.folding import Computed
from parity.formats.torch.runtime import ProgramSession, ScriptSession
from parity.judging.floor import FP16_MAX
from parity.reference.literals import Literals, bare, of_graph, of_node

_ALONE = "PyTorch runs its own files with the kernels of the module itself"
_BETWEEN = "PyTorch does not show the values between the operators of its files"
_LAYOUTS = {  # operator -> its weight's layout
    "conv1d": "OIW", "conv2d": "OIHW", "conv3d": "OIDHW", "linear": "OI", "embedding": "VD", "conv_transpose2d": "IOHW",
}  # fmt: skip
_Content = tuple[str, tuple[int, ...], bytes]  # type and shape of a tensor, and a digest of its values
_HALF, _FLOAT = 5, 6  # float16 and float32 among TorchScript's numbers for types


class _TorchArtefact(WholeOnly):
    no_operators = _ALONE
    kernels = ("PyTorch",)
    graph: Graph

    def __init__(self, folder: str, notes: Mapping[str, Any], bounds: Collection[float] = ()):
        self.folder, self.notes, self.path = folder, notes, Path(folder, notes["entry"])
        self.widened_ends = False  # a reading: fp16's largest and least number stand for those of any type

    def reread(self) -> bool:
        half = any(constant.stored.dtype == np.float16 for constant in self.graph.constants.values())
        self.widened_ends = half and not self.widened_ends
        return self.widened_ends

    def _view(self, constants: Mapping[str, Constant], operators: Sequence[Operator], literals: Literals) -> Graph:
        inputs, outputs = (tuple(Port(name, name) for name in self.notes[side]) for side in ("inputs", "outputs"))
        return Graph(
            tuple(operators), constants, {}, inputs, outputs, channels_last=False, symmetric_weights=False,
            named=True, literals=literals,
        )  # fmt: skip


def _stored(value: torch.Tensor) -> Array | None:
    """A tensor's values; None where they are no plain numbers."""
    if value.is_quantized or value.dtype == torch.bfloat16 or value.layout != torch.strided:
        return None
    return value.detach().cpu().numpy()


def _widen(tensors: Mapping[str, torch.Tensor], weights: Mapping[str, Array]) -> None:
    """Put `weights` in the places of tensors of these names, which are float32 or float64 by now."""
    with torch.no_grad():
        for name, values in weights.items():
            if name in tensors:
                tensors[name].copy_(torch.from_numpy(np.asarray(values)))


class ProgramArtefact(_TorchArtefact):
    """One .pt2 file."""

    def __init__(self, folder: str, notes: Mapping[str, Any], bounds: Collection[float] = ()):
        super().__init__(folder, notes, bounds)
        program: Any = open_program(self.path)
        signature = program.graph_signature
        tensors = dict(program.state_dict) | dict(program.constants)
        placed = {**signature.inputs_to_parameters, **signature.inputs_to_buffers,
                  **getattr(signature, "inputs_to_lifted_tensor_constants", {})}  # fmt: skip
        operators, slots = _fx_operators(program.graph_module, placed)
        constants = {}
        for name in dict.fromkeys(placed.values()):
            stored = _stored(tensors[name]) if isinstance(tensors.get(name), torch.Tensor) else None
            if stored is not None:
                constants[name] = Constant(name, stored, None, tuple(slots.get(name, ())))
        plain = {node: tensors[name] for node, name in placed.items() if name in constants}
        constants |= _computed(folding.of_program(program.graph_module, plain), operators, placed)
        self.graph = self._view(constants, operators, of_graph(program.graph_module, plain))

    def whole(self, kernels: str) -> Run:
        return ProgramSession(self.folder, self.notes).run

    def lift(self, weights: Mapping[str, Array], watch: Sequence[str] = ()) -> Run:
        if watch:
            raise NotOffered(_BETWEEN)
        session = ProgramSession(self.folder, self.notes)
        module = session.module._apply(_whole_float)
        for node in module.graph.nodes:
            in_float = partial(_in_float, ends=self.widened_ends)
            node.args, node.kwargs = fx.node.map_aggregate((node.args, dict(node.kwargs)), in_float)
        module.recompile()
        tensors = _code_in_float(module) | dict(module.named_parameters()) | dict(module.named_buffers())
        _widen(tensors, weights)
        if self.widened_ends:
            _widen(tensors, _ends_of(tensors))
        return lambda case: session.run(case) | case


def _code_in_float(module: fx.GraphModule) -> dict[str, torch.Tensor]:
    """The tensors that the code holds and no buffer does (`torch.tensor(...)` in a forward), half ones made float."""
    tensors = {}
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        path, _, name = str(node.target).rpartition(".")
        owner = module.get_submodule(path)
        value = getattr(owner, name)
        if isinstance(value, torch.Tensor) and name not in owner._parameters and name not in owner._buffers:
            tensors[str(node.target)] = _whole_float(value)
            setattr(owner, name, tensors[str(node.target)])
    return tensors


def _in_float(value: Any, ends: bool) -> Any:
    if ends and isinstance(value, float) and abs(value) == FP16_MAX:
        return math.copysign(FLOAT_MAX, value)
    return torch.float32 if value is torch.float16 else value


def _ends_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """The tensors that hold an end of fp16, with float32's in its place."""
    held = {name: tensor.detach().numpy() for name, tensor in tensors.items() if tensor.dtype == torch.float32}
    return {name: widened_ends(values) for name, values in held.items() if (np.abs(values) == FP16_MAX).any()}


def _fx_operators(module: fx.GraphModule, placed: Mapping[str, str]) -> tuple[list[Operator], dict[str, list[Slot]]]:
    operators: list[Operator] = []
    slots: dict[str, list[Slot]] = {}
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function":
            continue
        reads = [placed.get(n.name, n.name) for n in node.all_input_nodes]
        names = [a.name for a in schema.arguments] if schema is not None else []
        given = {k: v.name for k, v in (dict(zip(names, node.args, strict=False)) | node.kwargs).items()
                 if isinstance(v, fx.Node)}  # fmt: skip
        kind = bare(schema.name) if schema is not None else str(node.target)
        index = len(operators)
        operators.append(Operator(index, kind, tuple(reads), ()))
        for argument, name in given.items():
            if name in placed:
                weight = placed.get(given.get("weight", ""), "")
                data = given.get("indices" if kind == "embedding" else "input", "")
                slots.setdefault(placed[name], []).append(_slot(index, kind, argument, weight, data))
    return operators, slots


def _slot(operator: int, kind: str, argument: str, weight: str, data: str) -> Slot:
    if argument == "weight" and kind in _LAYOUTS:
        return Slot(operator, "weight", _LAYOUTS[kind], data=data)
    if argument == "bias" and kind in _LAYOUTS and weight:
        return Slot(operator, "bias", "O", weight, data)
    return Slot(operator, "operand")


def _computed(found: Iterable[Computed], operators: list[Operator], placed: Mapping[str, str]) -> dict[str, Constant]:
    """The tensors that follow from constants alone as constants. Their readers are added to `operators`."""
    constants: dict[str, Constant] = {}
    for each in found:
        kind, index = bare(each.schema.name), len(operators)
        operators.append(Operator(index, kind, (each.name,), ()))
        weight = each.given.get("weight", "")
        data = each.given.get("indices" if kind == "embedding" else "input", "")
        slot = _slot(index, kind, each.argument, placed.get(weight, ""), data)
        before = constants.get(each.name, Constant(each.name, each.values.detach().numpy(), None, ()))
        constants[each.name] = replace(before, slots=(*before.slots, slot))
    return constants


class ScriptArtefact(_TorchArtefact):
    """One TorchScript file, traced or scripted, frozen or not."""

    def __init__(self, folder: str, notes: Mapping[str, Any], bounds: Collection[float] = ()):
        super().__init__(folder, notes, bounds)
        module: Any = open_script(self.path)
        self.tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        self.values: dict[str, Any] = {}  # what a value of the graph is: a module's path, a tensor, a number
        self.names: dict[str, str] = {}  # the constant that a value stands for
        self.in_code: dict[_Content, str] = {}  # the first constant of this content in the code
        graph = module.inlined_graph
        constants: dict[str, Array] = {}
        for name, tensor in self.tensors.items():
            if (stored := _stored(tensor)) is not None:
                constants[name] = stored
        self._resolve(graph, constants)
        operators, slots, literals = self._operators(graph)
        held = {n: Constant(n, v, None, tuple(slots.get(n, ()))) for n, v in constants.items()}
        held |= _computed(folding.of_script(module, list(constants.values())), operators, {})
        self.graph = self._view(held, operators, literals)

    def _resolve(self, graph: Any, constants: dict[str, Array]) -> None:
        """What each value is that the code takes from the module or states."""
        paths = {next(iter(graph.inputs())).debugName(): ""}
        for node in every_node(graph):
            if node.kind() == "prim::GetAttr":
                owner, output = next(iter(node.inputs())).debugName(), node.output().debugName()
                path = f"{paths.get(owner, '')}.{node.s('name')}".lstrip(".")
                paths[output] = path
                if path in self.tensors:
                    self.values[output], self.names[output] = self.tensors[path], path
            elif node.kind() == "prim::Constant":
                output = node.output().debugName()
                value = self.values[output] = node.output().toIValue()
                stored = _stored(value) if isinstance(value, torch.Tensor) else None
                if stored is not None and (stored.ndim or stored.dtype == np.float16):
                    constants[f"%{output}"], self.names[output] = stored, f"%{output}"
                    self.in_code.setdefault(_content(stored), f"%{output}")

    def _operators(self, graph: Any) -> tuple[list[Operator], dict[str, list[Slot]], Literals]:
        operators: list[Operator] = []
        slots: dict[str, list[Slot]] = {}
        literals: Literals = {}
        for node in every_node(graph):
            schema = schema_of(node.schema()) if node.kind().startswith("aten::") else None
            if schema is None:
                continue
            names = [argument.name for argument in schema.arguments]
            given = {k: v.debugName() for k, v in zip(names, node.inputs(), strict=False)}
            kind = _kind(bare(schema.name), given, self.values)
            numbers = of_node(schema, {name: self.values.get(value) for name, value in given.items()}.get)
            if numbers is not None:
                literals.setdefault(kind, []).append(numbers)
            index = len(operators)
            operators.append(Operator(index, kind, tuple(self.names.get(v, v) for v in given.values()), ()))
            for argument, value in given.items():
                if value in self.names:
                    weight = self.names.get(given.get("weight", ""), "")
                    data = given.get("indices" if kind == "embedding" else "input", "")
                    slots.setdefault(self.names[value], []).append(_slot(index, kind, argument, weight, data))
        return operators, slots, literals

    def whole(self, kernels: str) -> Run:
        return ScriptSession(self.folder, self.notes).run

    def lift(self, weights: Mapping[str, Array], watch: Sequence[str] = ()) -> Run:
        if watch:
            raise NotOffered(_BETWEEN)
        session = ScriptSession(self.folder, self.notes)
        module: Any = session.module
        module._apply(_whole_float)
        in_code = {content: weights[name] for content, name in self.in_code.items() if name in weights}
        for function in _functions(module):
            _graph_in_float(function.graph, in_code, self.widened_ends)
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        _widen(tensors, weights)
        if self.widened_ends:
            _widen(tensors, _ends_of(tensors))
        return lambda case: session.run(case) | case


def _whole_float(value: torch.Tensor) -> torch.Tensor:
    """Half tensors as float ones; double ones stay, as the code asserts what it computes in."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _kind(kind: str, given: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """A traced convolution is `_convolution`, whose rank and direction are among its arguments."""
    if kind != "_convolution":
        return kind
    weight = values.get(given.get("weight", ""))
    rank = weight.dim() - 2 if isinstance(weight, torch.Tensor) else 0
    return f"conv_transpose{rank}d" if values.get(given.get("transposed", "")) else f"conv{rank}d"


def _functions(module: Any) -> Iterator[Any]:
    for part in module.modules():
        for name in part._c._method_names():
            yield part._c._get_method(name)


def _content(stored: Array) -> _Content:
    return stored.dtype.str, stored.shape, hashlib.sha256(stored.tobytes()).digest()


def _graph_in_float(graph: Any, weights: Mapping[_Content, Array], ends: bool) -> None:
    """Make casts to float16 casts to float32, half tensors of the code float ones with their `weights`, and with `ends`
    those of fp16 those of float32.

    By content: the graph of a method names its values otherwise than the one that has all methods in it.
    """
    for node in list(every_node(graph)):
        if node.kind() == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t":
            tensor = node.t("value")
            if tensor.dtype == torch.float16:
                stored = tensor.cpu().numpy()
                values = np.asarray(weights.get(_content(stored), stored)).astype(np.float32)
                node.t_("value", torch.from_numpy(widened_ends(values) if ends else values))
            elif ends and tensor.dtype == torch.float64 and not tensor.dim() and abs(float(tensor)) == FP16_MAX:
                node.t_("value", tensor * (FLOAT_MAX / FP16_MAX))
            continue
        if ends and node.kind() == "prim::Constant" and isinstance(number := node.output().toIValue(), float):
            node.f_("value", _in_float(number, ends))
            continue
        schema = schema_of(node.schema()) if node.kind().startswith("aten::") else None
        names = [argument.name for argument in schema.arguments] if schema is not None else []
        for place, (name, value) in enumerate(zip(names, list(node.inputs()), strict=False)):
            if name == "dtype" and value.node().kind() == "prim::Constant" and value.toIValue() == _HALF:
                constant = graph.insertConstant(_FLOAT)
                constant.node().moveBefore(node)
                node.replaceInput(place, constant)
