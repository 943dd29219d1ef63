"""Stored references: fit, or are named by what is wrong with them, each in its own word."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.cases.references import ARRAYS, INDEX, compare, origin, read, refuse_in_ci, stale, write
from parity.core.case import Case
from parity.core.contract import Contract, InputSpec, OutputSpec
from parity.core.errors import ConfigError, ParityError

CONTRACT = Contract((InputSpec("x", ("batch", 2)),), (OutputSpec("y"),))
MADE = {"weights": "a" * 64, "structure": "b" * 64, "source": "c" * 64}
CASES = [Case(f"folder/{n}", {"x": np.full((1, 2), n, np.float32)}) for n in range(3)]
ROWS = [{"y": np.array([[n / 3]])} for n in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "refs", CASES, ROWS, origin(MADE, CONTRACT))
    return tmp_path / "refs"


def why(folder: Path, cases: list[Case], made: Any = None) -> tuple[str, Any]:
    made = made or origin(MADE, CONTRACT)
    stored = read(folder)
    found = compare(stored, cases, made)
    return stale("m", stored, found, made), found


def test_what_was_written_fits_and_comes_back_to_the_bit(folder: Path) -> None:
    assert why(folder, CASES) == ("", compare(read(folder), CASES, origin(MADE, CONTRACT)))
    stored = read(folder)
    assert stored is not None
    np.testing.assert_array_equal(stored.outputs["folder/1"]["y"], ROWS[1]["y"])


def test_other_weights_another_contract_and_the_source_alone(folder: Path) -> None:
    text, found = why(folder, CASES, origin({**MADE, "weights": "d" * 64}, CONTRACT))
    assert "its weights changed" in text and "--parity-update" in text and len(found.changed) == 3
    other = replace(CONTRACT, outputs=(OutputSpec("y", "logits"),))
    assert "its contract changed" in why(folder, CASES, origin(MADE, other))[0]
    assert why(folder, CASES, origin({**MADE, "source": "e" * 64}, CONTRACT))[0] == ""  # a comment changes no output


def test_new_changed_unused_are_three_things(folder: Path) -> None:
    moved = Case("folder/1", {"x": np.full((1, 2), 9, np.float32)})
    text, found = why(folder, [CASES[0], moved, Case("more", CASES[2].inputs)])
    assert (found.new, found.changed, found.unused, found.same) == (
        ("more",), ("folder/1",), ("folder/2",), ("folder/0",)
    )  # fmt: skip
    assert "1 new (more)" in text and "1 changed (folder/1)" in text
    assert found.written() == "1 new, 1 changed, 1 removed, 1 unchanged"
    assert why(folder, CASES[:2])[0] == ""  # an unused one is named elsewhere, and breaks nothing


def test_absent_and_damaged_ones_say_what_to_do(folder: Path, tmp_path: Path) -> None:
    assert "no reference is stored yet" in why(tmp_path / "absent", CASES)[0]
    data = (folder / ARRAYS).read_bytes()
    (folder / ARRAYS).write_bytes(data[:-4])
    with pytest.raises(ParityError, match=r"damaged.*--parity-update"):
        read(folder)
    (folder / ARRAYS).write_bytes(data)
    index = json.loads((folder / INDEX).read_text())
    for broken in ("", "[]", json.dumps({**index, "schema": "x"}), json.dumps({**index, "cases": 3})):
        (folder / INDEX).write_text(broken)
        with pytest.raises(ParityError, match="damaged"):
            read(folder)


def test_ci_never_writes_them() -> None:
    refuse_in_ci({})
    refuse_in_ci({"CI": "false"})
    with pytest.raises(ConfigError, match="refused where CI is set"):
        refuse_in_ci({"CI": "true"})
