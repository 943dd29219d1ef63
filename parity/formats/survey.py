"""What an artefact's graph draws at random and decides by data, whatever its format.

A target's `survey` is a reader that gives this view. It follows control flow, so it reads files that the chain's own
reader does not: the nodes of sub-graphs are among the others, and what goes in and out of them is a node of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from parity.core.decisions import STEPS, Decision, Family
from parity.formats.graph import TABLE, Array, Constant, Slot

MOST = 4096  # values of a constant that anything is compared with; larger ones are not read
FEW = 4  # distinct values of what is compared with thresholds; more are positions or labels
_BOUND = re.compile(
    r"(^|[^a-z])(floor_?mod|floor_?div(ide)?|f?mod|remainder|clip|clamp(_min|_max)?|(min|max)(imum)?)(\.\w+)?$",
    re.IGNORECASE,
)
_BOUNDING = ("clip", "clamp", "clamp_min", "clamp_max", "min", "max", "minimum", "maximum", "hardtanh", "clamped_relu",
             "threshold")  # fmt: skip
_HARD = (-3.0, 0.0, 1.0, 3.0, 6.0)  # what x * relu6(x + 3) / 6 and its like may be bounded by
_CURVED = ("hard_swish", "hardswish", "hard_sigmoid", "hardsigmoid", "sigmoid_hard")
_BOUNDED: Mapping[str, tuple[float, ...]] = {  # operators that bound their data by numbers of their own
    "relu": (0.0,),
    "relu6": (0.0, 6.0),
    "relu_n1_to_1": (-1.0, 1.0),
    "relu_0_to_1": (0.0, 1.0),
    **dict.fromkeys(_CURVED, _HARD),
}
_SATURATING = re.compile(r"^(QuantizeLinear|QLinear|QUANTIZE$|quantize$)")
_LOOK_UP = re.compile(r"(^|[^a-z])(gather|embedding(_lookup)?|index(_select)?)(\.\w+)?$", re.IGNORECASE)
MOST_LINES = 16  # ways in which one tensor follows from an input by constants; more are not read
_LINEAR = ("add", "add_n", "sub", "subtract", "rsub", "mul", "multiply", "neg", "negative")
_DIRECT = re.compile(  # what may be done to an index, and leaves the look-up one of the input itself
    r"(^|[^a-z])(add|sub|mul|floor_?mod|mod|remainder|clip|clamp(_min|_max)?|(min|max)(imum)?|where|select(_v2)?|"
    r"transpose|flatten|(strided_?)?slice|relu)(\.\w+)?$",
    re.IGNORECASE,
)
RANDOM = re.compile(r"random|bernoulli|multinomial|dropout|(^|[^a-z])rand", re.IGNORECASE)

Meaning = Literal["", "same", "shape", "boolean", "equal", "order", "finite", "nonzero", "branch", "loop", "table",
                  "random", "training", "state", "process", "sign", "rank", "round", "onehot", "code"]  # fmt: skip
"""What a node means here. `same`: its first input, cast, copied or in another shape; `shape`: something of its input's
shape alone; `boolean`: logic on truth values; `nonzero`: its first input against 0, unless that is a truth value;
`branch` and `loop`: its inputs decide which way or how often; `training`: normalises by the batch at hand;
`state`: keeps for the next call what outputs follow; `process`: reads the process or the memory in which a tensor
lies; the last five are as in `core/decisions.py`."""


@dataclass(frozen=True)
class Node:
    """One node: its operator in the format's own word, where it stands, and the tensors that it reads and writes."""

    operator: str
    place: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    meaning: Meaning = ""
    inner: bool = False  # in a sub-graph, which may run several times, or not at all


@dataclass(frozen=True)
class Computed:
    """A node that computes with values of inputs: the bare `word` of its operator, of its operands that are small
    constants the distinct numbers, by name, and the `operands` that are computed or have several numbers."""

    word: str
    node: Node
    numbers: Mapping[str, tuple[float, ...]]
    operands: tuple[str, ...]


