"""Golden sets that show nothing, seen from the outside."""

from __future__ import annotations

import numpy as np
import pytest

from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

SAME = [[0.9, 0.1, 0.2]] * 3
CONSTANT = [[value] * 3 for value in (0.1, 0.5, 0.9)]


def give(project: Project, rows: list[list[float]]) -> None:
    """Give the project's three cases other inputs. Their folders label them."""
    for label, row in enumerate(rows):
        x = np.array([row], np.float32)
        np.savez(project.path / "golden" / "abc"[label] / f"case{label}.npz", x=x, label=label)


@pytest.mark.parametrize("rows", [SAME, CONSTANT], ids=["identical", "constant"])
def test_cases_that_show_nothing_are_no_measurement(project: Project, rows: list[list[float]]) -> None:
    give(project, rows)
    run = project.run()
    assert run.code == 1 and run.verdict == "incomplete", run.text
    for cell in run.record.cells:
        assert cell.state == "missing" and cell.telling_cases == 1
        assert cell.reason.startswith("golden: its 3 cases count as 1, since identical inputs count once"), cell.reason


def test_one_more_case_that_differs_is_enough(project: Project) -> None:
    give(project, [*SAME[:2], [0.1, 0.9, 0.3]])
    (cell,) = project.run("-k", "fp32").record.cells
    assert cell.state == "pass" and cell.telling_cases == 2, cell.reason
