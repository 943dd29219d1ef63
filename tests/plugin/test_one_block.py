"""pytest's FAILURES section tells the fault of a cell once, whatever number of its tests it broke."""

from __future__ import annotations

import re

from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"


def blocks(text: str) -> dict[str, str]:
    """The blocks of the FAILURES section, by title."""
    section = re.split(r"^=+ ", text.partition("= FAILURES =")[2], maxsplit=1, flags=re.MULTILINE)[0]
    parts = re.split(r"^_+ (\S+) _+$", section, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_a_faulty_cell_has_one_block_that_begins_with_its_reason(project: Project) -> None:
    run = project.run(env={"PLAIN_RUN": "wrong"})
    found = blocks(run.text)
    cells = {cell.id: cell for cell in run.record.cells}
    assert found.keys() == cells.keys()
    for id, cell in cells.items():
        assert found[id].strip().startswith(f"{id}: {cell.reason}"), found[id]
        assert f"again: pytest -m parity -k {id}" in found[id]
        tests = re.findall(r"^  (test_\w+): \d+ of \d+ checks? broken", found[id], re.MULTILINE)
        assert len(tests) > 1 and f"{len(tests)} tests failed of this" in found[id]
        assert len(re.findall(rf"^FAILED \S+\[{id}\]", run.text, re.MULTILINE)) >= len(tests)


def test_verbose_keeps_a_block_for_every_test(project: Project) -> None:
    found = blocks(project.run("-v", env={"PLAIN_RUN": "wrong"}).text)
    assert found and all(title.startswith("test_") for title in found)


def test_an_assertion_of_a_project_keeps_its_block(project: Project) -> None:
    project.add("test_parity.py", "def test_mine(parity_cell, parity):\n    assert not parity_cell, 'of its own'\n")
    assert "of its own" in blocks(project.run("-k", "mine").text)["test_mine[tiny-plain-fp32]"]
