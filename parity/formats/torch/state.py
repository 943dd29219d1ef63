"""What a TorchScript file or an ExportedProgram keeps from call to call. Child only.

Attributes, parameters, buffers and constants live as long as the file is open. An operator that writes into one of
them, into a view of one, or into a list that holds one leaves something for the next call:

    CONSTANTS.c0 -> detach -> add_          self.seen -> append(_, x)

The schemas of PyTorch's operators say what is a view of what, and what is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from parity.files.torch_operators import schema_of
from parity.formats.survey import Node

_ANYTHING = "*"  # in a schema: may be a view of any argument
_CONTAINERS = ("prim::ListConstruct", "prim::TupleConstruct", "prim::DictConstruct")
_OVERWRITING = ("copy_", "fill_", "zero_")  # of what was there before nothing is left
_MUTABLE = ("TensorType", "ListType", "DictType", "OptionalType", "TupleType")

Holders = frozenset[str]
"""Names of what a file holds, in which a value lies or from which it is a view."""
_NOTHING: Holders = frozenset()


class _Kept:
    """`reads`: values by the name of what is held that they are taken from. `writers`: the first node that leaves
    something there."""

    def __init__(self) -> None:
        self.held: dict[str, Holders] = {}
        self.inside: dict[str, Holders] = {}  # of what lies in a list that the call itself makes
        self.reads: dict[str, list[str]] = {}
        self.writers: dict[str, Node] = {}
        self.used: set[str] = set()  # what was read so far, in the order of execution
        self.fixed: set[str] = set()  # values that are the same in every call
        self._names: dict[int, str] = {}  # of storages: two names may stand for one tensor

    def of(self, value: str) -> Holders:
        return self.held.get(value, _NOTHING)

    def within(self, value: str) -> Holders:
        """The holders of a value, and of what lies in it."""
        return self.of(value) | self.inside.get(value, _NOTHING)

    def same(self, source: str, name: str) -> None:
        """Note that `name` may be what `source` is."""
        self.held[name] = self.of(name) | self.of(source)
        self.put(name, self.inside.get(source, _NOTHING))

    def put(self, container: str, holders: Holders) -> None:
        self.inside[container] = self.inside.get(container, _NOTHING) | holders

    def take(self, value: str, name: str, content: Any = None) -> None:
        """Note that `value` is taken from what is held as `name`, whose content is given where it can be seen."""
        if isinstance(content, torch.Tensor) and content.layout == torch.strided and content.numel():
            name = self._names.setdefault(content.untyped_storage().data_ptr(), name)
        self.held[value] = self.of(value) | {name}
        if value not in self.reads.setdefault(name, []):
            self.reads[name].append(value)

    def hand_on(self, kind: str, schema: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Give the outputs of a node, and the lists that it fills, the holders of what they may be views of."""
        everything = _NOTHING.union(*map(self.within, inputs))
        if schema is None:
            made = kind in _CONTAINERS
            for name in outputs:
                if made:
                    self.put(name, everything)
                else:
                    self.held[name] = self.of(name) | everything
            return
        pairs = list(zip(schema.arguments, inputs, strict=False))
        aliased = [name for argument, name in pairs if argument.alias_info is not None]
        for result, name in zip(schema.returns, outputs, strict=False):
            if result.alias_info is None:
                continue
            if _ANYTHING in result.alias_info.before_set:
                self.held[name] = self.of(name) | everything
            elif result.alias_info.before_set:
                for source in aliased:
                    self.same(source, name)
            else:  # a list of views
                self.put(name, everything)
        if pairs and _writes(schema.arguments[0]):
            for argument, name in pairs[1:]:
                if _is_put_away(argument):
                    self.put(inputs[0], self.within(name))

    def execute(self, kind: str, place: str, schema: Any, inputs: Sequence[str], always: bool) -> None:
        """Note what a node reads and writes. `always`: it is executed in every call.

        A tensor that every call overwrites before anything reads it carries nothing over.
        """
        pairs = list(zip(schema.arguments, inputs, strict=False)) if schema is not None else []
        written = [name for argument, name in pairs if _writes(argument)]
        bare = schema.name.partition("::")[2] if schema is not None else ""
        overwrites = always and bare in _OVERWRITING
        for holder in _NOTHING.union(*map(self.of, written)):
            if not overwrites or holder in self.used:
                self.writers.setdefault(holder, Node(kind, place or holder, tuple(inputs), ()))
        if overwrites:
            inputs = inputs[1:]
        elif _is_view(schema) and all(self.within(value) or value in self.fixed for value in inputs):
            return
        for value in inputs:
            self.used |= self.within(value)


