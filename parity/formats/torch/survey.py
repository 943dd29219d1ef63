"""What a TorchScript file or an ExportedProgram draws at random and decides by data. Child only.

Both are opened by the safe readers alone (`docs/models.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from parity.files.torch_archives import open_program, open_script
from parity.files.torch_operators import schema_of
from parity.formats.survey import MOST, Meaning, Node, Survey, linked
from parity.formats.torch.state import ProgramState, ScriptState
from parity.reference.decisions import bound_of, comparison, is_look_up, randomness, rounds

_SHAPE_WORDS = """
    size len dim numel sym_size sym_numel shape device dtype layout __is__ __isnot__ isinstance
    is_floating_point is_complex is_signed is_nested is_quantized is_sparse is_sparse_csr
    has_torch_function
    zeros_like ones_like empty_like new_zeros new_ones new_empty
"""
_SHAPES = frozenset(_SHAPE_WORDS.split())
_SAME_WORDS = """
    to _to_copy type_as clone contiguous detach alias lift_fresh_copy view reshape unsqueeze squeeze
    expand flatten Int Float Bool ScalarImplicit IntImplicit FloatImplicit item scalar_tensor
    NumToTensor unchecked_cast tensor as_tensor float int _local_scalar_dense _unsafe_view repeat
"""
_SAME = frozenset(_SAME_WORDS.split())
_LOGIC_WORDS = """
    logical_and logical_or logical_xor __and__ __or__ __xor__ __not__ bitwise_not bitwise_and
    bitwise_or
"""
_LOGIC = frozenset(_LOGIC_WORDS.split())

_PROCESS_WORDS = """
    is_grad_enabled is_autocast_enabled is_autocast_cpu_enabled get_autocast_dtype is_inference
    requires_grad is_leaf retains_grad grad output_nr _version _get_tracing_state
    storage_offset sym_storage_offset stride sym_stride is_contiguous sym_is_contiguous
    is_non_overlapping_and_dense is_strides_like_format is_set_to is_pinned is_coalesced is_conj
    is_neg _is_zerotensor is_distributed _debug_has_internal_overlap _has_same_storage_numel
    get_device is_cuda is_cpu is_xpu is_mps is_mtia is_maia is_ipu is_meta is_mkldnn is_vulkan
    is_xla is_vulkan_available cudnn_is_acceptable _get_cpu_capability _nnpack_available
    _fused_sdp_choice
