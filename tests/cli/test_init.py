"""`parity init` in projects as people have them: nothing asked that can be found out, nothing half-written."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tomllib

from parity import cli
from parity.core.errors import ParityError
from parity.process.toolchains import environments
from parity.process.toolchains.definitions import BUILT_IN, Definition
from parity.session import toolchains
from parity.store import atomic

MODEL = """
import torch
print("noise when imported")


class Net(torch.nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.layer = torch.nn.Linear(10, width)

    def forward(self, features):
        return {"scores": self.layer(features)}


def make(name, width=8):
    print("noise when made")
    torch.manual_seed(0)
    return Net(width)


def raises(name):
    raise OSError("no such weights\\nand more")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the sources in src, tests elsewhere than in tests, and a name that is no identifier."""
    root = tmp_path / "ein Projekt ü"
    (root / "src" / "acme").mkdir(parents=True)
    (root / "src" / "acme" / "__init__.py").touch()
    (root / "src" / "acme" / "models.py").write_text(MODEL)
    (root / "checks").mkdir()
    (root / "checks" / "conftest.py").write_text("import pytest\n")
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\ntestpaths = ["checks"]')
    monkeypatch.chdir(root)
    return root


def everything(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if "__pycache__" not in p.parts)


def test_a_project_is_set_up_and_a_second_model_added(folder, run):
    code, out, err = run("init", "acme.models:make", "--option", "name=tiny", "--option", "width=4", "--no-run")
    assert code == 0, err
    assert "features [batch, 10] float32" in out and "outputs: scores" in out
    text = (folder / "pyproject.toml").read_text()
    assert tomllib.loads(text)["tool"]["parity"]["models"]["make"] == {
        "factory": "acme.models:make", "options": {"name": "tiny", "width": 4},
        "inputs": [{"name": "features", "shape": ["batch", 10]}], "outputs": [{"name": "scores"}],
        "golden": "golden/make",
    }  # fmt: skip
    assert len(list((folder / "golden" / "make").glob("*.npz"))) == 8
    assert "from parity.suite import *" in (folder / "checks" / "test_parity.py").read_text()
    code, _, err = run("init", "acme.models:Net", "--no-run")
    assert code == 0, err
    added = (folder / "pyproject.toml").read_text()
    assert added.startswith(text) and added.count("[tool.parity]") == 1
    assert set(tomllib.loads(added)["tool"]["parity"]["models"]) == {"make", "net"}
    assert [p.name for p in (folder / "checks").iterdir() if p.name.startswith("test_")] == ["test_parity.py"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["acme.models:mak"], 2, "defines no 'mak' (did you mean 'make'?)"),
        (["acme.model:make"], 2, "no module 'acme.model'"),
        (["acme.models:make"], 1, "missing a required argument: 'name'"),
        (["acme.models:raises", "--option", "name=a"], 1, "acme.models:raises raised OSError: no such weights"),
        (["acme/models.py"], 2, "neither MODULE:FUNCTION nor a file of .pt2"),
        (["gone.onnx"], 1, "gone.onnx: no such file"),
        (["acme.models:make", "--option", "name"], 2, "write KEY=VALUE"),
        (["acme.models:make", "--option", "name=a", "--golden", "checks"], 1, "checks holds no picture and no .npz"),
        (["acme.models:make", "--option", "name=a", "--golden", "chekcs"], 1, "there is no chekcs; without --golden"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_writes_nothing(folder, run, arguments, code, words):
    before = everything(folder)
    found, _, err = run("init", *arguments)
    assert (found, everything(folder)) == (code, before), err
    assert words in err and err.count("\n") == 1 and err.startswith("parity init: ")


def test_a_project_that_cannot_be_written_stays_as_it_was(folder, run, monkeypatch):
    before = everything(folder)

    def refuse(texts):
        raise ParityError(f"{next(iter(texts))}: cannot be written: Read-only file system")

    monkeypatch.setattr(atomic, "publish", refuse)
    code, _, err = run("init", "acme.models:make", "--option", "name=a", "--no-run")
    assert (code, everything(folder)) == (1, before)
    assert "Read-only file system; nothing was set up" in err


LACKING = Definition("onnx2tf", "", (f"{sys.version_info[0]}.{sys.version_info[1]}",), ("nowhere",))


@pytest.fixture
def without_converters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that has no converter to TFLite, and no toolchain."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(BUILT_IN, "onnx2tf", LACKING)
    monkeypatch.setitem(BUILT_IN, "litert", replace(LACKING, name="litert"))
    toolchains.forget()


def test_a_converter_that_is_not_here_is_told(folder, run, without_converters):
    code, out, err = run("init", "acme.models:make", "--option", "name=tiny", "--no-run")
    assert code == 0, err
    assert "converter not here: onnx2tf; parity tools install adds it, in an environment apart from yours\n" in out


@pytest.mark.parametrize(("answer", "made"), [("\n", True), ("y\n", True), ("n\n", False), ("", False)])
def test_on_a_terminal_it_is_offered(folder, monkeypatch, capsys, without_converters, answer, made):
    installed = []
    monkeypatch.setattr(environments, "install", lambda recipe, say: installed.append(recipe.name) or Made)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.main(["init", "acme.models:make", "--option", "name=tiny", "--no-run"]) == 0
    out = capsys.readouterr().out
    assert "Install it now, in an environment apart from yours? [Y/n]" in out
    assert installed == (["onnx2tf"] if made else [])
    assert ("later: parity tools install" in out) != made


class Made:
    folder = Path("made")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
