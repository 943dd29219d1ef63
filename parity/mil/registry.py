"""The operators that can be evaluated, each a small typed function, and those that cannot, each with the
reason.

A function's parameters carry the names of the operator's inputs, and their annotations say in what form it
wants them: ``Tensor``, ``int``, ``float``, ``bool``, ``str``, or lists of these. A first parameter called
``ctx`` receives the :class:`~parity.mil.precision.Context`. The file that holds a function is named as the
file of its definition in coremltools, so that the address of its documentation follows.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Any, TypeVar

import torch
from torch import Tensor

from parity.mil.errors import OperatorFailed

DOCUMENTATION = "https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html"

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Parameter:
    """One input of an operator: how to convert a value for it, and whether it may be left out."""

    convert: Callable[[Any], Any]
    variadic: bool
    required: bool


@dataclass(frozen=True)
class Operator:
    """One entry of the registry.

    ``exact`` says that every number of the result is one of the operands' numbers (data movement, maximum,
    comparison), so that rounding the result again cannot change it.
    """

    name: str
    opset: str
    family: str
    function: Callable[..., Any]
    exact: bool
    wants_context: bool
    parameters: dict[str, Parameter]

    @property
    def documentation(self) -> str:
        """The address of Apple's page about this operator."""
        return f"{DOCUMENTATION}#coremltools.converters.mil.mil.ops.defs.{self.opset}.{self.family}.{self.name}"


OPERATORS: dict[str, Operator] = {}

# Evaluated by the machine itself, since they steer execution or touch what outlives it.
STRUCTURAL: dict[str, str] = {
    "const": "a constant",
    "cond": "one of two blocks, by a predicate",
    "while_loop": "a block repeated while another says so",
    "read_state": "the present value of a state",
    "write_state": "a new value for a state",
}

REFUSED: dict[str, str] = {
    "random_bernoulli": "its result is random, so there is nothing to compare it with",
    "random_categorical": "its result is random, so there is nothing to compare it with",
    "random_normal": "its result is random, so there is nothing to compare it with",
    "random_uniform": "its result is random, so there is nothing to compare it with",
    "custom_layer": "its code is in the application, not in the file",
}


def operator(opset: str = "iOS15", *, exact: bool = False) -> Callable[[Function], Function]:
    """Register a function as the operator of its name (a trailing underscore avoids Python's own names)."""

    def register(function: Function) -> Function:
        name = function.__name__.rstrip("_")
        hints = typing.get_type_hints(function)
        signature = inspect.signature(function).parameters
        parameters = {
            p.name: Parameter(*_converter(hints[p.name]), required=p.default is inspect.Parameter.empty)
            for p in signature.values()
            if p.name != "ctx"
        }
        OPERATORS[name] = Operator(
            name=name,
            opset=opset,
            family=function.__module__.rsplit(".", 1)[-1],
            function=function,
            exact=exact,
            wants_context="ctx" in signature,
            parameters=parameters,
        )
        return function

    return register


def _converter(hint: Any) -> tuple[Callable[[Any], Any], bool]:
    """The conversion that an annotation asks for, and whether it accepts several values for one input."""
    options = [h for h in typing.get_args(hint) if h is not NoneType]
    if typing.get_origin(hint) is not list and options:
        hint = options[0]  # X | None
    if typing.get_origin(hint) is list:
        element = typing.get_args(hint)[0]
        if element is Tensor:
            return _tensors, True
        return (lambda value: _items(value, element)), False
    conversions: dict[Any, Callable[[Any], Any]] = {Tensor: torch.as_tensor, str: _string, Any: lambda v: v}
    return conversions.get(hint) or (lambda value: _scalar(value, hint)), False


def _tensors(value: Any) -> list[Tensor]:
    return [torch.as_tensor(v) for v in (value if isinstance(value, list) else [value])]


def _items(value: Any, element: Callable[[Any], Any]) -> list[Any]:
    if isinstance(value, Tensor):
        value = value.reshape(-1).tolist()
    elif not isinstance(value, list):
        value = [value]
    return [_scalar(v, element) for v in value]


def _scalar(value: Any, kind: Callable[[Any], Any]) -> Any:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise OperatorFailed(f"a single number is needed, found shape {list(value.shape)}")
        value = value.item()
    return kind(value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise OperatorFailed(f"a string is needed, found {type(value).__name__}")
    return value
