"""ONNX in the words of the proof: the proto read, rewritten to float, and cut into its operators. Child only.

A quantised file keeps its float operators between QuantizeLinear and DequantizeLinear (QDQ), or calls integer ones
between DynamicQuantizeLinear and a rescaling Mul. Both are seen as one operator each. ONNX Runtime's two kernel sets
are its optimised graph, where QDQ becomes integer kernels, and the graph as written.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from parity.formats.graph import (
    Array,
    Constant,
    Graph,
    Grid,
    NotPossible,
    Operator,
    Port,
    Run,
    Slot,
    Values,
    feed,
    widened_ends,
)
from parity.formats.kept import Lifted
from parity.formats.onnx import branches, folding, rewriting
from parity.formats.onnx.clips import Clips

_FUSED = {"DynamicQuantizeLSTM", "QAttention", "DynamicQuantizeMatMul", "MatMulNBits"}
_WEIGHTS = {  # operator -> (slot of the weight, its layout, slot of the bias)
    "Conv": (1, "OIHW", 2),
    "ConvTranspose": (1, "IOHW", 2),
    "Gemm": (1, "IO", 2),
    "MatMul": (1, "IO", -1),
    "ConvInteger": (1, "OIHW", -1),
    "MatMulInteger": (1, "IO", -1),
    "Gather": (0, "VD", -1),
}
_INTEGER = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
_RESHAPING = ("Reshape", "Unsqueeze", "Squeeze", "Identity", "Cast")
_PROVIDERS = ["CPUExecutionProvider"]
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu")  # ONNX Runtime computes them together with what they follow
_LEVELS = {
    "optimised": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "as written": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


@dataclass
class _Plumbing:
    """How tensors hang together once quantisation is seen through."""

    constants: dict[str, Constant] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)  # what a tensor is, seen through DequantizeLinear and reshapes
    target: dict[str, str] = field(default_factory=dict)  # where an operator's result ends: quantised, rescaled
    inner: set[str] = field(default_factory=set)  # tensors inside what is seen as one operator
    rescaled: set[str] = field(default_factory=set)  # what turns an integer operator's sums into reals writes these


class OnnxArtefact:
    """One .onnx file. Raises NotPossible for files that the proof cannot follow."""

    kernels = tuple(_LEVELS)

    def __init__(self, folder: str, notes: Mapping[str, Any], bounds: Collection[float] = ()):
        """`bounds` are the values at which the module clips activations. `example` among the notes are inputs by the
        model's names: where sizes decide an `If`, the branch that these take is read."""
        self.file = Path(folder, notes["entry"])
        model = onnx.load(str(self.file))
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        self.branches = branches.take(model, _fed(notes)) if "example" in notes else branches.Branches()
        nested = sorted({n.op_type for n in model.graph.node if any(a.HasField("g") for a in n.attribute)})
        if nested:
            raise NotPossible(f"the file has sub-graphs ({', '.join(nested)})")
        if fused := sorted({n.op_type for n in model.graph.node} & _FUSED):
            raise NotPossible(f"{', '.join(fused)} holds quantised weights that this reader does not follow")
        folding.densify(model.graph)
        rewriting.constants_to_initializers(model)
        folding.fold(model)
        rewriting.dequantise_first(model.graph)
        del model.graph.value_info[:]
        self.stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        rewriting.without_values(model.graph)
        self.model = model  # without what large initializers hold: that is in `stored`
        self.producer = {name: n for n in model.graph.node for name in n.output}
        self.readers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.plumbing = self._see_through()
        self.clips = Clips(bounds, self.plumbing.grids, self._resampled())
        self.widened_ends = False  # a reading: fp16's largest and least number stand for those of any type
        self.graph = self._read(notes)
        self._tracer: Any = None

    def with_values(self) -> Any:
        """The model as a proto that can be saved."""
        model = copy.deepcopy(self.model)
        rewriting.with_values(model.graph, self.stored)
        return model

    @property
    def branched(self) -> bool:
        """Whether what is read is one branch of several."""
        return bool(self.branches.conditions)

    def follows(self, case: Mapping[str, Array]) -> bool:
        """Whether inputs by the model's names take the branches that are read."""
        return not self.branched or self.branches.follows(feed(self.graph, case))

    # Reading.

    def _see_through(self) -> _Plumbing:
        p = _Plumbing({n: Constant(n, v, None) for n, v in self.stored.items()})
        for node in self.model.graph.node:
            kind = node.op_type
            if kind == "DequantizeLinear":
                grid = self._grid(node)
                name = node.input[0]
                p.origin[node.output[0]] = name
                if name in self.stored:
                    p.constants[name] = replace(p.constants[name], grid=grid)
                else:
                    p.grids[name] = grid
                    p.inner.add(node.output[0])
            elif kind == "QuantizeLinear":
                p.grids.setdefault(node.output[0], self._grid(node))
                if len(self.readers.get(node.input[0], ())) == 1:
                    p.target[node.input[0]] = node.output[0]
                    p.inner.add(node.input[0])
            elif kind == "DynamicQuantizeLinear":
                p.origin[node.output[0]] = node.input[0]
                p.inner |= set(node.output)
            elif kind in _INTEGER:
                self._integer(node, p)
            elif kind in _RESHAPING and p.origin.get(node.input[0], node.input[0]) in self.stored:
                p.origin[node.output[0]] = p.origin.get(node.input[0], node.input[0])
            elif (
                kind in _ACTIVATIONS
                and len(self.readers.get(node.input[0], ())) == 1
                and node.input[0] in self.producer
            ):
                p.inner.add(node.input[0])
        return p

    def _integer(self, node: Any, p: _Plumbing) -> None:
        """ConvInteger -> Cast -> Mul by (scale of data times scale of weight): one operator with a quantised weight."""
        cast = self._only_reader(node.output[0])
        rescale = self._only_reader(cast.output[0]) if cast is not None else None
        if cast is None or rescale is None or rescale.op_type != "Mul":
            raise NotPossible(f"{node.op_type} without a rescaling Mul")
        scales = self.producer[next(i for i in rescale.input if i != cast.output[0])]
        constant = [i for i in scales.input if i in self.stored]
        if len(constant) != 1 or node.input[1] not in self.stored:
            raise NotPossible(f"{node.op_type} with a weight that is no constant")
        stored = self.stored[node.input[1]]
        limits = np.iinfo(stored.dtype)
        zero = self.stored[node.input[3]] if len(node.input) > 3 else np.zeros(1)
        scale = self.stored[constant[0]].astype(np.float64).reshape(-1)
        axis = 0 if node.op_type == "ConvInteger" else stored.ndim - 1
        zeros = np.broadcast_to(zero.reshape(-1).astype(np.float64), scale.shape)
        p.constants[node.input[1]] = Constant(
            node.input[1], stored, Grid(scale, zeros, axis, int(limits.min), int(limits.max))
        )
        p.target[node.output[0]] = rescale.output[0]
        p.inner |= {node.output[0], cast.output[0], *scales.output}
        p.rescaled |= {cast.output[0], *scales.output, rescale.output[0]}

    def _only_reader(self, name: str) -> Any:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 else None

    def _grid(self, node: Any) -> Grid:
        scale = self.stored[node.input[1]].astype(np.float64).reshape(-1)
        zero = self.stored[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(1, np.uint8)
        axis = next((int(a.i) for a in node.attribute if a.name == "axis"), 1)
        limits = np.iinfo(zero.dtype)
        zeros = np.broadcast_to(zero.reshape(-1).astype(np.float64), scale.shape)
        return Grid(scale, zeros, axis, int(limits.min), int(limits.max))

    def _is_plumbing(self, node: Any) -> bool:
        """Whether a node is seen as part of another operator, or of none."""
        p, kind, output = self.plumbing, node.op_type, node.output[0]
        return (
            output in p.origin
            or output in p.rescaled
            or (kind == "QuantizeLinear" and node.input[0] in p.target and node.input[0] in self.producer)
        )

    def _read(self, notes: Mapping[str, Any]) -> Graph:
        p = self.plumbing
        slots: dict[str, list[Slot]] = {}
        operators: list[Operator] = []
        for node in self.model.graph.node:
            if self._is_plumbing(node):
                continue
            reads = [p.origin.get(name, name) for name in node.input]
            kind, index = node.op_type, len(operators)
            weight, layout, bias = _WEIGHTS.get(kind, (-1, "", -1))
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            plain = kind != "Gemm" or (attributes.get("alpha", 1), attributes.get("beta", 1)) == (1, 1)
            if kind == "Gemm" and attributes.get("transB"):
                layout = "OI"
            for place, name in enumerate(reads):
                if name not in p.constants or kind == "QuantizeLinear":
                    continue
                if place == weight and plain:
                    slot = Slot(index, "weight", layout, data=reads[1 - weight])
                elif place == bias and plain and reads[weight] in p.constants:
                    slot = Slot(index, "bias", "O", reads[weight], reads[0])
                else:
                    slot = Slot(index, "operand")
                slots.setdefault(name, []).append(slot)
            writes = tuple(p.target.get(name, name) for name in node.output if name)
            operators.append(Operator(index, kind, tuple(n for n in reads if n), writes))
        constants = {
            name: replace(c, slots=tuple(slots.get(name, ()))) for name, c in p.constants.items() if name in slots
        }
        present = {v.name for v in (*self.model.graph.input, *self.model.graph.output)}
        inputs, outputs = (
            tuple(Port(name, entry["name"], entry.get("layout") or "") for name, entry in notes[side].items())
            for side in ("inputs", "outputs")
        )
        missing = [port.tensor for port in (*inputs, *outputs) if port.tensor not in present]
        if missing:
            raise NotPossible(f"the file has no input or output {missing[0]!r}")
        return Graph(
            tuple(operators), constants, p.grids, inputs, outputs, channels_last=False, symmetric_weights=False,
            origins=p.origin,
        )  # fmt: skip

    # Running.

    def whole(self, kernels: str) -> Run:
        """The file as it lies there: ONNX Runtime may end on the same model without the types that it lists. Where one
        branch of several is read, that branch."""
        outputs = [port.tensor for port in self.graph.outputs]
        if self.branched:
            session = _open(self.model, self.stored, kernels)
        else:
            session = onnxruntime.InferenceSession(str(self.file), _options(kernels), providers=_PROVIDERS)

        def run(case: Values) -> Values:
            return dict(zip(outputs, session.run(outputs, case), strict=True))

        return run

    def trace(self, case: Values, names: Collection[str] | None = None) -> Values:
        if self._tracer is None:
            model = copy.deepcopy(self.model)
            _set_outputs(model, sorted(self._cuts()))
            self._tracer = _open(model, self.stored, "as written")
        fetched = [o.name for o in self._tracer.get_outputs() if names is None or o.name in names]
        return dict(zip(fetched, self._tracer.run(fetched, case), strict=True) if fetched else ()) | case

    def _cuts(self) -> set[str]:
        """The tensors between operators."""
        produced = {name for node in self.model.graph.node for name in node.output if name}
        return produced - self.plumbing.inner - set(self.plumbing.origin)

    def lift(self, weights: Mapping[str, Array], watch: Sequence[str] = ()) -> Run:
        return self._opened(*self._lifted(weights), watch)

    def rounded(self, weights: Mapping[str, Array], grids: Mapping[str, Grid]) -> Run:
        return self._opened(*self._lifted(weights, grids))

    def _opened(self, model: Any, values: Values, watch: Sequence[str] = ()) -> Run:
        """What runs a model in float: outputs and `watch`ed tensors. `values`: of its large initializers, by name."""
        outputs = [*dict.fromkeys([*(port.tensor for port in self.graph.outputs), *watch])]
        inputs = {i.name for i in model.graph.input}
        digests = {i.name: hashlib.sha256(values[i.name].data).digest() for i in rewriting.bare(model.graph)}
        content = model.SerializeToString() + repr(digests).encode()

        def opened() -> Run:
            _set_outputs(model, [name for name in outputs if name not in inputs])
            session = _open(model, values, "as written")
            names = [o.name for o in session.get_outputs()]

            def run(case: Values) -> Values:
                fed = {n: v.astype(np.float32) if v.dtype == np.float16 else v for n, v in case.items()}
                return dict(zip(names, session.run(names, fed), strict=True)) | fed

            return run

        return Lifted(content, opened)

    def _lifted(
        self, weights: Mapping[str, Array], grids: Mapping[str, Grid] | None = None
    ) -> tuple[Any, dict[str, Array]]:
        """The model in float with `weights` in their places, and the values of its large initializers by name;
        quantising nodes become Identity, so that names stay.

        With `grids`, the activations that have one there are rounded on it, and those that the file rounds by their
        own range stay so.
        """
        model = copy.deepcopy(self.model)
        graph = model.graph
        constants: Values = {}
        nodes = []
        for node in graph.node:
            kind = node.op_type
            if kind == "DequantizeLinear" and node.input[0] in self.stored:
                constants[node.output[0]] = self._real(node.input[0], weights)
            elif kind == "QuantizeLinear" and (clip := self.clips.of(node.output[0])):
                names = [f"{node.output[0]}/{end}" if value is not None else "" for end, value in clip.items()]
                constants |= {
                    n: np.array(v, np.float32) for n, v in zip(names, clip.values(), strict=True) if v is not None
                }
                nodes.append(helper.make_node("Clip", [node.input[0], *names], [node.output[0]]))
            elif kind in ("QuantizeLinear", "DequantizeLinear"):
                nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]]))
            elif kind == "DynamicQuantizeLinear":
                if grids is None:
                    nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]]))
                else:
                    nodes += _rounded_by_its_range(node)
                constants[node.output[1]] = np.ones((), np.float32)
            elif kind in _INTEGER:
                constant = self.graph.constants[node.input[1]]
                assert constant.grid is not None
                unit = self._real(node.input[1], weights) / constant.grid.step(constant.stored.ndim)
                constants[f"{node.input[1]}/lifted"] = unit.astype(np.float32)
                lifted = helper.make_node(_INTEGER[kind], [node.input[0], f"{node.input[1]}/lifted"], node.output)
                lifted.attribute.extend(node.attribute)
                nodes.append(lifted)
            else:
                nodes.append(_widened(node, self.widened_ends))
            if kind == "QuantizeLinear" and (grid := self._kept_grid(node.output[0], grids or {})):
                nodes += _rounded(nodes.pop(), grid, constants, node.domain)
        for name, value in self.stored.items():
            if value.dtype == np.float16 or (name in weights and name not in constants and value.dtype.kind == "f"):
                constants[name] = self._real(name, weights)
        del graph.node[:]
        graph.node.extend(nodes)
        kept = [i for i in graph.initializer if i.name not in constants]
        del graph.initializer[:]
        constants = {name: np.asarray(value, order="C") for name, value in constants.items()}
        graph.initializer.extend(kept + [rewriting.initializer(name, value) for name, value in constants.items()])
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        return model, {**self.stored, **constants}

    def _kept_grid(self, name: str, grids: Mapping[str, Grid]) -> Grid | None:
        """The grid that a tensor is rounded on in the lift: one of `grids`, or what is left of a silent ReLU."""
        return grids.get(name) or (self.plumbing.grids[name] if self.clips.rounds(name) else None)

    def reread(self) -> bool:
        if self.clips.reread():
            return True
        self.widened_ends = not self.widened_ends
        return self.widened_ends

    def _resampled(self) -> set[str]:
        """Quantised results of resampling."""
        target = self.plumbing.target
        return {target.get(n.output[0], "") for n in self.model.graph.node if n.op_type == "Resize"} & set(
            target.values()
        )

    def _real(self, name: str, weights: Mapping[str, Array]) -> Array:
        constant = self.plumbing.constants[name]
        values = np.asarray(weights.get(name, constant.real)).astype(np.float32)
        return widened_ends(values) if self.widened_ends and constant.stored.dtype == np.float16 else values

    def alone(self, kernels: str, operators: Sequence[Operator]) -> Run:
        return self._cut(copy.deepcopy(self.model), self.stored, kernels, operators)

    def alone_lifted(self, operators: Sequence[Operator]) -> Run:
        return self._cut(*self._lifted({}), "as written", operators)

    def _cut(self, model: Any, constants: Values, kernels: str, operators: Sequence[Operator]) -> Run:
        """A model of `operators` alone, each of which reads graph inputs of its own. Their types are those of the first
        values that are run. `constants`: what the model's large initializers hold."""
        cuts = self._cuts()
        written = cuts & {name for op in operators for name in op.outputs}
        rewriting.leave(model.graph, written, cuts)
        read = cuts & {name for node in model.graph.node for name in node.input}
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                if name in read:
                    node.input[place] = f"{name}/alone"
        _set_outputs(model, sorted(written))
        opened: list[Any] = []

        def run(values: Values) -> Values:
            if not opened:
                for name in sorted(read):
                    kind = helper.np_dtype_to_tensor_dtype(values[name].dtype)
                    shape = [None] * values[name].ndim
                    model.graph.input.append(helper.make_tensor_value_info(f"{name}/alone", kind, shape))
                opened.append(_open(model, constants, kernels))
            fed = {f"{name}/alone": values[name] for name in read}
            wanted = {i.name for i in opened[0].get_inputs()}
            fed |= {p.tensor: values[p.tensor] for p in self.graph.inputs if p.tensor in wanted}
            names = [o.name for o in opened[0].get_outputs()]
            return dict(zip(names, opened[0].run(names, fed), strict=True))

        return run


