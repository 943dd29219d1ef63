"""The record: what is written is read back, numbers leave as plain builtins, and a hostile text is one line."""

from __future__ import annotations

import contextlib
import json
import math
import re
import typing
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.core.errors import ParityError
from parity.core.record import (
    SCHEMA,
    ArtifactRecord,
    CellRecord,
    Check,
    Environment,
    FileRecord,
    RunRecord,
    WaiverRecord,
    build,
    dumps,
    loads,
    plain,
    read,
)
from parity.faults.causes import Cause

CHECK = Check("golden", "hand_07", "logits", "max_abs", 0.25, 0.5, "max", True)
CELL = CellRecord("skin-onnx-fp32", "skin", "onnx", "fp32", "pass", checks=(CHECK,), planned=("golden",))
RUN = RunRecord("pass", (CELL,), Environment("3.11", {"torch": "2"}, "linux-x86_64"))


@pytest.mark.parametrize("value", [0.5, 3.0, "relu", (0, 1), None])
def test_a_field_of_several_types_is_read_back(value: Any) -> None:
    cause = Cause(("classes_swapped",), (value,), "two rows are exchanged", 1.0, 1.0, 9.0)
    assert build(Cause, plain(cause)) == cause


def test_a_field_that_fits_none_of_its_types_is_one_line() -> None:
    told = plain(Cause(("x",), (1.0,), "y", 1.0, 1.0, 9.0)) | {"values": [{"a": 1}]}
    with pytest.raises(ParityError, match=r"values\[0\]: .* is not a finite number"):
        build(Cause, told)


# Any record at all, from the type hints.

_LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    int: st.integers(-(2**63), 2**63),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
}


def anything(hint: Any) -> st.SearchStrategy[Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _LEAVES:
        return _LEAVES[hint]
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(anything(args[0]), max_size=3).map(tuple)
    if is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return st.builds(hint, **{f.name: anything(hints[f.name]) for f in fields(hint)})
    if type(None) in args:
        return st.none() | anything(next(a for a in args if a is not type(None)))
    return st.dictionaries(st.text(max_size=8), anything(args[1]), max_size=3)


@settings(max_examples=150, deadline=None)
@given(anything(RunRecord).map(lambda record: replace(record, schema=SCHEMA)))
def test_every_record_is_read_back_as_it_was(record: RunRecord) -> None:
    text = dumps(record)
    assert loads(text) == record
    assert dumps(loads(text)) == text
    assert json.loads(text)["schema"] == "parity.run/1" and text.endswith("}\n")


def test_the_file_has_the_promised_names() -> None:
    data = json.loads(dumps(RUN))
    assert {"schema", "verdict", "started", "seconds", "partial", "environment", "cells", "baseline"} <= set(data)
    cell = data["cells"][0]
    assert {"id", "model", "target", "precision", "state", "reason", "route", "artifact", "checks", "power",
            "diagnosis", "first_divergence", "runtime"} <= set(cell)  # fmt: skip
    assert {"kind", "case", "output", "metric", "value", "limit", "sense", "passed"} <= set(cell["checks"][0])
    assert data["partial"] is None and data["baseline"]["path"] is None


def test_a_cell_is_found_by_its_id() -> None:
    assert RUN.cell("skin-onnx-fp32") is CELL
    with pytest.raises(KeyError):
        RUN.cell("skin-onnx-fp16")


# Numbers leave as builtins.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.float16(2), 2.0),
        (np.float64(-0.25), -0.25),
        (np.longdouble(0.5), 0.5),
        (np.int64(3), 3),
        (np.uint8(255), 255),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array(1.5), 1.5),
        (np.float32("nan"), None),
        (np.float64("inf"), None),
        (np.float16("-inf"), None),
        (math.nan, None),
        (-math.inf, None),
        (True, True),
        (None, None),
        ("é", "é"),
        ((1, [2, (3,)]), [1, [2, [3]]]),
        ({1: {2.5: "x"}}, {"1": {"2.5": "x"}}),
        (Path("/a/b"), "/a/b"),
        (FileRecord("a", 1, "b"), {"path": "a", "bytes": 1, "sha256": "b"}),
        (replace(CHECK, value=np.float32(0.5)).value, 0.5),
    ],
)
def test_plain(value: Any, expected: Any) -> None:
    found = plain(value)
    assert found == expected and type(found) is type(expected)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("value", [object(), b"x", np.zeros(2), 1j, np.complex64(1), Check, lambda: 0])