@dataclass
class Survey:
    """The nodes in any order, the tensors that are given from outside, and constants of at most `MOST` values."""

    inputs: Sequence[str]
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    booleans: set[str] = field(default_factory=set)  # tensors that hold truth values, where the format says so
    stored: dict[str, Constant] = field(default_factory=dict)  # all constants, where the reader was asked for them
    results: set[str] = field(default_factory=set)  # the outputs, where the reader gives them
    saturated: bool = False  # whether results of operators lie on grids, whose ends bound them
    ports: dict[str, str] = field(default_factory=dict)  # the file's name of an input, where `inputs` has another
    taken: Callable[[Mapping[str, Array]], Survey] | None = None  # with the branches alone that sizes of inputs take

    def random(self) -> list[Node]:
        """The nodes that give another result each time, or for each batch."""
        return [node for node in self.nodes if node.meaning in ("random", "training", "state")]

    def keep(self, writers: Mapping[str, Node], reads: Mapping[str, Sequence[str]], outputs: Iterable[str]) -> None:
        """Take in the state that a file writes: `writers` by its name, and the tensors that read it. What no output
        follows, such as a warning given once, is none."""
        self.results = wanted = set(outputs)
        for name, node in writers.items():
            if not wanted.isdisjoint(self._following(reads.get(name, ()), shapes=True)):
                self.nodes.append(Node(node.operator, node.place, (), (), "state"))
                self.inputs = [*self.inputs, *reads[name]]

    def decisions(self) -> list[Decision]:
        """What the graph decides by the values of its inputs; what follows from their shapes alone is none."""
        data = self.data()
        booleans = self._booleans()
        constants = self._constants()
        found = self._of_process()
        for node in self.nodes:
            read = [name for name in node.inputs if name in data]
            if not read or (node.meaning == "nonzero" and node.inputs[0] in booleans):
                continue
            if node.meaning == "order" and len(read) == 1 and self._wraps(node, read[0], constants):
                continue
            if (family := _FAMILIES.get(node.meaning)) is not None:
                given = [constants[n] for n in node.inputs if n not in data and n in constants]
                if node.meaning == "nonzero":
                    given = [np.zeros(1)]
                if family == "equal" and len(read) > 1 and len(set(read)) == 1:
                    family = "finite"  # only NaN differs from itself
                if family not in ("equal", "order"):
                    given = []
                found.append(Decision(family, tuple(map(distinct, given)), node.operator, node.place))
        return found

    def _of_process(self) -> list[Decision]:
        """What outputs follow of the process and of memory. Where nothing follows a device but where tensors are made,
        a file says nothing of it."""
        found = []
        for node in self.nodes:
            if node.meaning == "process" and not self.results.isdisjoint(self._following(node.outputs, shapes=True)):
                found.append(Decision("process", (), node.operator, node.place))
        return found

    def thresholds(self) -> set[float]:
        """The constants that values of inputs are compared with, clipped to or wrapped at: another way may begin."""
        data, constants = self.data(), self._constants()
        found: set[float] = set()
        for node in self.nodes:
            decides = node.meaning in ("equal", "order") or _BOUND.search(node.operator)
            if decides and not data.isdisjoint(node.inputs):
                sides = [distinct(constants[name]) for name in node.inputs if name in constants and name not in data]
                found.update(value for side in sides if len(side) <= FEW for value in side)
        return found

    def zeros(self) -> set[float]:
        """Where inputs that constants are added to, subtracted from or multiplied with come to zero, or to another
        constant: `1 // (1 + (id - k)^2)` is one at k alone, and compares nothing."""
        data = self.data()
        constants = {name: values for name, values in self._constants().items() if values.dtype.kind in "fiu"}
        lines: dict[str, set[tuple[float, float]]] = {name: {(1.0, 0.0)} for name in self.inputs}  # factor, shift
        found: set[float] = set()
        ahead = list(self.inputs)
        while ahead:
            name = ahead.pop()
            for node in self.nodes:
                if name not in node.inputs or node.meaning == "shape":
                    continue
                line = lines[name]
                others = [n for n in node.inputs[:2] if n in constants and n not in data]
                given = distinct(constants[others[0]]) if others and name in node.inputs[:2] else ()
                given = given if len(given) <= FEW else ()
                if _word(node.operator) not in _LINEAR and not _is_copy(node):
                    found.update((c - shift) / factor for factor, shift in line for c in given)
                    continue
                moved = line if _is_copy(node) else _moved(node, name, line, given)
                found.update(-shift / factor for factor, shift in moved)
                for result in node.outputs:
                    before = lines.setdefault(result, set())
                    if moved - before and len(before) < MOST_LINES:
                        before |= moved
                        ahead.append(result)
        return {value for value in found if value}

    def bounds(self) -> list[float | None]:
        """The numbers that values of inputs are kept inside of, or compared with, once for each; None for one that is
        computed."""
        data, constants = self.data(), self._constants()
        values: list[float | None] = []
        for node in self.nodes:
            if data.isdisjoint(node.inputs):
                continue
            word = _word(node.operator)
            values += _BOUNDED.get(word, ())
            if word in _BOUNDING or node.meaning == "order":
                sides = [distinct(constants[n]) for n in node.inputs if n in constants and n not in data]
                values += [value for side in sides if len(side) <= FEW for value in side]
                values += [None] * (len(node.inputs) - len(sides) - 1)
                values += (-1.0, 1.0) if word == "hardtanh" and not sides else ()
        return values

    def bounded(self) -> list[Decision]:
        """The operators that keep values of inputs inside of constants, once for each constant; none in sub-graphs."""
        data, constants = self.data(), self._constants()
        held = []
        for node in (node for node in self.nodes if not node.inner):
            word = _word(node.operator)
            values: Iterable[float] = _BOUNDED.get(word, ()) if word not in _CURVED else ()
            along = node.operator.endswith(".dim") or len(node.outputs) > 1
            ranks = word in ("max", "min") and along  # along an axis, which is no bound
            if word in _BOUNDING and word != "threshold" and not ranks:  # a threshold is a decision
                sides = [distinct(constants[n]) for n in node.inputs if n in constants and n not in data]
                values = [*values, *(side[0] for side in sides if len(side) == 1)]
            if not data.isdisjoint(node.inputs):
                held += [Decision("order", ((value,),), node.operator, node.place) for value in dict.fromkeys(values)]
        return held

    def computing(self) -> list[Computed]:
        """The nodes that compute with values of inputs in every run: none in sub-graphs."""
        data, constants = self.data(), self._constants()
        nodes = [node for node in self.nodes if node.operator and not node.inner and not data.isdisjoint(node.inputs)]
        return [_computed(node, data, constants) for node in nodes]

    def saturates(self) -> bool:
        """Whether results lie on grids: a quantiser leaves a bound out that the ends of a grid hold."""
        return self.saturated or any(_SATURATING.search(node.operator) for node in self.nodes)

    def parted(self) -> bool:
        """Whether there are sub-graphs, which may run several times, or not at all."""
        return any(not node.operator for node in self.nodes)

    def look_ups(self) -> set[tuple[str, str]]:
        """Pairs of an input and a constant of `stored` whose rows the input's values choose, directly."""
        makers = self._makers()
        pairs: set[tuple[str, str]] = set()
        for node in self.nodes:
            if _LOOK_UP.search(node.operator):
                reads = [self._sources(name, makers, _is_copy) for name in node.inputs]
                tables = {name for names in reads for name in names & self.stored.keys()}
                pairs.update((given, table) for given in self._choosing(node, makers) for table in tables)
        return pairs

    def made_tables(self) -> dict[str, int]:
        """By input, the most rows of a table whose rows its values choose, directly, and which the file computes from
        constants: what it holds there, no stored constant says."""
        makers = self._makers()
        data = self.data()
        rows: dict[str, int] = {}
        for node in self.nodes:
            if not _LOOK_UP.search(node.operator) or data.isdisjoint(node.inputs):
                continue
            parts: set[str] = set()
            for name in set(node.inputs) - data:
                if not self._sources(name, makers, _is_copy) & self.stored.keys():
                    parts |= self._sources(name, makers, lambda _: True) & self.stored.keys()
            lengths = [len(self.stored[part].stored) for part in parts if self.stored[part].stored.ndim > 1]
            if lengths:
                rows.update({name: max(rows.get(name, 0), *lengths) for name in self._choosing(node, makers)})
        return rows

    def _makers(self) -> dict[str, list[Node]]:
        """The nodes that write each tensor: several, where sub-graphs give it."""
        makers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.outputs:
                makers.setdefault(name, []).append(node)
        return makers

    def _choosing(self, look_up: Node, makers: Mapping[str, Sequence[Node]]) -> set[str]:
        """The inputs whose values choose the rows of a look-up, directly."""
        indices = {name for start in look_up.inputs for name in self._sources(start, makers, _is_direct)}
        return indices & set(self.inputs)

    def _sources(self, start: str, makers: Mapping[str, Sequence[Node]], through: Callable[[Node], bool]) -> set[str]:
        """The tensors that one follows from by nodes that `through` lets pass, itself among them."""
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            name = ahead.pop()
            if name in seen:
                continue
            seen.add(name)
            for node in makers.get(name, ()):
                if through(node):
                    ahead += node.inputs[:1] if _is_copy(node) else node.inputs
        return seen

    def tables(self, look_ups: Iterable[tuple[str, str]]) -> dict[str, Constant]:
        """The constants of `stored`, those that are looked up in with a slot that says so."""
        tables = {table for _, table in look_ups}
        slot = Slot(0, "weight", TABLE)
        return {n: replace(c, slots=(slot,)) if n in tables else c for n, c in self.stored.items()}

    def _wraps(self, node: Node, index: str, constants: Mapping[str, Array]) -> bool:
        """Whether a comparison with zero only turns a negative index into one from the other end:

            order(i, 0) -> select(order, i, add(i, size))
            order(i, 0) -> cast -> mul(cast, size) -> add(i, mul)

        PyTorch allows negative indices, the look-ups of other formats do not.
        """
        if any(constants[name].any() for name in node.inputs if name in constants):
            return False
        readers = self._readers(node)
        return bool(readers) and all(self._chooses(reader, node.outputs[0], index) for reader in readers)

    def _readers(self, node: Node) -> list[Node]:
        return [reader for reader in self.nodes if not set(node.outputs).isdisjoint(reader.inputs)]

    def _chooses(self, reader: Node, condition: str, index: str) -> bool:
        if _is_copy(reader):
            scaling = self._readers(reader)
            adding = [node for by in scaling for node in self._readers(by)]
            return (
                bool(adding)
                and all(_word(node.operator) == "mul" for node in scaling)
                and all(_word(node.operator) == "add" and index in node.inputs for node in adding)
            )
        moved = [name for name in reader.inputs if name not in (condition, index)]
        if len(moved) != 1 or index not in reader.inputs:
            return False
        sources = [node for node in self.nodes if moved[0] in node.outputs]
        return any(node.operator.lower() == "add" and index in node.inputs for node in sources)

    def data(self) -> set[str]:
        """The tensors that follow from the values of an input, through loops too."""
        return self._following(self.inputs)

    def _following(self, start: Iterable[str], shapes: bool = False) -> set[str]:
        """The tensors that follow from some, `shapes` too: a list that grows has another length in every call."""
        data = set(start)
        grew = True
        while grew:
            before = len(data)
            for node in self.nodes:
                if (shapes or node.meaning not in ("shape", "process")) and not data.isdisjoint(node.inputs):
                    data.update(node.outputs)
            grew = len(data) > before
        return data

    def _booleans(self) -> set[str]:
        booleans = set(self.booleans)
        for node in self.nodes:
            truth = node.meaning in ("boolean", "equal", "order", "finite", "nonzero")
            if truth or (node.meaning == "same" and node.inputs and node.inputs[0] in booleans):
                booleans.update(node.outputs)
        return booleans

    def _constants(self) -> Mapping[str, Array]:
        constants = dict(self.constants)
        for node in self.nodes:
            if node.meaning == "same" and node.inputs and node.inputs[0] in constants:
                constants.update((name, constants[node.inputs[0]]) for name in node.outputs)
        return constants


