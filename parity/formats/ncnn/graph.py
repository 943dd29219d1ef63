"""NCNN in the words of the proof: the .param text and the .bin weights read, and the net run with other weights.

What a layer reads from the .bin, in which order and type, is fixed by its load_model in ncnn (src/layer/*.cpp). Weights
of kind 0 begin with a tag that says how they are stored; those of kind 1 are bare float32. A layer runs alone when its
inputs are fed and its outputs asked for: an extractor computes no more than that. ncnn has two kernel sets: the one
that apps get, and plain loops, with packing, Winograd and im2col off. Child only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity.formats.graph import Array, Constant, Graph, NotPossible, Operator, Port, Role, Run, Slot, Values

_HALF, _RAW = 0x01306B47, 0x0002C056  # tags of src/modelbin.cpp; 0 is float32 too
_FAST = ("use_packing_layout", "use_winograd_convolution", "use_sgemm_convolution")
_ALIGNED = 4  # bytes that fp16 data is padded to

Parameters = Mapping[int, Any]


@dataclass(frozen=True)
class Part:
    """One array that a layer loads: its shape, whether a tag comes first, and what it is to the layer."""

    shape: tuple[int, ...]
    tagged: bool
    role: Role = "operand"
    layout: str = ""
    dtype: str = "float32"  # where no tag says otherwise


class Layer:
    """One line of the .param file."""

    def __init__(self, line: str):
        kind, name, bottoms, tops, *rest = line.split()
        cut = int(bottoms) + int(tops)
        self.kind, self.name = kind, name
        self.inputs, self.outputs = tuple(rest[: int(bottoms)]), tuple(rest[int(bottoms) : cut])
        self.parameters: dict[int, Any] = {}
        for word in rest[cut:]:
            key, _, value = word.partition("=")
            self.parameters[int(key)] = value

    def number(self, key: int, default: int = 0) -> int:
        return int(float(self.parameters.get(key, default)))


def _convolution(rank: int) -> Callable[[Layer], Iterator[Part]]:
    """0 outputs, 5 has a bias, 6 size of the weight, 7 groups; 1, 11 (and 21) the kernel's width, height, depth."""

    def parts(layer: Layer) -> Iterator[Part]:
        if layer.kind.startswith("Convolution") and (layer.number(8) or layer.number(19)):
            raise NotPossible(f"{layer.name}: int8 scales or weights that are no constants")
        outputs, width = layer.number(0), layer.number(1)
        kernel = (layer.number(21, width), layer.number(11, width), width)[3 - rank :]
        inputs = layer.number(6) // (outputs * int(np.prod(kernel)))
        layout = {1: "OIW", 2: "OIHW", 3: "OIDHW"}[rank]
        yield Part((outputs, inputs, *kernel), True, "weight", layout)
        if layer.number(5):
            yield Part((outputs,), False, "bias", "O")

    return parts


