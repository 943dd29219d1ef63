"""TFLite in the words of the proof: the flatbuffer read, rewritten to float, and cut into its operators.

LiteRT has three kernel sets: XNNPACK (what apps get), its own optimised ones, and the reference ones. All rewriting
is surgery on the schema's objects; nothing of a converter is involved. Child only.
"""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils

from parity.formats.graph import Array, Constant, Graph, Grid, NotPossible, Operator, Port, Run, Slot, Values
from parity.formats.kept import Lifted
from parity.formats.tflite.signatures import definition

KINDS = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
TYPES = {
    schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16, schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8, schema.TensorType.INT16: np.int16, schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64, schema.TensorType.BOOL: np.bool_,
}  # fmt: skip
_BY_PASSED = ("QUANTIZE", "DEQUANTIZE")
_WEIGHTS = {  # operator -> (slot of the weight, its layout, slot of the bias, slot of the data)
    "CONV_2D": (1, "OHWI", 2, 0),
    "DEPTHWISE_CONV_2D": (1, "1HWO", 2, 0),
    "FULLY_CONNECTED": (1, "OI", 2, 0),
    "TRANSPOSE_CONV": (1, "OHWI", 3, 2),
    "CONV_3D": (1, "DHWIO", 2, 0),
    "BATCH_MATMUL": (1, "IO", -1, 0),
    "GATHER": (0, "VD", -1, 1),
}
_HYBRID = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")
_KERNELS = {
    "XNNPACK": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}


