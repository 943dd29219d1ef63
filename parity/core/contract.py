"""What a model promises: its inputs, its outputs and how a picture becomes an input. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from parity.core.errors import ConfigError

DTYPES = ("float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
OutputKind = Literal["logits", "probs", "dense", "boxes", "embedding"]
BATCH_SIZES = (1, 2, 3, 5)  # a file whose batch was fixed, or whose rows leak, fails at one of these
OTHER_SIZES = (7, 12, 19)  # pairwise distinct, and distinct from the batch sizes


@dataclass(frozen=True)
class InputSpec:
    """One input. `shape` mixes sizes and names of symbolic dimensions: `("batch", 3, 224, 224)`.

    `range` is the closed interval [low, high] in which drawn values make sense, in the units that the model takes.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    range: tuple[float, float] | None = None

    def sized(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with every symbolic dimension taken from `dims`."""
        return tuple(dims[d] if isinstance(d, str) else d for d in self.shape)


@dataclass(frozen=True)
class OutputSpec:
    """One output. `logits` and `probs` are decided by their largest element along the last axis."""

    name: str
    kind: OutputKind = "dense"
    labels: tuple[str, ...] = ()
    post: str | None = None  # what is done to it before it is compared: `parity.judging.post_processing`
    match: str | None = None  # how a set is put in the oracle's order

    @property
    def decides(self) -> bool:
        return self.kind in ("logits", "probs")


def classifying(outputs: Sequence[OutputSpec]) -> tuple[OutputSpec, ...]:
    """The outputs that a case's label is the true class of.

    Those that decide and name their labels; where none names any, the one output that decides.
    """
    deciding = tuple(output for output in outputs if output.decides)
    named = tuple(output for output in deciding if output.labels)
    if named:
        return named
    return deciding if len(deciding) == 1 else ()


@dataclass(frozen=True)
class Preprocess:
    """How an encoded picture becomes the input: orient, convert colour, resize, divide, subtract mean, divide by std.

    `mean` and `std` are per channel, in units of `pixel / scale`, in the channel order of `color`. `size` is
    (height, width); None takes it from the input's shape. `alpha` says what becomes of transparency.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 255.0
    color: Literal["RGB", "BGR", "L"] = "RGB"
    resize: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    size: tuple[int, int] | None = None
    alpha: Literal["drop", "white", "black"] = "drop"
    orient: bool = True  # apply the EXIF orientation


@dataclass(frozen=True)
class Contract:
    """Inputs, outputs and preprocessing of one model; `dims` lists the sizes to try for each symbolic dimension."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    preprocess: Preprocess | None = None
    dims: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The sizes to try for each symbolic dimension, in order of appearance; the first is the export example's."""
        names = dict.fromkeys(d for i in self.inputs for d in i.shape if isinstance(d, str))
        return {
            n: self.dims.get(n) or (BATCH_SIZES if k == 0 and self.is_batch(n) else OTHER_SIZES)
            for k, n in enumerate(names)
        }

    def is_batch(self, dim: str) -> bool:
        """Whether `dim` is the leading dimension of every input that has it."""
        return all(i.shape[0] == dim for i in self.inputs if dim in i.shape) and dim in (
            "batch",
            "b",
            "n",
            "N",
            "B",
        )

    def batched(self, spec: InputSpec) -> bool:
        """Whether the leading dimension of an input is a dynamic batch."""
        return bool(spec.shape) and isinstance(spec.shape[0], str) and self.is_batch(spec.shape[0])

    def example(self) -> dict[str, int]:
        return {name: values[0] for name, values in self.sizes().items()}

    def elements(self) -> int:
        """How many numbers the export example holds, all inputs together."""
        sizes = self.example()
        return sum(math.prod(sizes[d] if isinstance(d, str) else d for d in i.shape) for i in self.inputs)

    def picture_input(self) -> InputSpec:
        """The input that a golden picture fills. Raises ConfigError unless exactly one input has four dimensions."""
        found = [i for i in self.inputs if len(i.shape) == 4]
        if len(found) != 1:
            raise ConfigError(
                f"golden pictures need exactly one 4-D input, this model has {len(found)}: give .npz files instead"
            )
        return found[0]
