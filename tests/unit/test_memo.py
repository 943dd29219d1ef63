"""The memo: one question has one answer, and what differs in anything that counts is another question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.cases.sequence import Free
from parity.core.case import Case
from parity.core.contract import Contract, InputSpec, OutputSpec
from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.settings import Config, ModelConfig
from parity.reference.messages import Evaluated
from parity.session.memo import Memo, digest
from parity.session.session import Session
from parity.store.cache import Store


def asked(model: Any, cases: Any = (), sizes: Any = None, maximum: int | None = None) -> None:
    """What the digests below are of."""


def case(id: str = "a", name: str = "x", value: Any = 1.0, label: int | None = None) -> Case:
    return Case(id, {name: np.atleast_1d(np.asarray(value, np.float32))}, label)


CONTRACT = Contract((InputSpec("x", ("batch", 2)),), (OutputSpec("y"),))
MODEL = ModelConfig("m", "p:f", CONTRACT, (Cell("m", "onnx", "fp32"),))
OTHERS = {
    "another model": (replace(MODEL, name="n"),),
    "another factory": (replace(MODEL, factory="p:g"),),
    "another option": (replace(MODEL, options={"classes": 3}),),
    "another checkpoint": (replace(MODEL, checkpoint=Path("w.npz")),),
    "a path as text": (replace(MODEL, checkpoint="w.npz"),),
    "another contract": (replace(MODEL, contract=replace(CONTRACT, dims={"batch": (1, 2)})),),
    "nightly cells": (replace(MODEL, nightly=frozenset(MODEL.cells)),),
    "a case": (MODEL, [case()]),
    "another case": (MODEL, [case("b")]),
    "another input": (MODEL, [case(name="z")]),
    "another value": (MODEL, [case(value=2.0)]),
    "another shape": (MODEL, [case(value=[1.0, 1.0])]),
    "another dtype": (MODEL, [Case("a", {"x": np.ones(1, np.float64)})]),
    "another label": (MODEL, [case(label=0)]),
    "the same case twice": (MODEL, [case(), case()]),
    "cases in another grouping": (MODEL, [[case()], [case()]]),
    "a negative zero": (MODEL, [case(value=-0.0)]),
    "a zero": (MODEL, [case(value=0.0)]),
    "a mapping": (MODEL, (), {"a": 1}),
    "a mapping of text": (MODEL, (), {"a": "1"}),
    "a mapping with true": (MODEL, (), {"a": True}),
    "a mapping with a fraction": (MODEL, (), {"a": 1.0}),
    "a mapping in another order": (MODEL, (), {"a": 1, "b": 2}),
    "that order": (MODEL, (), {"b": 2, "a": 1}),
    "pairs": (MODEL, (), [["a", 1]]),
    "a bound": (MODEL, (), None, 1),
}


def test_whatever_differs_is_another_question() -> None:
    digests = {"nothing": digest(asked, MODEL)}
    digests |= {name: digest(asked, *arguments) for name, arguments in OTHERS.items()}
    same = {a: b for a in digests for b in digests if a != b and digests[a] == digests[b]}
    assert same == {}


def test_the_same_content_is_the_same_question_however_it_is_given() -> None:
    copied = replace(MODEL, contract=replace(CONTRACT))
    assert digest(asked, copied, [case()]) == digest(asked, model=MODEL, cases=(case(),))
    assert digest(asked, MODEL, (), None, None) == digest(asked, MODEL)
    strided = np.ones((2, 4), np.float32)[:, ::2]
    spread, packed = (Case("a", {"x": a}) for a in (strided, strided.copy()))
    assert digest(asked, MODEL, [spread]) == digest(asked, MODEL, [packed])


def test_another_function_is_another_question() -> None:
    def other(model: Any) -> None: ...

    assert digest(other, MODEL) != digest(asked, MODEL)


def test_content_that_is_not_known_is_refused() -> None:
    with pytest.raises(TypeError, match="no content of function"):
        digest(asked, lambda: None)


def test_a_failure_is_raised_again_and_its_work_not_repeated() -> None:
    calls: list[int] = []

    def fail(number: int) -> None:
        calls.append(number)
        raise ParityError(f"no {number}")

    memo = Memo()
    for _ in range(2):
        with pytest.raises(ParityError, match="no 1"):
            memo.once(fail, 1)
    assert calls == [1] and memo.made(fail, 1) is None


def test_what_a_partial_function_was_given_does_not_count() -> None:
    """The session itself has no content: a memo belongs to one."""
    memo, calls = Memo(), []

    def make(owner: object, number: int) -> int:
        calls.append(number)
        return number + 1

    assert [memo.once(partial(make, object()), 1) for _ in range(2)] == [2, 2]
    assert calls == [1] and memo.made(partial(make, object()), 1) == 2


class Answers:
    """Children that compute each case's sum, and count what they were asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def call(self, family: str, function: str, request: Any, answer: Any, **_: Any) -> Any:
        if function.endswith(":fingerprint"):
            return {"tensors": request.factory}
        cases = request.steps if function.endswith("chain:evaluate") else request.cases
        self.calls.append((function.split(".")[-1], len(cases)))
        return Evaluated([{"y": case["x"].sum(keepdims=True)} for case in cases], "float64", "")

    def close(self) -> None: ...


@pytest.fixture
def session(tmp_path: Path) -> Callable[[], Session]:
    config = Config(tmp_path, tmp_path / "pyproject.toml", {"m": MODEL})

    def opened() -> Session:
        made = Session(config, "run", store=Store(tmp_path / "cache"))
        answers = Answers()
        made.children = answers  # type: ignore[assignment]
        made.fingerprint(MODEL)  # which runs the oracle once, for the guard
        answers.calls.clear()
        return made

    return opened


def test_a_reference_belongs_to_its_cases(session: Callable[[], Session]) -> None:
    """It was kept under a word, so that other cases under the same word were given its outputs."""
    opened = session()
    first, second = [case(value=1.0)], [case(value=2.0)]
    outputs = [opened.reference(MODEL, cases).outputs[0]["y"].item() for cases in (first, second)]
    assert outputs == [1.0, 2.0]
    assert opened.reference(MODEL, [case(value=1.0)]) is opened.reference(MODEL, first)
    assert opened.children.calls == [("oracle:evaluate", 1)] * 2  # type: ignore[attr-defined]


def test_a_twin_and_a_sequence_belong_to_all_that_was_asked(session: Callable[[], Session]) -> None:
    opened, cases = session(), [case()]
    for precision, flavour in (("fp16", None), ("fp32", None), ("fp16", "storage"), ("fp16", None)):
        opened.twin(MODEL, cases, precision, flavour)
    steps = [c.inputs for c in cases]
    for keep, free in ((["y"], None), (["y"], Free("x", "y", 1)), (["y"], Free("x", "y", 2)), (["y"], None)):
        opened.sequence(MODEL, steps, keep, free)
    kinds = [kind for kind, _ in opened.children.calls]  # type: ignore[attr-defined]
    assert kinds == ["twin:evaluate"] * 3 + ["chain:evaluate"] * 3
