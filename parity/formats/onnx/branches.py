"""`If` nodes that sizes alone decide, replaced by the branch that inputs of certain sizes take. Child only.

    Shape(x) -> Gather -> Greater -> If { then: A, else: B }        becomes        A

Exporters leave these where a model was scripted, or where padding depends on the size. At given sizes the condition is
a constant, so the rest can be read as a graph without branches. What depends on values stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from parity.formats.graph import NotPossible, Values
from parity.formats.survey import RANDOM

_OF_SIZES = ("Shape", "Size")


@dataclass(frozen=True)
class Condition:
    """A condition that sizes decide: the graph that computes it from the inputs, and what it was."""

    model: bytes
    taken: bool

    def holds(self, fed: Values) -> bool:
        """Whether inputs take the same branch."""
        return _value(self.model, fed) == self.taken


@dataclass
class Branches:
    """The conditions of a graph that were decided, in their order."""

    conditions: list[Condition] = field(default_factory=list)

    def follows(self, fed: Values) -> bool:
        """Whether inputs, by the file's own names, take every branch that was taken."""
        return all(condition.holds(fed) for condition in self.conditions)


def take(model: Any, fed: Values) -> Branches:
    """Replace, in place, each `If` of `model` whose condition depends on sizes alone by the branch that `fed` takes."""
    branches = Branches()
    while node := next((n for n in model.graph.node if n.op_type == "If" and _of_sizes(model.graph, n)), None):
        condition = _computing(model, node.input[0])
        taken = _value(condition, fed)
        branches.conditions.append(Condition(condition, taken))
        _inline(model.graph, node, "then_branch" if taken else "else_branch")
    if branches.conditions:
        _drop_dead(model.graph)
    return branches


def _of_sizes(graph: Any, node: Any) -> bool:
    """Whether the condition of an `If` follows from the sizes of the graph's inputs."""
    stored = {i.name for i in graph.initializer}
    producer = {name: n for n in graph.node for name in n.output if name}
    waiting, seen = [node.input[0]], set[str]()
    while waiting:
        name = waiting.pop()
        if not name or name in stored or name in seen:
            continue
        seen.add(name)
        made_by = producer.get(name)
        if made_by is None:
            return False
        if made_by.op_type in (*_OF_SIZES, "Constant"):
            continue
        if not made_by.input or RANDOM.search(made_by.op_type) or any(a.HasField("g") for a in made_by.attribute):
            return False
        waiting += made_by.input
    return True


def _computing(model: Any, name: str) -> bytes:
    """A model of what is needed to compute the tensor `name`, and no more."""
    nodes = _needed(model.graph, [name])
    read = {n for node in nodes for n in _reads(node)} | {name}
    graph = helper.make_graph(
        nodes,
        "condition",
        [value for value in model.graph.input if value.name in read],
        [onnx.ValueInfoProto(name=name)],
        [i for i in model.graph.initializer if i.name in read],
    )
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return bytes(made.SerializeToString())


def _needed(graph: Any, names: Sequence[str]) -> list[Any]:
    """The nodes that the tensors `names` are computed by, in the graph's order."""
    wanted = set(names)
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_reads(node))
    return kept[::-1]


def _reads(node: Any) -> Iterator[str]:
    """The names that a node reads, those that its sub-graphs read from outside among them."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from (value.name for value in attribute.g.output)
            for inner in attribute.g.node:
                yield from _reads(inner)


def _value(model: bytes, fed: Values) -> bool:
    """The condition that `model` computes, on inputs by the file's own names. Raises NotPossible."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        types = {i.name: np.float16 if i.type == "tensor(float16)" else None for i in session.get_inputs()}
        wanted = {name: fed[name].astype(kind or fed[name].dtype) for name, kind in types.items()}
        return bool(np.all(session.run(None, wanted)[0]))
    except Exception as error:  # native runtimes raise what they like
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise NotPossible(f"the file has sub-graphs (If), and their condition is refused: {lines[0][:200]}") from None


def _inline(graph: Any, node: Any, branch: str) -> None:
    """Put the nodes of a branch in the place of its `If`."""
    inner = next(a.g for a in node.attribute if a.name == branch)
    if inner.sparse_initializer:
        raise NotPossible("the file has sub-graphs (If) with sparse constants")
    made_inside = [name for n in inner.node for name in n.output if name]
    names = [*made_inside, *(i.name for i in inner.initializer)]
    taken = {name for n in graph.node for name in n.output} | {i.name for i in graph.initializer}
    taken |= {value.name for value in graph.input}
    renamed = {name: f"{node.output[0]}/{branch}/{name}" for name in names if name in taken}
    aliases = []
    for left, output in zip(inner.output, node.output, strict=True):
        if left.name in made_inside and renamed.get(left.name) not in node.output:
            renamed[left.name] = output
        elif output:
            aliases.append((left.name, output))
    for initializer in inner.initializer:
        graph.initializer.add().CopyFrom(initializer)
        graph.initializer[-1].name = renamed.get(initializer.name, initializer.name)
    nodes = []
    for each in graph.node:
        if each is not node and each != node:
            nodes.append(each)
            continue
        nodes += [_renamed(n, renamed) for n in inner.node]
        nodes += [helper.make_node("Identity", [renamed.get(name, name)], [output]) for name, output in aliases]
    copies = [type(n).FromString(n.SerializeToString()) for n in nodes]  # deleted under it otherwise
    del graph.node[:]
    graph.node.extend(copies)


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    """A copy of a node with other names of tensors, in its sub-graphs too."""
    made = type(node).FromString(node.SerializeToString())
    made.name = ""  # those of two branches may be alike
    made.input[:] = [names.get(name, name) for name in made.input]
    made.output[:] = [names.get(name, name) for name in made.output]
    for attribute in made.attribute:
        if attribute.HasField("g"):
            inner = [_renamed(n, names) for n in attribute.g.node]
            del attribute.g.node[:]
            attribute.g.node.extend(inner)
            for value in attribute.g.output:
                value.name = names.get(value.name, value.name)
    return made


def _drop_dead(graph: Any) -> None:
    """Leave out what nothing reads any more: the conditions."""
    kept = [type(n).FromString(n.SerializeToString()) for n in _needed(graph, [v.name for v in graph.output])]
    del graph.node[:]
    graph.node.extend(kept)
