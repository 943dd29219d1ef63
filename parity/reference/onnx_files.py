"""An ONNX file as the reference where no PyTorch model exists: its graph as a module. In a child process only.

Executed node by node in PyTorch, the graph has everything that a factory's module has: a float64 oracle, twins at
every precision, faults to inject, weights to prove files against. A node that PyTorch does not cover is executed by
onnx's own reference implementation, in float64 too. The graph is relied on only where, in float32, it gives what
ONNX Runtime gives for the same file, and where it takes no longer than `SLOW`. Every other file is run by ONNX Runtime
itself: its oracle is float32, it has no twins, and the record says why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from parity.core.errors import Disagrees, ParityError
from parity.files.onnx_external import external_files
from parity.reference.copying import copied
from parity.reference.onnx_evaluator import Evaluator
from parity.reference.onnx_layers import Unsupported
from parity.reference.onnx_operators import OPERATORS, Node, dtype_of

AGREES = 1e-5  # relative rms between two float32 executions of one graph; 1e-7 to 1e-6 on the example models
NOISE = 10.0  # or this many times what float32 itself costs the graph, where it is ill-conditioned
KNOWN = 4096  # integers up to this many are shapes and indices, known without looking
SLOW = 5.0  # seconds that one case may spend in NumPy; an oracle has a hundred cases and more

_STANDARD = ("", "ai.onnx")  # the two names of the domain of ONNX's own operators


@dataclass
class Step:
    """A node, the names that it reads and writes, and its other executions.

    `evaluator` is None where onnx has no implementation; `branches` are those of an If, that of a true condition first.
    """

    node: Node
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    evaluator: Evaluator | None = None
    branches: tuple[Body, Body] | None = None


@dataclass
class Body:
    """A graph or a branch of one: the constants in it, by their name there and in the module, and its nodes."""

    places: dict[str, str]
    steps: list[Step]
    outputs: tuple[str, ...]


class Graph(nn.Module):
    """The graph of an ONNX file. Raises Unsupported for one that cannot be executed here.

    `fallen` says why a case was left to ONNX Runtime; mostly empty.
    """

    by_trace = True  # sizes are computed in tensors, which torch.export does not follow

    def __init__(self, path: Path, proto: Any, inputs: Sequence[str], outputs: Sequence[str]):
        super().__init__()
        self.path, self.inputs, self.outputs, self.dtype = path, tuple(inputs), tuple(outputs), torch.float32
        self.fallen = ""
        self.opsets = list(proto.opset_import)
        self.opset = next((o.version for o in self.opsets if o.domain in _STANDARD), 1)
        self.nodes: list[Node] = []
        self.evaluators: list[Evaluator] = []
        self.executing: list[str] = []  # the file and node, for what watches a run
        self.body = Body({}, [], ())  # taken before constants get places: the file may call some of them body.0.weight
        self.body = self._body(proto.graph, {})

    def _body(self, graph: Any, known: Mapping[str, Any]) -> Body:
        """A graph or branch; `known` are the integers that nodes around it know."""
        from onnx import numpy_helper

        known = {name: value for name, value in known.items() if name not in {i.name for i in graph.initializer}}
        body = Body({}, [], tuple(output.name for output in graph.output))
        for initializer in graph.initializer:
            self._hold(initializer.name, numpy_helper.to_array(initializer), known, body.places)
        for entry in graph.node:
            if entry.op_type == "Constant" and entry.domain in _STANDARD:
                self._hold(entry.output[0], _constant(_attributes(entry)), known, body.places)
            else:
                body.steps.append(self._step(entry, known))
        return body

    def _step(self, entry: Any, known: Mapping[str, Any]) -> Step:
        """One node. Raises Unsupported where nothing here executes it."""
        given = {i: known[name] for i, name in enumerate(entry.input) if name in known}
        reads, writes = tuple(entry.input), tuple(entry.output)
        name = entry.name or f"node {len(self.nodes)}"
        if entry.op_type == "If" and entry.domain in _STANDARD:
            graphs = {a.name: a.g for a in entry.attribute}
            then, otherwise = (self._body(graphs[f"{side}_branch"], known) for side in ("then", "else"))
            node = Node("If", name, {}, self.opset, given)
            self.nodes.append(node)
            return Step(node, reads, writes, branches=(then, otherwise))
        kind = f"{entry.domain}.{entry.op_type}" if entry.domain not in _STANDARD else entry.op_type
        evaluator = None
        try:
            evaluator = Evaluator(entry, self.opsets)
        except Unsupported:
            if kind not in OPERATORS:
                raise Unsupported(kind) from None
        attributes = {**_attributes(entry), "outputs": len(writes)} if kind in OPERATORS else {}
        node = Node(kind, name, attributes, self.opset, given)
        self.nodes.append(node)
        if evaluator:
            self.evaluators.append(evaluator)
        return Step(node, reads, writes, evaluator)

    def _hold(self, name: str, value: np.ndarray[Any, Any], known: dict[str, Any], places: dict[str, str]) -> None:
        """Keep a constant under a name of its own: floats as parameters, in float32; the rest as buffers."""
        floats = value.dtype.kind == "f" or value.dtype.name == "bfloat16"
        if value.dtype.kind in "iub" and value.size <= KNOWN:
            known[name] = value.tolist()
        tensor = torch.from_numpy(np.array(value.astype(np.float32) if floats else value))
        owner: nn.Module = self
        *path, leaf = name.split(".") if all(re.fullmatch(r"\w+", p) for p in name.split(".")) else [_plain(name)]
        for part in path:
            if not isinstance(getattr(owner, part, None), nn.Module):
                if hasattr(owner, part):
                    owner, path, leaf = self, [], _plain(name)
                    break
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        while hasattr(owner, leaf):
            leaf += "_"
        if floats:
            owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            owner.register_buffer(leaf, tensor)
        places[name] = ".".join([*path, leaf])

    def double(self) -> Graph:
        return self._cast(torch.float64)

    def half(self) -> Graph:
        return self._cast(torch.float16)

    def float(self) -> Graph:
        return self._cast(torch.float32)

    def _cast(self, dtype: torch.dtype) -> Graph:
        self.dtype = dtype
        for node in self.nodes:
            node.dtype = dtype
        return self._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)  # type: ignore[no-any-return,no-untyped-call]

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The outputs in the order of `outputs`, from inputs in that of `inputs`. A case on which this execution fails,
        and ONNX Runtime does not, is ONNX Runtime's; `fallen` says so then."""
        values: dict[str, Any] = {"": None, **dict(zip(self.inputs, given, strict=True))}
        for evaluator in self.evaluators:
            evaluator.seconds = 0.0
        try:
            made = dict(zip(self.body.outputs, self._run(self.body, values), strict=True))
        except Exception as error:
            if _watched():
                raise
            self.fallen = f"executed here it fails ({_first_line(error)})"
            results = self.alternative(self.fallen)(*given)
            return tuple(v.to(self.dtype) if v.is_floating_point() else v for v in results)
        return tuple(made[name] for name in self.outputs)

    def _run(self, body: Body, outer: Mapping[str, Any]) -> tuple[Any, ...]:
        """The outputs of a graph or branch, in its order. `outer` are the values around it, by name."""
        values = dict(outer)
        floats = {name for name, _ in self.named_parameters()}
        for name, place in body.places.items():
            values[name] = self.get_parameter(place) if place in floats else self.get_buffer(place)
        for step in body.steps:
            self.executing[:] = [f"{self.path.name}:{step.node.name or step.node.kind}"]
            if step.branches:
                results = self._run(step.branches[0 if self._condition(step, values) else 1], values)
            else:
                results = self._results(step, values)
            values.update(zip(step.writes, results, strict=False))
        return tuple(values[name] for name in body.outputs)

    def _condition(self, step: Step, values: Mapping[str, Any]) -> bool:
        """Which branch of an If is taken. Raises ParityError where a graph that is being recorded depends on it."""
        if 0 in step.node.known:
            return bool(np.all(step.node.known[0]))
        if _recorded():
            raise ParityError(f"{self.path.name}: {step.node.name}: If chooses by the data, and no trace holds that")
        return bool(values[step.reads[0]].reshape(-1)[0])

    def _results(self, step: Step, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """What a node gives: in PyTorch; where that has no execution, by onnx's reference implementation."""
        why: Exception = Unsupported(step.node.kind)
        if step.node.kind in OPERATORS:
            try:
                result = OPERATORS[step.node.kind](step.node, *(values[name] for name in step.reads))
                return result if isinstance(result, tuple) else (result,)
            except Exception as error:
                why = error
        said = _first_line(why)
        if step.evaluator is None or _recorded():
            raise ParityError(f"{self.path.name}: {step.node.name}: {said} has no execution in PyTorch here") from why
        results = step.evaluator(values, self.dtype)
        if sum(evaluator.seconds for evaluator in self.evaluators) > SLOW:
            raise ParityError(f"{said} has no execution in PyTorch here, and by NumPy a case takes over {SLOW:g} s")
        return results

    def alternative(self, why: str) -> Runtime:
        """The same file executed by ONNX Runtime."""
        return Runtime(self.path, self.inputs, self.outputs, why)

    def confirm(self, case: Mapping[str, np.ndarray[Any, Any]]) -> str:
        """Hold this execution against ONNX Runtime's, both in float32, on one case.

        Returns the sentence for the record. Raises Disagrees where they differ by more than two float32 executions of
        one graph do, or where it fails here and not there; ParityError where ONNX Runtime refuses the case.
        """
        tensors = [torch.from_numpy(np.array(case[name])) for name in self.inputs]
        theirs = self.alternative("")(*tensors)
        ours, exact = (self._alone(tensors, dtype) for dtype in (torch.float32, torch.float64))
        worst, allowed = 0.0, AGREES
        for name, here, there, best in zip(self.outputs, ours, theirs, exact, strict=True):
            if here.shape != there.shape:
                shapes = f"shape {list(here.shape)}, by onnxruntime {list(there.shape)}"
                raise Disagrees(f"executed here its output {name!r} has {shapes}")
            worst = max(worst, _distance(here, there))
            allowed = max(allowed, NOISE * _distance(here, best))
        if not worst <= allowed:
            distance = f"{worst:.2g} of its outputs' rms away from that"
            raise Disagrees(f"executed here it is {distance}, where {allowed:.2g} would be rounding")
        return f"the ONNX graph executed in float64; in float32 it is onnxruntime's to {worst:.1g}"

    def _alone(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The outputs by this execution in `dtype`. Raises Disagrees where it fails."""
        graph = copied(self)._cast(dtype)
        with torch.no_grad():
            results: tuple[Tensor, ...] = graph(*(t.to(dtype) if t.is_floating_point() else t for t in tensors))
        if graph.fallen:
            raise Disagrees(graph.fallen)
        return results


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]


def _recorded() -> bool:
    """Whether a trace or an export records what runs now."""
    return torch._C._get_tracing_state() is not None or torch.compiler.is_compiling()


def _watched() -> bool:
    """Whether what runs now is recorded, or rounded by a twin: nothing else can stand in for it then."""
    return _recorded() or _get_current_dispatch_mode() is not None


def _distance(a: Tensor, b: Tensor) -> float:
    """Relative rms of a difference; 0 where both are equal, NaN among them."""
    if not a.numel() or torch.equal(torch.nan_to_num(a.double()), torch.nan_to_num(b.double())):
        return 0.0
    scale = b.double().square().mean().sqrt().item() or 1.0
    found = (a.double() - b.double()).square().mean().sqrt().item() / scale
    return found if math.isfinite(found) else math.inf


class Runtime(nn.Module):
    """A graph that only ONNX Runtime can execute, in float32. `no_twin` says why there is nothing better."""

    def __init__(self, path: Path, inputs: Sequence[str], outputs: Sequence[str], why: str):
        super().__init__()
        self.path, self.inputs, self.outputs, self.why = path, tuple(inputs), tuple(outputs), why
        self.no_twin = f"{path.name} is executed by onnxruntime as it is: {why}"
        self._session: Any = None

    def __deepcopy__(self, memo: Any) -> Runtime:
        return self  # nothing in it can be changed

    def double(self) -> Runtime:
        raise RuntimeError(self.no_twin)

    half = float = double

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        if _recorded():
            raise ParityError(f"{self.no_twin}, and nothing can be made from it through PyTorch")
        if self._session is None:
            self._session = _session(self.path)
        floats = {entry.name: _FLOATS.get(entry.type) for entry in self._session.get_inputs()}
        fed = {}
        for name, value in zip(self.inputs, given, strict=True):
            kind = floats.get(name) if value.is_floating_point() else None
            fed[name] = (value.to(kind) if kind else value).numpy()
        try:
            results = self._session.run(list(self.outputs), fed)
        except Exception as error:
            raise ParityError(f"{self.path.name}: onnxruntime refuses the inputs: {_first_line(error)}") from None
        return tuple(torch.from_numpy(np.array(value)) for value in results)


def _session(path: Path) -> Any:
    """A file, opened by ONNX Runtime. Raises whatever that raises, and ParityError where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        message = "an ONNX file as the reference needs onnxruntime: pip install 'pytest-parity[onnx]'"
        raise ParityError(message) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


_FLOATS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}


def graph(path: Path, inputs: Sequence[str], outputs: Sequence[str], left: str = "") -> nn.Module:
    """The graph of an ONNX file as a module; where `left` says why, it is left to ONNX Runtime.

    Raises ParityError where the file is damaged, keeps weights outside its folder, or has other inputs and outputs than
    those declared: they go by name.
    """
    import onnx

    external_files(path)
    try:
        proto = onnx.load(str(path))
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:  # ONNX Runtime asks for less: an output without a shape is fine there
        if not _opens(path):
            raise ParityError(f"{path.name}: no valid ONNX file: {_first_line(error)}") from None
    except Exception as error:
        raise ParityError(f"{path.name}: no valid ONNX file: {_first_line(error)}") from None
    held = {i.name for i in proto.graph.initializer}
    for side, names, entries in (("inputs", inputs, [i for i in proto.graph.input if i.name not in held]),
                                 ("outputs", outputs, proto.graph.output)):  # fmt: skip
        have = [entry.name for entry in entries]
        if sorted(have) != sorted(names):
            raise ParityError(f"{path.name} has the {side} {', '.join(have)}, declared are {', '.join(names)}")
    if left:
        return Runtime(path, inputs, outputs, left)
    try:
        return Graph(path, _inlined(proto), inputs, outputs)
    except Unsupported as why:
        return Runtime(path, inputs, outputs, f"{why} has no execution here")


def _opens(path: Path) -> bool:
    """Whether ONNX Runtime opens a file."""
    try:
        _session(path)
    except ParityError:
        raise
    except Exception:
        return False
    return True


def _inlined(proto: Any) -> Any:
    """The file with its own functions written out where they are called."""
    import onnx.inliner

    return onnx.inliner.inline_local_functions(proto) if proto.functions else proto


def _attributes(entry: Any) -> dict[str, Any]:
    import onnx

    found = {a.name: onnx.helper.get_attribute_value(a) for a in entry.attribute}
    plain: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, bytes):
            plain[name] = value.decode()
        elif isinstance(value, onnx.GraphProto):
            continue  # for the evaluator
        elif isinstance(value, onnx.TensorProto):
            plain[name] = torch.from_numpy(np.array(onnx.numpy_helper.to_array(value)))
        elif not isinstance(value, str) and hasattr(value, "__iter__"):
            plain[name] = [v.decode() if isinstance(v, bytes) else v for v in value]
        else:
            plain[name] = value
    return plain


def _constant(attributes: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    if "value" in attributes:
        return np.asarray(attributes["value"].numpy())
    for name, dtype in (
        ("value_int", np.int64),
        ("value_ints", np.int64),
        ("value_float", np.float32),
        ("value_floats", np.float32),
    ):
        if name in attributes:
            return np.asarray(attributes[name], dtype)
    raise Unsupported("Constant of text or sparse values")


def _plain(name: str) -> str:
    return "c_" + re.sub(r"\W", "_", name)


__all__ = ["Graph", "Runtime", "dtype_of", "graph"]
