"""What a project's code reads while its model runs is told with the answer, and a change of it is seen."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pytest

from parity.core.settings import ModelSpec
from parity.reference import reads
from parity.reference.messages import Evaluated, Reads

CODE = """
import os
from pathlib import Path

def run():
    here = Path(__file__).parent
    held = open(here / "held.json").read()
    (here / "log.txt").write_text("written")
    try:
        open(here / "absent.json")
    except FileNotFoundError:
        pass
    return held, os.environ.get("HELD"), os.getenv("UNSET"), "LOOKED" in os.environ
"""


@dataclass(frozen=True)
class Request:
    model: ModelSpec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "code_that_reads.py").write_text(CODE)
    (tmp_path / "held.json").write_text("1")
    return tmp_path


def recorded(root: Path) -> Reads:
    spec = importlib.util.spec_from_file_location("code_that_reads", root / "code_that_reads.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    @reads.noting
    def evaluate(request: Request) -> Evaluated:
        module.run()
        Path("/etc/hostname").exists()
        return Evaluated([], "float64", "")

    return evaluate(Request(ModelSpec(str(root), "code_that_reads:run"))).reads


def test_files_inside_the_project_and_variables_are_recorded(root: Path) -> None:
    found = recorded(root)
    assert set(found.files) == {"held.json", "absent.json"}
    assert found.files["absent.json"] == reads.ABSENT != found.files["held.json"]
    assert set(found.variables) == {"HELD", "UNSET", "LOOKED"}
    assert "1" not in found.variables.values()


def test_a_change_is_named(root: Path) -> None:
    found = recorded(root)
    assert reads.changed(found, root, {}) == ""
    (root / "held.json").write_text("2")
    assert reads.changed(found, root, {}) == "held.json"
    (root / "held.json").write_text("1")
    assert reads.changed(found, root, {"HELD": "2"}) == "the variable HELD"
    (root / "absent.json").write_text("1")
    assert reads.changed(found, root, {}) == "absent.json"
