"""An ONNX file as the reference where no PyTorch model exists: its graph as a module. In a child process only.

Executed node by node in PyTorch, the graph has everything that a factory's module has: a float64 oracle, twins at
every precision, faults to inject, weights to prove files against. It is relied on only where, in float32, it gives what
ONNX Runtime gives for the same file. A graph with an operator that has no execution here is run by ONNX Runtime
itself: its oracle is float32, it has no twins, and the record says why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity.core.errors import ParityError
from parity.files.onnx_external import external_files
from parity.reference.copying import copied
from parity.reference.onnx_layers import Unsupported
from parity.reference.onnx_operators import OPERATORS, Node, dtype_of

AGREES = 1e-5  # relative rms between two float32 executions of one graph; 1e-7 to 1e-6 on the example models
NOISE = 10.0  # or this many times what float32 itself costs the graph, where it is ill-conditioned
KNOWN = 4096  # integers up to this many are shapes and indices, known without looking


class Graph(nn.Module):
    """The graph of an ONNX file. Raises Unsupported for one that cannot be executed here."""

    by_trace = True  # sizes are computed in tensors, which torch.export does not follow

    def __init__(self, path: Path, proto: Any, inputs: Sequence[str], outputs: Sequence[str]):
        super().__init__()
        from onnx import numpy_helper

        self.path, self.inputs, self.outputs, self.dtype = path, tuple(inputs), tuple(outputs), torch.float32
        self.places: dict[str, str] = {}  # name of a constant in the graph -> of the tensor in this module
        known: dict[str, Any] = {}
        for initializer in proto.graph.initializer:
            self._hold(initializer.name, numpy_helper.to_array(initializer), known)
        opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
        self.nodes: list[tuple[Node, tuple[str, ...], tuple[str, ...]]] = []
        for number, entry in enumerate(proto.graph.node):
            attributes = _attributes(entry)
            if entry.op_type == "Constant":
                self._hold(entry.output[0], _constant(attributes), known)
                continue
            if entry.domain not in ("", "ai.onnx") or entry.op_type not in OPERATORS:
                raise Unsupported(f"{entry.domain + '.' if entry.domain else ''}{entry.op_type}")
            attributes["outputs"] = len(entry.output)
            given = {i: known[name] for i, name in enumerate(entry.input) if name in known}
            node = Node(entry.op_type, entry.name or f"node {number}", attributes, opset, given)
            self.nodes.append((node, tuple(entry.input), tuple(entry.output)))

    def _hold(self, name: str, value: np.ndarray[Any, Any], known: dict[str, Any]) -> None:
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
        self.places[name] = ".".join([*path, leaf])

    def double(self) -> Graph:
        return self._cast(torch.float64)

    def half(self) -> Graph:
        return self._cast(torch.float16)

    def float(self) -> Graph:
        return self._cast(torch.float32)

    def _cast(self, dtype: torch.dtype) -> Graph:
        self.dtype = dtype
        for node, _, _ in self.nodes:
            node.dtype = dtype
        return self._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)  # type: ignore[no-any-return,no-untyped-call]

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The outputs in the order of `outputs`, from inputs in that of `inputs`."""
        values: dict[str, Any] = {"": None, **dict(zip(self.inputs, given, strict=True))}
        for name, place in self.places.items():
            values[name] = self.get_parameter(place) if place in self._floats() else self.get_buffer(place)
        for node, reads, writes in self.nodes:
            try:
                result = OPERATORS[node.kind](node, *(values[name] for name in reads))
            except Unsupported as error:
                raise ParityError(f"{self.path.name}: {node.name}: {error} has no execution here") from None
            parts = result if isinstance(result, tuple) else (result,)
            values.update(zip(writes, parts, strict=False))
        return tuple(values[name] for name in self.outputs)

    def _floats(self) -> set[str]:
        return {name for name, _ in self.named_parameters()}

    def confirm(self, case: Mapping[str, np.ndarray[Any, Any]]) -> str:
        """Hold this execution against ONNX Runtime's, both in float32, on one case. Raises ParityError where they
        differ by more than two float32 executions of one graph do; otherwise the sentence for the record."""
        tensors = [torch.from_numpy(np.array(case[name])) for name in self.inputs]
        ours = self(*tensors)
        theirs = Runtime(self.path, self.inputs, self.outputs, "")(*tensors)
        exact = copied(self).double()(*(t.double() if t.is_floating_point() else t for t in tensors))
        worst, allowed = 0.0, AGREES
        for name, here, there, best in zip(self.outputs, ours, theirs, exact, strict=True):
            if here.shape != there.shape:
                raise ParityError(
                    f"{self.path.name}: output {name!r} has shape {list(here.shape)} here and {list(there.shape)} "
                    "by onnxruntime: it is no reference; please report the file"
                )
            worst = max(worst, _distance(here, there))
            allowed = max(allowed, NOISE * _distance(here, best))
        if not worst <= allowed:
            raise ParityError(
                f"{self.path.name}: executed here it is {worst:.2g} of its outputs' rms away from onnxruntime, "
                f"{allowed:.2g} would be rounding: it is no reference; please report the file"
            )
        return f"the ONNX graph executed in float64; in float32 it is onnxruntime's to {worst:.1g}"


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
        self.path, self.inputs, self.outputs = path, tuple(inputs), tuple(outputs)
        self.no_twin = f"{path.name} is executed by onnxruntime as it is: {why} has no execution here"
        self._session: Any = None

    def __deepcopy__(self, memo: Any) -> Runtime:
        return self  # nothing in it can be changed

    def double(self) -> Runtime:
        raise RuntimeError(self.no_twin)

    half = float = double

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
            raise ParityError(f"{self.no_twin}, and nothing can be made from it through PyTorch")
        if self._session is None:
            try:
                import onnxruntime
            except ImportError:
                raise ParityError(
                    "an ONNX file as the reference needs onnxruntime: pip install 'pytest-parity[onnx]'"
                ) from None

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        fed = {name: value.numpy() for name, value in zip(self.inputs, given, strict=True)}
        results = self._session.run(list(self.outputs), fed)
        return tuple(torch.from_numpy(value) for value in results)


def graph(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> nn.Module:
    """The graph of an ONNX file as a module. Raises ParityError where the file is damaged, keeps weights outside its
    folder, or has other inputs and outputs than those declared: they go by name."""
    import onnx

    external_files(path)
    try:
        proto = onnx.load(str(path))
        onnx.checker.check_model(str(path))
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ParityError(f"{path.name}: no valid ONNX file: {lines[0][:160]}") from None
    held = {i.name for i in proto.graph.initializer}
    for side, names, entries in (("inputs", inputs, [i for i in proto.graph.input if i.name not in held]),
                                 ("outputs", outputs, proto.graph.output)):  # fmt: skip
        have = [entry.name for entry in entries]
        if sorted(have) != sorted(names):
            raise ParityError(f"{path.name} has the {side} {', '.join(have)}, declared are {', '.join(names)}")
    try:
        return Graph(path, proto, inputs, outputs)
    except Unsupported as why:
        return Runtime(path, inputs, outputs, str(why))


def _attributes(entry: Any) -> dict[str, Any]:
    import onnx

    found = {a.name: onnx.helper.get_attribute_value(a) for a in entry.attribute}
    if any(isinstance(v, onnx.GraphProto) for v in found.values()):
        raise Unsupported(entry.op_type)
    plain: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, bytes):
            plain[name] = value.decode()
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
