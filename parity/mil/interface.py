"""What a program takes and gives: names, kinds, element types, shapes, and the check of an input against them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.mil.errors import CorruptPackage, InputError
from parity.mil.types import BY_NAME, FP16, FP32, FP64, Array, TensorType

# The numbers of the enum ArrayDataType in FeatureTypes.proto.
ARRAY_TYPES = {65552: FP16, 65568: FP32, 65600: FP64, 131104: BY_NAME["int32"], 131080: BY_NAME["int8"]}
# The numbers of the enum ColorSpace in FeatureTypes.proto.
COLOURS = {10: "GRAYSCALE", 20: "RGB", 30: "BGR", 40: "GRAYSCALE_FLOAT16"}
GREY = {"GRAYSCALE": "L", "GRAYSCALE_FLOAT16": "F"}  # by the mode that Pillow has for it
UNBOUNDED = 2**31

Range = tuple[int, int]  # smallest and largest size, both allowed


@dataclass(frozen=True)
class Feature:
    """One input, output or state.

    ``kind`` is ``tensor``, ``image``, ``state``, or the name of another Core ML type (``string``, ``int64``,
    ``dictionary``). ``shape`` has ``None`` where a size is flexible; then ``shapes`` lists the allowed
    shapes, or ``ranges`` the allowed sizes of each axis. For an image ``colour`` is its layout. ``default``
    is the value of an optional input.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int | None, ...]
    shapes: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[Range, ...] = ()
    colour: str = ""
    optional: bool = False
    default: float = 0.0

    @classmethod
    def of(cls, description: Any, declared: TensorType | None = None) -> Feature:
        """From the protobuf ``FeatureDescription``; ``declared`` is the type that the program itself gives it."""
        kind = description.type.WhichOneof("Type")
        if kind == "imageType":
            return _image(description.name, description.type.imageType)
        if kind not in ("multiArrayType", "stateType"):
            return cls(description.name, str(kind).removesuffix("Type"), str(kind).removesuffix("Type"), ())
        is_state = kind == "stateType"
        array = description.type.stateType.arrayType if is_state else description.type.multiArrayType
        dtype = ARRAY_TYPES.get(array.dataType)
        if dtype is None:
            raise CorruptPackage(f"feature {description.name!r} has the unknown element type {array.dataType}")
        shapes, ranges = _flexibility(array)
        shape: tuple[int | None, ...] = tuple(array.shape)
        if declared is not None and declared.shape is not None and (not shape or shapes or ranges):
            shape = declared.shape
        elif shapes or ranges:
            shape = tuple(None for _ in (shapes[0] if shapes else ranges))
        default = array.WhichOneof("defaultOptionalValue")
        return cls(
            description.name,
            "state" if is_state else "tensor",
            dtype.name,
            shape,
            shapes,
            ranges,
            optional=description.type.isOptional,
            default=float(getattr(array, default)) if default else 0.0,
        )

    def accept(self, value: Any) -> Array:
        """``value`` as the array that the program sees, or :class:`InputError`.

        An image becomes [1, C, H, W] of 0 to 255 in the declared colour layout. No value is reshaped, and a
        floating-point number becomes an integer only if it is one.
        """
        if self.kind == "image":
            return self._accept_image(value)
        array: Array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise InputError(f"input {self.name!r} needs numbers, found {array.dtype}")
        self._check_shape(array.shape)
        wanted = BY_NAME.get(self.dtype, FP32)
        if wanted.kind != "float" and array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
            raise InputError(f"input {self.name!r} needs {self.dtype}, found fractions")
        return array

    def fill(self) -> Array:
        """The value of an optional input that is not given."""
        if not self.optional or any(n is None for n in self.shape):
            raise InputError(f"input {self.name!r} is missing")
        return np.full([n for n in self.shape if n is not None], self.default, np.float64)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if self.shapes:
            if shape not in self.shapes:
                options = ", ".join(str(list(s)) for s in self.shapes)
                raise InputError(f"input {self.name!r} has shape {list(shape)}; allowed are {options}")
        elif self.ranges:
            self._check_ranges(shape)
        elif not TensorType(FP32, self.shape).admits(shape):
            raise InputError(f"input {self.name!r} has shape {list(shape)}; the program wants {list(self.shape)}")

    def _check_ranges(self, shape: tuple[int, ...]) -> None:
        """Refuse a size outside its range, in the words of Core ML."""
        if len(shape) != len(self.ranges):
            raise InputError(f"input {self.name!r} has shape {list(shape)}; it needs {len(self.ranges)} dimensions")
        for axis, (size, (low, high)) in enumerate(zip(shape, self.ranges, strict=True)):
            if not low <= size <= high:
                allowed = f"{low}..{'' if high == UNBOUNDED else high}"
                words = f"Size ({size}) of dimension ({axis}) is not in allowed range ({allowed})"
                raise InputError(f"input {self.name!r}: {words}")

    def _accept_image(self, value: Any) -> Array:
        mode = getattr(value, "mode", None)  # a PIL image
        wanted = GREY.get(self.colour, "RGB")
        if mode is not None and mode != wanted:
            raise InputError(f"image input {self.name!r} is {self.colour}, {wanted}; convert the {mode} picture first")
        pixels: Array = np.asarray(value)
        if pixels.ndim != (2 if self.colour in GREY else 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
            raise InputError(
                f"image input {self.name!r} is {self.colour}; found an array of shape {list(pixels.shape)}"
            )
        if pixels.dtype != np.uint8 and self.colour != "GRAYSCALE_FLOAT16":
            raise InputError(f"image input {self.name!r} needs 8-bit pixels (uint8), found {pixels.dtype}")
        if pixels.ndim == 2:
            planes = pixels[None, None]
        else:
            planes = pixels.transpose(2, 0, 1)[None]
            planes = planes[:, ::-1] if self.colour == "BGR" else planes
        self._check_shape(planes.shape)
        return np.ascontiguousarray(planes, dtype=np.float32)


def _flexibility(array: Any) -> tuple[tuple[tuple[int, ...], ...], tuple[Range, ...]]:
    kind = array.WhichOneof("ShapeFlexibility")
    if kind == "enumeratedShapes":
        return tuple(tuple(s.shape) for s in array.enumeratedShapes.shapes), ()
    if kind == "shapeRange":
        return (), tuple(_range(r) for r in array.shapeRange.sizeRanges)
    return (), ()


def _range(size: Any) -> Range:
    return size.lowerBound, UNBOUNDED if size.upperBound < 0 else size.upperBound


def _image(name: str, image: Any) -> Feature:
    colour = COLOURS.get(image.colorSpace)
    if colour is None:
        raise CorruptPackage(f"image {name!r} has the unknown colour space {image.colorSpace}")
    channels = 1 if colour in GREY else 3
    shapes: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[Range, ...] = ()
    shape: tuple[int | None, ...] = (1, channels, image.height, image.width)
    flexible = image.WhichOneof("SizeFlexibility")
    if flexible == "enumeratedSizes":
        shapes = tuple((1, channels, s.height, s.width) for s in image.enumeratedSizes.sizes)
    elif flexible == "imageSizeRange":
        size = image.imageSizeRange
        ranges = ((1, 1), (channels, channels), _range(size.heightRange), _range(size.widthRange))
    if flexible:
        shape = (1, channels, None, None)
    return Feature(name, "image", "fp16" if colour == "GRAYSCALE_FLOAT16" else "uint8", shape, shapes, ranges, colour)


def declared_type(value_type: Any) -> TensorType | None:
    """The tensor type in MIL.proto's ``ValueType``, also inside a state; ``None`` for lists and dictionaries."""
    kind = value_type.WhichOneof("type")
    if kind == "stateType":
        return declared_type(value_type.stateType.wrappedType)
    return TensorType.of(value_type.tensorType) if kind == "tensorType" else None