def _fed(notes: Mapping[str, Any]) -> Values:
    """The example among an artefact's notes, by the file's own names."""
    ports = (Port(name, entry["name"], entry.get("layout") or "") for name, entry in notes["inputs"].items())
    return {port.tensor: port.feed(notes["example"][port.name]) for port in ports}


def _rounded(node: Any, grid: Grid, constants: Values, domain: str) -> list[Any]:
    """A node, and what puts its result on a grid under the result's name.

    x -> node -> QuantizeLinear -> DequantizeLinear -> y
    """
    result = node.output[0]
    before, stored, scale, zero = (f"{result}/{part}" for part in ("exact", "stored", "scale", "zero"))
    node.output[0] = before
    constants[scale] = grid.scale.reshape(()).astype(np.float32)
    constants[zero] = grid.zero.reshape(()).astype(_integers(grid))
    quantise = helper.make_node("QuantizeLinear", [before, scale, zero], [stored], domain=domain)
    return [node, quantise, helper.make_node("DequantizeLinear", [stored, scale, zero], [result], domain=domain)]


def _integers(grid: Grid) -> Any:
    """The type whose integers are those of a grid."""
    types = (np.int8, np.uint8, np.int16, np.uint16)
    return next(t for t in types if (np.iinfo(t).min, np.iinfo(t).max) == (grid.low, grid.high))


