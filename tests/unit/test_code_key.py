"""The key of a computation's code moves with every file that it may run, and with no other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import parity
from parity.store import code_key as keys
from parity.store.code_key import code_key

HOME = Path(parity.__file__).parent
COMPUTATIONS = [
    "parity.reference.oracle:evaluate",
    "parity.reference.twin:evaluate",
    "parity.reference.chain:evaluate",
    "parity.reference.modelling:fingerprint",
    "parity.proof:prove",
    "parity.formats.coreml.modes:lower",
    "parity.formats.coreml.modes:risk",
    "parity.formats.onnx.convert:export",
    "parity.formats.tflite.convert:convert",
    "parity.formats.torch.convert:export_program",
    "parity.session.signature:describe",
]
SAMPLE = 12  # files a computation, spread over all that it may run; others have hundreds


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package that a test may change."""
    folder = tmp_path_factory.mktemp("copy") / "parity"
    shutil.copytree(HOME, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def moved(computation: str, file: Path, home: Path) -> bool:
    """Whether a change of `file` moves the key; the file is as it was afterwards."""
    before, content = code_key(computation, home), file.read_bytes()
    try:
        file.write_bytes(content + b"\n")
        return code_key(computation, home) != before
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("computation", COMPUTATIONS)
def test_touching_any_file_that_it_runs_moves_its_key(computation: str, home: Path) -> None:
    reached = sorted(keys.files(computation, home).values())
    for file in reached[:: max(1, len(reached) // SAMPLE)]:
        assert moved(computation, file, home), file.relative_to(home)


@pytest.mark.parametrize("computation", COMPUTATIONS)
def test_touching_a_file_that_it_does_not_run_leaves_its_key(computation: str, home: Path) -> None:
    reached = set(keys.files(computation, home).values())
    others = sorted(set(home.rglob("*.py")) - reached)
    assert home / "report" / "charts.py" in others and home / "commands" / "gate.py" in others
    for file in others[:: max(1, len(others) // SAMPLE)]:
        assert not moved(computation, file, home), file.relative_to(home)


@pytest.mark.parametrize("computation", [COMPUTATIONS[2], COMPUTATIONS[4], COMPUTATIONS[7]])
def test_what_python_itself_imports_for_it_is_among_its_files(computation: str) -> None:
    """Independent of how the files are found: the interpreter says which it loaded."""
    script = f"import sys, {computation.partition(':')[0]}; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HOME.parent)
    ours = {name for name in said.stdout.split() if name.partition(".")[0] == "parity"}
    assert ours <= set(keys.files(computation))


@pytest.mark.parametrize(
    ("computation", "file"),
    [
        ("parity.reference.oracle:evaluate", "reference/modelling.py"),  # the forward pass
        ("parity.reference.oracle:evaluate", "reference/onnx_operators.py"),  # in functions
        ("parity.reference.chain:evaluate", "cases/sequence.py"),
        ("parity.reference.twin:evaluate", "core/case.py"),
        ("parity.formats.coreml.graph:read", "mil/ops/conv.py"),
        ("parity.proof:prove", "formats/graph.py"),
        ("parity.session.signature:describe", "formats/ncnn/graph.py"),  # named by a string
        ("parity.session.signature:describe", "mil/ops/conv.py"),
        ("parity.formats.coreml.modes:lower", "mil/precision.py"),
        ("parity.formats.onnx.convert:export", "reference/modelling.py"),
        ("parity.formats.onnx.convert:export", "process/child.py"),
        ("parity.judging.floor:natural", "judging/natural.json"),  # data beside the module
    ],
)
def test_files_that_a_computation_reaches_by_every_way(computation: str, file: str) -> None:
    assert HOME / file in keys.files(computation).values()


def test_a_function_and_its_name_have_the_same_key() -> None:
    from parity.judging.floor import natural

    assert code_key(natural) == code_key("parity.judging.floor:natural")


def test_another_version_moves_every_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_key(COMPUTATIONS[0], home)
    monkeypatch.setattr(keys.importlib.metadata, "version", lambda _: "9.9.9")
    assert code_key(COMPUTATIONS[0], home) != before


# A package of a few lines, for the ways to name a module.


@pytest.fixture
def small(tmp_path: Path) -> Path:
    home = tmp_path / "parity"
    for folder in ("", "a", "b", "c", "d"):
        (home / folder).mkdir(exist_ok=True)
        (home / folder / "__init__.py").write_text("")
    (home / "b" / "x.py").write_text("")
    (home / "b" / "y.py").write_text("")
    return home


@pytest.mark.parametrize(
    ("source", "reached"),
    [
        ("import parity.b.x", "b/x.py"),
        ("from parity.b import x", "b/x.py"),
        ("from parity.b.x import thing", "b/x.py"),
        ("from parity.b.x import thing", "b/__init__.py"),
        ("from ..b import x", "b/x.py"),
        ("from . import near", "a/near.py"),
        ("from .near import thing", "a/near.py"),
        ("def f():\n    from parity.b import x", "b/x.py"),
        ("if TYPE_CHECKING:\n    from parity.b import x", "b/x.py"),
        ("T = {'one': 'parity.b.x:thing'}", "b/x.py"),
        ("T = {'one': 'parity.b.x'}", "b/x.py"),
        ("T = {'one': 'near:thing'}", "a/near.py"),
        ("T = {'one': 'b.x:thing'}", "b/x.py"),
        ("def f(k): return f'parity.b.{k}:run'", "b/y.py"),
        ("def f(k): return f'parity.b.x:{k}'", "b/x.py"),
        ("from parity import walks", "walks/inside.py"),
        ("F = 'table.json'", "a/table.json"),
        ("from parity.d import lazily", "c/__init__.py"),
    ],
)
def test_every_way_to_name_a_module_is_followed(source: str, reached: str, small: Path) -> None:
    (small / "a" / "start.py").write_text(source)
    (small / "a" / "near.py").write_text("")
    (small / "a" / "table.json").write_text("{}")
    (small / "walks").mkdir()
    (small / "walks" / "__init__.py").write_text("def names(): return pkgutil.iter_modules(__path__)")
    (small / "walks" / "inside.py").write_text("")
    (small / "d" / "__init__.py").write_text("T = {'one': 'parity.c:thing'}")
    assert small / reached in keys.files("parity.a.start:f", small).values()


@pytest.mark.parametrize(
    "source",
    [
        "",
        "X = 'b'",
        "X = 'x'",
        "X = 'parity'",
        "'''Not parity.b.x: words about it.'''",
        "import b.x",
        "from b import x",
    ],
)
def test_words_that_name_no_module_are_not_followed(source: str, small: Path) -> None:
    (small / "a" / "start.py").write_text(source)
    assert small / "b" / "x.py" not in keys.files("parity.a.start:f", small).values()


def test_a_package_that_only_holds_a_module_counts_with_what_it_executes(small: Path) -> None:
    """Its tables serve whoever imports it by name: what merely lies in it does not."""
    (small / "a" / "__init__.py").write_text(
        "from parity import c\nT = {'one': 'parity.b.x:f'}\ndef f(): import parity.d"
    )
    (small / "a" / "start.py").write_text("")
    reached = set(keys.files("parity.a.start:f", small).values())
    assert small / "c" / "__init__.py" in reached
    assert not reached & {small / "b" / "x.py", small / "d" / "__init__.py"}


# Functions of others.


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = "from parity.reference import oracle\nimport their_helper\n"
    (tmp_path / "their_target.py").write_text(source)
    (tmp_path / "their_helper.py").write_text("X = 1\n")
    (tmp_path / "their_other.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_function_from_outside_counts_with_what_it_imports(theirs: Path) -> None:
    before = code_key("their_target:export", HOME)
    (theirs / "their_other.py").write_text("X = 2\n")
    assert code_key("their_target:export", HOME) == before
    (theirs / "their_helper.py").write_text("X = 2\n")
    assert code_key("their_target:export", HOME) != before
    reached = keys.files("their_target:export")
    assert {"their_target", "their_helper", "parity.reference.oracle"} <= set(reached)


def test_a_function_that_nobody_can_find_has_a_key(theirs: Path) -> None:
    assert keys.files("no_such_module:f") == {}
    assert len(code_key("no_such_module:f")) == 64