def test_what_a_record_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        plain(value)


def test_numpy_scalars_and_nan_in_a_record_come_back_as_numbers_and_null() -> None:
    check = replace(CHECK, value=np.float32("nan"), limit=np.float64(0.5), nonfinite=np.int64(2))
    record = replace(RUN, cells=(replace(CELL, checks=(check,)),), seconds=np.float32(1.5))
    back = loads(dumps(record))
    assert back.seconds == 1.5 and type(back.seconds) is float
    assert (back.cells[0].checks[0].value, back.cells[0].checks[0].nonfinite) == (None, 2)


def test_text_that_no_utf8_file_can_hold_is_written_all_the_same(tmp_path: Path) -> None:
    text = dumps(replace(RUN, reason="file \udcff.png"))
    (tmp_path / "r.json").write_text(text, encoding="utf-8")
    assert "file" in read(tmp_path / "r.json").reason


def test_the_same_record_gives_the_same_bytes() -> None:
    assert dumps(RUN) == dumps(loads(dumps(RUN)))


# Hostile and damaged texts.


def changed(path: tuple[str | int, ...], value: Any) -> str:
    data = json.loads(dumps(RUN))
    at = data
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    return json.dumps(data)


def without(*path: str | int) -> str:
    data = json.loads(dumps(RUN))
    at = data
    for part in path[:-1]:
        at = at[part]
    del at[path[-1]]
    return json.dumps(data)


CHECK_AT = ("cells", 0, "checks", 0)
HOSTILE = {
    "empty": "",
    "no json": "hello",
    "html": "<html>",
    "truncated": dumps(RUN)[:200],
    "a list": "[]",
    "null": "null",
    "a number": "3",
    "nested": "[" * 100_000,
    "nested objects": '{"a":' * 50_000,
    "no schema": "{}",
    "other schema": json.dumps({"schema": "parity.run/2"}),
    "schema of another type": json.dumps({"schema": ["parity.run/1"]}),
    "no cells": without("cells"),
    "no verdict": without("verdict"),
    "unknown field": changed(("extra",), 1),
    "unknown field with line ends": changed(("a\nb",), 1),
    "unknown field of a check": changed((*CHECK_AT, "vlaue"), 1),
    "unknown verdict": changed(("verdict",), "passed"),
    "verdict of another type": changed(("verdict",), ["pass"]),
    "unknown state": changed(("cells", 0, "state"), "ok"),
    "unknown kind": changed((*CHECK_AT, "kind"), "gold"),
    "unknown sense": changed((*CHECK_AT, "sense"), "both"),
    "cells is an object": changed(("cells",), {}),
    "a cell is a list": changed(("cells", 0), []),
    "a cell is null": changed(("cells", 0), None),
    "checks is text": changed(("cells", 0, "checks"), "abc"),
    "planned holds numbers": changed(("cells", 0, "planned"), [1]),
    "value is text": changed((*CHECK_AT, "value"), "0.1"),
    "value is true": changed((*CHECK_AT, "value"), True),
    "value is a list": changed((*CHECK_AT, "value"), [0.1]),
    "value beyond float": changed((*CHECK_AT, "value"), 10**400),
    "value is infinite": changed((*CHECK_AT, "value"), math.inf),
    "value is nan": changed((*CHECK_AT, "value"), math.nan),
    "value overflows": dumps(RUN).replace("0.25", "1e999"),
    "a number of 9000 digits": dumps(RUN).replace("0.25", "9" * 9000),
    "passed is 1": changed((*CHECK_AT, "passed"), 1),
    "passed is null": changed((*CHECK_AT, "passed"), None),
    "nonfinite is a float": changed((*CHECK_AT, "nonfinite"), 1.5),
    "nonfinite is true": changed((*CHECK_AT, "nonfinite"), True),
    "planned_cases is text": changed(("cells", 0, "planned_cases"), "3"),
    "packages is a list": changed(("environment", "packages"), []),
    "a package is a number": changed(("environment", "packages", "a\nb"), 3),
    "environment is null": changed(("environment",), None),
    "state is an object": changed(("cells", 0, "state"), {}),
    "required is a number": changed(("cells", 0, "required"), 0),
    "reason is null": changed(("reason",), None),
    "huge text": changed(("verdict",), "x" * 1_000_000),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_text_is_one_line(text: str) -> None:
    with pytest.raises(ParityError) as caught:
        loads(text, "parity.json")
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and "parity.json" in message and len(message) < 400


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_change_of_a_record_escapes_as_a_traceback(data: st.DataObject) -> None:
    value = json.loads(dumps(RUN))
    at: Any = value
    while True:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        key = data.draw(st.sampled_from(list(keys)))
        if isinstance(at[key], (dict, list)) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        at[key] = data.draw(st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
            max_leaves=4,
        ))  # fmt: skip
        break
    with contextlib.suppress(ParityError):
        loads(json.dumps(value))