def _computed(node: Node, data: set[str], constants: Mapping[str, Array]) -> Computed:
    given = {name: constants[name] for name in node.inputs if name in constants and name not in data}
    numbers = {name: distinct(values) for name, values in given.items() if values.dtype.kind in "biuf"}
    operands = tuple(name for name in node.inputs if name in data or len(numbers.get(name, ())) > 1)
    return Computed(_word(node.operator), node, numbers, operands)


def _word(operator: str) -> str:
    """An operator without its namespace and overload: `aten::clamp_` and `aten.clamp.default` are both `clamp`."""
    parts = re.split(r"::|\.", operator)
    return parts[min(1, len(parts) - 1)].lower().rstrip("_")


def _moved(
    node: Node, name: str, lines: Iterable[tuple[float, float]], given: Sequence[float]
) -> set[tuple[float, float]]:
    """The factors and shifts of the result of a linear operator, from those of its operand `name`."""
    word, first = _word(node.operator), node.inputs[0] == name
    if word in ("neg", "negative"):
        return {(-factor, -shift) for factor, shift in lines}
    if word in ("mul", "multiply"):
        return {(factor * c, shift * c) for factor, shift in lines for c in given if c}
    if word in ("add", "add_n"):
        return {(factor, shift + c) for factor, shift in lines for c in given}
    sign = 1 if first == (word != "rsub") else -1
    return {(sign * factor, sign * (shift - c)) for factor, shift in lines for c in given}


