"""What users may import: names of `parity` itself, loaded lazily; and every "module:function" string resolves."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import parity
from tests.docs.blocks import blocks

PACKAGE = Path(parity.__file__).parent
# A module of the package and a name in it, as children are asked for them.
PLACE = re.compile(r"\Aparity(?:\.[a-z_0-9]+)+:[A-Za-z_]\w*\Z")


def places() -> list[str]:
    """Every string constant of the package that names a module of it and an attribute."""
    strings = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and PLACE.match(node.value):
                strings.add(node.value)
    return sorted(strings)


def bound(module: str) -> set[str]:
    """The names that a module binds at its top level, told from its source: its imports may be missing here."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"there is no module {module}"
    names = set()
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("place", places())
def test_what_a_string_names_is_there(place: str) -> None:
    module, _, name = place.partition(":")
    assert name in bound(module)


def test_there_are_strings_to_check() -> None:
    assert len(places()) > 30 and "parity.proof:prove" in places()


@pytest.mark.parametrize("name", parity.__all__)
def test_a_public_name_loads(name: str) -> None:
    assert getattr(parity, name) is not None and name in dir(parity)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = parity.nothing


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; import parity; print([m for m in ('numpy', 'torch', 'pytest', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("block", blocks("python"), ids=lambda b: b.id)
def test_docs_import_public_names_only(block: object) -> None:
    allowed = {"parity", "parity.suite", "parity.mil"}
    for node in ast.walk(ast.parse(block.text)):  # type: ignore[attr-defined]
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "parity":
            assert node.module in allowed, f"{node.module} is no public module"
            if node.module == "parity":
                assert {alias.name for alias in node.names} <= set(parity.__all__)
        if isinstance(node, ast.Import):
            named = {alias.name for alias in node.names if alias.name.split(".")[0] == "parity"}
            assert named <= allowed