class TFLiteArtefact:
    """One .tflite file. Raises NotPossible for files that the proof cannot follow."""

    def __init__(self, folder: str, notes: Mapping[str, Any], bounds: Collection[float] = (), nested: bool = False):
        """`nested` takes files with control flow too, of which only the outermost graph is seen."""
        own = notes.get("kernels") or next(iter(_KERNELS))
        self.kernels = (own, *(name for name in _KERNELS if name != own))
        self.content = Path(folder, notes["entry"]).read_bytes()
        self.model = model = self._parse()  # as read: what is run is parsed anew
        if len(model.subgraphs) > 1 and not nested:
            raise NotPossible(
                f"the file has {len(model.subgraphs)} sub-graphs (control flow or fused recurrent layers)"
            )
        kinds = [kind(model, op) for op in model.subgraphs[0].operators]
        custom = sorted({k for k in kinds if k.startswith(("Flex", "custom"))})
        if custom:
            raise NotPossible(f"the plain interpreter cannot run {', '.join(custom)}")
        self.names = unique([_text(t.name) for t in model.subgraphs[0].tensors])
        self.graph = self._read(model, notes)
        self._tracer: Any = None

    def _parse(self) -> Any:
        return parsed(self.content)

    def _read(self, model: Any, notes: Mapping[str, Any]) -> Graph:
        graph, names = model.subgraphs[0], self.names
        fixed: dict[int, int] = {}  # a constant read through DEQUANTIZE -> the constant
        constants: dict[int, Constant] = {}
        grids: dict[str, Grid] = {}
        for index, tensor in enumerate(graph.tensors):
            stored, grid = constant(model, tensor), grid_of(tensor)
            if stored is not None and tensor.type in TYPES:
                constants[index] = Constant(names[index], stored, grid)
            elif grid is not None:
                grids[names[index]] = grid
        operators: list[Operator] = []
        slots: dict[int, list[Slot]] = {}
        for op in graph.operators:
            inputs = [int(i) for i in op.inputs]
            name = kind(model, op)
            if name in _BY_PASSED and inputs[0] in constants:
                fixed[int(op.outputs[0])] = inputs[0]
                continue
            index = len(operators)
            resolved = [fixed.get(i, i) for i in inputs]
            weight, layout, bias, data = _WEIGHTS.get(name, (-1, "", -1, -1))
            for place, i in enumerate(resolved):
                if i not in constants:
                    continue
                if place == weight:
                    slot = Slot(index, "weight", _matmul_layout(op, layout), data=names[inputs[data]])
                elif place == bias and resolved[weight] in constants:
                    slot = Slot(index, "bias", "O", names[resolved[weight]], names[inputs[data]])
                else:
                    slot = Slot(index, "operand")
                slots.setdefault(i, []).append(slot)
            operators.append(Operator(
                index, name, tuple(names[i] for i in resolved if i >= 0), tuple(names[int(i)] for i in op.outputs)
            ))  # fmt: skip
        ports = {side: self._ports(model, notes, side) for side in ("inputs", "outputs")}
        return Graph(
            tuple(operators),
            {c.name: replace(c, slots=tuple(slots.get(i, ()))) for i, c in constants.items()},
            grids, ports["inputs"], ports["outputs"], channels_last=True, symmetric_weights=True,
        )  # fmt: skip

    def _ports(self, model: Any, notes: Mapping[str, Any], side: str) -> tuple[Port, ...]:
        """The file's inputs or outputs by its signature, under the model's own names."""
        by_name = {names: i for i, names in enumerate(self.names)}
        signature = definition(model, notes)
        if signature is not None and signature.subgraphIndex:
            key = _text(signature.signatureKey)
            raise NotPossible(f"signature {key!r} is not of the file's first graph, which alone is read here")
        if signature is not None:
            by_name |= {_text(m.name): int(m.tensorIndex) for m in getattr(signature, side)}
        try:
            return tuple(
                Port(name, self.names[by_name[entry["name"]]], entry.get("layout") or "", str(entry.get("dtype") or ""))
                for name, entry in notes[side].items()
            )
        except KeyError as error:
            raise NotPossible(f"the file has no {side[:-1]} {error.args[0]!r}") from None

    # Running.

    def whole(self, kernels: str) -> Run:
        interpreter = open_content(self.content, kernels)
        inputs, outputs = self._indices(self.graph.inputs), self._indices(self.graph.outputs)

        def run(case: Values) -> Values:
            self._feed(interpreter, inputs, case)
            interpreter.invoke()
            return {name: self._real(name, interpreter.get_tensor(i)) for name, i in outputs.items()}

        return run

    def trace(self, case: Values, names: Collection[str] | None = None) -> Values:
        if self._tracer is None:
            self._tracer = open_content(self.content, "builtin", keep=True)
        self._feed(self._tracer, self._indices(self.graph.inputs), case)
        self._tracer.invoke()
        wanted = set(self.graph.activations if names is None else names)
        return {n: self._tracer.get_tensor(i) for i, n in enumerate(self.names) if n in wanted}

    def _feed(self, interpreter: Any, indices: Mapping[str, int], case: Values) -> None:
        for name, index in indices.items():
            grid, value = self.graph.grids.get(name), case[name]
            if grid is not None and value.dtype.kind == "f":
                value = grid.nearest(value).astype(interpreter.tensor(index)().dtype)
            interpreter.set_tensor(index, np.asarray(value, order="C"))

    def _real(self, name: str, stored: Array) -> Array:
        grid = self.graph.grids.get(name)
        return grid.real(stored) if grid else stored.astype(np.float64) if stored.dtype.kind == "f" else stored

    def _indices(self, ports: Sequence[Port]) -> dict[str, int]:
        where = {name: i for i, name in enumerate(self.names)}
        return {port.tensor: where[port.tensor] for port in ports}

    # Rewriting.

    def lift(self, weights: Mapping[str, Array], watch: Sequence[str] = ()) -> Run:
        return self._opened(*self._lifted(weights), watch)

    def rounded(self, weights: Mapping[str, Array], grids: Mapping[str, Grid]) -> Run:
        return self._opened(*self._lifted(weights, grids=grids))

    def _opened(self, model: Any, alias: Mapping[int, int], watch: Sequence[str] = ()) -> Run:
        """What runs a model in float: outputs and `watch`ed tensors, those in `alias` by what stands for them."""
        where = {name: alias.get(i, i) for i, name in enumerate(self.names)}
        wanted = [*(port.tensor for port in self.graph.outputs), *watch]
        content, inputs = pack(model), self._indices(self.graph.inputs)

        def opened() -> Run:
            interpreter = open_content(content, "builtin", keep=bool(watch))

            def run(case: Values) -> Values:
                for name, index in inputs.items():
                    interpreter.set_tensor(index, np.asarray(case[name], order="C"))
                interpreter.invoke()
                return {name: interpreter.get_tensor(where[name]) for name in wanted}

            return run

        return Lifted(content, opened)

    def _lifted(
        self, weights: Mapping[str, Array], *, join: bool = True, grids: Mapping[str, Grid] | None = None
    ) -> tuple[Any, dict[int, int]]:
        """The model in float with `weights` in their places, and which tensor stands for each by-passed one.

        Without `join`, what a dropped QUANTIZE wrote stays a tensor of its own, for the operators' isolation. With
        `grids`, the activations that have one there are rounded on it, and weights that operators on floats read as
        integers are integers on theirs, so that these operators round what they multiply as they do in the file.
        """
        model = self._parse()
        graph = model.subgraphs[0]
        grids = grids or {}
        hybrid = {name: grids[name] for name in self._hybrid(model) if name in grids}
        for index, tensor in enumerate(graph.tensors):
            name = self.names[index]
            stored = self.graph.constants.get(name)
            if stored is not None and (name in weights or stored.reduced):
                put(model, tensor, weights.get(name, stored.real).astype(np.float32))
            if stored is not None and name in hybrid:
                put(model, tensor, hybrid[name].nearest(weights[name]).astype(stored.stored.dtype))
                _set_grid(tensor, hybrid[name])
            elif (stored is not None and stored.reduced) or name in self.graph.grids:
                tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
        alias: dict[int, int] = {}
        kept: list[Any] = []

        def rounded(indices: Sequence[int]) -> None:
            """Let a tensor on its grid stand for each of these that has one."""
            for i in indices:
                if (grid := grids.get(self.names[int(i)])) is not None:
                    alias[int(i)] = _rounded(model, kept, alias.get(int(i), int(i)), grid)

        rounded(graph.inputs)
        for op in graph.operators:
            op.inputs = np.array([alias.get(int(i), int(i)) for i in op.inputs], np.int32)
            if kind(model, op) in _BY_PASSED:
                if join or self.names[int(op.inputs[0])] in self.graph.constants:
                    alias[int(op.outputs[0])] = int(op.inputs[0])
            else:
                kept.append(op)
            rounded(op.outputs)
        graph.operators = kept
        graph.outputs = np.array([alias.get(int(i), int(i)) for i in graph.outputs], np.int32)
        model.signatureDefs = []
        return model, alias

    def _hybrid(self, model: Any) -> set[str]:
        """The weights that operators on floats read as integers."""
        kinds = ((op, kind(model, op)) for op in model.subgraphs[0].operators)
        reading = [(op, _WEIGHTS[name][0]) for op, name in kinds if name in _HYBRID]
        return {
            self.names[int(op.inputs[place])]
            for op, place in reading
            if self.names[int(op.inputs[place])] in self.graph.constants
            and self.names[int(op.outputs[0])] not in self.graph.grids
        }

    def alone(self, kernels: str, operators: Sequence[Operator]) -> Run:
        return self._cut(self._parse(), kernels, operators)

    def alone_lifted(self, operators: Sequence[Operator]) -> Run:
        model, _ = self._lifted({}, join=False)
        return self._cut(model, "builtin", operators)

    def reread(self) -> bool:
        return False

    def _cut(self, model: Any, kernels: str, operators: Sequence[Operator]) -> Run:
        """A model of `operators` alone, each of which reads graph inputs of its own and writes graph outputs."""
        graph = model.subgraphs[0]
        _leave(model, self.names, {name for op in operators for name in op.outputs})
        constants = {i for i, t in enumerate(graph.tensors) if constant(model, t) is not None}
        constants |= {  # constants that the file itself turns to float
            int(op.outputs[0]) for op in graph.operators if {int(i) for i in op.inputs} <= constants
        }
        entry: dict[int, int] = {}
        outputs: list[int] = []
        for op in graph.operators:
            if {int(i) for i in op.inputs} <= constants:
                continue
            for i in {int(i) for i in op.inputs} - constants - set(entry) - {-1}:
                fresh = copy.copy(graph.tensors[i])
                fresh.buffer, fresh.name = 0, fresh.name + b"/alone"
                graph.tensors.append(fresh)
                entry[i] = len(graph.tensors) - 1
            op.inputs = np.array([entry.get(int(i), int(i)) for i in op.inputs], np.int32)
            outputs += [int(i) for i in op.outputs]
        graph.inputs = np.array(list(entry.values()), np.int32)
        graph.outputs = np.array(outputs, np.int32)
        model.signatureDefs = []
        interpreter = open_content(pack(model), kernels)
        names = self.names

        def run(values: Values) -> Values:
            for i, place in entry.items():
                interpreter.set_tensor(place, np.asarray(values[names[i]], order="C"))
            interpreter.invoke()
            return {names[i]: interpreter.get_tensor(i) for i in outputs}

        return run