"""
_PROCESS = frozenset(_PROCESS_WORDS.split())
_UNFOLLOWED = ("prim::CallMethod", "prim::CallFunction", "prim::fork", "prim::awaitable", "prim::Closure")
"""Of code that is not in the graph: called by an interface, as a value, or elsewhere."""
_OF_KEYS = ("aten::__getitem__", "aten::__contains__", "aten::get")
_OF_A_DEVICE = ("prim::type", "prim::index", "prim::id")  # `type` and `index` of a device; `id` of an object


def script(folder: str, notes: Mapping[str, Any]) -> Survey:
    """The survey of a TorchScript file."""
    module: Any = open_script(Path(folder, notes["entry"]))
    graph = module.inlined_graph
    given = [value.debugName() for value in graph.inputs()]
    result = Survey(given[1:])
    held: dict[str, Any] = {given[0]: module}
    reader = _Script(result, held)
    for node in reader.read(graph):
        result.nodes.append(node)
    result.nodes[:] = _reached(module, result.nodes)
    state = ScriptState(graph, module)
    result.keep(state.writers, state.reads, [value.debugName() for value in graph.outputs()])
    return result


def _reached(module: Any, nodes: Sequence[Node]) -> list[Node]:
    """The nodes, without meaning those that draw or normalise by the batch in a branch that is never taken: scripted
    attention has its dropout behind `dropout_p > 0`, which freezing the module makes false."""
    drawing = [node for node in nodes if node.meaning in ("random", "training")]
    if not drawing:
        return list(nodes)
    try:
        frozen = torch.jit.freeze(module).inlined_graph
    except RuntimeError:  # a module in training mode
        return list(nodes)
    left = {node.operator for node in drawing if frozen.findAllNodes(node.operator, True)}
    gone = {id(node) for node in drawing if node.operator not in left}
    return [replace(node, meaning="") if id(node) in gone else node for node in nodes]


class _Script:
    """Reads the nodes of an inlined graph; `held` are the module and what its attributes hold, by value."""

    def __init__(self, result: Survey, held: dict[str, Any]):
        self.result, self.held = result, held

    def read(self, block: Any) -> Iterator[Node]:
        for node in block.nodes():
            yield from self._node(node)

    def _node(self, node: Any) -> Iterator[Node]:
        kind = node.kind()
        inputs = tuple(value.debugName() for value in node.inputs())
        outputs = tuple(value.debugName() for value in node.outputs())
        if kind == "prim::GetAttr":
            self._attribute(node, inputs[0], outputs[0])
        elif kind == "prim::Constant":
            self._constant(outputs[0], node.output().toIValue())
        elif kind in ("prim::If", "prim::Loop"):
            yield from self._controlled(node, kind, inputs, outputs)
        else:
            name = kind.partition("::")[2]
            schema = schema_of(node.schema())
            names = [a.name for a in schema.arguments] if schema is not None else []
            given = {n: self._scalar(value) for n, value in zip(names, inputs, strict=False)}
            meaning = _meaning(name, given.get, inputs[:1], self.result.constants, _of_floats(node))
            if kind in _OF_A_DEVICE or _compares_devices(schema):
                meaning = "process"
            elif kind in _UNFOLLOWED:
                meaning = "branch"
            elif kind == "aten::Int" and str(next(node.inputs()).type()) in ("float", "Scalar", "number"):
                meaning = "round"
            elif kind in _OF_KEYS and any(str(value.type()).startswith("Dict(") for value in node.inputs()):
                meaning = "code"
            yield Node(kind, _place(node), inputs, outputs, meaning)

    def _attribute(self, node: Any, owner: str, output: str) -> None:
        value = getattr(self.held[owner], node.s("name"), None) if owner in self.held else None
        if isinstance(value, (torch.jit.ScriptModule, torch.nn.Module)):
            self.held[output] = value
        else:
            self._constant(output, value)

    def _constant(self, name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor) and value.numel() <= MOST and not value.is_quantized:
            self.result.constants[name] = value.detach().numpy()
        elif isinstance(value, (bool, int, float)):
            self.result.constants[name] = np.asarray(value)

    def _scalar(self, name: str) -> Any:
        value = self.result.constants.get(name)
        return value.item() if value is not None and value.ndim == 0 else None

    def _controlled(self, node: Any, kind: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Iterator[Node]:
        """If: (condition). Loop: (most, condition, values); its body takes (iteration, values), gives (condition,
        values)."""
        place = _place(node)
        for block in node.blocks():
            yield from (replace(part, inner=True) for part in self.read(block))
            taken, left = ([v.debugName() for v in side()] for side in (block.inputs, block.outputs))
            if kind == "prim::If":
                yield from linked(left, outputs)
                continue
            yield from linked(inputs[2:], taken[1:])
            yield from linked(left[1:], taken[1:])
            yield from linked(left[1:], outputs)
            yield Node(kind, place, (*inputs[:2], left[0]), (), "loop")
        if kind == "prim::If":
            yield Node(kind, place, inputs[:1], outputs, "branch")


def _compares_devices(schema: Any) -> bool:
    types = [str(argument.type) for argument in schema.arguments] if schema is not None else []
    return types == ["Device", "Device"]


def _place(node: Any) -> str:
    """The output's name, by which `module.inlined_graph` shows the node."""
    outputs = list(node.outputs())
    return f"%{outputs[0].debugName()}" if outputs else ""


def program(folder: str, notes: Mapping[str, Any]) -> Survey:
    """The survey of a .pt2 file."""
    exported: Any = open_program(Path(folder, notes["entry"]))
    signature = exported.graph_signature
    result = Survey(tuple(signature.user_inputs))
    stored = dict(exported.state_dict) | dict(exported.constants)
    targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers,
               **getattr(signature, "inputs_to_lifted_tensor_constants", {})}  # fmt: skip
    for name, target in targets.items():
        value = stored.get(target)
        if isinstance(value, torch.Tensor) and value.numel() <= MOST:
            result.constants[name] = value.detach().numpy()
    _read(exported.graph_module, "", result)
    state = ProgramState(exported)
    result.keep(state.writers, state.reads, map(str, signature.user_outputs))
    return result


def _read(module: fx.GraphModule, prefix: str, result: Survey) -> None:
    for node in module.graph.nodes:
        if node.op == "call_function":
            result.nodes += (replace(part, inner=bool(prefix)) for part in _nodes(module, node, prefix, result))


