"""The kinds of check: one description and one file each, and everybody who lists them lists the same."""

from __future__ import annotations

import typing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from parity import formats as targets
from parity import suite
from parity.core.case import Case
from parity.core.errors import ParityError
from parity.core.kinds import BY_NAME, KINDS, Kind
from parity.core.plan import Cell
from parity.core.record import Check, build
from parity.core.settings import ModelConfig
from parity.exporting.verify import verify
from parity.session.planning import Data
from parity.session.project import parse
from parity.suite.check_kind import CheckContext

# The words of parity.run/1, and the tests that a project imports: promises, so written out once more.
WORDS = {"contract", "static", "golden", "video", "property", "sequence", "batch", "accuracy"}
TESTS = {
    "test_accuracy": "accuracy",
    "test_batch": "batch",
    "test_contract": "contract",
    "test_golden": "golden",
    "test_proof": "static",
    "test_property": "property",
    "test_sequence": "sequence",
    "test_video": "video",
}

TABLE = """
[tool.parity]
targets = ["onnx", "ncnn", "coreai"]
precisions = ["fp32"]
[tool.parity.models.tiny]
factory = "m:tiny"
inputs = [{ name = "x", shape = ["batch", 3] }]
outputs = [{ name = "y" }]
"""


@pytest.fixture
def tiny(tmp_path: Path) -> ModelConfig:
    return parse(TABLE, tmp_path / "pyproject.toml").models["tiny"]


def test_every_word_of_the_record_is_described_once_and_no_other() -> None:
    assert {*typing.get_args(Kind)} == {kind.name for kind in KINDS} >= WORDS
    assert len(BY_NAME) == len(KINDS)


def test_a_word_that_no_kind_has_is_no_check() -> None:
    row: dict[str, Any] = {
        "case": "a", "output": "y", "metric": "cosine", "value": 1.0, "limit": 0.9, "sense": "min", "passed": True,
    }  # fmt: skip
    assert build(Check, row | {"kind": "golden"}).kind == "golden"
    with pytest.raises(ParityError, match="is not one of contract, static, golden, video"):
        build(Check, row | {"kind": "gold"})


def test_every_kind_has_a_file_of_its_name_and_a_test_that_says_so() -> None:
    assert [kind.described for kind in suite.KINDS] == [*KINDS]
    for kind in suite.KINDS:
        assert kind.run.__module__ == kind.test.__module__ == f"parity.suite.{kind.described.name}"
        assert kind.test.parity_kind == kind.described.name  # type: ignore[attr-defined]


def test_a_project_imports_the_tests_and_nothing_else() -> None:
    taken: dict[str, Any] = {}
    exec("from parity.suite import *", taken)
    taken.pop("__builtins__")
    assert {name: test.parity_kind for name, test in taken.items()}.items() >= TESTS.items()
    assert all(name.startswith("test_") for name in taken)
    with pytest.raises(AttributeError, match="test_other"):
        suite.test_other  # noqa: B018


@pytest.mark.parametrize(
    ("target", "data", "kinds"),
    [
        ("onnx", Data(3, 0), ["contract", "static", "golden", "sequence", "batch", "property"]),
        ("coreai", Data(3, 0), ["contract", "golden", "sequence", "property"]),
        ("ncnn", Data(3, 0), ["contract", "static", "golden", "sequence", "property"]),
        ("onnx", Data(0, 0), ["contract", "golden", "sequence", "batch", "property"]),
        ("onnx", Data(0, 2), ["contract", "video", "sequence", "batch", "property"]),
        ("onnx", Data(3, 2), ["contract", "static", "golden", "video", "sequence", "batch", "property"]),
    ],
    ids=["all", "a target that no proof reads", "one size", "no data", "clips alone", "cases and clips"],
)
def test_a_cell_plans_the_kinds_that_its_data_and_target_allow(
    tiny: ModelConfig, target: str, data: Data, kinds: list[str]
) -> None:
    planned = suite.planned_kinds(tiny, targets.get(target), data)
    assert [kind for kind in planned if kind in WORDS] == kinds


def test_an_export_is_verified_by_the_kinds_that_say_so(tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: list[CheckContext] = []
    watched = [replace(kind, run=contexts.append) for kind in suite.KINDS]
    monkeypatch.setattr(suite, "KINDS", tuple(watched))
    cases = [Case("one", {})]
    session: Any = SimpleNamespace(
        config=SimpleNamespace(models={"tiny": replace(tiny, golden=Path("golden"))}, rules=()),
        golden=lambda model: cases,
        reference=lambda *_: "the oracle's outputs",
        runtime=lambda cell: "the runtime",
    )
    monkeypatch.setattr("parity.exporting.verify.fitted", lambda found, contract: found)
    record = verify(session, Cell("tiny", "onnx", "fp32"))
    ran = [check.recorder.kind for check in contexts]
    assert [kind for kind in ran if kind in WORDS] == ["contract", "static", "golden", "batch"]
    assert {(check.runtime, check.reference) for check in contexts} == {("the runtime", "the oracle's outputs")}
    assert all(check.golden == cases for check in contexts)
    assert (record.state, record.reason) == ("missing", "contract: nothing was measured against a limit")