def _rounded_by_its_range(node: Any) -> list[Any]:
    """DynamicQuantizeLinear with its result in reals, under the result's name."""
    parts = [f"{node.output[0]}/{part}" for part in ("stored", "scale", "zero")]
    return [
        helper.make_node("DynamicQuantizeLinear", [node.input[0]], parts),
        helper.make_node("DequantizeLinear", parts, [node.output[0]]),
    ]


def _widened(node: Any, ends: bool) -> Any:
    """A node that makes fp16 makes float32; with `ends`, those of fp16 become those of float32."""
    node = copy.deepcopy(node)
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(attribute.t).astype(np.float32)
            attribute.t.CopyFrom(numpy_helper.from_array(widened_ends(values) if ends else values))
    return node


def _set_outputs(model: Any, names: Sequence[str]) -> None:
    """Make `names` the graph's outputs; the runtime infers their types."""
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)


def _open(model: Any, values: Mapping[str, Array], kernels: str) -> Any:
    """A session of a model. `values`: what its large initializers hold, which the session shares."""
    options = _options(kernels)
    model = rewriting.without_idle(model)
    names = [i.name for i in rewriting.bare(model.graph)]
    shared = [onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(values[name], order="C")) for name in names]
    if names:
        options.add_external_initializers(names, shared)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=_PROVIDERS)
    session.shared = shared  # it reads them where they lie
    return session


def _options(kernels: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # many sessions live side by side here, and each would keep what it once used
    if kernels == "as written":
        options.add_session_config_entry("session.disable_prepacking", "1")  # no copies of weights
    options.graph_optimization_level = _LEVELS[kernels]
    return options