def _leave(model: Any, names: Sequence[str], written: Collection[str]) -> None:
    """Drop the operators that write none of the tensors in `written`, but for those that turn constants to float, and
    the values that nobody reads then. `names` are the tensors' own."""
    graph = model.subgraphs[0]
    constants = {i for i, tensor in enumerate(graph.tensors) if constant(model, tensor) is not None}
    graph.operators = [
        op for op in graph.operators
        if {int(i) for i in op.inputs} <= constants or any(names[int(i)] in written for i in op.outputs)
    ]  # fmt: skip
    read = {int(i) for op in graph.operators for i in op.inputs}
    kept = {graph.tensors[i].buffer for i in constants & read}
    for i in constants - read:
        if graph.tensors[i].buffer not in kept:
            model.buffers[graph.tensors[i].buffer].data = None


def kind(model: Any, op: Any) -> str:
    """The operator's name; custom ones by their own (`FlexErf`) or as `custom NAME`."""
    code = model.operatorCodes[op.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        name = _text(code.customCode or b"")
        return name if name.startswith("Flex") else f"custom {name}"
    return str(KINDS.get(number, f"operator {number}"))


def grid_of(tensor: Any) -> Grid | None:
    """The grid of a quantised tensor. int32 and int64 are biases, whose range no real file comes near."""
    given = tensor.quantization
    if given is None or given.scale is None or not len(given.scale) or tensor.type not in TYPES:
        return None
    dtype = np.dtype(TYPES[tensor.type])
    if dtype.kind not in "iu":
        return None
    limits: Any = np.iinfo(dtype)
    scale = np.asarray(given.scale, np.float64)
    zero = np.zeros(len(scale)) if given.zeroPoint is None else np.asarray(given.zeroPoint, np.float64)
    return Grid(scale, zero, int(given.quantizedDimension or 0), limits.min, limits.max)


def constant(model: Any, tensor: Any) -> Array | None:
    """The stored values of a constant, None for an activation."""
    data = model.buffers[tensor.buffer].data
    if data is None or not len(data) or tensor.type not in TYPES:
        return None
    shape = [] if tensor.shape is None else [int(n) for n in tensor.shape]
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), TYPES[tensor.type]).reshape(shape)


