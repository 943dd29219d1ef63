"""What a file stores where the module's weights belong, as tensors of the module: evidence for a diagnosis.

The audit says which constants are not the module's. Put into the module, they answer a question that no residual can:
whether the file is this model with other weights, or another model. In a child process only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from parity.formats.graph import Array, Constant, Graph, NotPossible
from parity.formats.target import load_part
from parity.process.child import stage
from parity.proof.audit import Audited, audit
from parity.proof.match import Match, arrange, match, placed
from parity.proof.messages import StoredRequest, StoredWeights
from parity.proof.source import STACKED, Source, Weight, source

_PART = re.compile(r"(?P<tensor>.+?)(, summed)?(\[(?P<gate>\d+)\])?")


def stored(request: StoredRequest) -> StoredWeights:
    """The tensors that make the module hold what the file holds in every layer whose constants fail the audit."""
    stage("prove")
    try:
        torch_side = source(request.model, request.case)
        graph = load_part(request.reader)(request.folder, request.notes, torch_side.bounds).graph
        audited, _ = audit(graph, match(graph, torch_side)[0], request.precision)
        layers = [(a, a.match.weight) for a in audited.values() if a.match.weight is not None]
        others = [(a.match, layer) for a, layer in layers if not a.sound]
        tensors = _tensors(torch_side, others)
        operands = dict(_operands(graph, torch_side, audited))
    except NotPossible as obstacle:
        return StoredWeights({}, [], 0, str(obstacle))
    tensors |= operands
    every = _modules([*(layer.name for _, layer in layers), *operands])
    named = _modules([*(layer.name for _, layer in others), *operands])
    order = [module for module in _modules(torch_side.tensors) if module in named]
    return StoredWeights(tensors, order, len(every))


def _modules(names: Iterable[str]) -> list[str]:
    """The modules that hold tensors of these names, each once."""
    return list(dict.fromkeys(part.rpartition(".")[0] for name in names for part in name.split(STACKED)))


def _tensors(torch_side: Source, others: Sequence[tuple[Match, Weight]]) -> dict[str, Array]:
    """What is stored, taken back to the module: out of the file's layout, and out of the BatchNorm folded in."""
    tensors: dict[str, Array] = {}
    for one, layer in others:
        real = one.constant.real
        if slot := one.constant.slot("weight"):
            _put(torch_side, tensors, layer.name, _unarranged(layer, slot.layout, real) / _scale(layer))
            continue
        shift = (real - one.values).reshape(-1)
        if layer.mean:  # there may be no bias to move; less of the mean comes to the same
            shift = -shift / _scale(layer).reshape(-1)
        name = layer.mean or layer.bias.name
        now = [torch_side.tensor(tensor)[part] for tensor, part in _parts(torch_side, name)]
        _put(torch_side, tensors, name, np.concatenate(now) + shift)
    return tensors


def _operands(graph: Graph, torch_side: Source, audited: Mapping[str, Audited]) -> Iterator[tuple[str, Array]]:
    """Tensors that element-wise operators hold: gains, tables, the bias behind a product.

    Those that resemble the module's are matched. The others are paired in their order with the tensors of their size
    that nothing in the file holds, where there are as many of both: the outputs say whether that is right.
    """
    held = {part for a in audited.values() for part in (a.match.name, a.match.weight.name if a.match.weight else "")}
    free: dict[int, list[str]] = {}
    for name in dict.fromkeys(term.name for term in torch_side.terms):
        if name not in held and (size := torch_side.size(name)) > 1:
            free.setdefault(size, []).append(name)
    left: dict[int, list[Constant]] = {}
    for operator in graph.operators:
        for constant in (graph.constants[name] for name in operator.inputs if name in graph.constants):
            if (constant.name not in audited and constant.stored.dtype.kind == "f" and constant.slot("operand")
                    and constant not in left.setdefault(constant.stored.size, [])):  # fmt: skip
                left[constant.stored.size].append(constant)
    pairs = [(a.match.name, a.match.constant) for a in audited.values() if a.match.weight is None and not a.sound]
    for size, names in free.items():
        if len(names) == len(left.get(size, ())):
            pairs += zip(names, left[size], strict=True)
    for name, constant in pairs:
        if torch_side.size(name) == constant.stored.size:
            yield name, _unplaced(torch_side.tensor(name), constant.real, graph.channels_last)


def _unplaced(values: Array, real: Array, channels_last: bool) -> Array:
    """An operand in the shape of the module's `values`."""
    order = placed(np.arange(values.size).reshape(values.shape), real.shape, channels_last)
    found = np.empty(values.size)
    found[(np.arange(values.size) if order is None else order).reshape(-1)] = real.reshape(-1)
    return found.reshape(values.shape)


def _unarranged(layer: Weight, layout: str, real: Array) -> Array:
    """A constant in torch's layout: each value goes where `arrange` would fetch it from."""
    order = arrange(layer, np.arange(layer.values.size).reshape(layer.values.shape), layout, real.shape)
    assert order is not None  # it was matched in this layout
    values = np.empty(layer.values.size)
    values[order.reshape(-1)] = real.reshape(-1)
    return values.reshape(layer.values.shape)


def _scale(layer: Weight) -> Array:
    """The factor of the BatchNorm folded into each output channel, shaped to divide the weight by; 1 without one."""
    if layer.unfolded is None:
        return np.ones(1)
    axis = 1 if layer.kind == "transposed" else 0
    others = tuple(i for i in range(layer.values.ndim) if i != axis)
    power = np.square(layer.unfolded.values).sum(axis=others, keepdims=True)
    if not power.all():
        raise NotPossible(f"{layer.name}: a channel of zeros does not tell what was folded into it")
    return np.asarray((layer.values * layer.unfolded.values).sum(axis=others, keepdims=True) / power)


def _put(torch_side: Source, tensors: dict[str, Array], name: str, values: Array) -> None:
    """Write values into the tensors that together bear a name: one, a gate's part of one, or several stacked."""
    start = 0
    for tensor, part in _parts(torch_side, name):
        into = tensors.setdefault(tensor, torch_side.tensor(tensor).copy())
        rows = len(into[part])
        into[part] = values[start : start + rows]
        start += rows


def _parts(torch_side: Source, name: str) -> Iterator[tuple[str, slice]]:
    """The tensors that a layer's weight or bias is made of, and which of their rows."""
    for one in name.split(STACKED):
        found = _PART.fullmatch(one)
        assert found is not None
        tensor, gate = found["tensor"], found["gate"]
        if gate is None:
            yield tensor, slice(None)
            continue
        gates = sum(weight.name.startswith(f"{tensor}[") or weight.bias.name.startswith(f"{tensor}[")
                    for weight in torch_side.weights)  # fmt: skip
        rows = len(torch_side.tensor(tensor)) // gates
        yield tensor, slice(int(gate) * rows, (int(gate) + 1) * rows)
