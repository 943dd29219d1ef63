"""Real ONNX files that are right at every declared size and wrong at the next, and right ones that go no further."""

from __future__ import annotations

import pytest

from parity.suite.batch import further
from tests.plugin.onnx_project import prepared
from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"


@pytest.mark.parametrize(
    ("sizes", "beyond"),
    [((1, 2, 3, 5), 8), ((7, 12, 19), 29), ((320,), 480), ((224, 256, 288), 448), ((1,), 2), ((32, 7, 300), 450)],
)
def test_the_size_beyond_is_larger_by_half_and_keeps_what_the_declared_ones_are_multiples_of(
    sizes: tuple[int, ...], beyond: int
) -> None:
    assert further(sizes) == beyond


@pytest.mark.parametrize(
    ("factory", "wrong", "case"), [("picture", "rows", "batch=8"), ("steps", "steps", "batch=1,steps=24")]
)
def test_a_file_that_is_wrong_beyond_the_declared_sizes_fails(
    project: Project, factory: str, wrong: str, case: str
) -> None:
    run = prepared(project, factory, wrong).run("-k", "batch")
    (cell,) = run.record.cells
    assert run.code == 1 and {c.case for c in cell.checks if not c.passed} == {case}, run.text
    assert any(f.text.startswith(f"{case} is beyond the sizes in dims") for f in cell.findings), run.text


@pytest.mark.parametrize("factory", ["picture", "steps"])
def test_a_right_file_passes_beyond_the_declared_sizes(project: Project, factory: str) -> None:
    run = prepared(project, factory).run("-k", "batch")
    assert run.code == 0 and "batch=8" in {c.case for c in run.record.cells[0].checks}, run.text


def test_a_size_that_the_model_itself_refuses_says_nothing(project: Project) -> None:
    run = prepared(project, "few_steps").run("-k", "batch")
    notes = [f.text for f in run.record.cells[0].findings if "was not measured" in f.text]
    assert run.code == 0 and len(notes) == 1 and "steps=24, beyond the sizes in dims" in notes[0], run.text