def _is_copy(node: Node) -> bool:
    """Whether a node only hands its values on: cast, moved, dequantised, or into a sub-graph and out of it."""
    return node.meaning == "same" or not node.operator


def looks_up(operator: str) -> bool:
    """Whether an operator takes rows of one operand by the numbers of another."""
    return _LOOK_UP.search(operator) is not None


def _is_direct(node: Node) -> bool:
    return _is_copy(node) or bool(_DIRECT.search(node.operator))


_FAMILIES: Mapping[Meaning, Family] = {
    "equal": "equal",
    "nonzero": "equal",
    "order": "order",
    "finite": "finite",
    "branch": "branch",
    "loop": "loop",
    "table": "table",
    **{family: family for family in STEPS},
}


def recurrent(
    place: str, results: Sequence[str], clip: tuple[str, float], activations: Iterable[str], constants: dict[str, Array]
) -> Iterator[Node]:
    """What a recurrent operator does to its own values besides what PyTorch's layers do, as nodes on its `results`: the
    bound that it keeps them inside of, where `clip`, its attribute and number, is above zero, and `activations`."""
    attribute, bound = clip
    if bound > 0:
        name = f"{place}/{attribute}"
        constants[name] = np.asarray(bound)
        yield Node("clip", name, (*results[:1], name), ())
    yield from (Node(word, place, tuple(results[:1]), ()) for word in dict.fromkeys(activations))


def distinct(values: Array) -> tuple[float, ...]:
    """The distinct values of an array, in order, as floats."""
    return tuple(float(value) for value in np.unique(np.asarray(values)).astype(np.float64))


def linked(given: Iterable[str], taken: Iterable[str]) -> Iterator[Node]:
    """Nodes by which values go into a sub-graph or out of it, each to the place of its own. They are no copies: a value
    of a loop is another one the next time."""
    return (Node("", "", (a,), (b,)) for a, b in zip(given, taken, strict=False) if a and b)