def _writes(argument: Any) -> bool:
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def _is_put_away(argument: Any) -> bool:
    """Whether an argument is kept in a container."""
    return argument.alias_info is not None and _ANYTHING in argument.alias_info.after_set


def _is_view(schema: Any) -> bool:
    if schema is None:
        return False
    views = bool(schema.returns) and all(result.alias_info is not None for result in schema.returns)
    return views and not any(map(_writes, schema.arguments))


class ScriptState(_Kept):
    """The state of a TorchScript module, by its inlined graph."""

    def __init__(self, graph: Any, module: Any):
        super().__init__()
        me = next(graph.inputs()).debugName()
        self.paths = {me: ""}  # of modules, by value
        self.modules: dict[str, Any] = {me: module}
        before = -1
        while before != (before := self._known()):
            self._follow(graph)
        self._execute(graph, always=True)

    def _known(self) -> int:
        return sum(map(len, (*self.held.values(), *self.inside.values())))

    def _follow(self, block: Any) -> None:
        for node in block.nodes():
            kind, inputs, outputs = node.kind(), _names(node.inputs()), _names(node.outputs())
            for inner in node.blocks():
                self._enter(node, inner, inputs, outputs)
            if kind == "prim::GetAttr":
                self._attribute(node, inputs[0], outputs[0])
            elif kind == "prim::Constant":
                self.fixed.add(outputs[0])
                if node.output().type().kind() in _MUTABLE:
                    self._constant(outputs[0], node.output().toIValue())
            elif not list(node.blocks()):
                if kind == "prim::ListConstruct" and self.fixed.issuperset(inputs):
                    self.fixed.update(outputs)
                self.hand_on(kind, schema_of(node.schema()), inputs, outputs)

    def _enter(self, node: Any, inner: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """If: no inputs. Loop: (most, condition, values) in; (iteration, values) and (condition, values) within."""
        loop = node.kind() == "prim::Loop"
        taken, left = _names(inner.inputs()), _names(inner.outputs())
        pairs = list(zip(inputs[2:], taken[1:], strict=False)) if loop else []
        self._follow(inner)
        results = left[1:] if loop else left
        pairs += zip(results, outputs, strict=False)
        pairs += zip(results, taken[1:], strict=False) if loop else []
        for source, name in pairs:
            self.same(source, name)

    def _constant(self, name: str, value: Any) -> None:
        if value is not None:
            self.take(name, f"%{name}", value)

    def _attribute(self, node: Any, owner: str, output: str) -> None:
        if owner not in self.paths:  # of an object of a class, which may be held itself
            self.held[output] = self.of(output) | self.of(owner)
            for name in self.of(owner):
                self.take(output, name)
            return
        path = f"{self.paths[owner]}.{node.s('name')}"
        value = getattr(self.modules[owner], node.s("name"), None) if owner in self.modules else None
        if isinstance(value, (torch.jit.ScriptModule, torch.nn.Module)):
            self.paths[output], self.modules[output] = path, value
        else:
            self.take(output, f"self{path}", value)

    def _execute(self, block: Any, always: bool) -> None:
        for node in block.nodes():
            kind, inputs, outputs = node.kind(), _names(node.inputs()), _names(node.outputs())
            for inner in node.blocks():
                self._execute(inner, always=False)
            if kind == "prim::SetAttr":
                self._set(node, inputs)
            elif kind not in ("prim::GetAttr", "prim::Constant"):
                place = f"%{outputs[0]}" if outputs else ""
                named = sorted(holder for holder in self.of(inputs[0]) if holder.startswith("self")) if inputs else []
                self.execute(kind, named[0] if named else place, schema_of(node.schema()), inputs, always)

    def _set(self, node: Any, inputs: Sequence[str]) -> None:
        owner = inputs[0]
        path = f"self{self.paths.get(owner, '')}.{node.s('name')}"
        for holder in (path,) if owner in self.paths else self.of(owner):
            self.writers.setdefault(holder, Node(node.kind(), holder, tuple(inputs), ()))


def _names(values: Any) -> list[str]:
    return [value.debugName() for value in values]


class ProgramState(_Kept):
    """The state of an ExportedProgram: of its parameters, buffers and constants."""

    def __init__(self, exported: Any):
        super().__init__()
        signature = exported.graph_signature
        stored = dict(exported.state_dict) | dict(exported.constants)
        targets = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        for name, target in targets.items():
            self.take(name, target, stored.get(target))
        for target in signature.buffers_to_mutate.values():
            self.writers[target] = Node("mutation", target, (), ())
        self._read(exported.graph_module, "", True)

    def _read(self, module: fx.GraphModule, prefix: str, always: bool) -> None:
        """Graphs of this kind are in order and have no loops but by operators, so one reading is enough."""
        for node in module.graph.nodes:
            if node.op == "call_function":
                self._node(module, node, prefix, always)

    def _node(self, module: fx.GraphModule, node: fx.Node, prefix: str, always: bool) -> None:
        schema = getattr(node.target, "_schema", None)
        inner = [a for a in node.all_input_nodes if a.op == "get_attr"]
        attributes = {str(a.target): getattr(module, str(a.target), None) for a in inner}
        bodies = [(name, body) for name, body in attributes.items() if isinstance(body, fx.GraphModule)]
        if bodies:
            always = always and str(node.target).startswith("wrap_with")
            self._enter(node, bodies, prefix, always)
            return
        inputs = [self._operand(value, prefix) for value in _by_position(node, schema)]
        self.hand_on(str(node.target), schema, inputs, [prefix + node.name])
        self.execute(str(node.target), prefix + node.name, schema, inputs, always)

    def _operand(self, value: Any, prefix: str) -> str:
        """The value's name; of a list, one that stands for its entries together; of a number, a fixed one."""
        nodes = [prefix + part.name for part in _nodes_in(value)]
        if isinstance(value, fx.Node):
            return nodes[0]
        name = f"{prefix}({', '.join(nodes)})"
        self.held[name] = _NOTHING.union(*map(self.of, nodes))
        if not nodes:
            self.fixed.add(name)
        return name

    def _enter(self, node: fx.Node, bodies: Sequence[tuple[str, fx.GraphModule]], prefix: str, always: bool) -> None:
        """A higher-order operator: its sub-graphs take its operands, and its results are theirs."""
        name = prefix + node.name
        for label, body in bodies:
            below = f"{name}/{label}/"
            taken = [below + n.name for n in body.graph.nodes if n.op == "placeholder"]
            given = [prefix + n.name for n in _nodes_in(node.args) if n.op != "get_attr"][-len(taken) or None :]
            for source, inside in zip(given, taken, strict=False):
                self.held[inside] = self.of(source)
            self._read(body, below, always)
            left = [below + n.name for out in body.graph.nodes if out.op == "output" for n in out.all_input_nodes]
            self.held[name] = self.of(name).union(*map(self.of, left))


def _nodes_in(value: Any) -> list[fx.Node]:
    """The nodes in an argument, which may be a list of them, in their order."""
    if isinstance(value, fx.Node):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [node for part in value for node in _nodes_in(part)] if isinstance(value, (list, tuple)) else []


def _by_position(node: fx.Node, schema: Any) -> list[Any]:
    """The arguments of a node in the order of its schema."""
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    given = [*node.args, *(None for _ in names[len(node.args) :])]
    for key, value in node.kwargs.items():
        if key in names:
            given[names.index(key)] = value
    return given