def put(model: Any, tensor: Any, values: Array) -> None:
    """Give a tensor a buffer of its own with `values`; the type must be set to match."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1


def parsed(content: bytes) -> Any:
    """The schema's objects of a file, to be changed at will."""
    return pickle.loads(_parsed(content))


@functools.lru_cache(maxsize=2)
def _parsed(content: bytes) -> bytes:
    """Reading a flatbuffer in Python takes ten times as long as a copy of what was read."""
    return pickle.dumps(schema.ModelT.InitFromPackedBuf(content, 0))


def pack(model: Any) -> bytes:
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _set_grid(tensor: Any, grid: Grid) -> None:
    """Give a tensor integers on a grid; its buffer must hold them."""
    tensor.type = next(t for t, dtype in TYPES.items() if _range(dtype) == (grid.low, grid.high))
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = grid.scale.astype(np.float32)
    tensor.quantization.zeroPoint = grid.zero.astype(np.int64)
    tensor.quantization.quantizedDimension = grid.axis


def _range(dtype: Any) -> tuple[int, int]:
    """The least and the largest integer of a type; none where it holds no integers."""
    if np.dtype(dtype).kind not in "iu":
        return (0, 0)
    limits: Any = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _rounded(model: Any, operators: list[Any], index: int, grid: Grid) -> int:
    """Append what puts a float tensor on a grid, and give the tensor that holds the result.

    x -> QUANTIZE -> DEQUANTIZE -> y
    """
    tensors = model.subgraphs[0].tensors
    for name in _BY_PASSED:
        tensor = copy.copy(tensors[index])
        tensor.name, tensor.buffer = tensor.name + b"/" + name.lower().encode(), 0
        tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
        if name == "QUANTIZE":
            _set_grid(tensor, grid)
        tensors.append(tensor)
        op = schema.OperatorT()
        op.opcodeIndex = _code(model, name)
        op.inputs, op.outputs = np.array([index], np.int32), np.array([len(tensors) - 1], np.int32)
        operators.append(op)
        index = len(tensors) - 1
    return index


def _code(model: Any, name: str) -> int:
    """Where the model lists an operator by its name; it is appended where it is not there."""
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == getattr(schema.BuiltinOperator, name):
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _matmul_layout(op: Any, layout: str) -> str:
    """BATCH_MATMUL stores [in, out] unless adjY says that it is the other way round."""
    return "OI" if layout == "IO" and getattr(op.builtinOptions, "adjY", False) else layout


def open_content(content: bytes, kernels: str, keep: bool = False) -> Any:
    interpreter = Interpreter(
        model_content=content, num_threads=1, experimental_op_resolver_type=_KERNELS[kernels],
        experimental_preserve_all_tensors=keep,
    )  # fmt: skip
    interpreter.allocate_tensors()
    return interpreter


def _text(name: Any) -> str:
    return str(name, "utf-8", "replace") if isinstance(name, bytes) else str(name or "")


def unique(names: list[str]) -> list[str]:
    """Tensor names are not unique by law: a repeated one gets its index."""
    seen: set[str] = set()
    result = []
    for index, name in enumerate(names):
        result.append(f"{name}#{index}" if name in seen else name)
        seen.add(result[-1])
    return result
