"""A model's promises as its table states them: inputs, outputs, dynamic sizes, preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

from parity.config.table import Table
from parity.core.contract import DTYPES, InputSpec, OutputKind, OutputSpec, Preprocess
from parity.core.errors import ConfigError
from parity.core.plan import choose, did_you_mean


def read_input(t: Table, index: int, value: Any) -> InputSpec:
    e = Table(value, (*t.path, "inputs"), t.reader)
    name, shape = read_name(e), e.take("shape", list)
    if shape is None or any(
        isinstance(d, bool) or not isinstance(d, (int, str)) or not d or (isinstance(d, int) and d < 1) for d in shape
    ):
        raise e.error(None, f"input {name!r}: shape must list sizes of at least 1 and names of dynamic axes")
    dtype = e.take("dtype", str, "float32")
    if dtype not in DTYPES:
        raise e.error(None, f"input {name!r}: unknown dtype {dtype!r}{did_you_mean(dtype, DTYPES)}")
    limits = e.numbers("range", 2)
    if limits and (limits[0] > limits[1] or (limits[0] == limits[1] and dtype in _LARGEST)):
        raise e.error(None, f"input {name!r}: range {list(limits)} is empty")
    if limits and (wrong := _unfit(dtype, limits)):
        raise e.error(None, f"input {name!r}: range {list(limits)} {wrong}")
    e.done()
    return InputSpec(name, tuple(shape), dtype, (limits[0], limits[1]) if limits else None)


_LARGEST = {"float16": 65504.0, "float32": 3.4028234e38, "float64": 1.7976931348623157e308}
_ROOM = 8  # inputs are also drawn at four times their range, whose width is twice an end


def _unfit(dtype: str, limits: Sequence[float]) -> str:
    """What is wrong with a range for elements of a dtype; empty when nothing is."""
    low, high = limits
    if dtype in _LARGEST:
        most = _LARGEST[dtype] / _ROOM
        return "" if -most <= low and high <= most else f"is too wide: a {dtype} is drawn within {most:.2g} of 0"
    if not (low.is_integer() and high.is_integer()):
        return f"is of {dtype} and needs whole numbers"
    bits = 1 if dtype == "bool" else int(dtype.removeprefix("u").removeprefix("int"))
    signed = dtype.startswith("int")
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return "" if least <= low and high <= most else f"does not fit {dtype}, which holds {least} to {most}"


def read_output(t: Table, index: int, value: Any) -> OutputSpec:
    e = Table(value, (*t.path, "outputs"), t.reader)
    name, kind = read_name(e), e.take("kind", str, "dense")
    if kind not in get_args(OutputKind):
        kinds = get_args(OutputKind)
        raise e.error(
            None,
            f"output {name!r}: unknown kind {kind!r}{did_you_mean(kind, kinds)}; known: {', '.join(kinds)}",
        )
    labels: tuple[str, ...] = ()
    if isinstance(e.data.get("labels"), str):
        file = e.existing("labels", "file")
        assert file is not None
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise e.error(None, f"labels {file.name}: cannot be read as UTF-8 text: {error}") from None
        labels = tuple(line.strip() for line in lines if line.strip())
    else:
        labels = e.words("labels") or ()
    post, match = e.take("post", str), e.take("match", str)
    e.done()
    return OutputSpec(name, kind, labels, post, match)


def read_name(e: Table) -> str:
    name = e.take("name", str)
    if not name:
        raise e.error(None, 'each needs a name, as in { name = "image", ... }')
    return cast("str", name)


def read_dims(t: Table, inputs: tuple[InputSpec, ...]) -> dict[str, tuple[int, ...]]:
    known = {d for i in inputs for d in i.shape if isinstance(d, str)}
    dims = {}
    for name, sizes in t.take("dims", dict, {}).items():
        path = (*t.path, "dims", name)
        if name not in known:
            raise t.reader.error(path, f"no input has a dimension {name!r}{did_you_mean(name, known)}")
        if not isinstance(sizes, list) or not sizes or any(type(s) is not int or s < 1 for s in sizes):
            raise t.reader.error(path, f"expected a list of sizes of at least 1, found {sizes!r:.40}")
        dims[name] = tuple(sizes)
    return dims


def read_preprocess(t: Table, value: Any) -> Preprocess:
    e = Table(value, (*t.path, "preprocess"), t.reader)
    color = e.take("color", str, "RGB")
    if color not in ("RGB", "BGR", "L"):
        raise e.error("color", f"unknown colour order {color!r}; known: RGB, BGR, L")
    channels = 1 if color == "L" else 3
    resize = e.take("resize", str, "bilinear")
    try:
        choose("resize filter", resize, ("nearest", "bilinear", "bicubic", "lanczos", "box"))
        alpha = choose("alpha rule", e.take("alpha", str, "drop"), ("drop", "white", "black"))
    except ConfigError as error:
        raise e.error(None, str(error)) from None
    mean = e.numbers("mean", channels) or (0.0,) * channels
    std = e.numbers("std", channels) or (1.0,) * channels
    if min(std) <= 0:
        raise e.error("std", f"every value must be above 0, found {list(std)}")
    size = e.numbers("size", 2)
    if size and any(n < 1 or n != int(n) for n in size):
        raise e.error("size", f"expected [height, width], whole numbers of at least 1; found {list(size)}")
    result = Preprocess(
        mean, std, e.positive("scale", 255.0), color, cast("Any", resize),
        (int(size[0]), int(size[1])) if size else None, cast("Any", alpha), e.take("orient", bool, True),
    )  # fmt: skip
    e.done()
    return result
