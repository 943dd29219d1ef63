"""Messages between processes: everything that fits comes back, and nothing malformed is believed."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parity.process import wire

ARRAYS = hnp.arrays(
    st.one_of(
        hnp.floating_dtypes(endianness="?"), hnp.integer_dtypes(endianness="?"), hnp.boolean_dtypes(),
        hnp.unsigned_integer_dtypes(), hnp.complex_number_dtypes(sizes=(64, 128)),
    ),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)  # fmt: skip
MESSAGES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def reader(data: bytes) -> Callable[[int], bytes]:
    at = 0

    def read(count: int) -> bytes:
        nonlocal at
        if at + count > len(data):
            raise EOFError
        at += count
        return data[at - count : at]

    return read


def sent(message: Any) -> bytes:
    return b"".join(bytes(piece) for piece in wire.encode(message))


def back(message: Any) -> Any:
    return wire.decode(reader(sent(message)))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape
            and np.ascontiguousarray(a).tobytes() == b.tobytes()
        )  # fmt: skip
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


@settings(max_examples=200, deadline=None)
@given(MESSAGES)
def test_every_message_comes_back_as_it_was(message: Any) -> None:
    assert same(message, back(message))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0])
def test_special_floats_come_back(value: float) -> None:
    assert same(value, back(value)) and math.copysign(1, back(value)) == math.copysign(1, value)


@pytest.mark.parametrize(
    "message", [{"__array__": 0}, {"__array__": "x"}, {"__float__": "nan"}, [{"__float__": 3}], {"__map__": {"a": 1}}]
)
def test_a_dict_that_looks_like_our_own_marks_comes_back_as_it_was(message: Any) -> None:
    assert same(message, back(message))
    assert same({"x": message, "y": np.zeros(2)}, back({"x": message, "y": np.zeros(2)}))


def test_views_that_are_not_contiguous_come_back_with_their_values() -> None:
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for view in (base.T, base[:, ::2], base[::-1], np.broadcast_to(base[:1], (5, 3, 4)), np.asfortranarray(base)):
        np.testing.assert_array_equal(back(view), view)


def test_numpy_scalars_and_tuples_become_builtins() -> None:
    assert back({"a": np.float32(0.5), "b": (1, np.int64(2)), "c": np.bool_(True)}) == {
        "a": 0.5,
        "b": [1, 2],
        "c": True,
    }


def test_one_array_used_twice_comes_back_twice() -> None:
    one = np.arange(3)
    first, second = back([one, one])
    np.testing.assert_array_equal(first, one)
    np.testing.assert_array_equal(second, one)


@pytest.mark.parametrize(
    "value",
    [np.array([object()]), np.array(["a"]), np.array([b"a"]), np.zeros(1, "M8[s]"), np.zeros(2, [("a", "f4")])],
)
def test_arrays_that_are_not_numbers_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot send an array"):
        wire.encode(value)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j])
def test_what_is_no_builtin_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        wire.encode({"x": [value]})


def test_messages_follow_one_another_in_a_stream() -> None:
    messages = [{"a": np.arange(5)}, "text", [1.5, None], np.zeros((0, 3))]
    read = reader(b"".join(map(sent, messages)))
    for message in messages:
        assert same(message, wire.decode(read))
    with pytest.raises(EOFError):
        wire.decode(read)


FULL = sent({"event": "result", "value": [np.arange(6, dtype=np.float32).reshape(2, 3), {"x": 1.5}]})


@pytest.mark.parametrize("length", range(len(FULL)))
def test_every_truncation_is_the_end_of_the_stream(length: int) -> None:
    with pytest.raises(EOFError):
        wire.decode(reader(FULL[:length]))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(FULL) - 1), st.integers(1, 255))
def test_a_flipped_byte_gives_a_message_or_a_named_error(place: int, change: int) -> None:
    data = bytearray(FULL)
    data[place] ^= change
    with contextlib.suppress(ValueError, EOFError):
        wire.decode(reader(bytes(data)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_no_message(data: bytes) -> None:
    with pytest.raises((ValueError, EOFError)):
        wire.decode(reader(data))


def framed(header: Any, body: bytes = b"", *, raw: bytes | None = None, claimed: int | None = None) -> bytes:
    text = raw if raw is not None else json.dumps(header).encode()
    return struct.pack("<4sIQ", b"prt1", len(text), len(body) if claimed is None else claimed) + text + body


EIGHT = bytes(8)
HOSTILE = {
    "wrong magic": b"prt0" + FULL[4:],
    "a line that was printed": b"loading model...\n" * 9,
    "header longer than allowed": struct.pack("<4sIQ", b"prt1", wire.MAX_HEADER + 1, 0),
    "header is no json": framed(0, raw=b"{"),
    "header is no text": framed(0, raw=b"\xff\xfe"),
    "header is deep": framed(0, raw=b"[" * 200_000),
    "header is a list": framed([]),
    "header is a number": framed(3),
    "header is null": framed(None),
    "no message": framed({"a": []}),
    "no arrays": framed({"m": 1}),
    "arrays is a number": framed({"m": 1, "a": 3}),
    "an array is a number": framed({"m": 1, "a": [3]}),
    "an array of three parts": framed({"m": 1, "a": [["<f4", [1], 2]]}, EIGHT),
    "unknown dtype": framed({"m": 1, "a": [["<q9", [1]]]}, EIGHT),
    "dtype is a number": framed({"m": 1, "a": [[3, [1]]]}, EIGHT),
    "dtype of objects": framed({"m": 1, "a": [["|O", [1]]]}, EIGHT),
    "dtype of texts": framed({"m": 1, "a": [["<U2", [1]]]}, EIGHT),
    "dtype with fields": framed({"m": 1, "a": [["f4,f4", [1]]]}, EIGHT),
    "shape is a number": framed({"m": 1, "a": [["<f4", 2]]}, EIGHT),
    "shape holds a text": framed({"m": 1, "a": [["<f4", ["2"]]]}, EIGHT),
    "shape holds a float": framed({"m": 1, "a": [["<f4", [2.0]]]}, EIGHT),
    "shape is negative": framed({"m": 1, "a": [["<f4", [-1]]]}, EIGHT),
    "shape is negative twice": framed({"m": 1, "a": [["<f4", [-1, -2]]]}, EIGHT),
    "shape is null": framed({"m": 1, "a": [["<f4", None]]}, EIGHT),
    "shape is larger than the body": framed({"m": 1, "a": [["<f4", [3]]]}, EIGHT),
    "shape overflows": framed({"m": 1, "a": [["<f4", [2**62, 8]]]}, EIGHT),
    "empty with an absurd size": framed({"m": 1, "a": [["<f4", [0, 2**70]]]}),
    "more body than arrays": framed({"m": 1, "a": [["<f4", [1]]]}, EIGHT),
    "body longer than any": framed({"m": 1, "a": []}, claimed=2**63),
    "body of an exabyte, declared": framed({"m": 1, "a": [["<f8", [2**57]]]}, claimed=2**60),
    "reference to no array": framed({"m": {"__array__": 0}, "a": []}),
    "reference is a text": framed({"m": {"__array__": "0"}, "a": [["<f4", [2]]]}, EIGHT),
    "reference is negative": framed({"m": {"__array__": -1}, "a": [["<f4", [2]]]}, EIGHT),
    "reference is a list": framed({"m": {"__array__": [0]}, "a": [["<f4", [2]]]}, EIGHT),
    "float is no float": framed({"m": {"__float__": "x"}, "a": []}),
    "float is a list": framed({"m": {"__float__": []}, "a": []}),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_message_is_a_value_error(data: bytes) -> None:
    def read(count: int) -> bytes:
        assert count < 1 << 33, "asked for more memory than any message has"
        return stream(count)

    stream = reader(data)
    with pytest.raises(ValueError):  # noqa: PT011  (whatever its text: the caller calls it a broken answer)
        wire.decode(read)
