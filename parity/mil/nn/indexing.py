"""Layers that read and write by index. Indices come as numbers of fp32; one beyond its axis is an error."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor

from parity.mil.errors import OperatorFailed
from parity.mil.nn.registry import Result, layer
from parity.mil.ops import scatter_gather as mil
from parity.mil.precision import Context, Precision

MODES = ("update", "add", "sub", "mul", "div", "max", "min")  # the enum ScatterMode of the schema


def _refuse(kind: str, **detail: Any) -> NoReturn:
    raise OperatorFailed(f"{kind}: {detail}")


STRICT = Context(Precision("fp32"), False, _refuse)


@layer("gather")
def gather(p: Any, inputs: list[Tensor]) -> Result:
    """Slices along an axis, in the order of the second input."""
    return mil.gather(STRICT, inputs[0], inputs[1], p.axis)


@layer("gatherAlongAxis")
def gather_along_axis(p: Any, inputs: list[Tensor]) -> Result:
    """One element for each index, which replaces its own coordinate on an axis."""
    return mil.gather_along_axis(STRICT, inputs[0], inputs[1], p.axis)


@layer("gatherND")
def gather_nd(p: Any, inputs: list[Tensor]) -> Result:
    """Elements or slices at coordinates."""
    return mil.gather_nd(STRICT, inputs[0], inputs[1])


@layer("scatter")
def scatter(p: Any, inputs: list[Tensor]) -> Result:
    """The first input with slices along an axis combined with the third."""
    data, indices, updates = inputs
    return mil.scatter(STRICT, data, indices, updates, p.axis, MODES[p.mode])


@layer("scatterAlongAxis")
def scatter_along_axis(p: Any, inputs: list[Tensor]) -> Result:
    """The first input with one element for each index combined with its update."""
    data, indices, updates = inputs
    return mil.scatter_along_axis(STRICT, data, indices, updates, p.axis, MODES[p.mode])


@layer("scatterND")
def scatter_nd(p: Any, inputs: list[Tensor]) -> Result:
    """The first input with elements or slices at coordinates combined with the third."""
    data, indices, updates = inputs
    return mil.scatter_nd(STRICT, data, indices, updates, MODES[p.mode])
