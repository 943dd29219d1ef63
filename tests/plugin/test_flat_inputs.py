"""Real ONNX files that are wrong on one flat input alone, or at one number: extremes and edges show them."""

from __future__ import annotations

import pytest

from tests.plugin.onnx_project import prepared
from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

PROPERTY = ("-k", "property")


@pytest.mark.parametrize(
    ("factory", "wrong"),
    [("picture", "black"), ("tokens", "zeros"),
     *(pytest.param("picture", wrong, marks=pytest.mark.nightly) for wrong in ("zeros", "highest"))],
)  # fmt: skip
@pytest.mark.parametrize("examples", [0, pytest.param(20, marks=pytest.mark.nightly)])
def test_a_file_that_is_wrong_on_one_flat_input_fails(
    project: Project, factory: str, wrong: str, examples: int
) -> None:
    properties = f"properties = {{ examples = {examples} }}\n"
    run = prepared(project, factory, wrong, properties).run(*PROPERTY)
    bad = [check.case.split(" ")[0] for check in run.record.cells[0].checks if not check.passed]
    assert run.code == 1 and wrong in bad, run.text
    assert f"{wrong} batch=1 ~" in run.text and "np.full((1, " in run.text  # how to repeat it


@pytest.mark.parametrize("factory", ["picture", "tokens"])
def test_right_files_pass_on_every_flat_input_whatever_is_drawn(project: Project, factory: str) -> None:
    run = prepared(project, factory, properties="properties = { examples = 0 }\n").run(*PROPERTY)
    cases = {check.case.split(" ")[0] for check in run.record.cells[0].checks}
    assert run.code == 0 and {"zeros", "highest"} <= cases, run.text
    assert factory != "picture" or {"lowest", "black", "white"} <= cases


def test_an_input_on_which_the_model_is_not_finite_says_nothing(project: Project) -> None:
    run = prepared(project, "inverse", properties="properties = { examples = 0 }\n").run(*PROPERTY)
    assert run.code == 0, run.text
    assert any(f.text.startswith("not judged: zeros") for f in run.record.cells[0].findings), run.text


EDGES = {
    "mode": "properties = { examples = 0 }\n",
    "clock": 'properties = { examples = 0 }\nstates = { clock = "next" }\n',
}


@pytest.mark.parametrize(("factory", "edges"), [("mode", ["37"]), ("clock", ["32", "33", "63"])])
def test_a_file_that_is_wrong_at_numbers_that_only_its_graph_shows_fails(
    project: Project, factory: str, edges: list[str]
) -> None:
    run = prepared(project, factory, "wrong", EDGES[factory]).run(*PROPERTY)
    bad = {check.case.partition("edge ")[2].split(" ")[0] for check in run.record.cells[0].checks if not check.passed}
    assert run.code == 1 and bad == set(edges), run.text


@pytest.mark.parametrize("factory", ["mode", "clock"])
def test_a_right_file_passes_at_the_numbers_that_its_graph_shows(project: Project, factory: str) -> None:
    run = prepared(project, factory, properties=EDGES[factory]).run(*PROPERTY)
    assert run.code == 0 and any("edge" in check.case for check in run.record.cells[0].checks), run.text
