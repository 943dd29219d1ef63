"""What crosses a process boundary comes out as it went in, and what does not fit is refused with its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from parity.core.case import Array
from parity.core.contract import Contract, InputSpec, OutputSpec, Preprocess
from parity.process import serialise, wire


@dataclass(frozen=True)
class Inner:
    name: str
    share: float = 0.0
    kind: Literal["tensor", "operator"] = "tensor"


@dataclass(frozen=True)
class Message:
    count: int
    sure: bool
    rows: Sequence[Mapping[str, Array]]
    inner: Inner | None = None
    several: tuple[Inner, ...] = ()
    shape: tuple[int | str, ...] = ()
    pair: tuple[float, float] | None = None
    names: list[str] = field(default_factory=list)
    figures: Mapping[str, float | int | str | None] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


FULL = Message(
    3,
    True,
    ({"x": np.arange(6, dtype=np.int16).reshape(2, 3)}, {"x": np.zeros((0, 2), np.float16)}),
    Inner("a", math.inf, "operator"),
    (Inner("b", 1.0), Inner("c")),
    ("batch", 3),
    (-1.0, 2.5),
    ["p", "q"],
    {"a": 1, "b": 2.5, "c": "x", "d": None},
    {"entry": "m.onnx", "list": [1, {"deep": None}], "mean": 0.5},
)
LEAST = {"count": 1, "sure": False, "rows": []}


def through(value: Any) -> Any:
    """As the other process is given it."""
    whole, at = b"".join(wire.encode(serialise.to_builtins(value))), 0

    def read(count: int) -> bytes:
        nonlocal at
        at += count
        return whole[at - count : at]

    return wire.decode(read)


def test_a_message_comes_out_as_it_went_in() -> None:
    back = serialise.from_builtins(Message, through(FULL))
    assert [(r["x"].dtype, r["x"].shape) for r in back.rows] == [("int16", (2, 3)), ("float16", (0, 2))]
    np.testing.assert_array_equal(back.rows[0]["x"], FULL.rows[0]["x"])
    for name in Message.__dataclass_fields__.keys() - {"rows"}:
        value = getattr(back, name)
        assert value == getattr(FULL, name) and type(value) is type(getattr(FULL, name)), name
    assert serialise.from_builtins(Message, LEAST) == Message(1, False, ())


def test_a_contract_is_a_message() -> None:
    inputs = (InputSpec("x", ("batch", 3), "float32", (0.0, 1.0)),)
    contract = Contract(inputs, (OutputSpec("y", "logits", ("a",)),), Preprocess(size=(4, 5)), {"batch": (1, 2)})
    assert serialise.from_builtins(Contract, through(contract)) == contract


def test_numpy_numbers_arrive_as_numbers() -> None:
    back = serialise.from_builtins(Inner, through(Inner("a", np.float64(0.25))))
    assert back == Inner("a", 0.25) and type(back.share) is float


def test_plain_values_are_messages_too() -> None:
    for kind, value in ((int, 3), (str, "3"), (float, 0.5), (type(None), None), (list[int], [1, 2])):
        assert serialise.from_builtins(kind, through(value)) == value


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"count": "3"}, "count"),
        ({"count": 3.0}, "count"),
        ({"count": True}, "count"),
        ({"sure": 1}, "sure"),
        ({"rows": "ab"}, "rows"),
        ({"rows": [{"x": [1.0]}]}, r"rows\[0\]"),
        ({"rows": [{}, []]}, r"rows\[1\]"),
        ({"inner": {"share": 1.0}}, "inner.name"),
        ({"inner": {"name": "a", "share": "1"}}, "inner.share"),
        ({"inner": {"name": "a", "share": True}}, "inner.share"),
        ({"inner": {"name": "a", "kind": "runtime"}}, "inner.kind"),
        ({"inner": {"name": "a", "more": 1}}, "more"),
        ({"inner": ["a"]}, "inner"),
        ({"several": [{"name": 1}]}, r"several\[0\].name"),
        ({"several": {"name": "a"}}, "several"),
        ({"shape": [1, None]}, r"shape\[1\]"),
        ({"shape": "ab"}, "shape"),
        ({"pair": [1.0]}, "pair"),
        ({"pair": [1.0, "2"]}, r"pair\[1\]"),
        ({"names": "ab"}, "names"),
        ({"names": [1]}, r"names\[0\]"),
        ({"figures": {"a": []}}, "figures"),
        ({"notes": []}, "notes"),
        ({"more": 1}, "more"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(ValueError, match=f"no Message: .*{place}"):
        serialise.from_builtins(Message, {**LEAST, **change})


@pytest.mark.parametrize("value", [None, [], "x", 1, {}, {"count": 1}])
def test_no_message_at_all_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="no Message: "):
        serialise.from_builtins(Message, value)
