"""What a TFLite file draws at random and decides by data, in all of its sub-graphs. Child only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from parity.formats.graph import Array, Constant
from parity.formats.survey import MOST, RANDOM, Meaning, Node, Survey, linked, recurrent
from parity.formats.tflite import signatures
from parity.formats.tflite.graph import constant, grid_of, kind, parsed, unique

_MEANINGS: Mapping[str, Meaning] = {
    **dict.fromkeys(("EQUAL", "NOT_EQUAL"), "equal"),
    **dict.fromkeys(("GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"), "order"),
    **dict.fromkeys(("FlexIsNan", "FlexIsInf", "FlexIsFinite"), "finite"),
    **dict.fromkeys(("LOGICAL_AND", "LOGICAL_OR", "LOGICAL_NOT"), "boolean"),
    **dict.fromkeys(("SHAPE", "RANK", "ZEROS_LIKE", "FlexShape", "FlexSize"), "shape"),
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "BROADCAST_TO", "TILE", "QUANTIZE", "DEQUANTIZE"), "same"),
    "WHERE": "nonzero",
    "MULTINOMIAL": "random",
    "SIGN": "sign",
    **dict.fromkeys(("ARG_MAX", "ARG_MIN", "TOPK_V2", "UNIQUE", "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5"),
                    "rank"),
    **dict.fromkeys(("FLOOR", "CEIL", "ROUND"), "round"),
    "ONE_HOT": "onehot",
    "BUCKETIZE": "order",
    **dict.fromkeys(("HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_LOOKUP", "LSH_PROJECTION", "EMBEDDING_LOOKUP_SPARSE"),
                    "code"),
}  # fmt: skip

_FLOATS = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.FLOAT64)
_FUSED = {getattr(schema.ActivationFunctionType, name): name for name in ("RELU", "RELU6", "RELU_N1_TO_1")}
_COMPLEX = (schema.TensorType.COMPLEX64, schema.TensorType.COMPLEX128)


def survey(folder: str, notes: Mapping[str, Any]) -> Survey:
    """The survey of a .tflite file."""
    return _read(folder, notes, whole=False)


def constants(folder: str, notes: Mapping[str, Any]) -> Survey:
    """The survey of a .tflite file with all of its constants."""
    return _read(folder, notes, whole=True)


def _read(folder: str, notes: Mapping[str, Any], whole: bool) -> Survey:
    model = parsed(Path(folder, notes["entry"]).read_bytes())
    signature = signatures.definition(model, notes)
    entered = int(signature.subgraphIndex) if signature is not None else 0
    result = Survey([_name(entered, int(i)) for i in model.subgraphs[entered].inputs])
    given = signatures.inputs_of(signature) if signature is not None else {}
    for index in map(int, model.subgraphs[entered].inputs):
        result.ports[_name(entered, index)] = given.get(index, _label(model.subgraphs[entered].tensors[index]))
    for number, graph in enumerate(model.subgraphs):
        labels = unique([_label(tensor) for tensor in graph.tensors])
        for index, tensor in enumerate(graph.tensors):
            if tensor.type == schema.TensorType.BOOL:
                result.booleans.add(_name(number, index))
            result.saturated |= grid_of(tensor) is not None and not _is_stored(model, tensor)
            small, name, grid = _small(tensor), _name(number, index), grid_of(tensor)
            stored = constant(model, tensor) if small or whole else None
            if stored is not None and small:
                result.constants[name] = stored if grid is None else grid.real(stored)
            if stored is not None and whole:
                result.stored[name] = Constant(labels[index], stored, grid)
        for op in graph.operators:
            nodes = _nodes(model, number, op, result.constants)
            result.nodes += (replace(node, inner=number != entered) for node in nodes)
    _keep_variables(model, entered, result)
    return result


def _keep_variables(model: Any, entered: int, result: Survey) -> None:
    """Take in the resource variables that a run assigns; those that are set once, when the file is opened, are
    constants.

        VAR_HANDLE -> h    READ_VARIABLE(h) -> value    ASSIGN_VARIABLE(h, value)
    """
    operators = [(n, op, kind(model, op)) for n in _reached(model, entered) for op in model.subgraphs[n].operators]
    variables: dict[str, set[str]] = {}  # those that a handle may stand for, by its tensor
    for number, op, operator in operators:
        if operator == "VAR_HANDLE":
            variables[_name(number, int(op.outputs[0]))] = {_variable(op.builtinOptions)}
    grew = bool(variables)
    while grew:  # a handle may be given to a sub-graph
        grew = False
        for node in result.nodes:
            if not node.operator and node.inputs[0] in variables:
                taken = variables.setdefault(node.outputs[0], set())
                grew = grew or not variables[node.inputs[0]] <= taken
                taken |= variables[node.inputs[0]]
    reads: dict[str, list[str]] = {}
    writers: dict[str, Node] = {}
    for number, op, operator in operators:
        if operator not in ("READ_VARIABLE", "ASSIGN_VARIABLE"):
            continue
        for variable in variables.get(_name(number, int(op.inputs[0])), ()):
            if operator == "READ_VARIABLE":
                reads.setdefault(variable, []).append(_name(number, int(op.outputs[0])))
            else:
                writers[variable] = Node(operator, f"variable {variable}", (), ())
    result.keep(writers, reads, [_name(entered, int(i)) for i in model.subgraphs[entered].outputs])


def _variable(options: Any) -> str:
    parts = (options.container, options.sharedName)
    return "/".join(part.decode("utf-8", "replace") for part in parts if part)


def _reached(model: Any, entered: int) -> set[int]:
    """The sub-graphs that every call may execute; those of CALL_ONCE are executed when the file is opened."""
    reached, ahead = set[int](), [entered]
    while ahead:
        number = ahead.pop()
        if number in reached:
            continue
        reached.add(number)
        for op in model.subgraphs[number].operators:
            if kind(model, op) != "CALL_ONCE":
                options = [held for held in (op.builtinOptions, op.builtinOptions2) if held is not None]
                ahead += [index for held in options for name, index in vars(held).items() if _is_graph(name)]
    return reached


def _is_graph(name: str) -> bool:
    return name.endswith("SubgraphIndex") or name == "subgraph"


def _name(graph: int, tensor: int) -> str:
    return f"{graph}:{tensor}"


def _is_stored(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _small(tensor: Any) -> bool:
    return int(np.prod([int(n) for n in (tensor.shape if tensor.shape is not None else ())])) <= MOST


def _nodes(model: Any, graph: int, op: Any, constants: dict[str, Array]) -> Iterator[Node]:
    operator = kind(model, op)
    inputs = tuple(_name(graph, int(i)) for i in op.inputs if i >= 0)
    outputs = tuple(_name(graph, int(i)) for i in op.outputs)
    place = _place(model, graph, op)
    if operator in ("WHILE", "IF"):
        yield from _controlled(model, op, operator, inputs, outputs, place)
    else:
        yield Node(operator, place, inputs, outputs, _meaning(model, graph, op, operator, constants))
        fused = getattr(op.builtinOptions, "fusedActivationFunction", 0)
        if fused in _FUSED:
            yield Node(_FUSED[fused], place, outputs, ())
        for attribute in ("cellClip", "projClip"):
            bound = float(getattr(op.builtinOptions, attribute, 0) or 0)
            yield from recurrent(place, outputs, (attribute, bound), (), constants)


def _place(model: Any, graph: int, op: Any) -> str:
    return _label(model.subgraphs[graph].tensors[int(op.outputs[0])]) if len(op.outputs) else ""


def _label(tensor: Any) -> str:
    """The name that a tensor has in the file."""
    name = tensor.name
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")


def _controlled(
    model: Any, op: Any, operator: str, inputs: tuple[str, ...], outputs: tuple[str, ...], place: str
) -> Iterator[Node]:
    """IF: condition first, then what both branches take. WHILE: the body's results are its next inputs, and the
    condition's."""

    def ports(number: int) -> tuple[list[str], list[str]]:
        inner = model.subgraphs[number]
        return [_name(number, int(i)) for i in inner.inputs], [_name(number, int(i)) for i in inner.outputs]

    options = op.builtinOptions
    if operator == "IF":
        for number in (options.thenSubgraphIndex, options.elseSubgraphIndex):
            taken, left = ports(number)
            yield from linked(inputs[1:], taken)
            yield from linked(left, outputs)
        yield Node(operator, place, inputs[:1], outputs, "branch")
        return
    asked, answer = ports(options.condSubgraphIndex)
    taken, left = ports(options.bodySubgraphIndex)
    yield from (node for given in (inputs, left) for into in (taken, asked, outputs) for node in linked(given, into))
    yield Node(operator, place, tuple(answer), (), "loop")


def _meaning(model: Any, graph: int, op: Any, operator: str, constants: Mapping[str, Array]) -> Meaning:
    tensors = model.subgraphs[graph].tensors
    if operator == "CAST":
        given, made = (tensors[int(side[0])].type for side in (op.inputs, op.outputs))
        if made == schema.TensorType.BOOL:
            return "nonzero"
        return "round" if given in _FLOATS and made not in (*_FLOATS, *_COMPLEX) else "same"
    if operator == "GATHER":
        table = tensors[int(op.inputs[0])]
        whole = table.type in (schema.TensorType.INT32, schema.TensorType.INT64) and grid_of(table) is None
        return "table" if whole and _name(graph, int(op.inputs[0])) in constants else ""
    return _MEANINGS.get(operator) or ("random" if RANDOM.search(operator) else "")
