"""A misspelt factory is told from source alone; what cannot be told is left to the child that makes the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.core.factories import fault, roots

SOURCE = "class Net:\n    def __getattr__(self, name):\n        return 1\n\n\ndef make():\n    pass\n\n\nalias = make\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("flat.py", "pkg/__init__.py", "pkg/models.py", "src/deep/__init__.py", "src/deep/models.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(SOURCE)
    (tmp_path / "lazy.py").write_text("def __getattr__(name):\n    return name\n")
    (tmp_path / "starred.py").write_text("from flat import *\n")
    (tmp_path / "broken.py").write_text("def (\n")
    return tmp_path


@pytest.mark.parametrize(
    "factory",
    ["flat:make", "flat:alias", "flat:Net", "pkg.models:make", "pkg:make", "deep.models:make", "lazy:anything",
     "starred:anything", "broken:anything", "json:loads"],
)  # fmt: skip
def test_what_may_be_there_is_let_pass(project: Path, factory: str) -> None:
    assert fault(factory, project) == ""


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("flat:mak", "flat.py defines no 'mak' (did you mean 'make'?)"),
        ("pkg.model:make", "no module 'pkg.model': pkg/model.py is not there"),
        ("deep.models:maker", "deep/models.py defines no 'maker'"),
        ("deep.model:make", "no module 'deep.model': deep/model.py is not there"),
        ("nowhere_at_all:make", "no module 'nowhere_at_all' in"),
    ],
)
def test_what_is_not_there_is_named(project: Path, factory: str, words: str) -> None:
    assert words in fault(factory, project)


def test_a_package_that_is_often_wanted_comes_with_its_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.core.factories._installed", lambda module: False)
    assert fault("timm:create_model", project).endswith("or installed: pip install timm")


def test_src_counts_where_it_is(project: Path, tmp_path: Path) -> None:
    assert roots(project) == [project, project / "src"]
    assert roots(project / "pkg") == [project / "pkg"]