def _nodes(module: fx.GraphModule, node: fx.Node, prefix: str, result: Survey) -> Iterator[Node]:
    name = prefix + node.name
    overload: Any = node.target
    schema = getattr(overload, "_schema", None)
    operator = str(node.target) if schema is not None else getattr(overload, "__name__", str(node.target))
    inner = [a for a in node.all_input_nodes if a.op == "get_attr" and isinstance(
        getattr(module, str(a.target), None), fx.GraphModule)]  # fmt: skip
    if inner:
        yield from _controlled(module, node, inner, prefix, result)
        return
    inputs = []
    names = [a.name for a in schema.arguments] if schema is not None else []
    given: dict[str, Any] = {}
    for place, value in [*enumerate(node.args), *node.kwargs.items()]:
        key = names[place] if isinstance(place, int) and place < len(names) else str(place)
        given[key] = value
        for n, part in enumerate(value if isinstance(value, (list, tuple)) else [value]):
            if isinstance(part, fx.Node):
                inputs.append(prefix + part.name)
            elif isinstance(part, (bool, int, float)):
                inputs.append(f"{name}/{key}/{n}")
                result.constants[inputs[-1]] = np.asarray(part)
    base = schema.name.partition("::")[2] if schema is not None else operator
    if schema is not None and (bound := bound_of(base, schema, given.get)) is not None:
        inputs.append(f"{name}/bound")
        result.constants[inputs[-1]] = np.asarray(bound)
    first = node.args[0].meta.get("val") if node.args and isinstance(node.args[0], fx.Node) else None
    floating = isinstance(first, torch.Tensor) and first.is_floating_point()
    meaning = _meaning(base, given.get, tuple(inputs[:1]), result.constants, floating)
    yield Node(operator, name, tuple(inputs), (name,), meaning)


def _controlled(
    module: fx.GraphModule, node: fx.Node, inner: list[fx.Node], prefix: str, result: Survey
) -> Iterator[Node]:
    """A higher-order operator: its sub-graphs take its operands in their order, and give its results."""
    name = prefix + node.name
    operands = [a for group in node.args for a in (group if isinstance(group, (list, tuple)) else [group])]
    values = [prefix + a.name for a in operands if isinstance(a, fx.Node) and a not in inner]
    given = values[1:] if "cond" in str(node.target) else values
    for part in inner:
        body, below = getattr(module, str(part.target)), f"{name}/{part.target}/"
        _read(body, below, result)
        taken = [below + n.name for n in body.graph.nodes if n.op == "placeholder"]
        left = [below + a.name for n in body.graph.nodes if n.op == "output" for a in n.all_input_nodes]
        yield from linked(given, taken)
        yield from (Node("", "", (value,), (name,)) for value in left)
        if "while" in str(node.target):
            yield from (Node("", "", (name,), (value,)) for value in taken)
    if "cond" in str(node.target):
        yield Node(str(node.target), name, tuple(values[:1]), (name,), "branch")
    elif "while" in str(node.target):
        yield Node(str(node.target), name, tuple(values), (name,), "loop")


def _of_floats(node: Any) -> bool:
    """Whether a node of a script reads real numbers first, as far as the script says."""
    first = next(iter(node.inputs()), None)
    dtype = first.type().dtype() if first is not None and first.type().kind() == "TensorType" else None
    return dtype is not None and dtype.is_floating_point


_DTYPES = {0: torch.uint8, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.int64}  # as scripts number them


def _meaning(
    name: str, argument: Callable[[str], Any], first: tuple[str, ...], constants: Mapping[str, Any], floating: bool
) -> Meaning:
    kind = randomness(name, argument)
    if kind:
        return "random" if kind == "random" else "training"
    compared = comparison(name)
    if compared is not None:
        return "nonzero" if compared[1] else compared[0]
    if name in _PROCESS:
        return "process"
    if name in _SHAPES or name.startswith("sym_size"):
        return "shape"
    if name in _LOGIC:
        return "boolean"
    dtype = argument("dtype")
    if rounds(name, _DTYPES.get(dtype) if isinstance(dtype, int) else dtype, floating):
        return "round"
    if name in _SAME:
        boolean = argument("dtype") in (torch.bool, 11)
        return "nonzero" if boolean else "same"
    table = constants.get(first[0]) if first else None
    if is_look_up(name) and table is not None and table.dtype in (np.int32, np.int64) and table.ndim:
        return "table"
    return ""
