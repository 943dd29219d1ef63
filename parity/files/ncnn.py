"""NCNN's .param (text) and .bin (weights in the order of the layers), read, cut and written. NumPy only.

The layout of each layer's weights is that of ncnn's `Layer::load_model`: a weight read with type 0 begins with a flag
of four bytes (0x01306B47: float16 padded to four bytes; 0: float32), one read with type 1 is bare float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.errors import ParityError

Array = np.ndarray[Any, np.dtype[Any]]
HALF = 0x01306B47


def weights_of(param: Path) -> Path:
    """The file with the weights of a .param file: the one of its name that ends in .bin. Raises ParityError where there
    is none."""
    weights = param.with_suffix(".bin")
    if not weights.is_file():
        raise ParityError(f"{param.name}: its weights should be beside it in {weights.name}, and no such file is there")
    return weights


@dataclass(frozen=True)
class Layer:
    """One line of a .param file. `parameters` are by their number, as text."""

    kind: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    parameters: Mapping[int, str]

    def number(self, index: int, default: int = 0) -> int:
        try:
            return int(float(self.parameters.get(index, default)))
        except (ValueError, OverflowError):
            raise ParityError(f"{self.kind} {self.name}: parameter {index} is no number") from None

    @property
    def line(self) -> str:
        words = [f"{self.kind:<24} {self.name:<24} {len(self.bottoms)} {len(self.tops)}", *self.bottoms, *self.tops]
        return " ".join(words + [f"{k}={v}" for k, v in self.parameters.items()])


@dataclass(frozen=True)
class Blob:
    """One stored tensor of a layer: where it lies in the .bin file, flag and padding included."""

    layer: int
    part: str
    start: int
    stop: int
    count: int
    half: bool
    flagged: bool

    def read(self, content: bytes) -> Array:
        """The values, one axis, as stored."""
        dtype: Any = np.float16 if self.half else np.float32
        return np.frombuffer(content, dtype, self.count, self.start + 4 * self.flagged).copy()

    def write(self, content: bytes, values: Array) -> bytes:
        """The .bin file with other values in this place, stored as these were."""
        data = values.astype(np.float16 if self.half else np.float32).tobytes()
        start = self.start + 4 * self.flagged
        return content[:start] + data + content[start + len(data) :]


def layers(param: str) -> list[Layer]:
    """The layers in file order, inputs among them. Raises ParityError for what is no .param file."""
    lines = [line for line in param.splitlines() if line.strip()]
    if not lines or lines[0].strip() != "7767517":
        raise ParityError("not an ncnn .param file: it does not begin with 7767517")
    found = []
    for line in lines[2:]:
        try:
            found.append(_layer(line.split()))
        except (ValueError, IndexError):
            raise ParityError(f"not an ncnn .param file: {line!r:.80} is no layer") from None
    return found


def _layer(words: Sequence[str]) -> Layer:
    bottoms, tops = int(words[2]), int(words[3])
    names, rest = words[4 : 4 + bottoms + tops], words[4 + bottoms + tops :]
    if min(bottoms, tops) < 0 or len(names) != bottoms + tops:
        raise ValueError("fewer names than it announces")
    parameters = {int(k): v for k, _, v in (word.partition("=") for word in rest)}
    return Layer(words[0], words[1], tuple(names[:bottoms]), tuple(names[bottoms:]), parameters)


def text(kept: Sequence[Layer]) -> str:
    """The .param file of these layers."""
    blobs = {name for layer in kept for name in (*layer.bottoms, *layer.tops)}
    return "\n".join(["7767517", f"{len(kept)} {len(blobs)}", *(layer.line for layer in kept)]) + "\n"


def _convolution(layer: Layer) -> list[tuple[str, int, bool]]:
    return [("weight", layer.number(6), True)] + [("bias", layer.number(0), False)] * layer.number(5)


def _affine(size: int, switch: int) -> Callable[[Layer], list[tuple[str, int, bool]]]:
    def parts(layer: Layer) -> list[tuple[str, int, bool]]:
        if not layer.number(switch, 1):
            return []
        return [("gamma", layer.number(size), False), ("beta", layer.number(size), False)]

    return parts


def _inner(layer: Layer) -> list[tuple[str, int, bool]]:
    return [("weight", layer.number(2), True)] + [("bias", layer.number(0), False)] * layer.number(1)


def _embed(layer: Layer) -> list[tuple[str, int, bool]]:
    return [("weight", layer.number(3), True)] + [("bias", layer.number(0), False)] * layer.number(2)


def _gates(biases: int, gates: int) -> Callable[[Layer], list[tuple[str, int, bool]]]:
    def parts(layer: Layer) -> list[tuple[str, int, bool]]:
        width, ways = layer.number(0), 2 if layer.number(2) == 2 else 1
        return [("weight_x", layer.number(1), True), ("bias", width * biases * ways, True),
                ("weight_h", width * width * gates * ways, True)]  # fmt: skip

    return parts


def _attention(layer: Layer) -> list[tuple[str, int, bool]]:
    width, size = layer.number(0), layer.number(2)
    keys, values = layer.number(3, width), layer.number(4, width)
    sizes = {"q": size, "k": width * keys, "v": width * values, "out": size}
    return [p for n, s in sizes.items() for p in ((f"{n}_weight", s, True), (f"{n}_bias", width, False))]


def _memory(layer: Layer) -> list[tuple[str, int, bool]]:
    count = int(np.prod([max(1, layer.number(i)) for i in (0, 1, 2, 11)]))
    return [("data", count, False)]


def _bare(*names: str) -> Callable[[Layer], list[tuple[str, int, bool]]]:
    return lambda layer: [(name, layer.number(0), False) for name in names]


def _scale(layer: Layer) -> list[tuple[str, int, bool]]:
    return [("scale", layer.number(0), False)] + [("bias", layer.number(0), False)] * layer.number(1)


def _nothing(layer: Layer) -> list[tuple[str, int, bool]]:
    return []


_PARTS: Mapping[str, Callable[[Layer], list[tuple[str, int, bool]]]] = {
    "Convolution": _convolution, "ConvolutionDepthWise": _convolution, "Convolution1D": _convolution,
    "Deconvolution": _convolution, "DeconvolutionDepthWise": _convolution, "InnerProduct": _inner, "Embed": _embed,
    "LayerNorm": _affine(0, 2), "GroupNorm": _affine(1, 3), "GRU": _gates(4, 3), "MultiHeadAttention": _attention,
    "MemoryData": _memory,
    "BatchNorm": _bare("slope", "mean", "variance", "bias"), "PReLU": _bare("slope"), "Scale": _scale,
}  # fmt: skip


def blobs(kept: Sequence[Layer], content: bytes) -> list[Blob]:
    """Every stored tensor, in file order. Raises ParityError where the sizes do not add up to the file's own, as with
    a layer whose weights this reader does not know."""
    found, at = [], 0
    for index, layer in enumerate(kept):
        for part, count, flagged in _PARTS.get(layer.kind, _nothing)(layer):
            flag = int.from_bytes(content[at : at + 4], "little") if flagged else 0
            half = flagged and flag == HALF
            if flagged and flag not in (0, HALF):
                raise ParityError(f"{layer.kind} {layer.name}: its weights are stored in a way unknown here")
            size = (2 * count + 3) // 4 * 4 if half else 4 * count
            stop = at + 4 * flagged + size
            found.append(Blob(index, part, at, stop, count, half, flagged))
            at = stop
    if at != len(content):
        raise ParityError(f"the .bin file has {len(content)} bytes, the layers that are known here account for {at}")
    return found


def cut(param: str, content: bytes, indices: Sequence[int]) -> tuple[str, bytes]:
    """The .param and .bin of some layers alone; what they read of others are inputs."""
    every = layers(param)
    chosen = [every[i] for i in indices]
    made = {name for layer in chosen for name in layer.tops}
    reads = list(dict.fromkeys(n for layer in chosen for n in layer.bottoms if n not in made))
    inputs = [Layer("Input", name, (), (name,), {}) for name in reads]
    parts = [content[b.start : b.stop] for i in indices for b in blobs(every, content) if b.layer == i]
    return text([*inputs, *chosen]), b"".join(parts)