def test_read_tells_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"none.json: cannot be read \(No such file"):
        read(tmp_path / "none.json")
    with pytest.raises(ParityError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"schema": "\xff"}')
    with pytest.raises(ParityError, match=r"latin.json: cannot be read"):
        read(tmp_path / "latin.json")
    (tmp_path / "good.json").write_text(dumps(RUN), encoding="utf-8")
    assert read(tmp_path / "good.json") == RUN


def test_a_record_with_a_byte_order_mark_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bom.json").write_text(dumps(RUN), encoding="utf-8-sig")
    with pytest.raises(ParityError, match="not a JSON record"):
        read(tmp_path / "bom.json")


def test_build_takes_defaults_and_says_what_is_missing() -> None:
    assert build(WaiverRecord, {"cell": "c", "metric": "m", "reason": "r", "expires": "e"}).state == "unmatched"
    with pytest.raises(ParityError, match="WaiverRecord lacks the field 'reason'"):
        build(WaiverRecord, {"cell": "c", "metric": "m", "expires": "e"})
    with pytest.raises(ParityError, match=r"files\[1\].bytes: 'x' is not a whole number"):
        build(ArtifactRecord, {"files": [plain(FileRecord("a", 1, "b")), {"path": "a", "bytes": "x", "sha256": ""}]})


# Share of the limit.


@pytest.mark.parametrize(
    ("value", "limit", "sense", "share"),
    [
        (0.25, 0.5, "max", 0.5),
        (0.5, 0.5, "max", 1.0),
        (1.0, 0.5, "max", 2.0),
        (0.0, 0.0, "max", 0.0),
        (0.1, 0.0, "max", 1.0),
        (0.995, 0.99, "min", 0.5),
        (0.98, 0.99, "min", 2.0),
        (1.0, 0.99, "min", 0.0),
        (1.0, 1.0, "min", 0.0),
        (0.9, 1.0, "min", 1.0),
        (40.0, 20.0, "min", 0.5),
        (10.0, 20.0, "min", 2.0),
        (0.0, 20.0, "min", None),
        (-3.0, 20.0, "min", None),
        (None, 0.5, "max", None),
        (0.5, None, "max", None),
    ],
)
def test_share_of_the_limit(value: float | None, limit: float | None, sense: Any, share: float | None) -> None:
    found = replace(CHECK, value=value, limit=limit, sense=sense).share()
    assert found == (None if share is None else pytest.approx(share))


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_a_share_is_finite_and_says_which_side_the_value_is_on(value: float, limit: float) -> None:
    for sense in ("max", "min"):
        share = replace(CHECK, value=value, limit=limit, sense=sense).share()
        assert share is None or math.isfinite(share)


@pytest.mark.parametrize(("value", "share"), [(256.0, 0.0), (255.0, 1.0)])
def test_a_count_whose_limit_is_its_best_uses_none_of_it_until_it_fails(value: float, share: float) -> None:
    assert replace(CHECK, metric="steps_right", value=value, limit=256.0, sense="min").share() == share


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": "left-pad"}', "JSON without a schema, and so no parity.json; give the record of a run"),
        ('{"schema": "parity.run/9"}', "this version reads 'parity.run/1'; read it with the version that wrote it"),
        (changed((*CHECK_AT, "value"), math.nan), "value: nan is not a finite number"),
        (changed((*CHECK_AT, "kind"), "gold"), "kind: 'gold' is not one of contract, static, golden, video"),
        (changed(("cells",), {}), "cells: {} is not a list"),
    ],
)
def test_what_is_no_record_says_what_it_should_be(text: str, words: str) -> None:
    with pytest.raises(ParityError, match=re.escape(words)):
        loads(text, "some.json")