def _inner_product(layer: Layer) -> Iterator[Part]:
    if layer.number(8):
        raise NotPossible(f"{layer.name}: int8 scales")
    outputs = layer.number(0)
    yield Part((outputs, layer.number(2) // outputs), True, "weight", "OI")
    if layer.number(1):
        yield Part((outputs,), False, "bias", "O")


def _gemm(layer: Layer) -> Iterator[Part]:
    if layer.number(18):
        raise NotPossible(f"{layer.name}: int8 weights")
    rows, columns, depth = (layer.number(k) for k in (7, 8, 9))
    plain = float(layer.parameters.get(0, 1)) == 1
    if layer.number(4):
        yield Part((depth, rows) if layer.number(2) else (rows, depth), True)
    if layer.number(5):
        shape, layout = ((columns, depth), "OI") if layer.number(3) else ((depth, columns), "IO")
        yield Part(shape, True, "weight" if plain else "operand", layout if plain else "")
    kind = layer.number(10)
    if layer.number(6) and kind != -1:
        shapes: Mapping[int, tuple[int, ...]] = {0: (1,), 1: (rows,), 2: (rows, 1), 3: (rows, columns), 4: (columns,)}
        yield Part(shapes[kind], True, "bias" if kind == 4 and plain and layer.number(5) else "operand", "O")


def _norm(size: int, affine: int, parts: int = 2) -> Callable[[Layer], Iterator[Part]]:
    def read(layer: Layer) -> Iterator[Part]:
        if layer.number(affine, 1):
            yield from (Part((layer.number(size),), False) for _ in range(parts))

    return read


def _batch_norm(layer: Layer) -> Iterator[Part]:
    yield from (Part((layer.number(0),), False) for _ in range(4))


def _embed(layer: Layer) -> Iterator[Part]:
    width = layer.number(0)
    yield Part((layer.number(3) // width, width), True, "weight", "VD")
    if layer.number(2):
        yield Part((width,), False)


def _memory(layer: Layer) -> Iterator[Part]:
    kind = layer.number(21, 1)  # 0 tagged, 1 float32, 3 bytes
    if kind not in (0, 1, 3):
        raise NotPossible(f"{layer.name}: stored data of type {kind}")
    shape = tuple(layer.number(k) for k in (2, 11, 1, 0) if layer.number(k))
    yield Part(shape, kind == 0, dtype="int8" if kind == 3 else "float32")


def _recurrent(gates: int, biases: int) -> Callable[[Layer], Iterator[Part]]:
    def parts(layer: Layer) -> Iterator[Part]:
        width, directions = layer.number(0), 2 if layer.number(2) == 2 else 1
        inputs = layer.number(1) // directions // width // gates
        yield Part((directions, gates * width, inputs), True)
        yield Part((directions, biases, width), True)
        yield Part((directions, gates * width, width), True)

    return parts


def _attention(layer: Layer) -> Iterator[Part]:
    width, size = layer.number(0), layer.number(2)
    inputs = size // width
    for depth in (inputs, layer.number(3, width), layer.number(4, width)):
        yield Part((width, depth), True)
        yield Part((width,), False)
    yield Part((inputs, width), True)
    yield Part((inputs,), False)


_LOADS: Mapping[str, Callable[[Layer], Iterator[Part]]] = {
    "Convolution": _convolution(2), "ConvolutionDepthWise": _convolution(2), "Deconvolution": _convolution(2),
    "DeconvolutionDepthWise": _convolution(2), "Convolution1D": _convolution(1), "Convolution3D": _convolution(3),
    "InnerProduct": _inner_product, "Gemm": _gemm, "Embed": _embed, "MemoryData": _memory, "BatchNorm": _batch_norm,
    "LayerNorm": _norm(0, 2), "GroupNorm": _norm(1, 3), "InstanceNorm": _norm(0, 2), "RMSNorm": _norm(0, 2, 1),
    "GRU": _recurrent(3, 4), "LSTM": _recurrent(4, 4), "RNN": _recurrent(1, 1), "MultiHeadAttention": _attention,
    "PReLU": lambda layer: iter([Part((layer.number(0),), False)]),
}  # fmt: skip
_BARE = {
    "Input", "Split", "BinaryOp", "Reshape", "Pooling", "Pooling1D", "Swish", "Permute", "ReLU", "Concat", "Reduction",
    "Slice", "UnaryOp", "SDPA", "HardSwish", "TanH", "Softmax", "HardSigmoid", "Flatten", "Sigmoid", "GELU", "Clip",
    "Padding", "Interp", "Crop", "PixelShuffle", "ShuffleChannel", "MatMul", "ExpandDims", "Squeeze", "Eltwise", "ELU",
    "CumulativeSum", "Mish", "SELU", "Normalize", "Reorg", "Unfold", "Fold", "Noop", "CopyTo", "Tile", "Erf", "Flip",
    "Softplus", "Packing", "Cast", "Dropout", "LogSoftmax", "Power", "Exp", "Log", "AbsVal", "Threshold",
}  # fmt: skip


class NcnnArtefact:
    """One .param with its .bin. Raises NotPossible for layers whose weights it does not know how to find."""

    kernels = ("ncnn", "plain")

    def __init__(self, folder: str, notes: Mapping[str, Any], bounds: Collection[float] = ()):
        self.param = Path(folder, notes["entry"])
        try:
            lines = self.param.read_text(encoding="utf-8").splitlines()[2:]
        except UnicodeDecodeError:
            raise NotPossible(f"{self.param.name} is no text, as a .param file is") from None
        self.layers = [Layer(line) for line in lines if line.strip()]
        data = Path(folder, notes.get("weights", str(Path(notes["entry"]).with_suffix(".bin")))).read_bytes()
        self.stored: dict[str, Array] = {}
        self.order: list[tuple[str, bool]] = []  # constants as they lie in the .bin, and whether a tag comes first
        self.graph = self._read(data, notes)

    def _read(self, data: bytes, notes: Mapping[str, Any]) -> Graph:
        constants: dict[str, Constant] = {}
        operators: list[Operator] = []
        at = 0
        for layer in self.layers:
            if layer.kind not in _LOADS and layer.kind not in _BARE:
                raise NotPossible(f"layer {layer.kind} is not known to this reader")
            index, weight, names = len(operators), "", []
            for number, part in enumerate(_LOADS[layer.kind](layer) if layer.kind in _LOADS else ()):
                name = f"{layer.name}/{number}"
                stored, at = _take(data, at, part, name)
                data_name = layer.inputs[0] if layer.inputs else ""
                weight = name if part.role == "weight" else weight
                slot = Slot(index, part.role, part.layout, weight if part.role == "bias" else "", data_name)
                constants[name] = Constant(name, stored, None, (slot,))
                self.order.append((name, part.tagged))
                names.append(name)
            operators.append(Operator(index, layer.kind, (*layer.inputs, *names), layer.outputs))
        if at != len(data):
            raise NotPossible(f"the .bin has {len(data) - at} bytes that no layer of the .param reads")
        self.stored = {name: constant.stored for name, constant in constants.items()}
        inputs, outputs = (
            tuple(Port(name, entry["name"]) for name, entry in notes[side].items()) for side in ("inputs", "outputs")
        )
        made = {name for operator in operators for name in operator.outputs}
        missing = [port.tensor for port in (*inputs, *outputs) if port.tensor not in made]
        if missing:
            raise NotPossible(f"the file has no input or output {missing[0]!r}")
        return Graph(
            tuple(operators), constants, {}, inputs, outputs, channels_last=False, symmetric_weights=False, flushes=True
        )  # fmt: skip

    # Running.

    @property
    def half(self) -> bool:
        """Whether apps run it with fp16 storage."""
        return any(values.dtype == np.float16 for values in self.stored.values())

    def whole(self, kernels: str) -> Run:
        return self._run(self._net({}, self.half, kernels), ())

    def lift(self, weights: Mapping[str, Array], watch: Sequence[str] = ()) -> Run:
        return self._run(self._net(weights, False, self.kernels[0], lifted=True), watch)

    def trace(self, case: Values, names: Collection[str] | None = None) -> Values:
        wanted = [name for name in self.graph.activations if names is None or name in names]
        values = self._run(self._net({}, self.half, self.kernels[0]), wanted)(case)
        return {name: _rounded(value) if self.half else value for name, value in values.items()}

    def alone(self, kernels: str, operators: Sequence[Operator]) -> Run:
        return self._cut(self._net({}, self.half, kernels), self.half, operators)

    def alone_lifted(self, operators: Sequence[Operator]) -> Run:
        return self._cut(self._net({}, False, "plain"), False, operators)

    def reread(self) -> bool:
        return False

    def _cut(self, net: Any, half: bool, operators: Sequence[Operator]) -> Run:
        """Every layer that reads something, by itself: what it reads is given, so nothing before it runs."""
        import ncnn

        from parity.formats.ncnn.runtime import row

        def run(values: Values) -> Values:
            found: Values = {}
            for op in operators:
                fed = [name for name in op.inputs if name in values]
                if not fed:
                    continue
                extractor = net.create_extractor()
                extractor.set_light_mode(False)
                for name in fed:
                    value = values[name]
                    value = value.astype(np.float32) if value.dtype == np.float16 else value
                    extractor.input(name, ncnn.Mat(row(value)).clone())
                for name in op.outputs:
                    code, mat = extractor.extract(name)
                    if code != 0:
                        raise NotPossible(f"ncnn cannot compute {name!r} by itself")
                    value = np.array(mat)[None].copy()
                    found[name] = _rounded(value) if half else value
            return found

        return run

    def _bin(self, weights: Mapping[str, Array], lifted: bool) -> bytes:
        """The .bin again, in float32 with `weights` in their places when `lifted`."""
        parts = []
        for name, tagged in self.order:
            values = self.stored[name]
            if lifted and values.dtype.kind == "f":
                values = np.asarray(weights.get(name, values), np.float32)
            raw = values.tobytes()
            raw += b"\0" * (-len(raw) % _ALIGNED)
            if tagged:
                raw = (_HALF if values.dtype == np.float16 else 0).to_bytes(4, "little") + raw
            parts.append(raw)
        return b"".join(parts)

    def _net(self, weights: Mapping[str, Array], half: bool, kernels: str, lifted: bool = False) -> Any:
        """The net, opened with one of the kernel sets; `half` with fp16 storage."""
        import tempfile

        import ncnn

        net = ncnn.Net()
        net.opt.num_threads, net.opt.use_vulkan_compute = 1, False
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(net.opt, name, half and name != "use_bf16_storage")
        for name in _FAST if kernels == "plain" else ():
            setattr(net.opt, name, False)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "lifted.bin")
            file.write_bytes(self._bin(weights, lifted))
            if net.load_param(str(self.param)) != 0 or net.load_model(str(file)) != 0:
                raise NotPossible("ncnn cannot load the file")
        return net

    def _run(self, net: Any, watch: Sequence[str]) -> Run:
        import ncnn

        from parity.formats.ncnn.runtime import row

        outputs = [port.tensor for port in self.graph.outputs]
        entries = {port.tensor for port in self.graph.inputs}

        def run(case: Values) -> Values:
            extractor = net.create_extractor()
            extractor.set_light_mode(False)  # blobs in the middle are wanted too
            for name in entries:
                extractor.input(name, ncnn.Mat(row(case[name])).clone())
            found = {name: case[name] for name in watch if name in entries}
            for name in dict.fromkeys((*outputs, *(w for w in watch if w not in entries))):
                code, mat = extractor.extract(name)
                if code != 0:
                    raise NotPossible(f"ncnn cannot compute {name!r}")
                found[name] = np.array(mat)[None].copy()
            return found

        return run


def _rounded(value: Array) -> Array:
    """What fp16 storage holds as float16: ncnn hands it out as float32."""
    return value.astype(np.float16) if value.dtype == np.float32 and np.abs(value).max(initial=0) < 65504 else value


def _take(data: bytes, at: int, part: Part, name: str) -> tuple[Array, int]:
    """The stored values of a part that begins at byte `at`, and where the next one begins."""
    count = int(np.prod(part.shape))
    dtype: Any = np.dtype(part.dtype)
    if part.tagged:
        tag = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if tag not in (0, _HALF, _RAW):
            raise NotPossible(f"{name}: stored as tag {tag:#010x}, which is neither fp32 nor fp16")
        dtype = np.float16 if tag == _HALF else np.float32
    size = count * np.dtype(dtype).itemsize
    if at + size > len(data):
        raise NotPossible(f"{name}: the .bin ends within it")
    values = np.frombuffer(data, dtype, count, at).reshape(part.shape)
    return values, at + size + (-size % _ALIGNED if dtype != np.float32 else 0)
